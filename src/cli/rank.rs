//! `limner rank`: which caption fits a picture best.

use super::about::Shared;
use super::printable;
use crate::error::Result;
use crate::pipeline::Report;
use std::path::PathBuf;

/// Arguments of `limner rank`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The picture (PNG, JPEG or WebP)
    file: PathBuf,
    /// Captions, at least two
    #[arg(required = true, num_args = 2..)]
    captions: Vec<String>,
    /// Noise levels at which they are compared [default: 100]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    levels: Option<String>,
    #[command(flatten)]
    shared: Shared,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut request = args.shared.request("rank", &args.file)?;
    request.captions = Some(args.captions.join("\n"));
    request.levels.clone_from(&args.levels);
    let Some(Report::Rank(report)) = args.shared.outcome(&request)?.report else { return Ok(()) };
    if args.shared.json {
        println!("{:#}", serde_json::json!(report));
        return Ok(());
    }
    for fit in &report.captions {
        let behind = format!("{:.2} +- {:.2} nats behind", fit.behind, fit.standard_error);
        println!("{:5.1} %  {}  ({behind})", 100.0 * fit.probability, printable(&fit.caption));
    }
    Ok(())
}
