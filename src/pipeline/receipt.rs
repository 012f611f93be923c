//! What a picture was drawn with: as other programs write it, and as our own JSON.

use super::controls::Guides;
use super::vocabulary::Added;
use crate::diffusion::flow::Effort;
use crate::diffusion::noise::NoiseKind;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use crate::diffusion::settings::apart;
use crate::image::{self, Text};
use crate::kernels::Products;
use crate::model::adapter::{Applied, Used};
use crate::model::checkpoint::Model;
use crate::model::codec::Decoder;
use crate::model::unet::Beside;
use crate::request::{
    ControlSetting, Economy, EnergySetting, GenerateRequest, Inpainting, Plan, Preprocessor, Repaint, Restore, Start,
    Wanted, control,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The PNG chunk that holds a receipt as JSON.
const KEYWORD: &str = "limner";

/// Everything needed to draw a picture again. Says nothing of the request's other pictures: the same seed gives the
/// same file, alone or in company.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The version of the program that drew it.
    pub version: String,
    /// The model's name.
    pub model: String,
    /// The first ten digits of a SHA-256 over the model's weights.
    pub model_hash: String,
    /// The prompt.
    pub prompt: String,
    /// The negative prompt.
    pub negative_prompt: String,
    /// The sampler.
    pub sampler: Sampler,
    /// The ladder's spacing.
    pub schedule: Spacing,
    /// Steps asked for.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
    /// Share of guidance rescaling.
    pub guidance_rescale: f64,
    /// How closely the edited picture was followed, by a model that edits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_guidance: Option<f64>,
    /// Which layer of the text encoder was read, where it was not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,
    /// This picture's seed.
    pub seed: u64,
    /// Pixels asked for: those of the picture, unless it was extended or only a part of it was drawn.
    pub width: usize,
    /// Pixels asked for.
    pub height: usize,
    /// The noise generator.
    pub noise: NoiseKind,
    /// The first ten digits of a SHA-256 over the tiny decoder's weights, where the picture was drawn with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiny_decoder: Option<String>,
    /// How what was drawn anew followed what was kept, where not in the usual way.
    #[serde(default, skip_serializing_if = "is_blend")]
    pub inpainting: Inpainting,
    /// What a picture that was sent showed of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// What else than the prompt it was drawn towards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<EnergySetting>,
    /// What of the work was left out.
    #[serde(default, skip_serializing_if = "is_exact")]
    pub economy: Economy,
    /// In what its products were computed, where that was not f32.
    #[serde(default, skip_serializing_if = "is_full")]
    pub products: Products,
    /// What an adaptive sampler took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    /// The ControlNets whose pictures it followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<Controlled>,
    /// The IP-Adapter that took a picture for a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_adapter: Option<Controlled>,
    /// How much of an input picture was redrawn; none without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Whether only a part of an input picture was open to change: where a mask was white, or outside of the picture.
    pub masked: bool,
    /// How that part was fitted into the rest.
    #[serde(flatten)]
    pub repaint: Repaint,
    /// The adapters that the prompt asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraReceipt>,
    /// The embeddings that the prompts name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<EmbeddingReceipt>,
    /// The fields that say what was done, where it was not drawn by a sampler.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub task: BTreeMap<String, String>,
}

/// An adapter that a picture was drawn with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraReceipt {
    /// Its name.
    pub name: String,
    /// How strongly it acted on the text encoders.
    pub text: f64,
    /// How strongly it acted on the U-Net.
    pub unet: f64,
    /// The first ten digits of its file's SHA-256.
    pub hash: String,
}

/// An embedding that a picture was drawn with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingReceipt {
    /// Its name.
    pub name: String,
    /// The first ten digits of its file's SHA-256.
    pub hash: String,
}

/// A ControlNet or an IP-Adapter that had a hand in a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Controlled {
    /// Which net, and how much it counted when.
    #[serde(flatten)]
    pub setting: ControlSetting,
    /// The first ten digits of a SHA-256 over its weights.
    pub hash: String,
}

