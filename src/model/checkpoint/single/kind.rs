//! What a single file is, by the names of its tensors: a model of a family, or something else, which is then said.

use crate::model::checkpoint::weights::Weights;

/// The families of Stable Diffusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// 1.x: OpenAI's CLIP, 8 attention heads everywhere.
    V1,
    /// 2.x: OpenCLIP, whose last layer is left out, and heads of 64 channels.
    V2,
}

impl Family {
    /// What the names of the text encoder's tensors begin with.
    pub(super) fn text_prefix(self) -> &'static str {
        match self {
            Self::V1 => "cond_stage_model.transformer.",
            Self::V2 => "cond_stage_model.model.",
        }
    }
}

/// The family of a file, or why it is no model that this program runs.
pub(super) fn recognise(file: &Weights) -> Result<Family, String> {
    let any = |test: &dyn Fn(&str) -> bool| file.names().any(test);
    let begins = |prefix: &str| any(&|name: &str| name.starts_with(prefix));
    if !begins(&format!("{}input_blocks.", super::UNET)) {
        let hint = OTHERS.iter().find(|(part, _)| any(&|name: &str| name.contains(part)));
        return Err(hint.map_or("its tensors are not those of a Stable Diffusion model", |(_, what)| what).to_owned());
    }
    if begins("conditioner.embedders.") {
        return Err("a model of the SDXL family, which this program does not run yet".into());
    }
    let family = [Family::V1, Family::V2].into_iter().find(|family| begins(family.text_prefix()));
    family.ok_or_else(|| "the file has no text encoder; only whole checkpoints can be used".into())
}

/// Parts of names that tell other kinds of file, and what to say of them.
const OTHERS: [(&str, &str); 10] = [
    ("lora_", "a LoRA, not a whole model"),
    (".lora.", "a LoRA, not a whole model"),
    ("hada_w1", "a LoHa adapter, not a whole model"),
    ("lokr_w1", "a LoKr adapter, not a whole model"),
    ("control_model.", "a ControlNet, not a whole model"),
    ("controlnet_", "a ControlNet, not a whole model"),
    ("joint_blocks.", "a model of the Stable Diffusion 3 family, which this program does not run"),
    ("double_blocks.", "a model of the Flux family, which this program does not run"),
    ("emb_params", "a textual inversion, not a whole model"),
    ("decoder.conv_in.", "an autoencoder alone, not a whole model"),
];
