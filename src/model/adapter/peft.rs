//! How strongly PEFT's adapters act: that is not in their tensors, but in a configuration beside or before them.

use super::Network;
use super::names::Layer;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The fields of PEFT's `adapter_config.json` that matter here.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PeftConfig {
    #[serde(default)]
    peft_type: Option<String>,
    lora_alpha: f64,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    #[serde(default)]
    use_rslora: bool,
}

/// One for each network that is named, or one for all.
#[derive(Debug, Default)]
pub(super) struct PeftConfigs(Vec<(&'static str, PeftConfig)>);

impl PeftConfigs {
    /// One for all, from a file beside the tensors.
    pub(super) fn beside(config: PeftConfig) -> Self {
        Self(vec![("", config)])
    }

    /// What diffusers notes in the file itself: one object, whose keys begin with the network they are of, if any.
    pub(super) fn noted(note: &str) -> Result<Self, String> {
        let fields: Map<String, Value> = serde_json::from_str(note).map_err(|e| e.to_string())?;
        let mut configs = Vec::new();
        for prefix in ["unet.", "text_encoder.", "text_encoder_2.", ""] {
            let of = |(key, value): (&String, &Value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone()));
            let fields: Map<String, Value> = fields.iter().filter_map(of).collect();
            if fields.contains_key("lora_alpha") {
                let config = serde_json::from_value(Value::Object(fields)).map_err(|e| format!("{prefix}: {e}"))?;
                configs.push((prefix, config));
            }
        }
        Ok(Self(configs))
    }

    /// What is not supported.
    pub(super) fn check(&self) -> Result<(), String> {
        for (_, config) in &self.0 {
            if let Some(kind) = config.peft_type.as_deref().filter(|kind| *kind != "LORA") {
                return Err(format!("peft_type {kind:?} is not supported, only LORA"));
            }
            let special = |pattern: &&String| pattern.contains(['(', ')', '[', ']', '*', '+', '?', '|', '\\', '$']);
            if let Some(pattern) = config.alpha_pattern.keys().find(special) {
                return Err(format!("alpha_pattern {pattern:?} is not supported, only names of layers"));
            }
        }
        Ok(())
    }

    /// How strongly a layer of this rank acts; none where nothing is said of its network.
    pub(super) fn scale(&self, layer: &Layer, rank: usize) -> Option<f64> {
        let prefix = match layer.network {
            Network::UNet => "unet.",
            Network::Text(0) => "text_encoder.",
            Network::Text(_) => "text_encoder_2.",
        };
        let (_, config) = self.0.iter().find(|(of, _)| *of == prefix || of.is_empty())?;
        let rank = rank as f64;
        Some(config.alpha(layer) / if config.use_rslora { rank.sqrt() } else { rank })
    }
}

impl PeftConfig {
    fn alpha(&self, layer: &Layer) -> f64 {
        let name = layer.plain();
        let means = |pattern: &str| {
            let pattern = pattern.trim_start_matches('^').trim_start_matches("text_model.");
            name.strip_suffix(pattern).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        self.alpha_pattern.iter().find(|(pattern, _)| means(pattern)).map_or(self.lora_alpha, |(_, alpha)| *alpha)
    }
}