impl Receipt {
    /// `model` is the plan's with its adapters, and `added` are its embeddings.
    pub(super) fn new(plan: &Plan, seed: u64, model: &Model, added: &Added, guides: &Guides) -> Self {
        let (strength, masked, repaint) = match &plan.start {
            Start::Noise => (None, false, Repaint::default()),
            Start::Picture { strength, mask, repaint, .. } => (Some(*strength), mask.is_some(), *repaint),
        };
        let edits = strength.is_some() && model.unet.config().beside() == Some(Beside::Picture);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: model.name.clone(),
            model_hash: model.hash().to_owned(),
            prompt: plan.prompt.clone(),
            negative_prompt: plan.negative_prompt.clone(),
            sampler: plan.sampler,
            schedule: plan.schedule,
            steps: plan.steps,
            guidance: plan.guidance,
            guidance_rescale: plan.guidance_rescale,
            image_guidance: edits.then_some(plan.image_guidance),
            clip_skip: plan.clip_skip,
            seed,
            width: plan.width,
            height: plan.height,
            noise: plan.noise,
            inpainting: plan.inpainting,
            restore: plan.restoration.as_ref().map(|restoration| restoration.how),
            energy: plan.wanted.as_ref().map(Wanted::setting),
            economy: plan.economy,
            products: model.unet.products(),
            effort: None,
            tiny_decoder: model.companion_for(plan.decoder).map(|companion| companion.hash().to_owned()),
            controls: guides.controls(),
            ip_adapter: guides.prompt(),
            strength,
            masked,
            repaint,
            loras: model.adapters.iter().map(LoraReceipt::new).collect(),
            embeddings: added.hashes().into_iter().map(|(name, hash)| EmbeddingReceipt { name, hash }).collect(),
            task: plan.task.typed().into_iter().map(|(field, value)| (field.to_owned(), value)).collect(),
        }
    }

    /// Whether pictures that are not in the file are needed to draw it again.
    pub fn needs_pictures(&self) -> bool {
        let from_one = self.strength.is_some() || self.restore.is_some() || !self.task.is_empty();
        let after_one = !self.controls.is_empty() || self.ip_adapter.is_some();
        from_one || after_one || matches!(self.energy, Some(EnergySetting::Colours { .. }))
    }

    /// The receipt in a PNG file that this program wrote; none in any other file.
    pub fn from_png(bytes: &[u8]) -> Option<Self> {
        serde_json::from_str(&image::read_png_text(bytes, KEYWORD)?).ok()
    }

    /// The request that draws this one picture again, every text field explicit. A picture that was drawn from another
    /// needs that one (and its mask) beside it, and one that followed others needs those: see [`Receipt::needs_pictures`].
    pub fn request(&self) -> GenerateRequest {
        let [control, control_preprocessor] = control::typed(self.controls.iter().map(|control| &control.setting));
        let mut request = GenerateRequest {
            prompt: Some(self.prompt.clone()),
            negative_prompt: Some(self.negative_prompt.clone()),
            steps: Some(self.steps.to_string()),
            guidance: Some(self.guidance.to_string()),
            guidance_rescale: Some(self.guidance_rescale.to_string()),
            image_guidance: self.image_guidance.map(|scale| scale.to_string()),
            clip_skip: self.clip_skip.map(|skip| skip.to_string()),
            sampler: Some(self.sampler.to_string()),
            schedule: Some(self.schedule.to_string()),
            seed: Some(self.seed.to_string()),
            count: Some("1".to_owned()),
            width: Some(self.width.to_string()),
            height: Some(self.height.to_string()),
            strength: self.strength.map(|strength| strength.to_string()),
            noise: Some(self.noise.name().to_owned()),
            inpainting: Some(self.inpainting.to_string()),
            restore: self.restore.map(String::from),
            energy: self.energy.map(String::from),
            decoder: Some(self.decoder().name().to_owned()),
            economy: Some(self.economy.to_string()),
            control,
            control_preprocessor,
            ip_adapter: self.ip_adapter.as_ref().map(|adapter| adapter.setting.to_string()),
            model: Some(self.model.clone()),
            ..self.strength.map(|_| self.repaint.request()).unwrap_or_default()
        };
        for (field, value) in &self.task {
            request.set_text(field, value.clone());
        }
        request
    }

    fn decoder(&self) -> Decoder {
        if self.tiny_decoder.is_some() { Decoder::Tiny } else { Decoder::Full }
    }

    /// One sentence for each thing in which `other` differs from this receipt.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let fields = |receipt: &Self| match serde_json::to_value(receipt) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (ours, theirs) = (fields(self), fields(other));
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let shown = |value: Option<&serde_json::Value>| value.map_or_else(|| "none".to_owned(), ToString::to_string);
        names
            .into_iter()
            .filter(|name| ours.get(*name) != theirs.get(*name))
            .map(|name| format!("{name} was {}, is {}", shown(ours.get(name)), shown(theirs.get(name))))
            .collect()
    }

    /// The text chunks of a PNG: `parameters` in AUTOMATIC1111's form, which most galleries read, and `limner`, exact.
    pub fn texts(&self) -> [Text; 2] {
        let json = serde_json::to_string(self).unwrap_or_default();
        [Text { keyword: "parameters", text: self.parameters() }, Text { keyword: KEYWORD, text: json }]
    }

    /// Prompt, negative prompt and a line of settings that starts with `Steps`.
    pub fn parameters(&self) -> String {
        let mut lines = vec![self.prompt.clone()];
        if !self.negative_prompt.is_empty() {
            lines.push(format!("Negative prompt: {}", self.negative_prompt));
        }
        let settings: Vec<String> =
            self.settings().into_iter().map(|(key, value)| format!("{key}: {}", quoted(&value))).collect();
        lines.push(settings.join(", "));
        lines.join("\n")
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![
            ("Steps", self.steps.to_string()),
            ("Sampler", sampler_title(self.sampler).to_owned()),
            ("Schedule type", title(self.schedule.name())),
            ("CFG scale", self.guidance.to_string()),
            ("Seed", self.seed.to_string()),
            ("Size", format!("{}x{}", self.width, self.height)),
            ("Model hash", self.model_hash.clone()),
            ("Model", self.model.clone()),
        ];
        let sampler = self.sampler.to_string();
        let (_, settings) = apart(&sampler);
        if !settings.is_empty() {
            pairs.push(("Sampler settings", settings.to_owned()));
        }
        pairs.extend(self.strength.map(|strength| ("Denoising strength", strength.to_string())));
        pairs.extend(self.image_guidance.map(|scale| ("Image CFG scale", scale.to_string())));
        pairs.extend(self.clip_skip.map(|skip| ("Clip skip", skip.to_string())));
        let rng = if self.noise == NoiseKind::Philox { "NV" } else { "CPU" };
        pairs.push(("RNG", rng.to_owned()));
        if self.tiny_decoder.is_some() {
            pairs.push(("VAE Decoder", "TAESD".to_owned()));
        }
        if !is_blend(&self.inpainting) {
            pairs.push(("Inpainting rule", self.inpainting.to_string()));
        }
        if !is_exact(&self.economy) {
            pairs.push(("Economy", self.economy.to_string()));
        }
        pairs.extend(self.restore.map(|restore| ("Restored from", restore.to_string())));
        pairs.extend(self.energy.map(|energy| ("Drawn towards", energy.to_string())));
        if self.guidance_rescale != 0.0 {
            pairs.push(("Guidance rescale", self.guidance_rescale.to_string()));
        }
        let nets = ["ControlNet 0", "ControlNet 1", "ControlNet 2"];
        pairs.extend(nets.into_iter().zip(self.controls.iter().map(Controlled::parameters)));
        pairs.extend(self.ip_adapter.as_ref().map(|adapter| ("IP-Adapter", adapter.setting.to_string())));
        pairs.extend(self.repaint_settings());
        pairs.extend(hashes("Lora hashes", self.loras.iter().map(|lora| (&lora.name, &lora.hash))));
        pairs.extend(hashes("TI hashes", self.embeddings.iter().map(|embedding| (&embedding.name, &embedding.hash))));
        pairs.push(("Version", format!("limner {}", self.version)));
        pairs
    }

    /// What is not as usual, under other programs' names where they have one.
    fn repaint_settings(&self) -> Vec<(&'static str, String)> {
        let Repaint { mask_feather, only_masked, only_masked_padding, extend } = self.repaint;
        let mut pairs = Vec::new();
        if mask_feather > 0 {
            pairs.push(("Mask blur", mask_feather.to_string()));
        }
        if only_masked {
            pairs.push(("Inpaint area", "Only masked".to_owned()));
            pairs.push(("Masked area padding", only_masked_padding.to_string()));
        }
        if !extend.is_none() {
            pairs.push(("Extend", extend.to_string()));
        }
        pairs
    }
}

