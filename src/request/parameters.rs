//! The `parameters` text that AUTOMATIC1111's web UI and its relatives put into their pictures (and so do we), read back
//! as far as it means something here.
//!
//! ```text
//! red apple
//! Negative prompt: blue
//! Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x512, Model: "a, b"
//! ```

mod control;
mod grammar;

use super::{Economy, EnergySetting, GenerateRequest, Inpainting, Restore};
use crate::diffusion::noise::NoiseKind;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use crate::diffusion::settings::with;
use crate::model::codec::Decoder;
use grammar::{settings, split_prompts};

/// What was read from a `parameters` text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    /// What was understood. Not checked yet: that is the plan's business.
    pub request: GenerateRequest,
    /// The settings that mean nothing here, as `key: value`.
    pub ignored: Vec<String>,
}

/// Fewer settings than this make the last line a part of the prompt, as other readers have it.
const FEWEST: usize = 3;
/// Which files and program drew a picture: not settings that could be ignored. Adapters are named in the prompt.
const ORIGIN: [&str; 6] = ["Model hash", "VAE", "VAE hash", "Lora hashes", "TI hashes", "Version"];

/// Reads a `parameters` text; none where it has no line of settings. A setting that is not known or not possible here
/// (another sampler, say) is listed, and its field stays empty.
pub fn from_parameters(text: &str) -> Option<Parameters> {
    let text = text.trim_end();
    let (prompts, last) = text.rsplit_once('\n').unwrap_or(("", text));
    let settings = settings(last);
    if settings.len() < FEWEST {
        return None;
    }
    let mut found = Parameters::default();
    let (prompt, negative) = split_prompts(prompts);
    found.set("prompt", prompt);
    found.set("negative_prompt", negative);
    for (key, value) in &settings {
        if !found.apply(key, value) && !ORIGIN.contains(&key.as_str()) {
            found.ignored.push(format!("{key}: {value}"));
        }
    }
    found.forget_second_pass(&settings);
    Some(found)
}

impl Parameters {
    fn set(&mut self, field: &str, value: impl Into<String>) -> bool {
        self.request.set_text(field, value.into())
    }

    /// Sets what `key` stands for. False when it or its value is not known here.
    fn apply(&mut self, key: &str, value: &str) -> bool {
        match key {
            "Steps" => self.set_whole("steps", value),
            "Seed" => self.set_whole("seed", value),
            "CFG scale" => self.set_real("guidance", value),
            "Image CFG scale" => self.set_real("image_guidance", value),
            "Clip skip" => self.set_whole("clip_skip", value),
            "Guidance rescale" => self.set_real("guidance_rescale", value),
            "Denoising strength" => self.set_real("strength", value),
            "Size" => value.split_once('x').is_some_and(|(width, height)| {
                is_whole(width) && is_whole(height) && self.set("width", width) && self.set("height", height)
            }),
            "Sampler" => self.set_sampler(value),
            "Sampler settings" => self.set_sampler_settings(value),
            // The sampler's own, which is what an empty field means.
            "Schedule type" if value == "Automatic" => true,
            "Schedule type" => schedule(value).is_some_and(|spacing| self.set("schedule", spacing.name())),
            "Mask blur" => self.set_whole("mask_feather", value),
            "Masked area padding" => self.set_whole("only_masked_padding", value),
            "Inpaint area" => only_masked(value).is_some_and(|only| self.set("only_masked", only.to_string())),
            "Model" => self.set("model", value),
            // Ours alone.
            "Extend" => value.split(',').all(is_whole) && self.set("extend", value),
            "VAE Decoder" => decoder(value).is_some_and(|decoder| self.set("decoder", decoder.name())),
            "Inpainting rule" => value.parse::<Inpainting>().is_ok() && self.set("inpainting", value),
            "Economy" => value.parse::<Economy>().is_ok() && self.set("economy", value),
            "Restored from" => value.parse::<Restore>().is_ok() && self.set("restore", value),
            "Drawn towards" => value.parse::<EnergySetting>().is_ok() && self.set("energy", value),
            "IP-Adapter" => self.set("ip_adapter", value),
            "RNG" => noise(value).is_some_and(|noise| self.set("noise", noise.name())),
            _ if key.starts_with("ControlNet ") => self.add_control(value),
            _ => false,
        }
    }

