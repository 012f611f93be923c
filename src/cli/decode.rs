//! `limner decode`: noise to its picture.

use super::about::Shared;
use super::generate::check_output;
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
    /// What the solver may err by in a step, relative to the state [default: 0.0001]
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    tolerance: Option<String>,
    #[command(flatten)]
    shared: Shared,
}

pub(super) fn run(args: &Args) -> Result<()> {
    check_output(&args.output)?;
    let mut request = args.shared.request("decode", &args.file)?;
    request.tolerance.clone_from(&args.tolerance);
    args.shared.finish(&args.shared.outcome(&request)?, &args.output)
}