impl Controlled {
    /// As AUTOMATIC1111's extension for ControlNets writes it.
    fn parameters(&self) -> String {
        let Self { setting: ControlSetting { net, weight, start, end, preprocessor }, hash } = self;
        let (module, thresholds) = match preprocessor {
            Preprocessor::None => ("none", String::new()),
            Preprocessor::Canny { low, high } => ("canny", format!(", Threshold A: {low}, Threshold B: {high}")),
        };
        let range = format!("Guidance Start: {start}, Guidance End: {end}");
        format!("Module: {module}, Model: {net} [{hash}], Weight: {weight}, {range}{thresholds}")
    }
}

impl LoraReceipt {
    fn new(used: &Used) -> Self {
        let Applied { name, text, unet, .. } = &used.applied;
        Self { name: name.clone(), text: *text, unet: *unet, hash: used.hash().to_owned() }
    }
}

/// `name: hash, other: hash`, where there are any.
fn hashes<'a>(
    key: &'static str,
    all: impl Iterator<Item = (&'a String, &'a String)>,
) -> Option<(&'static str, String)> {
    let all: Vec<String> = all.map(|(name, hash)| format!("{name}: {hash}")).collect();
    (!all.is_empty()).then(|| (key, all.join(", ")))
}

/// A value with commas, colons, line breaks, quotes or blank ends is written as a JSON string.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n', '"']) || value.trim() != value {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_owned()
    }
}

