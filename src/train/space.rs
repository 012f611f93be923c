//! What the U-Net draws: an autoencoder's latents, or pixels. With that go its sizes, its forward process and its files.

use super::denoiser::TEXT_LENGTH;
use super::export::{write_json, write_text};
use crate::diffusion::denoiser::Weighting;
use crate::diffusion::elbo::BIN;
use crate::diffusion::schedule::{Betas, NoiseSchedule};
use crate::model::clip::{ClipTextConfig, HiddenActivation};
use crate::model::unet::{AdditionEmbedType, DownBlockType, PerBlock, UNetConfig, UpBlockType};
use crate::{Error, Result};
use std::path::Path;

/// Where diffusion takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// In an autoencoder's latents, which is trained first: large pictures at a small price.
    Latents,
    /// In pixels: small pictures, whose likelihood is then a figure about the pictures themselves.
    Pixels,
}

/// The sizes of both networks.
#[derive(Debug, Clone)]
pub struct DenoiserConfig {
    /// The text encoder.
    pub text: ClipTextConfig,
    /// The U-Net.
    pub unet: UNetConfig,
}

impl Space {
    /// The bundled models' sizes, for tensors of `side` x `side` x `channels`.
    pub fn config(self, vocab_size: usize, side: usize, channels: usize) -> DenoiserConfig {
        let text = ClipTextConfig {
            vocab_size,
            hidden_size: 192,
            intermediate_size: 768,
            num_hidden_layers: 3,
            num_attention_heads: 6,
            max_position_embeddings: TEXT_LENGTH,
            hidden_act: HiddenActivation::QuickGelu,
            layer_norm_eps: 1e-5,
            ..ClipTextConfig::default()
        };
        let common = UNetConfig {
            sample_size: side,
            in_channels: channels,
            out_channels: channels,
            layers_per_block: 1,
            cross_attention_dim: text.hidden_size,
            addition_embed_type: Some(AdditionEmbedType::Text),
            addition_embed_type_num_heads: text.num_attention_heads,
            use_linear_projection: true,
            ..UNetConfig::default()
        };
        DenoiserConfig { text, unet: self.blocks(common) }
    }

    fn blocks(self, common: UNetConfig) -> UNetConfig {
        match self {
            Self::Latents => UNetConfig {
                down_block_types: vec![DownBlockType::CrossAttention; 2],
                up_block_types: vec![UpBlockType::CrossAttention; 2],
                block_out_channels: vec![128, 256],
                attention_head_dim: PerBlock::Each(vec![4, 8]),
                ..common
            },
            // The full resolution costs most and decides least, so it is narrow and sees no text.
            Self::Pixels => UNetConfig {
                down_block_types: vec![
                    DownBlockType::Plain,
                    DownBlockType::CrossAttention,
                    DownBlockType::CrossAttention,
                ],
                up_block_types: vec![UpBlockType::CrossAttention, UpBlockType::CrossAttention, UpBlockType::Plain],
                block_out_channels: vec![32, 64, 128],
                attention_head_dim: PerBlock::Each(vec![1, 2, 4]),
                norm_num_groups: 8,
                ..common
            },
        }
    }

    /// The forward process. In latents it is Stable Diffusion's: on 8x8 of them it spends its time where shapes are decided;
    /// DDPM's linear betas would give nearly half of it to levels at which only a colour can be told. At its last step even
    /// the mean of 64 positions holds more noise (14.6 / 8) than signal (at most 1), so pure noise is a fair start.
    ///
    /// In pixels it goes from a sixth of a byte's step to 12 times a picture's contrast, evenly in the logarithm: gamma
    /// from -13.3 to 5 (Kingma et al., arXiv:2107.00630, appendix), so that nothing of a picture's likelihood is left out
    /// and the plain loss is its bound.
    pub(crate) fn schedule(self) -> Result<NoiseSchedule> {
        let betas = match self {
            Self::Latents => Betas::STABLE_DIFFUSION,
            Self::Pixels => Betas::LogLinear { low: (-13.3f64 / 2.0).exp(), high: (5.0f64 / 2.0).exp() },
        };
        NoiseSchedule::new(betas, 1000, false)
    }

    /// How noise levels count unless the person says otherwise.
    pub fn weighting(self) -> Weighting {
        match self {
            Self::Latents => Weighting::Balanced { gamma: 5.0 },
            Self::Pixels => Weighting::Simple,
        }
    }

    /// Width of the uniform noise that makes a density of bytes: one step between them. Latents have one already.
    pub(super) fn dequantisation(self) -> f64 {
        match self {
            Self::Latents => 0.0,
            Self::Pixels => BIN,
        }
    }

    /// Writes `model_index.json` and the scheduler's configuration, as diffusers has them.
    pub(super) fn export(self, schedule: &NoiseSchedule, folder: &Path) -> Result<()> {
        let scheduler = folder.join("scheduler");
        std::fs::create_dir_all(&scheduler).map_err(Error::io(&scheduler))?;
        let (scheduler, index) = (scheduler.join("scheduler_config.json"), folder.join("model_index.json"));
        match self {
            Self::Latents => {
                write_text(&scheduler, SCHEDULER)?;
                write_text(&index, INDEX)
            }
            Self::Pixels => {
                let (mut about_schedule, mut about_model) = (json(SCHEDULER)?, json(INDEX)?);
                for unused in ["beta_start", "beta_end", "beta_schedule"] {
                    about_schedule.as_object_mut().and_then(|fields| fields.remove(unused));
                }
                about_schedule["trained_betas"] = serde_json::json!(schedule.rates());
                about_model["vae"] = serde_json::json!([null, null]);
                write_json(&scheduler, &about_schedule)?;
                write_json(&index, &about_model)
            }
        }
    }
}

const SCHEDULER: &str = include_str!("scheduler_config.json");
const INDEX: &str = include_str!("model_index.json");

fn json(text: &str) -> Result<serde_json::Value> {
    serde_json::from_str(text).map_err(|e| Error::Training(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(space: Space) -> (serde_json::Value, serde_json::Value) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        space.export(&space.schedule().unwrap(), folder.path()).unwrap();
        let read = |file: &str| json(&std::fs::read_to_string(folder.path().join(file)).unwrap()).unwrap();
        (read("model_index.json"), read("scheduler/scheduler_config.json"))
    }

    /// What is written is what the networks were trained with, whichever way it is told.
    #[test]
    fn files_tell_the_forward_process() {
        let (index, scheduler) = exported(Space::Latents);
        assert_eq!(index["vae"][1], "PatchAutoencoder");
        assert_eq!((&scheduler["beta_start"], &scheduler["beta_schedule"]), (&0.00085.into(), &"scaled_linear".into()));
        let (index, scheduler) = exported(Space::Pixels);
        assert!(index["vae"][1].is_null() && scheduler.get("beta_schedule").is_none());
        let rates: Vec<f64> = serde_json::from_value(scheduler["trained_betas"].clone()).unwrap();
        let (told, own) = (NoiseSchedule::from_rates(&rates, false).unwrap(), Space::Pixels.schedule().unwrap());
        for t in [0.0, 500.0, 999.0] {
            assert!((told.sigma(t) / own.sigma(t) - 1.0).abs() < 1e-9, "{} and {}", told.sigma(t), own.sigma(t));
        }
    }
}
