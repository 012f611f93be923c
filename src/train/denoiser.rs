//! The second part: text encoder and U-Net together, by denoising score matching on latents or pixels.

use super::data::{Dice, Record, Split, vocabulary};
use super::export::{write_json, write_text};
use super::gamma::{Gamma, spread};
use super::parameters::Parameters;
use super::report::save_picture;
use super::space::{DenoiserConfig, Space};
use super::task::{Figures, Task};
use super::text;
use crate::diffusion::denoiser::{Denoiser, Network, Preconditioned, Prediction, Weighting};
use crate::diffusion::noise::Philox;
use crate::diffusion::schedule::NoiseSchedule;
use crate::image::{batch_from_tensor, grid};
use crate::model::clip::ClipTextModel;
use crate::model::codec::Codec;
use crate::model::tokenizer::Tokenizer;
use crate::model::unet::{Conditioning, UNet2DConditionModel};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use std::path::{Path, PathBuf};

/// How often a caption is left out, so that the model learns the unconditional score that guidance needs
/// (Ho and Salimans, arXiv:2207.12598).
const CAPTION_DROPOUT: f64 = 0.12;

/// Longest prompt in tokens, start and end included. Captions of icons are short, and each position costs time.
pub(super) const TEXT_LENGTH: usize = 32;

/// Units of the vocabulary trained on the captions.
const VOCABULARY: usize = 4096;

/// Trains a [`ClipTextModel`] and a [`UNet2DConditionModel`] together.
pub struct DenoiserTask<'a> {
    /// What is drawn.
    pub space: Space,
    /// The networks' sizes.
    pub config: DenoiserConfig,
    /// What the training pictures are in that space: (N, C, h, w). Latents are normalised per channel.
    pub latents: Tensor,
    /// The training records, one per row of `latents`.
    pub records: Vec<&'a Record>,
    /// Captions to ids.
    pub tokenizer: Tokenizer,
    /// The forward process, or where one begins that is learned.
    pub schedule: NoiseSchedule,
    /// Whether it is learned.
    pub learn_schedule: bool,
    /// How noise levels count.
    pub weighting: Weighting,
    /// The way back to pictures, for previews.
    pub codec: &'a Codec,
    /// The model folder that [`Task::export`] writes to.
    pub folder: PathBuf,
    /// Prompts of the preview sheets.
    pub prompts: Vec<String>,
}

/// A U-Net that has been told its text.
struct Conditioned<'a> {
    unet: &'a UNet2DConditionModel,
    context: Tensor,
}

impl Network for Conditioned<'_> {
    fn predict(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        self.unet.forward(x, t, &Conditioning::text(&self.context))
    }
}

impl DenoiserTask<'_> {
    /// Creates the variables of both networks, and those of the schedule.
    pub(super) fn create(&self, parameters: &Parameters) -> Result<()> {
        self.networks(&parameters.builder())?;
        self.gamma(&parameters.builder()).map(drop)
    }

    /// The learned schedule, where it is learned.
    fn gamma(&self, vb: &VarBuilder<'_>) -> Result<Option<Gamma>> {
        self.learn_schedule.then(|| Gamma::new(&vb.pp("gamma"), &self.schedule)).transpose()
    }

    /// The schedule as it is now.
    fn schedule(&self, gamma: Option<&Gamma>) -> Result<NoiseSchedule> {
        gamma.map_or_else(|| Ok(self.schedule.clone()), |gamma| gamma.schedule(self.schedule.steps()))
    }

    fn networks(&self, vb: &VarBuilder<'_>) -> Result<(ClipTextModel, UNet2DConditionModel)> {
        let encoder = ClipTextModel::new(&self.config.text, &vb.pp(text::PREFIX))?;
        Ok((encoder, UNet2DConditionModel::new(&self.config.unet, &vb.pp("unet"))?))
    }

    /// Euler steps on the probability-flow ODE under guidance: enough to see where training stands.
    fn draw(&self, vb: &VarBuilder<'_>, guidance: f64, steps: usize) -> Result<Tensor> {
        let (encoder, unet) = self.networks(vb)?;
        let count = self.prompts.len();
        let ids = text::ids(&self.tokenizer, &[vec![String::new(); count], self.prompts.clone()].concat())?;
        let network = Conditioned { unet: &unet, context: encoder.forward(&ids)? };
        let schedule = self.schedule(self.gamma(vb)?.as_ref())?;
        let denoiser = Preconditioned::new(network, Prediction::Epsilon, schedule.clone());
        let (_, c, h, w) = self.latents.dims4()?;
        let last = (schedule.steps() - 1) as f64;
        let sigma = |i: usize| if i == steps { 0.0 } else { schedule.sigma(last * (1.0 - i as f64 / steps as f64)) };
        let noise = Tensor::from_vec(Philox::new(1).normals(0, count * c * h * w), (count, c, h, w), &Device::Cpu)?;
        let mut x = (noise * sigma(0))?;
        for i in 0..steps {
            let both = denoiser.denoise(&Tensor::cat(&[&x, &x], 0)?, sigma(i))?.detach().chunk(2, 0)?;
            let denoised = (&both[0] + ((&both[1] - &both[0])? * guidance)?)?;
            let ratio = sigma(i + 1) / sigma(i);
            x = ((x * ratio)? + (denoised * (1.0 - ratio))?)?;
        }
        Ok(x)
    }
}

