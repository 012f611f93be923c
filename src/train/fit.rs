//! The training loop, the same for every part of a model: batches, gradients, updates, reports, checkpoints.

use super::optimizer::{AdamW, Constants, cosine_rate};
use super::parameters::Parameters;
use super::report::Report;
use super::shards;
use super::task::Task;
use super::{data::Dice, state};
use crate::kernels::Products;
use crate::{Error, Result};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How one part is trained.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The part's name, used for its files.
    pub name: &'static str,
    /// Updates in all; the learning rate's schedule ends there.
    pub steps: usize,
    /// Pictures per update.
    pub batch: usize,
    /// Threads per update, each with its share of the batch.
    pub shards: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Optimizer constants.
    pub constants: Constants,
    /// Where all random choices start.
    pub seed: u64,
    /// Folder of checkpoints, plots and sheets.
    pub folder: PathBuf,
    /// Time between checkpoints (a plot and a sheet of samples come with each).
    pub report_every: Duration,
    /// In what layers multiply; without a choice as the saved state did, or else as this processor is fastest.
    pub products: Option<Products>,
}

impl Settings {
    fn state_file(&self) -> PathBuf {
        self.folder.join(format!("{}.state.safetensors", self.name))
    }
}

/// Trains until `settings.steps`, going on from a saved state where there is one. `stop` is looked at after each step;
/// when it is set the state is saved and [`Error::Cancelled`] returned. The averaged weights are exported at every
/// checkpoint and at the end, and left in `parameters` on return.
pub fn fit<T: Task>(
    task: &T,
    parameters: &Parameters,
    samples: usize,
    settings: &Settings,
    stop: &AtomicBool,
) -> Result<()> {
    let mut optimizer = AdamW::new(parameters, settings.constants)?;
    let saved = state::load(&settings.state_file())?;
    let products = settings.products.or(saved.as_ref().map(|saved| saved.progress.products));
    let mut report = Report::new(settings, products.unwrap_or_else(Products::fastest))?;
    if let Some(saved) = saved {
        optimizer.restore(&saved.tensors, saved.progress.steps)?;
        report.restore(saved.progress.history);
    }
    if optimizer.steps() < settings.steps {
        let parameters = parameters.multiplied_in(report.products());
        run(task, &parameters, samples, settings, stop, &mut optimizer, &mut report)?;
        save(task, settings, &optimizer, &report)?;
    }
    parameters.assign(&optimizer.average()?)
}

fn run<T: Task>(
    task: &T,
    parameters: &Parameters,
    samples: usize,
    settings: &Settings,
    stop: &AtomicBool,
    optimizer: &mut AdamW,
    report: &mut Report,
) -> Result<()> {
    let (vb, variables) = (parameters.builder(), optimizer.variables());
    let mut order = Order::new(samples, settings.seed);
    let mut saved_at = Instant::now();
    report.start(optimizer.steps());
    while optimizer.steps() < settings.steps {
        let step = optimizer.steps();
        let batch: Vec<usize> = (step * settings.batch..(step + 1) * settings.batch).map(|i| order.at(i)).collect();
        let stream = Dice::stream(settings.seed, step as u64).word();
        let gradient = shards::gradient(task, &vb, &variables, &batch, settings.shards, stream)?;
        if !gradient.figures.loss().is_finite() {
            return Err(not_finite(settings, step));
        }
        let rate = cosine_rate(settings.learning_rate, step, (settings.steps / 20).clamp(1, 500), settings.steps);
        optimizer.step(&gradient.values, rate).map_err(|_| not_finite(settings, step))?;
        report.step(optimizer.steps(), &gradient.figures);
        if stop.load(Ordering::Relaxed) {
            save(task, settings, optimizer, report)?;
            return Err(Error::Cancelled);
        }
        if saved_at.elapsed() >= settings.report_every {
            save(task, settings, optimizer, report)?;
            saved_at = Instant::now();
        }
    }
    Ok(())
}

/// State, plot, sheet of samples and the exported part.
fn save<T: Task>(task: &T, settings: &Settings, optimizer: &AdamW, report: &Report) -> Result<()> {
    state::save(&settings.state_file(), &optimizer.state()?, &report.progress(optimizer.steps()))?;
    report.plot()?;
    let average = VarBuilder::from_tensors(optimizer.average()?, DType::F32, &Device::Cpu);
    task.export(&average)?;
    let sheet = settings.folder.join(format!("{}-{:06}.png", settings.name, optimizer.steps()));
    task.preview(&average, &sheet)
}

fn not_finite(settings: &Settings, step: usize) -> Error {
    Error::Training(format!(
        "{}: step {} gave a loss or gradient that is not a number. Try a lower --learning-rate (it was {}) or a larger \
         --batch; the last good state is in {}",
        settings.name,
        step + 1,
        settings.learning_rate,
        settings.folder.display()
    ))
}

/// The order in which samples are drawn: every epoch is its own shuffle, a function of seed and epoch.
struct Order {
    samples: usize,
    seed: u64,
    epoch: usize,
    shuffled: Vec<usize>,
}

impl Order {
    fn new(samples: usize, seed: u64) -> Self {
        Self { samples, seed, epoch: usize::MAX, shuffled: Vec::new() }
    }

    fn at(&mut self, draw: usize) -> usize {
        let epoch = draw / self.samples;
        if epoch != self.epoch {
            self.shuffled = (0..self.samples).collect();
            Dice::stream(!self.seed, epoch as u64).shuffle(&mut self.shuffled);
            self.epoch = epoch;
        }
        self.shuffled[draw % self.samples]
    }
}
