//! A diffusers folder: its small files are read with care and checked before anything is allocated.

use super::defaults::{Defaults, Distilled};
use super::file::read_json;
use super::parts::{self, Parts, Source, TextParts};
use super::weights::Weights;
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::errors::SquaredErrors;
use crate::diffusion::schedule::{Betas, NoiseSchedule};
use crate::model::clip::ClipTextConfig;
use crate::model::codec::CodecConfig;
use crate::model::text_encoder::Reading;
use crate::model::tokenizer::Tokenizer;
use crate::model::unet::UNetConfig;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Deserialize;
use std::path::Path;

/// The fields of `model_index.json` that matter here.
#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
    /// Library and class of the first text encoder, which are null in a refiner.
    #[serde(default)]
    text_encoder: Option<[Option<String>; 2]>,
    /// Likewise the second, which may be null.
    #[serde(default)]
    text_encoder_2: Option<[Option<String>; 2]>,
    /// Likewise the autoencoder, which may be null: then the U-Net draws pixels.
    #[serde(default)]
    vae: Option<[Option<String>; 2]>,
    #[serde(default)]
    force_zeros_for_empty_prompt: Option<bool>,
}

/// Pipelines of diffusers whose models this program runs. What a model does is told by its U-Net.
const PIPELINES: [&str; 9] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "LatentConsistencyModelPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
];

/// What to say of a model that only finishes pictures of another.
pub(crate) const REFINER: &str = "the refiner of SDXL, and refiners are not supported; use the base model";

/// The file of the errors at each noise level.
pub(crate) const ERRORS: &str = "scheduler/squared_errors.json";

/// The folders of text encoder and tokenizer.
const FIRST: [&str; 2] = ["text_encoder", "tokenizer"];
const SECOND: [&str; 2] = ["text_encoder_2", "tokenizer_2"];

/// Reads the folder `path`.
pub(super) fn read(path: &Path) -> Result<Parts> {
    let index = Index::read(path)?;
    let texts = index.texts().into_iter().map(|text| Ok((text, read_json(&path.join(text.0[0]).join("config.json"))?)));
    let texts = texts.collect::<Result<Vec<(_, ClipTextConfig)>>>()?;
    let unet: UNetConfig = read_json(&path.join("unet/config.json"))?;
    let codec =
        if index.is_in_pixels() { CodecConfig::Pixels } else { CodecConfig::read(&path.join("vae/config.json"))? };
    let scheduler: SchedulerConfig = read_json(&path.join("scheduler/scheduler_config.json"))?;
    let (schedule, prediction) = (scheduler.schedule(path)?, scheduler.prediction(path)?);
    let described: Vec<_> = texts.iter().map(|(([part, _], _), config)| (*part, config)).collect();
    Source::Folder(path).check(&described, &unet, &codec)?;
    let tokenizers = texts.iter().map(|((folders, _), config)| tokenizer(path, folders[1], config));
    let tokenizers = tokenizers.collect::<Result<Vec<_>>>()?;
    let vae = (!index.is_in_pixels()).then_some("vae");
    let mut weights = read_weights(path, vae, texts.iter().map(|((folders, _), _)| folders[0]))?;
    let unet_weights = weights.remove(0);
    let codec_weights = if vae.is_some() { weights.remove(0) } else { Weights::none() };
    let text = texts.into_iter().zip(tokenizers).zip(weights);
    Ok(Parts {
        text: text
            .map(|((((_, reading), config), tokenizer), weights)| TextParts { tokenizer, config, weights, reading })
            .collect(),
        defaults: Defaults::new(&unet, scheduler.distilled(path)),
        unet: (unet, unet_weights),
        codec: (codec, codec_weights),
        schedule,
        errors: errors(path)?,
        prediction,
        zeros_for_empty: index.zeros_for_empty(),
    })
}

/// How much the model errs at each noise level, where somebody has measured it.
fn errors(path: &Path) -> Result<Option<SquaredErrors>> {
    let file = path.join(ERRORS);
    if file.exists() { read_json(&file).map(Some) } else { Ok(None) }
}

fn tokenizer(path: &Path, folder: &str, text: &ClipTextConfig) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_folder(&path.join(folder), text.max_position_embeddings)?;
    Source::Folder(path).check_vocabulary(folder, &tokenizer, text)?;
    Ok(tokenizer)
}

/// The weights of the U-Net, of the autoencoder if there is one, and of the text encoders, read side by side.
fn read_weights(
    path: &Path,
    vae: Option<&'static str>,
    texts: impl Iterator<Item = &'static str>,
) -> Result<Vec<Weights>> {
    let networks = ["unet"].into_iter().chain(vae).map(|part| (part, "diffusion_pytorch_model"));
    let parts: Vec<_> = networks.chain(texts.map(|part| (part, "model"))).collect();
    parts.into_par_iter().map(|(part, stem)| Weights::read(&path.join(part), stem)).collect()
}

