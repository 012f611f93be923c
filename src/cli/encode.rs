//! `limner encode`: a picture to its noise.

use super::about::Along;
use crate::error::Result;
use std::path::PathBuf;

/// Arguments of `limner encode`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The picture (PNG, JPEG or WebP)
    file: PathBuf,
    /// Where the noise goes: a PNG that shows it and has its numbers beside the pixels
    #[arg(long, short, value_name = "FILE", default_value = "noise.png")]
    output: PathBuf,
    #[command(flatten)]
    along: Along,
}

pub(super) fn run(args: &Args) -> Result<()> {
    args.along.run("encode", (&args.file, &args.output), |_| Ok(()))
}
