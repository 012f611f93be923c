//! `limner data`: builds a training set.

use crate::Result;
use crate::train::data::{Dataset, Split, folder, icons};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

/// Arguments of `limner data`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, clap::Subcommand)]
enum Kind {
    /// The bundled model's set: some 1,700 concepts in four styles, from icon sets on the npm registry
    Icons {
        /// npm tarballs to use instead of fetching those packages
        #[arg(long, value_name = "FILE", num_args = 1..)]
        tarball: Vec<PathBuf>,
        #[command(flatten)]
        target: Target,
    },
    /// Your own pictures: name.png (or jpg, webp) beside name.txt, one caption per line
    Folder {
        /// The folder with pictures and captions
        #[arg(value_name = "SRC")]
        source: PathBuf,
        #[command(flatten)]
        target: Target,
    },
}

/// Where the set goes and how large its pictures are.
#[derive(Debug, clap::Args)]
struct Target {
    /// The folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Width and height of the pictures
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(8..=1024))]
    size: u16,
    /// Replace the folder if there is something in it
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    let progress = progress();
    let on_picture = |total: usize| match progress.length() {
        Some(_) => progress.inc(1),
        None => progress.set_length(total as u64),
    };
    let out = match args.kind {
        Kind::Icons { tarball, target: Target { out, size, force } } => {
            icons::build(&out, &tarball, usize::from(size), force, &on_picture)?;
            out
        }
        Kind::Folder { source, target: Target { out, size, force } } => {
            folder::build(&source, &out, usize::from(size), force, &on_picture)?;
            out
        }
    };
    progress.finish_and_clear();
    report(&out)
}

/// One line on what was made.
fn report(out: &Path) -> Result<()> {
    let data = Dataset::open(out)?;
    let [train, pairs, whole] =
        [Split::Train, Split::HeldOutPair, Split::HeldOut].map(|split| data.indices(split).len());
    let (n, words) = (data.records.len(), data.words().len());
    println!("{}: {n} pictures ({train} to train on, {pairs} + {whole} held out), {words} words", out.display());
    Ok(())
}

fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} pictures, {per_sec}, {eta} left");
    let bar = ProgressBar::no_length();
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
