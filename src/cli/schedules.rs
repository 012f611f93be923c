//! `limner schedules`: what noise schedules cost, under one network.

use super::generate::read_file;
use super::model::ModelArgs;
use crate::diffusion::schedule::{Betas, NoiseSchedule};
use crate::error::{Error, Result};
use crate::image::{self, RgbImage};
use crate::model::checkpoint::Opened;
use crate::pipeline::Comparison;
use crate::train::space::Space;
use std::path::{Path, PathBuf};

/// Arguments of `limner schedules`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Pictures of the model's size (PNG, JPEG or WebP)
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// linear, cosine, log-linear, or the folder of a model that has learned one; several
    #[arg(long = "schedule", value_name = "NAME|DIR", required = true)]
    schedules: Vec<String>,
    /// Noise levels of the chains that are compared; several
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "50,200", value_parser = clap::value_parser!(u16).range(2..))]
    levels: Vec<u16>,
    /// Estimates of the bound in continuous time for each picture, of one noise level each
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    draws: u16,
    /// Where random numbers start
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    model: ModelArgs,
}

/// Prints a line of JSON for each picture: for each schedule, its bound in bits per dimension.
pub(super) fn run(args: &Args) -> Result<()> {
    let comparison = Comparison {
        schedules: args.schedules.iter().map(|name| schedule(name)).collect::<Result<_>>()?,
        levels: args.levels.iter().map(|levels| usize::from(*levels)).collect(),
        draws: usize::from(args.draws),
        seed: args.seed,
    };
    let pictures = args.files.iter().map(|file| picture(file)).collect::<Result<Vec<_>>>()?;
    for bounds in args.model.load()?.bounds(&pictures, &comparison, &mut |_| Ok(()))? {
        println!("{}", serde_json::json!(bounds));
    }
    Ok(())
}

/// A schedule by its name, at 1000 times, or that of a model.
fn schedule(name: &str) -> Result<NoiseSchedule> {
    let betas = match name {
        "linear" => Betas::Linear { start: 1e-4, end: 0.02 },
        "cosine" => Betas::Cosine,
        "log-linear" => return Space::Pixels.schedule(),
        folder => return Ok(Opened::read(Path::new(folder))?.schedule().clone()),
    };
    NoiseSchedule::new(betas, 1000, false)
}

fn picture(file: &Path) -> Result<RgbImage> {
    image::read("files", &read_file("files", file)?).map_err(Error::invalid)
}
