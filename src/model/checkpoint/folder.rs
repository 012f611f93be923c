//! A diffusers folder: its small files are read with care and checked before anything is allocated.

use super::file::read_json;
use super::parts::{self, Parts, Source};
use super::weights::Weights;
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::schedule::{Betas, NoiseSchedule};
use crate::model::clip::ClipTextConfig;
use crate::model::codec::CodecConfig;
use crate::model::tokenizer::Tokenizer;
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// Reads the folder `path`.
pub(super) fn read(path: &Path) -> Result<Parts> {
    check_index(path)?;
    let text: ClipTextConfig = read_json(&path.join("text_encoder/config.json"))?;
    let unet = read_json(&path.join("unet/config.json"))?;
    let codec = CodecConfig::read(&path.join("vae/config.json"))?;
    let scheduler: SchedulerConfig = read_json(&path.join("scheduler/scheduler_config.json"))?;
    let (schedule, prediction) = (scheduler.schedule(path)?, scheduler.prediction(path)?);
    Source::Folder(path).check(&text, &unet, &codec)?;
    let tokenizer = Tokenizer::from_folder(&path.join("tokenizer"), text.max_position_embeddings)?;
    Source::Folder(path).check_vocabulary(&tokenizer, &text)?;
    let [text_weights, unet_weights, codec_weights] = read_weights(path)?;
    Ok(Parts {
        tokenizer,
        text: (text, text_weights),
        unet: (unet, unet_weights),
        codec: (codec, codec_weights),
        schedule,
        prediction,
    })
}

/// The three parts' weights, read side by side.
fn read_weights(path: &Path) -> Result<[Weights; 3]> {
    let parts = [("text_encoder", "model"), ("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")];
    let [text, unet, vae] = std::thread::scope(|scope| {
        let read = |(part, stem): (&'static str, &'static str)| {
            let folder = path.join(part);
            scope.spawn(move || Weights::read(&folder, stem))
        };
        parts.map(read).map(|thread| match thread.join() {
            Ok(weights) => weights,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    Ok([text?, unet?, vae?])
}

/// Checks that `path` is a folder whose `model_index.json` names a pipeline this program runs.
pub(crate) fn check_index(path: &Path) -> Result<()> {
    let file = path.join("model_index.json");
    if !file.is_file() {
        let message = "not a model folder: it has no model_index.json".to_owned();
        return Err(Error::model(path, message));
    }
    let Index { class_name } = read_json(&file)?;
    if class_name == "StableDiffusionPipeline" {
        return Ok(());
    }
    Err(Error::model(file, format!("a {class_name:?} cannot be run; a StableDiffusionPipeline can")))
}

/// The fields of `scheduler_config.json` that describe the forward process.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct SchedulerConfig {
    beta_start: f64,
    beta_end: f64,
    beta_schedule: String,
    num_train_timesteps: usize,
    prediction_type: String,
    rescale_betas_zero_snr: bool,
    trained_betas: Option<serde_json::Value>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
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
    fn schedule(&self, model: &Path) -> Result<NoiseSchedule> {
        let file = || model.join("scheduler/scheduler_config.json");
        if self.trained_betas.is_some() {
            return Err(Error::model(file(), "trained_betas are not supported, only a beta_schedule"));
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