impl Task for DenoiserTask<'_> {
    fn loss(&self, vb: &VarBuilder<'_>, samples: &[usize], stream: u64) -> Result<(Tensor, Figures)> {
        let mut dice = Dice::new(stream);
        let caption = |&sample: &usize| match dice.chance(CAPTION_DROPOUT) {
            true => String::new(),
            false => self.records[sample].caption(&mut dice),
        };
        let captions: Vec<String> = samples.iter().map(caption).collect();
        let rows: Vec<u32> = samples.iter().map(|&s| s as u32).collect();
        let clean = self.latents.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
        let clean = dequantised(clean, self.space.dequantisation(), &mut dice)?;
        let noise = Philox::new(stream).normals(0, clean.elem_count());
        let noise = Tensor::from_vec(noise, clean.shape(), &Device::Cpu)?;
        let gamma = self.gamma(vb)?;
        let schedule = self.schedule(gamma.as_ref())?;
        let times = times(samples.len(), dice.uniform());
        let last = (schedule.steps() - 1) as f64;
        let sigmas: Vec<f64> = times.iter().map(|time| schedule.sigma(last * time)).collect();
        let (encoder, unet) = self.networks(vb)?;
        let context = encoder.forward(&text::ids(&self.tokenizer, &captions)?)?;
        let network = Conditioned { unet: &unet, context };
        let model = Preconditioned::new(network, Prediction::Epsilon, schedule);
        let loss = model.loss(&clean, &noise, &sigmas, self.weighting)?;
        let value = f64::from(loss.objective.to_scalar::<f32>()?);
        let mut figures = vec![("loss", value), ("simple", loss.simple), ("elbo", loss.elbo)];
        let Some(gamma) = gamma else { return Ok((loss.objective, Figures(figures))) };
        figures.push(("spread", spread(&loss.nats)));
        Ok(((loss.objective + gamma.objective(&times, &loss.nats)?)?, Figures(figures)))
    }

    fn preview(&self, vb: &VarBuilder<'_>, path: &Path) -> Result<()> {
        let pictures = self.codec.decode(&self.draw(vb, 3.0, 24)?)?;
        save_picture(&grid(&batch_from_tensor(&pictures)?, 8), path)
    }

    fn export(&self, vb: &VarBuilder<'_>) -> Result<()> {
        text::export(&self.config.text, vb, &self.folder)?;
        let unet = self.folder.join("unet");
        std::fs::create_dir_all(&unet).map_err(Error::io(&unet))?;
        let recorder = Parameters::new(0, &Device::Cpu);
        UNet2DConditionModel::new(&self.config.unet, &recorder.builder())?;
        text::write_weights(&recorder, &vb.pp("unet"), &unet.join("diffusion_pytorch_model.safetensors"))?;
        write_json(&unet.join("config.json"), &self.config.unet)?;
        self.space.export(&self.schedule(self.gamma(vb)?.as_ref())?, &self.folder)
    }
}

/// One time per sample, in [0, 1), that cover the range evenly (Kingma et al., arXiv:2107.00630, appendix I.1).
fn times(count: usize, offset: f64) -> Vec<f64> {
    (0..count).map(|i| (offset + i as f64) / count as f64).collect()
}

/// `x` and uniform noise of this width around 0; a width of 0 changes nothing.
fn dequantised(x: Tensor, width: f64, dice: &mut Dice) -> Result<Tensor> {
    if width == 0.0 {
        return Ok(x);
    }
    let noise = (0..x.elem_count()).map(|_| (width * (dice.uniform() - 0.5)) as f32).collect();
    Ok((&x + Tensor::from_vec(noise, x.shape(), x.device())?)?)
}

/// Trains the vocabulary on a data set's captions, writes `tokenizer/` and `words.txt`, and opens the tokenizer.
pub(super) fn tokenizer(data: &super::data::Dataset, folder: &Path) -> Result<Tokenizer> {
    let path = folder.join("tokenizer");
    if !path.join("tokenizer_config.json").exists() {
        let vocabulary = vocabulary::train(&vocabulary::word_counts(data), VOCABULARY)?;
        vocabulary::write_tokenizer(&path, &vocabulary, TEXT_LENGTH)?;
    }
    let words: Vec<String> = data.words().into_iter().collect();
    write_text(&folder.join("words.txt"), &(words.join("\n") + "\n"))?;
    Tokenizer::from_folder(&path, TEXT_LENGTH)
}

/// 32 prompts for the preview sheets: the same for every run on the same data.
pub(super) fn preview_prompts(records: &[&Record]) -> Vec<String> {
    let known = ["red apple", "red heart", "cat face", "sun", "pizza", "crying face", "3d rocket", "flat tree"];
    let seen = records.iter().filter(|r| r.split == Split::Train).map(|r| r.prompt());
    let seen: Vec<String> = seen.collect();
    let spread = (0..24).map(|i| seen[i * seen.len() / 24].clone());
    known.into_iter().map(String::from).chain(spread).collect()
}
