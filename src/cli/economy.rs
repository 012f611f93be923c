//! `limner economy`: how near pictures for which work was left out come to whole ones, and how much sooner they are done.

use super::generate::read_file;
use super::model::ModelArgs;
use crate::Result;
use crate::error::{Error, FieldError};
use crate::image::RgbImage;
use crate::pipeline::Pipeline;
use crate::request::{GenerateRequest, Plan};
use candle_core::{DType, Tensor};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Prompts, where none are given: the first that the bundled model is shown with.
const PROMPTS: &str = include_str!("../../models/icons/prompts.txt");
/// How many of them.
const COUNT: usize = 16;

/// Arguments of `limner economy`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to compare with whole pictures: exact, balanced or fast, with settings in brackets [default: balanced fast]
    economies: Vec<String>,
    /// A file of prompts, one a line, of which each is a picture [default: 16 words]
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Sampler steps [default: the model's]
    #[arg(long, value_name = "N")]
    steps: Option<String>,
    /// Guidance scale [default: the model's]
    #[arg(long, value_name = "S")]
    guidance: Option<String>,
    /// Sampler [default: the model's]
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// Width in pixels [default: the model's]
    #[arg(long, value_name = "W")]
    width: Option<String>,
    /// Height in pixels [default: the model's]
    #[arg(long, value_name = "H")]
    height: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
}

/// A picture, what it was decoded of, and how long it took.
struct Drawn {
    latents: Tensor,
    pixels: RgbImage,
    took: Duration,
}

/// What an economy costs, over all prompts.
#[derive(Default)]
struct Cost {
    whole: Duration,
    took: Duration,
    /// Of the pixels, of all pictures.
    squared: f64,
    /// Norm of the difference of the latents over the norm of the whole picture's, of each picture.
    errors: Vec<f64>,
}

impl Cost {
    fn add(&mut self, whole: &Drawn, drawn: &Drawn) -> Result<()> {
        self.whole += whole.took;
        self.took += drawn.took;
        let differences = whole.pixels.iter().zip(drawn.pixels.iter()).map(|(a, b)| f64::from(*a) - f64::from(*b));
        self.squared += differences.map(|d| d * d).sum::<f64>() / whole.pixels.len() as f64;
        self.errors.push(norm(&(&drawn.latents - &whole.latents)?)? / norm(&whole.latents)?);
        Ok(())
    }

    /// Peak signal-to-noise ratio in dB, of the mean squared error over all pictures.
    fn psnr(&self) -> f64 {
        10.0 * (255.0 * 255.0 * self.errors.len() as f64 / self.squared).log10()
    }
}

fn norm(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
}

/// Prints a row for each economy. Of every prompt all pictures are drawn in turn, so that they share how busy the machine is.
pub(super) fn run(args: &Args) -> Result<()> {
    let prompts = prompts(args)?;
    let economies: Vec<&str> = match &args.economies[..] {
        [] => vec!["balanced", "fast"],
        economies => economies.iter().map(String::as_str).collect(),
    };
    let pipeline = args.model.load()?;
    let plan = |prompt: &str, economy: &str| Plan::new(&request(args, prompt, economy), &pipeline.facts());
    economies.iter().try_for_each(|economy| plan("", economy).map(drop))?;
    let mut costs: Vec<Cost> = economies.iter().map(|_| Cost::default()).collect();
    // The first picture of a process takes longer.
    draw(&pipeline, &plan(&prompts[0], "exact")?)?;
    for prompt in &prompts {
        let whole = draw(&pipeline, &plan(prompt, "exact")?)?;
        for (economy, cost) in economies.iter().zip(&mut costs) {
            cost.add(&whole, &draw(&pipeline, &plan(prompt, economy)?)?)?;
        }
    }
    print(&economies, &mut costs);
    Ok(())
}

fn prompts(args: &Args) -> Result<Vec<String>> {
    let (text, most) = match &args.prompts {
        None => (PROMPTS.to_owned(), COUNT),
        Some(path) => (String::from_utf8_lossy(&read_file("prompts", path)?).into_owned(), usize::MAX),
    };
    let prompts: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).take(most).map(str::to_owned).collect();
    match prompts.is_empty() {
        true => Err(Error::invalid(FieldError::new("prompts", "missing", "has no prompt"))),
        false => Ok(prompts),
    }
}

fn request(args: &Args, prompt: &str, economy: &str) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(prompt.to_owned()),
        seed: Some("0".to_owned()),
        steps: args.steps.clone(),
        guidance: args.guidance.clone(),
        sampler: args.sampler.clone(),
        width: args.width.clone(),
        height: args.height.clone(),
        economy: Some(economy.to_owned()),
        ..GenerateRequest::default()
    }
}

fn draw(pipeline: &Pipeline, plan: &Plan) -> Result<Drawn> {
    let began = Instant::now();
    let mut latents = None;
    let mut pictures = pipeline.generate(plan, &mut |progress| {
        latents = progress.estimate.map(|estimate| estimate.latents().clone());
        Ok(())
    })?;
    let took = began.elapsed();
    let latents = latents.ok_or_else(|| candle_core::Error::Msg("a sampler told of no step".into()))?;
    Ok(Drawn { latents, pixels: pictures.remove(0).pixels, took })
}

fn print(economies: &[&str], costs: &mut [Cost]) {
    println!("{:<48} {:>8} {:>8} {:>9} {:>9}", "economy", "time", "PSNR/dB", "latents", "worst");
    for (economy, cost) in economies.iter().zip(costs) {
        cost.errors.sort_by(f64::total_cmp);
        let (middle, worst) = (cost.errors[cost.errors.len() / 2], cost.errors[cost.errors.len() - 1]);
        let time = cost.took.as_secs_f64() / cost.whole.as_secs_f64();
        println!("{economy:<48} {time:>8.2} {:>8.1} {middle:>9.4} {worst:>9.4}", cost.psnr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn what_an_economy_costs_is_measured_over_all_pictures() {
        let drawn = |value: u8, latent: f32, took: u64| Drawn {
            latents: Tensor::full(latent, (1, 1, 2, 2), &Device::Cpu).unwrap(),
            pixels: RgbImage::from_pixel(2, 2, image::Rgb([value; 3])),
            took: Duration::from_secs(took),
        };
        let mut cost = Cost::default();
        cost.add(&drawn(10, 2.0, 4), &drawn(10, 2.0, 1)).unwrap();
        cost.add(&drawn(10, 2.0, 4), &drawn(20, 1.0, 3)).unwrap();
        // Half of the squared error 100.
        assert!((cost.psnr() - 10.0 * (255.0f64 * 255.0 / 50.0).log10()).abs() < 1e-9);
        assert_eq!((cost.whole.as_secs(), cost.took.as_secs(), cost.errors), (8, 4, vec![0.0, 0.5]));
    }
}