    fn add_control(&mut self, value: &str) -> bool {
        let Some(setting) = control::setting(value) else { return false };
        let settings = [("control", setting.to_string()), ("control_preprocessor", setting.preprocessor.to_string())];
        settings.into_iter().all(|(field, text)| match self.request.text(field) {
            "" => self.set(field, text),
            before => self.set(field, format!("{before}, {text}")),
        })
    }

    fn set_whole(&mut self, field: &str, value: &str) -> bool {
        is_whole(value) && self.set(field, value)
    }

    fn set_real(&mut self, field: &str, value: &str) -> bool {
        value.parse().is_ok_and(f64::is_finite) && self.set(field, value)
    }

    /// A sampler's title. Older programs end it with the schedule: "DPM++ 2M Karras".
    fn set_sampler(&mut self, title: &str) -> bool {
        if let Some(sampler) = sampler(title) {
            return self.set("sampler", sampler.name());
        }
        let both = title.match_indices(' ').find_map(|(at, _)| Some((sampler(&title[..at])?, schedule(&title[at..])?)));
        both.is_some_and(|(sampler, spacing)| {
            self.set("sampler", sampler.name()) && self.set("schedule", spacing.name())
        })
    }

    /// They stand behind the sampler.
    fn set_sampler_settings(&mut self, settings: &str) -> bool {
        let sampler = with(self.request.text("sampler"), settings);
        sampler.parse::<Sampler>().is_ok() && self.set("sampler", sampler)
    }

    /// With a second pass at a larger size, which we do not have, the strength was that pass's.
    fn forget_second_pass(&mut self, settings: &[(String, String)]) {
        let upscaled = settings.iter().any(|(key, _)| key == "Hires upscale" || key == "Hires resize");
        if let Some(strength) = self.request.strength.take_if(|_| upscaled) {
            self.ignored.push(format!("Denoising strength: {strength}"));
        }
    }
}

