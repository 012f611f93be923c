//! How a model folder comes out of a data set: the parts in their order.

use super::codec::{CodecTask, channel_statistics, encode_all};
use super::data::{Dataset, Split};
use super::denoiser::{self, DenoiserTask};
use super::fit::{Settings, fit};
use super::optimizer::Constants;
use super::parameters::Parameters;
use super::pixels::Pixels;
use super::space::Space;
use super::task::Task;
use super::text::TextTask;
use crate::diffusion::denoiser::Weighting;
use crate::kernels::Products;
use crate::model::autoencoder::{PatchAutoencoder, PatchAutoencoderConfig};
use crate::model::codec::Codec;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The text encoder's folder.
const TEXT: &str = "text_encoder";

/// Everything a person chooses about a training run.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Folder of the data set.
    pub data: PathBuf,
    /// Model folder to write.
    pub out: PathBuf,
    /// A model folder to start from instead of random weights (a saved state in `out` goes before it).
    pub init: Option<PathBuf>,
    /// A model folder to take text encoder and vocabulary from, to train them on.
    pub text_from: Option<PathBuf>,
    /// What the U-Net draws.
    pub space: Space,
    /// Updates of the autoencoder.
    pub autoencoder_steps: usize,
    /// Highest learning rate of the autoencoder.
    pub autoencoder_learning_rate: f64,
    /// Updates of the text encoder alone, before it is trained with the U-Net; 0 leaves them out.
    pub text_steps: usize,
    /// Pictures per update of the text encoder alone: each caption is told from this many pictures (over the shards).
    pub text_batch: usize,
    /// Updates of text encoder and U-Net.
    pub steps: usize,
    /// Highest learning rate of text encoder and U-Net.
    pub learning_rate: f64,
    /// Pictures per update.
    pub batch: usize,
    /// Parts of a batch computed side by side.
    pub shards: usize,
    /// Where all random choices start.
    pub seed: u64,
    /// How noise levels count in the loss of text encoder and U-Net.
    pub weighting: Weighting,
    /// Whether the noise schedule of pixels is learned, too.
    pub learn_schedule: bool,
    /// Time between checkpoints.
    pub report_every: Duration,
    /// In what layers multiply: see [`Settings`].
    pub products: Option<Products>,
}

impl Recipe {
    /// Overwrites `parameters` with the weights of one part of the model to start from; `prefix` goes before their names.
    fn initialise(&self, parameters: &Parameters, file: &str, prefix: &str) -> Result<()> {
        let folder = self.text_from.as_ref().filter(|_| file.starts_with(TEXT)).or(self.init.as_ref());
        let Some(folder) = folder else { return Ok(()) };
        let path = folder.join(file);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        parameters.assign(&tensors.into_iter().map(|(name, t)| (format!("{prefix}{name}"), t)).collect())
    }

    /// Takes the vocabulary along with the text encoder.
    fn take_vocabulary(&self) -> Result<()> {
        let Some(folder) = &self.text_from else { return Ok(()) };
        let (from, to) = (folder.join("tokenizer"), self.out.join("tokenizer"));
        std::fs::create_dir_all(&to).map_err(Error::io(&to))?;
        for file in ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"] {
            std::fs::copy(from.join(file), to.join(file)).map_err(Error::io(from.join(file)))?;
        }
        Ok(())
    }

    fn settings(&self, name: &'static str, steps: usize, learning_rate: f64) -> Settings {
        Settings {
            name,
            steps,
            batch: self.batch,
            shards: self.shards,
            learning_rate,
            constants: Constants::default(),
            seed: self.seed,
            folder: self.out.join("training"),
            report_every: self.report_every,
            products: self.products,
        }
    }
}

/// Runs the whole recipe, going on from what `recipe.out` holds. [`Error::Cancelled`] when `stop` was set.
pub fn train(recipe: &Recipe, stop: &AtomicBool) -> Result<()> {
    for (name, batch) in [("--batch", recipe.batch), ("--text-batch", recipe.text_batch)] {
        let shards = recipe.shards;
        if batch == 0 || shards == 0 || !batch.is_multiple_of(shards) {
            return Err(Error::Training(format!("{name} {batch} is not a multiple of --shards {shards}")));
        }
    }
    let data = Dataset::open(&recipe.data)?;
    let pixels = Pixels::new(data.load_pixels()?, data.size);
    let indices = data.indices(Split::Train);
    let (codec, latents) = match recipe.space {
        Space::Latents => autoencoder(recipe, &pixels, &indices, stop)?,
        Space::Pixels => (Codec::Pixels, pixels.batch(&indices, || false)?),
    };
    denoiser(recipe, &data, &codec, latents, stop)
}

