//! `limner likelihood`: how many bits a picture costs.

use super::about::Shared;
use super::printable;
use crate::error::Result;
use crate::pipeline::{LikelihoodReport, Report};
use std::path::PathBuf;

/// Arguments of `limner likelihood`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The picture (PNG, JPEG or WebP)
    file: PathBuf,
    /// What the solver may err by in a step, relative to the state [default: 0.0001]
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    tolerance: Option<String>,
    /// Estimates, each with random numbers of its own [default: 4]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    draws: Option<String>,
    /// Probes of the divergence for each; 0 computes it exactly, which takes as many passes as there are numbers
    /// [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    probes: Option<String>,
    /// Noise levels of the evidence lower bound; 0 leaves it out [default: 100]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    levels: Option<String>,
    /// Where guidance is not 1: the density of the guided flow, which is no likelihood
    #[arg(long)]
    guided_flow: bool,
    #[command(flatten)]
    shared: Shared,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut request = args.shared.request("likelihood", &args.file)?;
    request.tolerance.clone_from(&args.tolerance);
    request.draws.clone_from(&args.draws);
    request.probes.clone_from(&args.probes);
    request.levels.clone_from(&args.levels);
    request.guided_flow = args.guided_flow.then(|| "true".to_owned());
    if let Some(Report::Likelihood(report)) = args.shared.outcome(&request)?.report {
        match args.shared.json {
            true => println!("{:#}", serde_json::json!(report)),
            false => print(&report),
        }
    }
    Ok(())
}

fn print(report: &LikelihoodReport) {
    let error = report.standard_error.map(|error| format!(" +- {error:.4}")).unwrap_or_default();
    println!("{:.4}{error} bits per dimension: {}", report.bits_per_dim, printable(&report.of));
    eprintln!("{} evaluations in {} draws", report.effort.evaluations, report.draws.len());
    if let Some(elbo) = &report.elbo {
        println!("at most {:.4} by the evidence lower bound at {} noise levels", elbo.bits_per_dim, elbo.levels);
    }
    if let Some(bound) = &report.pixel_bound {
        println!("at most {:.4} bits for each byte of its pixels, through the decoder", bound.bits_per_dim);
    }
}
