//! `limner interpolate`: from one picture to another.

use super::about::Along;
use super::generate::read_file;
use crate::error::Result;
use std::path::PathBuf;

/// Arguments of `limner interpolate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to begin (PNG, JPEG or WebP)
    file: PathBuf,
    /// Where to go
    to: PathBuf,
    /// Where it goes: of way.png, way-1.png is the animation (APNG) and way-2.png a strip of its frames
    #[arg(long, short, value_name = "FILE", default_value = "way.png")]
    output: PathBuf,
    /// Frames, both ends among them [default: 8]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    frames: Option<String>,
    #[command(flatten)]
    along: Along,
}

pub(super) fn run(args: &Args) -> Result<()> {
    args.along.run("interpolate", (&args.file, &args.output), |request| {
        request.image_2 = Some(read_file("to", &args.to)?);
        request.count.clone_from(&args.frames);
        Ok(())
    })
}
