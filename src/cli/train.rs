//! `limner train`: the autoencoder first, then text encoder and U-Net on its latents.

use super::model::ProductKind;
use crate::Result;
use crate::diffusion::denoiser::Weighting;
use crate::train::recipe::{self, Recipe};
use crate::train::space::Space;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Arguments of `limner train`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder made by `limner data`
    #[arg(long)]
    data: PathBuf,
    /// Model folder to write; a run that was interrupted goes on from what is there
    #[arg(long)]
    out: PathBuf,
    /// Model folder to start from instead of random weights
    #[arg(long)]
    init: Option<PathBuf>,
    /// Model folder to take the text encoder and its vocabulary from, which are then trained on
    #[arg(long, value_name = "MODEL")]
    text_from: Option<PathBuf>,
    /// Draw pixels, without an autoencoder: for small pictures, and for their likelihood
    #[arg(long)]
    pixels: bool,
    /// Updates of the autoencoder
    #[arg(long, default_value_t = 2_000)]
    autoencoder_steps: usize,
    /// Highest learning rate of the autoencoder
    #[arg(long, default_value_t = 2e-3)]
    autoencoder_learning_rate: f64,
    /// Updates of the text encoder alone, before it is trained with the U-Net; 0 leaves them out
    #[arg(long, default_value_t = 1_200)]
    text_steps: usize,
    /// Pictures per update of the text encoder alone
    #[arg(long, default_value_t = 192)]
    text_batch: usize,
    /// Updates of text encoder and U-Net
    #[arg(long, default_value_t = 30_000)]
    steps: usize,
    /// Highest learning rate of text encoder and U-Net
    #[arg(long, default_value_t = 8e-4)]
    learning_rate: f64,
    /// Pictures per update
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Parts of a batch that are computed side by side; part of the run, not of the machine
    #[arg(long, default_value_t = 2)]
    shards: usize,
    /// How noise levels count in the loss of text encoder and U-Net [default: balanced; for pixels
    /// simple, elbo where the schedule is learned]
    #[arg(long, value_enum)]
    weighting: Option<LossWeights>,
    /// Learn the noise schedule of pixels, too: the one whose estimates of the evidence lower bound scatter least
    #[arg(long, requires = "pixels")]
    learn_schedule: bool,
    /// Where all random choices start
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// In what layers multiply; auto: as the run began, or else bf16 where the processor has fast instructions for it. Sums,
    /// norms, weights and their updates are in f32
    #[arg(long, env = "LIMNER_PRODUCTS", value_enum, default_value_t = ProductKind::Auto)]
    products: ProductKind,
    /// Minutes between checkpoints, each with a loss plot and a sheet of samples
    #[arg(long, default_value_t = 5.0)]
    report_minutes: f64,
}

/// [`Weighting`], by name.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LossWeights {
    /// DDPM's: all noise levels alike
    Simple,
    /// As in the evidence lower bound
    Elbo,
    /// min(SNR, 5)
    MinSnr,
    /// min(SNR, 5) + 1
    Balanced,
}

impl From<LossWeights> for Weighting {
    fn from(name: LossWeights) -> Self {
        match name {
            LossWeights::Simple => Self::Simple,
            LossWeights::Elbo => Self::Elbo,
            LossWeights::MinSnr => Self::MinSnr { gamma: 5.0 },
            LossWeights::Balanced => Self::Balanced { gamma: 5.0 },
        }
    }
}

pub(super) fn run(args: Args) -> Result<()> {
    keep_candle_on_one_thread();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .map_err(|e| crate::Error::Training(format!("cannot listen for Ctrl+C: {e}")))?;
    let space = if args.pixels { Space::Pixels } else { Space::Latents };
    // The simple loss would follow the levels that are drawn most, and these the loss.
    let usual = if args.learn_schedule { Weighting::Elbo } else { space.weighting() };
    let recipe = Recipe {
        data: args.data,
        out: args.out,
        init: args.init,
        text_from: args.text_from,
        space,
        autoencoder_steps: args.autoencoder_steps,
        autoencoder_learning_rate: args.autoencoder_learning_rate,
        text_steps: args.text_steps,
        text_batch: args.text_batch,
        steps: args.steps,
        learning_rate: args.learning_rate,
        batch: args.batch,
        shards: args.shards,
        seed: args.seed,
        weighting: args.weighting.map_or(usual, Weighting::from),
        learn_schedule: args.learn_schedule,
        report_every: Duration::from_secs_f64(60.0 * args.report_minutes),
        products: args.products.products(),
    };
    recipe::train(&recipe, &stop)
}

/// The shards of a batch already fill the cores. candle's own pool would spin on top of them: measured at a seventh of the
/// time.
fn keep_candle_on_one_thread() {
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: the program has one thread until the handler below is installed, so nobody reads the environment now.
        #[expect(unsafe_code, reason = "candle reads its number of threads from the environment alone")]
        unsafe {
            std::env::set_var("CANDLE_NUM_THREADS", "1");
        }
    }
}
