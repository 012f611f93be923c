//! `limner edit`: a picture apart under one prompt and together under another.

use super::about::Along;
use crate::error::Result;
use std::path::PathBuf;

/// Arguments of `limner edit`. `--prompt` is what the picture is to show.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The picture (PNG, JPEG or WebP)
    file: PathBuf,
    /// What the picture shows
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    source_prompt: String,
    /// How far the picture is taken apart, up to 1 [default: 0.75]
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    strength: Option<String>,
    /// Where the PNG goes
    #[arg(long, short, value_name = "FILE", default_value = "limner.png")]
    output: PathBuf,
    #[command(flatten)]
    along: Along,
}

pub(super) fn run(args: &Args) -> Result<()> {
    args.along.run("edit", (&args.file, &args.output), |request| {
        request.source_prompt = Some(args.source_prompt.clone());
        request.strength.clone_from(&args.strength);
        Ok(())
    })
}