fn is_whole(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `DPM++ 2M` to `dpmpp_2m`.
fn plain(title: &str) -> String {
    title.trim().to_lowercase().replace("++", "pp").replace([' ', '-'], "_")
}

/// A sampler by its title in web UIs, or by its name in k-diffusion.
fn sampler(title: &str) -> Option<Sampler> {
    let name = plain(title);
    let name = name.strip_prefix("k_").or_else(|| name.strip_prefix("sample_")).unwrap_or(&name);
    match name.replace("_ancestral", "_a").as_str() {
        "plms" => Some(Sampler::Pndm),
        name => name.replace("dpm_2", "dpm2").parse().ok(),
    }
}

fn schedule(title: &str) -> Option<Spacing> {
    match plain(title).as_str() {
        "uniform" => Some(Spacing::Normal),
        name => name.parse().ok(),
    }
}

fn only_masked(value: &str) -> Option<bool> {
    match value {
        "Only masked" => Some(true),
        "Whole picture" => Some(false),
        _ => None,
    }
}

fn decoder(value: &str) -> Option<Decoder> {
    match value {
        "Full" => Some(Decoder::Full),
        "TAESD" => Some(Decoder::Tiny),
        _ => None,
    }
}

/// Whose random numbers: a graphics card's (or our copy of them), or the processor's.
fn noise(value: &str) -> Option<NoiseKind> {
    match value {
        "NV" | "GPU" => Some(NoiseKind::Philox),
        "CPU" => Some(NoiseKind::TorchCpu),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Controlled, EmbeddingReceipt, LoraReceipt, Receipt};
    use crate::request::{ControlSetting, Preprocessor, Repaint};
    use proptest::prelude::*;
    use proptest::{option, sample};

    fn fields(text: &str, names: &[&str]) -> Vec<String> {
        let found = from_parameters(text).unwrap();
        names.iter().map(|name| found.request.text(name).to_owned()).collect()
    }

    #[test]
    fn a_text_of_the_web_ui_is_understood() {
        let text = "a cat,\n(on a mat:1.2)\nNegative prompt: dog,\nbad: hands\nSteps: 28, Sampler: Euler a, \
                    Schedule type: SGM Uniform, CFG scale: 7.5, Seed: 18446744073709551615, Size: 512x768, \
                    Model hash: 6ce0161689, Model: \"v1-5, pruned: \\\"x\\\"\", Denoising strength: 0.6, \
                    Clip skip: 2, RNG: CPU, Lora hashes: \"a: 1, b: 2\", Version: v1.10.1";
        let names =
            ["prompt", "negative_prompt", "steps", "sampler", "schedule", "guidance", "seed", "width", "height"];
        let expected = [
            "a cat,\n(on a mat:1.2)",
            "dog,\nbad: hands",
            "28",
            "euler_a",
            "sgm_uniform",
            "7.5",
            "18446744073709551615",
            "512",
            "768",
        ];
        assert_eq!(fields(text, &names), expected);
        assert_eq!(fields(text, &["strength", "noise", "clip_skip"]), ["0.6", "torch-cpu", "2"]);
        assert_eq!(from_parameters(text).unwrap().ignored, [""; 0]);
    }

    #[test]
    fn samplers_are_known_by_their_titles_and_others_are_reported() {
        let read = |title: &str| {
            let found = from_parameters(&format!("x\nSteps: 1, Sampler: {title}, Seed: 1")).unwrap();
            (found.request.sampler.unwrap_or_default(), found.request.schedule.unwrap_or_default(), found.ignored.len())
        };
        for (title, sampler, schedule) in [
            ("DPM++ 2M", "dpmpp_2m", ""),
            ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
            ("Euler a Align Your Steps", "euler_a", "align_your_steps"),
            ("k_euler_ancestral", "euler_a", ""),
            ("Heun Exponential", "heun", "exponential"),
            ("DDIM", "ddim", ""),
            ("DPM++ 2M SDE Karras", "dpmpp_2m_sde", "karras"),
            ("DPM++ 2S a", "dpmpp_2s_a", ""),
            ("k_dpm_2_a", "dpm2_a", ""),
            ("UniPC", "unipc", ""),
            ("PLMS", "pndm", ""),
        ] {
            assert_eq!(read(title), (sampler.to_owned(), schedule.to_owned(), 0), "{title}");
        }
        for title in ["DPM fast", "DPM++ SDE Karras", "Euler q", ""] {
            assert_eq!(read(title), (String::new(), String::new(), 1), "{title}");
        }
    }

    #[test]
    fn what_is_not_possible_is_reported_and_not_set() {
        let text = "Steps: many, CFG scale: NaN, Seed: 1.5, Size: 512, Schedule type: Turbo, RNG: dice, \
                    Denoising strength: 0.5, Hires upscale: 2";
        let found = from_parameters(text).unwrap();
        let empty =
            GenerateRequest { prompt: Some(String::new()), negative_prompt: Some(String::new()), ..Default::default() };
        assert_eq!((found.request, found.ignored.len()), (empty, 8));
        assert_eq!(found.ignored[7], "Denoising strength: 0.5");
    }

    #[test]
    fn a_text_without_settings_is_none() {
        for text in ["", "a prompt: with, colons: two", "{\"prompt\": 1, \"seed\": 2}", "\n\n"] {
            assert_eq!(from_parameters(text), None, "{text:?}");
        }
    }

    /// Lines as a plan has them: trimmed, without control characters. One that begins with the marker is lost to it.
    fn prompts() -> impl Strategy<Value = String> {
        "(\\PC|\n|\t|, |: |\"|Steps: 1, Seed: 2, Size: 3x4){0,12}"
            .prop_map(|text| text.trim().to_owned())
            .prop_filter("ambiguous", |text| !text.lines().any(|line| line.starts_with(grammar::NEGATIVE)))
    }

    prop_compose! {
        fn repaints()(
            mask_feather in 0u32..65,
            padding in option::of(0u32..257),
            extend in prop_oneof![Just([0; 4]), any::<[u32; 4]>()],
        ) -> Repaint {
            let only_masked_padding = padding.unwrap_or(Repaint::PADDING);
            Repaint { mask_feather, only_masked: padding.is_some(), only_masked_padding, extend: extend.into() }
        }
    }

    prop_compose! {
        fn controls()(
            net in "[a-z][A-Za-z0-9._-]{0,9}",
            (weight, start) in (prop_oneof![Just(1.0), 0.0..2f64], prop_oneof![Just(0.0), 0.0..0.5f64]),
            end in prop_oneof![Just(1.0), 0.5..1f64],
            thresholds in option::of((0u32..2041, 0u32..2041)),
        ) -> Controlled {
            let preprocessor = thresholds.map(|(low, high)| Preprocessor::Canny { low, high }).unwrap_or_default();
            let setting = ControlSetting { net, weight, start, end, preprocessor };
            Controlled { setting, hash: "0123456789".to_owned() }
        }
    }

    prop_compose! {
        fn receipts()(
            (prompt, negative_prompt, model) in (prompts(), prompts(), "\\PC{0,9}|a, \\PC{0,9}"),
            (sampler, schedule) in (sample::select(Sampler::ALL.to_vec()), sample::select(Spacing::ALL.to_vec())),
            (steps, seed, width, height) in (1usize..1001, any::<u64>(), 1usize..2049, 1usize..2049),
            (guidance, guidance_rescale) in (0.0..50f64, prop_oneof![Just(0.0), 0.0..1f64]),
            (strength, image_guidance) in (option::of(0.01..1f64), option::of(0.0..50f64)),
            clip_skip in option::of(1usize..13),
            repaint in repaints(),
            inpainting in sample::select(vec![Inpainting::Blend, Inpainting::Posterior { scale: 0.25 }]),
            restore in option::of(sample::select(Restore::ALL.to_vec())),
            economy in sample::select(vec![Economy::EXACT, Economy { cache: 3, guide_to: 0.8, ..Economy::EXACT }]),
            energy in option::of(sample::select(vec![EnergySetting::Judge { scale: 2.5 }, EnergySetting::ALL[0]])),
            noise in sample::select(vec![NoiseKind::Philox, NoiseKind::TorchCpu]),
            tiny_decoder in option::of(Just("0123456789".to_owned())),
            (controls, ip_adapter) in (proptest::collection::vec(controls(), 0..4), option::of(controls())),
            names in proptest::collection::vec("[a-z \"()\\\\é]{1,9}", 0..3),
        ) -> Receipt {
            let sampler = if seed % 2 == 0 { sampler } else { Sampler::Ddim { eta: 0.25 } };
            let hash = || "0123456789".to_owned();
            let lora = |name: &String| LoraReceipt { name: name.clone(), text: 1.0, unet: 0.5, hash: hash() };
            let embedding = |name: &String| EmbeddingReceipt { name: name.clone(), hash: hash() };
            let (loras, embeddings) = (names.iter().map(lora).collect(), names.iter().map(embedding).collect());
            let (version, model_hash, masked) = ("0.1.0".to_owned(), "0123456789".to_owned(), strength.is_some());
            let repaint = if masked { repaint } else { Repaint::default() };
            Receipt {
                version, model, model_hash, prompt, negative_prompt, sampler, schedule, steps, guidance,
                guidance_rescale, image_guidance, clip_skip, seed, width, height, noise, tiny_decoder, controls, ip_adapter, strength,
                masked, repaint, loras, embeddings,
                task: std::collections::BTreeMap::new(), products: crate::kernels::Products::Full,
                effort: None, inpainting, restore, energy, economy,
            }
        }
    }

    proptest! {
        #[test]
        fn what_we_write_comes_back(receipt in receipts()) {
            let found = from_parameters(&receipt.parameters()).unwrap();
            let mut written = GenerateRequest { count: None, ..receipt.request() };
            written.guidance_rescale.take_if(|typed| *typed == "0");
            written.inpainting.take_if(|typed| *typed == "blend");
            written.decoder.take_if(|typed| *typed == "full");
            written.economy.take_if(|typed| *typed == "exact");
            written.mask_feather.take_if(|typed| *typed == "0");
            written.extend.take_if(|typed| *typed == "0,0,0,0");
            if written.only_masked.take_if(|typed| *typed == "false").is_some() {
                written.only_masked_padding = None;
            }
            prop_assert_eq!((found.request, found.ignored), (written, vec![]));
        }

        #[test]
        fn no_text_is_a_panic(text in any::<String>(), line in "([A-Za-z ,:\"\\\\x0-9é🍎+]|Size: |Steps: |\n){0,60}") {
            let _ = from_parameters(&text);
            let _ = from_parameters(&line);
            let _ = from_parameters(&format!("{text}\nSteps: 1, Seed: 1, {line}, Sampler: {text}"));
        }
    }
}