fn is_full(products: &Products) -> bool {
    *products == Products::Full
}

fn is_exact(economy: &Economy) -> bool {
    *economy == Economy::EXACT
}

fn is_blend(rule: &Inpainting) -> bool {
    *rule == Inpainting::Blend
}

/// The names other programs know our samplers by.
fn sampler_title(sampler: Sampler) -> &'static str {
    match sampler {
        Sampler::Ddpm { .. } => "DDPM",
        Sampler::Ddim { .. } => "DDIM",
        Sampler::Euler { .. } => "Euler",
        Sampler::Heun { .. } => "Heun",
        Sampler::EulerA { .. } => "Euler a",
        Sampler::Dpmpp2m => "DPM++ 2M",
        Sampler::Dpmpp3m => "DPM++ 3M",
        Sampler::Dpmpp2mSde { .. } => "DPM++ 2M SDE",
        Sampler::Dpmpp3mSde { .. } => "DPM++ 3M SDE",
        Sampler::Dpmpp2s { eta: 0.0 } => "DPM++ 2S",
        Sampler::Dpmpp2s { .. } => "DPM++ 2S a",
        Sampler::Dpm2 { eta: 0.0 } => "DPM2",
        Sampler::Dpm2 { .. } => "DPM2 a",
        Sampler::Unipc { .. } => "UniPC",
        Sampler::Lms => "LMS",
        Sampler::Deis { .. } => "DEIS",
        Sampler::Pndm => "PLMS",
        Sampler::Restart { .. } => "Restart",
        Sampler::Dopri5 { .. } => "DOPRI5",
        Sampler::PredictorCorrector { method } if method.corrector_steps == 0 => "Reverse SDE",
        Sampler::PredictorCorrector { .. } => "PC",
        Sampler::Langevin { .. } => "Langevin",
        Sampler::Lcm => "LCM",
    }
}

