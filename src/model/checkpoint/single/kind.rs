//! What a single file is, by the names of its tensors: a model of a family, or something else, which is then said.

use crate::model::checkpoint::folder::REFINER;
use crate::model::checkpoint::weights::Weights;
use crate::model::text_encoder::Reading;

/// The families of Stable Diffusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// 1.x: OpenAI's CLIP, 8 attention heads everywhere.
    V1,
    /// 2.x: OpenCLIP, whose last layer is left out, and heads of 64 channels.
    V2,
    /// XL: both text encoders, of each the last layer but one, and a U-Net that is told sizes.
    Xl,
}

/// A text encoder in a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextKind {
    /// What the names of its tensors begin with.
    pub(super) prefix: &'static str,
    /// Whose names and sizes they are.
    pub(super) clip: Clip,
    /// How many layers at the end are never used.
    pub(super) unused: usize,
    /// Which states of the others are.
    pub(super) reading: Reading,
}

/// Who trained a text encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clip {
    /// OpenAI: quick GELU, padding with the end token, transformers' names.
    OpenAi,
    /// OpenCLIP: exact GELU, padding with "!", names of its own.
    OpenClip,
}

impl Family {
    const ALL: [Self; 3] = [Self::V1, Self::V2, Self::Xl];

    /// The text encoders, in the order of their states.
    pub(super) fn texts(self) -> Vec<TextKind> {
        let kind = |prefix, clip, reading| TextKind { prefix, clip, reading, unused: 0 };
        match self {
            Self::V1 => vec![kind("cond_stage_model.transformer.", Clip::OpenAi, Reading::LAST)],
            // diffusers' folders do not have the last layer.
            Self::V2 => vec![TextKind { unused: 1, ..kind("cond_stage_model.model.", Clip::OpenClip, Reading::LAST) }],
            Self::Xl => vec![
                kind("conditioner.embedders.0.transformer.", Clip::OpenAi, Reading::XL_FIRST),
                kind("conditioner.embedders.1.model.", Clip::OpenClip, Reading::XL_SECOND),
            ],
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
    if begins("conditioner.embedders.0.model.") {
        return Err(REFINER.into());
    }
    let family = Family::ALL.into_iter().find(|family| family.texts().iter().all(|text| begins(text.prefix)));
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
