//! The small files of a diffusers folder: read with care, checked before anything is allocated.

use super::file::read_json;
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::schedule::{Betas, NoiseSchedule};
use crate::model::clip::ClipTextConfig;
use crate::model::codec::CodecConfig;
use crate::model::unet::UNetConfig;
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// No count in a configuration is larger: what this program could load stays far below.
const LARGEST_COUNT: usize = 1 << 20;

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// Checks that `path` is a folder whose `model_index.json` names a pipeline this program runs.
pub(super) fn check_index(path: &Path) -> Result<()> {
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

/// Refuses sizes that cannot be meant, before memory is asked for.
pub(super) fn check_sizes(path: &Path, text: &ClipTextConfig, unet: &UNetConfig) -> Result<()> {
    let text_counts = [
        ("vocab_size", text.vocab_size),
        ("hidden_size", text.hidden_size),
        ("intermediate_size", text.intermediate_size),
        ("num_hidden_layers", text.num_hidden_layers),
        ("num_attention_heads", text.num_attention_heads),
        ("max_position_embeddings", text.max_position_embeddings),
    ];
    check_counts(&path.join("text_encoder/config.json"), &text_counts)?;
    if !text.hidden_size.is_multiple_of(text.num_attention_heads) {
        let message = format!("{} heads do not divide {} channels", text.num_attention_heads, text.hidden_size);
        return Err(Error::model(path.join("text_encoder/config.json"), message));
    }
    let unet_counts = [
        ("sample_size", unet.sample_size),
        ("in_channels", unet.in_channels),
        ("out_channels", unet.out_channels),
        ("layers_per_block", unet.layers_per_block),
        ("norm_num_groups", unet.norm_num_groups),
        ("cross_attention_dim", unet.cross_attention_dim),
    ];
    let file = path.join("unet/config.json");
    check_counts(&file, &unet_counts)?;
    if unet.cross_attention_dim != text.hidden_size {
        let (expected, found) = (unet.cross_attention_dim, text.hidden_size);
        return Err(Error::model(file, format!("cross_attention_dim is {expected}, the text encoder gives {found}")));
    }
    if unet.in_channels != unet.out_channels {
        let message = format!(
            "{} input and {} output channels: no plain text-to-image U-Net",
            unet.in_channels, unet.out_channels
        );
        return Err(Error::model(file, message));
    }
    let blocks: Vec<_> = unet.block_out_channels.iter().map(|&c| ("block_out_channels", c)).collect();
    check_counts(&file, &blocks)?;
    unet.check().map_err(|message| Error::model(file, message))
}

/// Refuses an autoencoder and a U-Net that do not belong together.
pub(super) fn check_latents(path: &Path, codec: &CodecConfig, unet: &UNetConfig) -> Result<()> {
    let (found, expected) = (codec.latent_channels(), unet.out_channels);
    if found == expected {
        return Ok(());
    }
    let message = format!("{found} latent channels, but the U-Net draws {expected}");
    Err(Error::model(path.join("vae/config.json"), message))
}

fn check_counts(file: &Path, counts: &[(&str, usize)]) -> Result<()> {
    match counts.iter().find(|(_, count)| *count == 0 || *count > LARGEST_COUNT) {
        None => Ok(()),
        Some((name, count)) => Err(Error::model(file, format!("{name} is {count}, outside 1 to {LARGEST_COUNT}"))),
    }
}

/// The fields of `scheduler_config.json` that describe the forward process.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct SchedulerConfig {
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
    pub(super) fn schedule(&self, model: &Path) -> Result<NoiseSchedule> {
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
        check_counts(&file(), &[("num_train_timesteps", self.num_train_timesteps)])?;
        NoiseSchedule::new(betas, self.num_train_timesteps, self.rescale_betas_zero_snr)
            .map_err(|e| Error::model(file(), e.to_string()))
    }

    pub(super) fn prediction(&self, model: &Path) -> Result<Prediction> {
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
