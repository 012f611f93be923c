//! The fields of a ControlNet's `config.json`, with diffusers' defaults, and which U-Nets it belongs to.

use crate::model::unet::UNetConfig;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// More levels, and more channels at one, than any network for pictures of conditions has.
const MOST_LEVELS: usize = 8;
const MOST_CHANNELS: usize = 1 << 12;

/// Sizes of a `ControlNetModel`.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlNetConfig {
    /// Of the way down and the middle, which are a U-Net's; there is no way up.
    pub unet: UNetConfig,
    /// Whether the middle has its transformer and a second residual block.
    pub attentive_middle: bool,
    /// Channels inside the network for the picture, finest first.
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// Whether it wants a picture's channels as blue, green, red.
    pub bgr: bool,
}

impl<'de> Deserialize<'de> for ControlNetConfig {
    /// As a [`UNetConfig`]: a field that would ask for another network is an error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(Map::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl ControlNetConfig {
    fn read(mut fields: Map<String, Value>) -> Result<Self, String> {
        let class = fields.insert("_class_name".into(), json!("UNet2DConditionModel"));
        if let Some(class) = class.filter(|class| class != "ControlNetModel") {
            return Err(format!("_class_name {class} is not supported, only \"ControlNetModel\""));
        }
        only(&fields, "conditioning_channels", &json!(3))?;
        only(&fields, "global_pool_conditions", &json!(false))?;
        let middle = chosen(&mut fields, "mid_block_type", ["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"])?;
        let order = chosen(&mut fields, "controlnet_conditioning_channel_order", ["rgb", "bgr"])?;
        let channels = fields.remove("conditioning_embedding_out_channels").unwrap_or_else(|| json!([16, 32, 96, 256]));
        let channels = serde_json::from_value(channels);
        fields.extend(way_up(&fields));
        Ok(Self {
            unet: serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?,
            attentive_middle: middle == 0,
            conditioning_embedding_out_channels: channels
                .map_err(|error| format!("conditioning_embedding_out_channels: {error}"))?,
            bgr: order == 1,
        })
    }

    /// What is wrong with these sizes, if anything.
    pub fn check(&self) -> Result<(), String> {
        let channels = &self.conditioning_embedding_out_channels;
        if !(1..=MOST_LEVELS).contains(&channels.len()) || channels.iter().any(|n| !(1..=MOST_CHANNELS).contains(n)) {
            return Err(format!("conditioning_embedding_out_channels {channels:?} cannot be meant"));
        }
        self.unet.check()
    }

    /// Pixels of its picture per latent, along one side.
    pub fn factor(&self) -> usize {
        1 << (self.conditioning_embedding_out_channels.len() - 1)
    }

    /// What keeps its answers from being added to those of `unet`, whose latents are 1/`factor` of the picture, if
    /// anything.
    pub fn fits(&self, unet: &UNetConfig, factor: usize) -> Result<(), String> {
        let ours = &self.unet;
        let differs = |name: &str, ours: String, theirs: String| match ours == theirs {
            true => Ok(()),
            false => Err(format!("its {name} is {ours}, the model's {theirs}")),
        };
        let number = |name: &str, ours: usize, theirs: usize| differs(name, ours.to_string(), theirs.to_string());
        // Models for inpainting and editing see more than latents; a net sees these alone.
        number("in_channels", ours.in_channels, unet.out_channels)?;
        number("cross_attention_dim", ours.cross_attention_dim, unet.cross_attention_dim)?;
        let list = |channels: &[usize]| format!("{channels:?}");
        differs("block_out_channels", list(&ours.block_out_channels), list(&unet.block_out_channels))?;
        number("layers_per_block", ours.layers_per_block, unet.layers_per_block)?;
        let added = |config: &UNetConfig| format!("{:?}", config.addition_embed_type);
        differs("addition_embed_type", added(ours), added(unet))?;
        number("reduction of the picture", self.factor(), factor)
    }
}

/// Refuses another value than `value`.
fn only(fields: &Map<String, Value>, name: &str, value: &Value) -> Result<(), String> {
    match fields.get(name).filter(|found| *found != value) {
        Some(found) => Err(format!("{name} {found} is not supported, only {value}")),
        None => Ok(()),
    }
}

/// Takes out a field, and tells which of two values it has; the first where there is none.
fn chosen(fields: &mut Map<String, Value>, name: &str, values: [&str; 2]) -> Result<usize, String> {
    let Some(found) = fields.remove(name).filter(|found| !found.is_null()) else { return Ok(0) };
    let known = values.iter().position(|value| found == *value);
    known.ok_or_else(|| format!("{name} {found} is not supported, only {}", values.join(" or ")))
}

