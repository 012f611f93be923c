//! `limner evaluate`: how well a model draws what it is asked, by a judge trained on the real pictures.

use super::errors;
use crate::image::{self, RgbImage};
use crate::pipeline::Pipeline;
use crate::request::{GenerateRequest, Plan};
use crate::train::data::Dataset;
use crate::train::evaluate::{self, Report};
use crate::train::judge::{self, Judge};
use crate::{Error, Result};
use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

/// Arguments of `limner evaluate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model's folder; without one, only the judge is measured, on real pictures
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Sampler steps of each picture [default: the model's]
    #[arg(long, value_name = "N")]
    steps: Option<String>,
    /// Sampler, with settings in brackets [default: the model's]
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// Guidance scale [default: the model's]
    #[arg(long, value_name = "G")]
    guidance: Option<String>,
    /// The data set the model was trained on
    #[arg(long, value_name = "DIR", required_unless_present = "sheet")]
    data: Option<PathBuf>,
    /// Draw the model's contact sheet into this file: one picture for each line of prompts.txt in its folder
    #[arg(long, value_name = "FILE", requires = "model")]
    sheet: Option<PathBuf>,
    /// The judge's file; trained and written when it does not exist [default: judge.safetensors beside the data's index]
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
    /// Training steps of a new judge
    #[arg(long, value_name = "N", default_value_t = judge::Settings::default().steps)]
    judge_steps: usize,
    /// Prompts of each kind: seen, and (concept, style) pairs held out
    #[arg(long, value_name = "N", default_value_t = 200)]
    prompts: usize,
    /// Measure how much the model errs at each noise level, on so many training pictures, and keep it beside its weights:
    /// what ddpm(variance=optimal) needs
    #[arg(long, value_name = "N", requires_all = ["model", "data"])]
    errors: Option<usize>,
    /// Chooses the prompts and is the first picture's seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Pictures beside each other on a contact sheet.
const SHEET_COLUMNS: usize = 12;

impl Args {
    /// A request that says what was chosen for every picture.
    fn request(&self) -> GenerateRequest {
        let (steps, sampler, guidance) = (self.steps.clone(), self.sampler.clone(), self.guidance.clone());
        GenerateRequest { steps, sampler, guidance, ..GenerateRequest::default() }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    if let (Some(file), Some(folder)) = (&args.sheet, &args.model) {
        draw_sheet(args, folder, file)?;
    }
    args.data.as_ref().map_or(Ok(()), |data| judge_model(args, data))
}

fn draw_sheet(args: &Args, folder: &Path, file: &Path) -> Result<()> {
    let list = folder.join("prompts.txt");
    let prompts = std::fs::read_to_string(&list).map_err(Error::io(&list))?;
    let pipeline = Pipeline::load(folder, &Device::Cpu)?;
    let draw = |prompt| paint(&pipeline, &args.request(), prompt, args.seed);
    let pictures = prompts.lines().map(draw).collect::<Result<Vec<_>>>()?;
    image::write_file(file, &image::encode_png(&image::grid(&pictures, SHEET_COLUMNS), &[])?)
}

fn judge_model(args: &Args, folder: &Path) -> Result<()> {
    let data = Dataset::open(folder)?;
    let pixels = data.load_pixels()?;
    if let (Some(count), Some(model)) = (args.errors, &args.model) {
        return errors::measure(model, &data, &pixels, count, args.seed);
    }
    let file = args.judge.clone().unwrap_or_else(|| folder.join("judge.safetensors"));
    let judge = judge_in(&file, &data, &pixels, args.judge_steps)?;
    let settings = evaluate::Settings { prompts: args.prompts, seed: args.seed };
    let report = match &args.model {
        None => evaluate::evaluate(&data, &pixels, &judge, &settings, None)?,
        Some(folder) => {
            let pipeline = Pipeline::load(folder, &Device::Cpu)?;
            let asked = args.request();
            let bar = ProgressBar::new_spinner();
            let mut painter = |prompt: &str, seed: u64| {
                bar.inc(1);
                bar.set_message(format!("picture {}: {prompt}", bar.position()));
                paint(&pipeline, &asked, prompt, seed)
            };
            let report = evaluate::evaluate(&data, &pixels, &judge, &settings, Some(&mut painter))?;
            bar.finish_and_clear();
            report
        }
    };
    print(&report, args.json)
}

/// One picture for `prompt`, everything else as `asked`.
fn paint(pipeline: &Pipeline, asked: &GenerateRequest, prompt: &str, seed: u64) -> Result<RgbImage> {
    let request = GenerateRequest { prompt: Some(prompt.to_owned()), seed: Some(seed.to_string()), ..asked.clone() };
    let plan = Plan::new(&request, &pipeline.facts())?;
    let mut pictures = pipeline.generate(&plan, &mut |_| Ok(()))?;
    let picture = pictures.pop().ok_or_else(|| Error::Training(format!("no picture was drawn for {prompt:?}")))?;
    Ok(picture.pixels)
}

/// The judge in `file`, or a new one that is written there.
fn judge_in(file: &Path, data: &Dataset, pixels: &[u8], steps: usize) -> Result<Judge> {
    if file.exists() {
        return Judge::open(file);
    }
    eprintln!("training a judge, to be kept in {}", file.display());
    let bar = progress(steps as u64, "judge: {bar:40} step {pos}/{len}, {msg}, {eta} left");
    let settings = judge::Settings { steps, ..judge::Settings::default() };
    let judge = judge::train(data, pixels, &settings, &mut |step, loss| {
        bar.set_position(step as u64 + 1);
        bar.set_message(format!("loss {loss:.3}"));
        Ok(())
    })?;
    bar.finish_and_clear();
    judge.save(file)?;
    Ok(judge)
}

fn print(report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        let text = serde_json::to_string_pretty(report).map_err(|e| Error::Training(e.to_string()))?;
        println!("{text}");
    } else {
        println!("{report}");
    }
    Ok(())
}

pub(super) fn progress(total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