/// `align_your_steps` to `Align Your Steps`, and SGM in capitals.
fn title(name: &str) -> String {
    let word = |word: &str| match word.split_at_checked(1) {
        _ if word == "sgm" => "SGM".to_owned(),
        Some((first, rest)) => first.to_uppercase() + rest,
        None => String::new(),
    };
    name.split('_').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_are_as_other_programs_write_them() {
        let mut receipt = Receipt {
            version: "0.1.0".into(),
            model: "icons".into(),
            model_hash: "0123456789".into(),
            prompt: "red apple, \"shiny\"".into(),
            negative_prompt: String::new(),
            sampler: Sampler::default(),
            schedule: Spacing::SgmUniform,
            steps: 20,
            guidance: 7.0,
            guidance_rescale: 0.0,
            image_guidance: None,
            clip_skip: None,
            seed: u64::MAX,
            width: 64,
            height: 32,
            noise: NoiseKind::Philox,
            tiny_decoder: None,
            inpainting: Inpainting::Blend,
            restore: None,
            energy: None,
            economy: Economy::EXACT,
            products: Products::Full,
            effort: None,
            controls: Vec::new(),
            ip_adapter: None,
            strength: None,
            masked: false,
            repaint: Repaint::default(),
            loras: Vec::new(),
            embeddings: Vec::new(),
            task: BTreeMap::new(),
        };
        let settings = "Steps: 20, Sampler: DPM++ 2M, Schedule type: SGM Uniform, CFG scale: 7, \
                        Seed: 18446744073709551615, Size: 64x32, Model hash: 0123456789, Model: icons, RNG: NV, \
                        Version: limner 0.1.0";
        assert_eq!(receipt.parameters(), format!("red apple, \"shiny\"\n{settings}"));
        receipt.negative_prompt = "blue".into();
        receipt.model = "a, b".into();
        let text = receipt.parameters();
        assert!(text.contains("\nNegative prompt: blue\nSteps: 20") && text.contains("Model: \"a, b\""), "{text}");
        assert!(receipt.texts()[1].text.contains("\"seed\":18446744073709551615"));
        assert!(!receipt.texts()[1].text.contains("extend"));
        let extend = [8, 0, 0, 0].into();
        receipt.repaint = Repaint { mask_feather: 4, only_masked: true, only_masked_padding: 9, extend };
        receipt.embeddings = vec![EmbeddingReceipt { name: "neg".into(), hash: "abc".into() }];
        let lora = |name: &str, hash: &str| LoraReceipt { name: name.into(), text: 0.5, unet: 1.0, hash: hash.into() };
        receipt.loras = vec![lora("a", "0123456789"), lora("b (v2)", "ff")];
        let text = receipt.parameters();
        let hashes = r#"Lora hashes: "a: 0123456789, b (v2): ff", TI hashes: "neg: abc", Version"#;
        assert!(text.contains(hashes), "{text}");
        let part = "Mask blur: 4, Inpaint area: Only masked, Masked area padding: 9, Extend: \"8,0,0,0\", Lora";
        assert!(text.contains(part), "{text}");
        assert_eq!(serde_json::from_str::<Receipt>(&receipt.texts()[1].text).unwrap(), receipt);
    }
}