/// A way up that mirrors the way down, for the checks that every U-Net has to pass.
fn way_up(fields: &Map<String, Value>) -> Option<(String, Value)> {
    let attends = |kind: &Value| kind.as_str().is_some_and(|kind| kind.starts_with("CrossAttn"));
    let mirrored = |kind: &Value| if attends(kind) { "CrossAttnUpBlock2D" } else { "UpBlock2D" };
    let down = fields.get("down_block_types")?.as_array()?;
    Some(("up_block_types".to_owned(), down.iter().rev().map(mirrored).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::unet::DownBlockType;

    fn read(fields: Value) -> Result<ControlNetConfig, String> {
        serde_json::from_value(fields).map_err(|error| error.to_string())
    }

    /// What `ControlNetModel.from_unet(unet).save_config` of diffusers 0.42.1 writes, shortened.
    fn stable_diffusion() -> Value {
        json!({ "_class_name": "ControlNetModel", "_diffusers_version": "0.42.1", "act_fn": "silu",
            "addition_embed_type": null, "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
            "class_embed_type": null, "conditioning_channels": 3,
            "conditioning_embedding_out_channels": [16, 32, 96, 256], "controlnet_conditioning_channel_order": "rgb",
            "cross_attention_dim": 768, "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D", "DownBlock2D"], "global_pool_conditions": false, "in_channels": 4,
            "mid_block_type": "UNetMidBlock2DCrossAttn", "transformer_layers_per_block": 1, "upcast_attention": null })
    }

    #[test]
    fn a_config_of_diffusers_is_read_and_fits_its_u_net() {
        let config = read(stable_diffusion()).unwrap();
        config.check().unwrap();
        assert_eq!((config.factor(), config.bgr, config.attentive_middle), (8, false, true));
        assert_eq!(config.unet.down_block_types[3], DownBlockType::Plain);
        let unet = UNetConfig { cross_attention_dim: 768, ..UNetConfig::default() };
        assert_eq!(config.fits(&unet, 8), Ok(()));
        // Also those for inpainting, whose input has nine channels.
        assert_eq!(config.fits(&UNetConfig { in_channels: 9, ..unet }, 8), Ok(()));
    }

    #[test]
    fn another_base_is_told_with_the_numbers() {
        let config = read(stable_diffusion()).unwrap();
        let base = UNetConfig { cross_attention_dim: 768, ..UNetConfig::default() };
        for (unet, factor, expected) in [
            (
                UNetConfig { cross_attention_dim: 1024, ..base.clone() },
                8,
                "cross_attention_dim is 768, the model's 1024",
            ),
            (UNetConfig { out_channels: 12, ..base.clone() }, 8, "in_channels is 4, the model's 12"),
            (UNetConfig { block_out_channels: vec![32, 64], ..base.clone() }, 8, "1280], the model's [32, 64]"),
            (UNetConfig { layers_per_block: 3, ..base.clone() }, 8, "layers_per_block is 2, the model's 3"),
            (base, 4, "reduction of the picture is 8, the model's 4"),
        ] {
            let message = config.fits(&unet, factor).unwrap_err();
            assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        }
    }

    #[test]
    fn other_networks_are_refused_by_name() {
        for (change, expected) in [
            (json!({ "_class_name": "UNet2DConditionModel" }), "_class_name"),
            (json!({ "conditioning_channels": 1 }), "conditioning_channels 1 is not supported"),
            (json!({ "global_pool_conditions": true }), "global_pool_conditions true is not supported"),
            (json!({ "mid_block_type": "UNetMidBlock2DSimpleCrossAttn" }), "mid_block_type"),
            (json!({ "controlnet_conditioning_channel_order": "hsv" }), "\"hsv\" is not supported"),
            (json!({ "conditioning_embedding_out_channels": "many" }), "conditioning_embedding_out_channels"),
            (json!({ "conditioning_embedding_out_channels": [] }), "cannot be meant"),
            (json!({ "class_embed_type": "timestep" }), "class_embed_type \"timestep\" is not supported"),
            (json!({ "block_out_channels": [320] }), "down_block_types"),
        ] {
            let mut fields = stable_diffusion();
            fields.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let message = read(fields).and_then(|config| config.check()).unwrap_err();
            assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        }
    }
}