/// Refuses a folder that is not one of a pipeline this program runs.
pub(crate) fn check_index(path: &Path) -> Result<()> {
    Index::read(path).map(drop)
}

impl Index {
    /// Checks that `path` is a folder whose `model_index.json` names a pipeline this program runs.
    fn read(path: &Path) -> Result<Self> {
        let file = path.join("model_index.json");
        if !file.is_file() {
            let message = "not a model folder: it has no model_index.json".to_owned();
            return Err(Error::model(path, message));
        }
        let index: Self = read_json(&file)?;
        if index.is_refiner() {
            return Err(Error::model(file, REFINER));
        }
        if PIPELINES.contains(&index.class_name.as_str()) {
            return Ok(index);
        }
        let class = &index.class_name;
        Err(Error::model(file, format!("a {class:?} cannot be run; these can: {}", PIPELINES.join(", "))))
    }

    fn is_refiner(&self) -> bool {
        matches!((&self.text_encoder, &self.text_encoder_2), (Some([_, None]), Some([_, Some(_)])))
    }

    fn is_xl(&self) -> bool {
        self.class_name.contains("XL")
    }

    fn texts(&self) -> Vec<([&'static str; 2], Reading)> {
        let second = self.text_encoder_2.as_ref().is_some_and(|[_, class]| class.is_some());
        match (self.is_xl(), second) {
            (true, true) => vec![(FIRST, Reading::XL_FIRST), (SECOND, Reading::XL_SECOND)],
            _ => vec![(FIRST, Reading::LAST)],
        }
    }

    fn is_in_pixels(&self) -> bool {
        matches!(&self.vae, Some([_, None]))
    }

    fn zeros_for_empty(&self) -> bool {
        self.force_zeros_for_empty_prompt.unwrap_or(self.is_xl())
    }
}

/// The fields of `scheduler_config.json` that describe the forward process.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct SchedulerConfig {
    #[serde(rename = "_class_name")]
    class_name: String,
    timestep_spacing: String,
    beta_start: f64,
    beta_end: f64,
    beta_schedule: String,
    num_train_timesteps: usize,
    prediction_type: String,
    rescale_betas_zero_snr: bool,
    trained_betas: Option<Vec<f64>>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class_name: String::new(),
            timestep_spacing: String::new(),
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: "linear".into(),
            num_train_timesteps: 1000,
            prediction_type: "epsilon".into(),
            rescale_betas_zero_snr: false,
            trained_betas: None,
        }
    }
}

impl SchedulerConfig {
    /// Told by the scheduler that the model is shipped with, else by the model's name.
    fn distilled(&self, model: &Path) -> Distilled {
        let few_steps = self.class_name.starts_with("Euler") && self.timestep_spacing == "trailing";
        match self.class_name.as_str() {
            "LCMScheduler" => Distilled::Consistency,
            _ if few_steps && !self.rescale_betas_zero_snr => Distilled::Adversarial,
            _ => Distilled::by_names(model),
        }
    }

    fn schedule(&self, model: &Path) -> Result<NoiseSchedule> {
        let file = || model.join("scheduler/scheduler_config.json");
        if let Some(rates) = &self.trained_betas {
            return self.given(rates).map_err(|message| Error::model(file(), message));
        }
        let (start, end) = (self.beta_start, self.beta_end);
        let betas = match self.beta_schedule.as_str() {
            "linear" => Betas::Linear { start, end },
            "scaled_linear" => Betas::ScaledLinear { start, end },
            "squaredcos_cap_v2" => Betas::Cosine,
            other => return Err(Error::model(file(), format!("unknown beta_schedule {other:?}"))),
        };
        if !(0.0 < start && start <= end && end < 1.0) {
            return Err(Error::model(file(), format!("beta_start {start} and beta_end {end} do not rise from 0 to 1")));
        }
        parts::check_counts(&file(), &[("num_train_timesteps", self.num_train_timesteps)])?;
        NoiseSchedule::new(betas, self.num_train_timesteps, self.rescale_betas_zero_snr)
            .map_err(|e| Error::model(file(), e.to_string()))
    }

    /// The schedule of a table of rates.
    fn given(&self, rates: &[f64]) -> std::result::Result<NoiseSchedule, String> {
        let (found, expected) = (rates.len(), self.num_train_timesteps);
        if found != expected {
            return Err(format!("{found} trained_betas for num_train_timesteps {expected}"));
        }
        NoiseSchedule::from_rates(rates, self.rescale_betas_zero_snr).map_err(|e| e.to_string())
    }

    fn prediction(&self, model: &Path) -> Result<Prediction> {
        match self.prediction_type.as_str() {
            "epsilon" => Ok(Prediction::Epsilon),
            "v_prediction" => Ok(Prediction::Velocity),
            "sample" => Ok(Prediction::Clean),
            other => {
                let file = model.join("scheduler/scheduler_config.json");
                Err(Error::model(file, format!("unknown prediction_type {other:?}")))
            }
        }
    }
}
