//! What a person sees of a training run: a progress bar, the loss as a plot, pictures in a grid.

use super::fit::Settings;
use super::state::Progress;
use super::task::Figures;
use crate::image::{encode_png, write_file};
use crate::kernels::Products;
use crate::{Error, Result};
use ::image::{Rgb, RgbImage};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Progress on the terminal (or now and then a line, where there is none) and the history of the loss.
pub(super) struct Report {
    bar: ProgressBar,
    quiet: bool,
    batch: usize,
    smooth: Figures,
    history: Vec<(usize, f64)>,
    products: Products,
    plot: PathBuf,
    started: (Instant, usize),
    printed: Instant,
}

impl Report {
    pub(super) fn new(settings: &Settings, products: Products) -> Result<Self> {
        std::fs::create_dir_all(&settings.folder).map_err(Error::io(&settings.folder))?;
        let batch = settings.batch;
        let rate = move |s: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{:.1} pictures/s in {products}", s.per_sec() * batch as f64);
        };
        let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len}  {rate}  {eta} left  {msg}")
            .map_err(|e| Error::Training(e.to_string()))?
            .with_key("rate", rate);
        let bar = ProgressBar::new(settings.steps as u64).with_style(style).with_prefix(settings.name);
        Ok(Self {
            bar,
            quiet: !std::io::stderr().is_terminal(),
            batch,
            smooth: Figures::default(),
            history: Vec::new(),
            products,
            plot: settings.folder.join(format!("{}-loss.png", settings.name)),
            started: (Instant::now(), 0),
            printed: Instant::now(),
        })
    }

    pub(super) fn restore(&mut self, history: Vec<(usize, f64)>) {
        self.history = history;
    }

    /// In what the run multiplies.
    pub(super) fn products(&self) -> Products {
        self.products
    }

    /// What is to be known of the run after so many steps.
    pub(super) fn progress(&self, steps: usize) -> Progress {
        Progress { steps, history: self.history.clone(), products: self.products }
    }

    /// Training begins (again) at `step`.
    pub(super) fn start(&mut self, step: usize) {
        self.started = (Instant::now(), step);
        self.bar.set_position(step as u64);
        self.bar.reset_eta();
    }

    pub(super) fn step(&mut self, step: usize, figures: &Figures) {
        self.smooth.follow(figures);
        if step.is_multiple_of(20) {
            self.history.push((step, self.smooth.loss()));
        }
        self.bar.set_position(step as u64);
        self.bar.set_message(self.smooth.to_string());
        if self.quiet && self.printed.elapsed() > Duration::from_secs(15) {
            let (at, first) = self.started;
            let rate = ((step - first) * self.batch) as f64 / at.elapsed().as_secs_f64();
            let total = self.bar.length().unwrap_or(0);
            let prefix = self.bar.prefix();
            eprintln!("{prefix} {step}/{total}  {rate:.1} pictures/s in {}  {}", self.products, self.smooth);
            self.printed = Instant::now();
        }
    }

    /// Draws the loss over the steps, both axes labelled, the loss on a logarithmic scale.
    pub(super) fn plot(&self) -> Result<()> {
        if self.history.len() < 2 {
            return Ok(());
        }
        save_picture(&plot(&self.history), &self.plot)
    }
}

const INK: Rgb<u8> = Rgb([40, 40, 60]);
const GRID: Rgb<u8> = Rgb([225, 225, 232]);
const LINE: Rgb<u8> = Rgb([200, 60, 40]);

fn plot(history: &[(usize, f64)]) -> RgbImage {
    let (width, height, left, bottom) = (900u32, 500u32, 80u32, 40u32);
    let mut canvas = RgbImage::from_pixel(width, height, Rgb([255, 255, 255]));
    let logs = history.iter().map(|h| h.1.max(1e-12).log10());
    let (low, high) = logs.fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)));
    let (low, high) = (low - 0.02, high + 0.02);
    let last = history.last().map_or(1, |h| h.0) as f64;
    let (plot_width, plot_height) = (f64::from(width - left - 10), f64::from(height - bottom - 10));
    let x = |step: f64| left as i64 + (step / last * plot_width) as i64;
    let y = |log: f64| 10 + ((high - log) / (high - low) * plot_height) as i64;
    for i in 0..=5 {
        let (step, log) = (last * f64::from(i) / 5.0, low + (high - low) * f64::from(i) / 5.0);
        line(&mut canvas, (x(step), y(low)), (x(step), y(high)), GRID);
        line(&mut canvas, (x(0.0), y(log)), (x(last), y(log)), GRID);
        text(&mut canvas, x(step) - 20, i64::from(height) - 26, &format!("{step:.0}"));
        text(&mut canvas, 8, y(log) - 5, &format!("{:.4}", 10f64.powf(log)));
    }
    for pair in history.windows(2) {
        let at = |h: (usize, f64)| (x(h.0 as f64), y(h.1.max(1e-12).log10()));
        line(&mut canvas, at(pair[0]), at(pair[1]), LINE);
    }
    canvas
}

fn put(canvas: &mut RgbImage, x: i64, y: i64, colour: Rgb<u8>) {
    if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y))
        && x < canvas.width()
        && y < canvas.height()
    {
        canvas.put_pixel(x, y, colour);
    }
}

fn line(canvas: &mut RgbImage, from: (i64, i64), to: (i64, i64), colour: Rgb<u8>) {
    let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).max(1);
    for i in 0..=steps {
        put(canvas, from.0 + (to.0 - from.0) * i / steps, from.1 + (to.1 - from.1) * i / steps, colour);
    }
}

/// Digits and the point, five rows of three bits each, drawn at twice their size: axes need no more.
fn text(canvas: &mut RgbImage, x: i64, y: i64, digits: &str) {
    const GLYPHS: [u16; 11] = [
        0b111_101_101_101_111,
        0b010_110_010_010_111,
        0b111_001_111_100_111,
        0b111_001_111_001_111,
        0b101_101_111_001_001,
        0b111_100_111_001_111,
        0b111_100_111_101_111,
        0b111_001_001_001_001,
        0b111_101_111_101_111,
        0b111_101_111_001_111,
        0b000_000_000_000_010,
    ];
    for (i, c) in digits.chars().enumerate() {
        let glyph = GLYPHS[c.to_digit(10).map_or(10, |d| d as usize)];
        for bit in (0..15).filter(|b| glyph >> (14 - b) & 1 == 1) {
            for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                put(canvas, x + i as i64 * 8 + bit % 3 * 2 + dx, y + bit / 3 * 2 + dy, INK);
            }
        }
    }
}

/// Writes a PNG.
pub(super) fn save_picture(picture: &RgbImage, path: &Path) -> Result<()> {
    write_file(path, &encode_png(picture, &[])?)
}
