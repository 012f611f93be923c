//! `limner decode`: noise to its picture.

use super::about::Along;
use crate::error::Result;
use std::path::PathBuf;

/// Arguments of `limner decode`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file that `limner encode` wrote
    file: PathBuf,
    /// Where the PNG goes
    #[arg(long, short, value_name = "FILE", default_value = "limner.png")]
    output: PathBuf,
    #[command(flatten)]
    along: Along,
}

pub(super) fn run(args: &Args) -> Result<()> {
    args.along.run("decode", (&args.file, &args.output), |_| Ok(()))
}
