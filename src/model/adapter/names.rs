//! The layers of a model's networks by everything that adapters call them. Underscores stand for dots in some of these
//! names, and for themselves: so the names are looked up in a table that is made of the model's own, and never taken
//! apart.

use super::Network;
use super::kernel::Kernel;
use super::ldm::LdmNames;
use std::collections::HashMap;

/// A layer: a network's, by the name that its parameters have before `.weight` and `.bias`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Layer {
    pub(super) network: Network,
    pub(super) name: String,
}

impl Layer {
    /// The layer's name as PEFT has it.
    pub(super) fn plain(&self) -> &str {
        without_text_model(&self.name)
    }
}

/// All names.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, Layer>);

impl Names {
    /// Of the parameters of text encoders and a U-Net.
    pub(super) fn new(text: &[HashMap<String, Kernel>], unet: &HashMap<String, Kernel>) -> Self {
        let mut names = Self::default();
        for (i, parameters) in text.iter().enumerate() {
            layers(parameters).for_each(|name| names.add_text(i, name));
        }
        let ldm = LdmNames::new(unet.keys().map(String::as_str));
        layers(unet).for_each(|name| names.add_unet(name, &ldm));
        names
    }

    pub(super) fn find(&self, name: &str) -> Option<&Layer> {
        self.0.get(name)
    }

    fn add(&mut self, alias: String, network: Network, name: &str) {
        self.0.entry(alias).or_insert_with(|| Layer { network, name: name.to_owned() });
    }

    fn add_unet(&mut self, name: &str, ldm: &LdmNames) {
        // diffusers once had the layers of attention inside a processor, and the last of them without its number.
        let numberless = name.replace(".to_out.0", ".to_out");
        let processor = numberless.replace(".to_", ".processor.to_");
        for alias in [name, &numberless, &processor] {
            for prefix in ["unet.", "", PEFT] {
                self.add(format!("{prefix}{alias}"), Network::UNet, name);
            }
        }
        for alias in ldm.of(name).into_iter().chain([name.to_owned()]) {
            let flat = alias.replace('.', "_");
            self.add(format!("lora_unet_{flat}"), Network::UNet, name);
            self.add(format!("lycoris_{flat}"), Network::UNet, name);
            self.add(format!("diffusion_model.{alias}"), Network::UNet, name);
        }
    }

    fn add_text(&mut self, index: usize, name: &str) {
        let (dotted, flat): (&[&str], &[&str]) = match index {
            0 => (&["text_encoder.", "", PEFT], &["lora_te_", "lora_te1_"]),
            _ => (&["text_encoder_2."], &["lora_te2_"]),
        };
        let plain = without_text_model(name);
        for alias in [plain.to_owned()].into_iter().chain(old_text_name(plain)) {
            // transformers had and has no prefix inside the network.
            for alias in [format!("text_model.{alias}"), alias] {
                dotted.iter().for_each(|prefix| self.add(format!("{prefix}{alias}"), Network::Text(index), name));
                let alias = alias.replace('.', "_");
                flat.iter().for_each(|prefix| self.add(format!("{prefix}{alias}"), Network::Text(index), name));
            }
        }
    }
}

/// diffusers once gave the attention of text encoders the U-Net's names.
fn old_text_name(name: &str) -> Option<String> {
    let (before, layer) = name.split_once("self_attn.")?;
    let old = [("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")];
    let (_, old) = old.iter().find(|(new, _)| *new == layer)?;
    Some(format!("{before}self_attn.{old}"))
}

/// What the names in PEFT's files begin with.
const PEFT: &str = "base_model.model.";

fn without_text_model(name: &str) -> &str {
    name.strip_prefix("text_model.").unwrap_or(name)
}

/// The layers that parameters belong to; those with a weight and a bias twice.
fn layers(parameters: &HashMap<String, Kernel>) -> impl Iterator<Item = &str> {
    parameters.keys().filter_map(|name| name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")))
}