/// Trains the autoencoder; returns it with the normalised latents of the training pictures.
fn autoencoder(recipe: &Recipe, pixels: &Pixels, indices: &[usize], stop: &AtomicBool) -> Result<(Codec, Tensor)> {
    let config = PatchAutoencoderConfig::small();
    let parameters = Parameters::new(recipe.seed, &Device::Cpu);
    PatchAutoencoder::new(&config, &parameters.builder())?;
    recipe.initialise(&parameters, "vae/diffusion_pytorch_model.safetensors", "")?;
    let mut task = CodecTask { config, pixels, indices, folder: recipe.out.join("vae") };
    let settings = recipe.settings("autoencoder", recipe.autoencoder_steps, recipe.autoencoder_learning_rate);
    eprintln!("autoencoder: {:.1} M parameters", parameters.count() as f64 / 1e6);
    fit(&task, &parameters, indices.len(), &settings, stop)?;
    let model = PatchAutoencoder::new(&task.config, &parameters.builder())?;
    let latents = encode_all(&model, pixels, indices)?;
    (task.config.latents_mean, task.config.latents_std) = channel_statistics(&latents)?;
    task.export(&parameters.builder())?;
    let model = PatchAutoencoder::new(&task.config, &parameters.builder())?;
    let latents = model.normalise(&latents)?;
    Ok((Codec::Patch(Box::new(model)), latents))
}

/// Trains the text encoder alone; returns its weights, under the names that they have beside the U-Net's.
fn text_encoder(recipe: &Recipe, task: &TextTask<'_>, stop: &AtomicBool) -> Result<HashMap<String, Tensor>> {
    let parameters = Parameters::new(recipe.seed + 2, &Device::Cpu);
    task.create(&parameters)?;
    recipe.initialise(&parameters, "text_encoder/model.safetensors", "text_encoder.")?;
    let mut settings = recipe.settings("text", recipe.text_steps, recipe.learning_rate);
    settings.batch = recipe.text_batch;
    eprintln!("text encoder and its contrast: {:.1} M parameters", parameters.count() as f64 / 1e6);
    if recipe.text_steps > 0 {
        fit(task, &parameters, task.records.len(), &settings, stop)?;
    }
    Ok(parameters.named().into_iter().map(|(name, var)| (name, var.as_tensor().detach())).collect())
}

/// Trains text encoder and U-Net on latents or pixels.
fn denoiser(recipe: &Recipe, data: &Dataset, codec: &Codec, latents: Tensor, stop: &AtomicBool) -> Result<()> {
    let records: Vec<_> = data.training().collect();
    recipe.take_vocabulary()?;
    let tokenizer = denoiser::tokenizer(data, &recipe.out)?;
    let (_, channels, side, _) = latents.dims4()?;
    let config = recipe.space.config(tokenizer.vocabulary_size(), side, channels);
    let text = TextTask {
        config: config.text.clone(),
        latents: latents.clone(),
        records: records.clone(),
        tokenizer: &tokenizer,
        folder: recipe.out.clone(),
    };
    let encoder = text_encoder(recipe, &text, stop)?;
    let task = DenoiserTask {
        space: recipe.space,
        config,
        prompts: denoiser::preview_prompts(&records),
        records,
        latents,
        tokenizer,
        schedule: recipe.space.schedule()?,
        learn_schedule: recipe.learn_schedule,
        weighting: recipe.weighting,
        codec,
        folder: recipe.out.clone(),
    };
    let parameters = Parameters::new(recipe.seed + 1, &Device::Cpu);
    task.create(&parameters)?;
    parameters.assign(&encoder)?;
    recipe.initialise(&parameters, "unet/diffusion_pytorch_model.safetensors", "unet.")?;
    let settings = recipe.settings("denoiser", recipe.steps, recipe.learning_rate);
    eprintln!("text encoder and U-Net: {:.1} M parameters", parameters.count() as f64 / 1e6);
    fit(&task, &parameters, task.records.len(), &settings, stop)
}
