//! From what was typed to a plan, field by field.

use super::inpainting::Inpainting;
use super::numbers::{real, whole};
use super::plan::{Facts, MAX_COUNT, MAX_PROMPT_CHARS, MAX_SIDE, Plan, Start};
use super::repaint::Repaint;
use super::task::{Task, TaskKind};
use super::{GenerateRequest, quoted};
use crate::Error;
use crate::diffusion::noise::NoiseKind;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use crate::error::{FieldError, Result};
use crate::model::codec::Decoder;
use crate::model::unet::Beside;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;

/// The range of the guidance scale.
const GUIDANCE: std::ops::RangeInclusive<f64> = 0.0..=50.0;

/// What diffusers' pipelines for editing use.
const IMAGE_GUIDANCE: f64 = 1.5;

/// Refuses more than [`MAX_PROMPT_CHARS`].
pub(crate) fn check_prompt(field: &str, text: &str) -> Result<(), FieldError> {
    let length = text.chars().count();
    if length <= MAX_PROMPT_CHARS {
        return Ok(());
    }
    let message = format!("may have at most {MAX_PROMPT_CHARS} characters, has {length}");
    Err(FieldError::new(field, "too_long", message).range(0.0, MAX_PROMPT_CHARS as f64))
}

/// A choice with settings, as a field.
pub(super) fn choice<T: FromStr<Err = String>>(field: &str, typed: &str) -> Result<T, FieldError> {
    typed.parse().map_err(|message| FieldError::new(field, "unknown_value", message))
}

/// Collects errors and carries on with a stand-in, so that one pass finds everything.
pub(super) struct Checker {
    pub(super) errors: Vec<FieldError>,
}

impl Checker {
    pub(super) fn plan(&mut self, request: &GenerateRequest, facts: &Facts) -> Plan {
        let kind = self.or_default("task", &request.task, TaskKind::Generate, TaskKind::read);
        let count = self.count("count", &request.count, kind.count(), MAX_COUNT);
        let repaint = self.repaint(request, facts);
        let (width, height) = self.size(request, facts, count, &repaint);
        let prompt = self.prompt(request);
        let (prompt, loras) = self.loras(request, prompt, facts);
        let negative_prompt = self.text("negative_prompt", request.negative_prompt.as_deref().unwrap_or_default());
        let mut plan = Plan {
            embeddings: self.embeddings(&prompt, &negative_prompt, facts),
            loras,
            prompt,
            negative_prompt,
            steps: self.count("steps", &request.steps, facts.steps.clamp(1, facts.max_steps()), facts.max_steps()),
            guidance: self.or_default("guidance", &request.guidance, kind.guidance(facts), |f, t| real(f, t, GUIDANCE)),
            task: self.task(kind, request, facts, (width, height)),
            guidance_rescale: self
                .or_default("guidance_rescale", &request.guidance_rescale, 0.0, |f, t| real(f, t, 0.0..=1.0)),
            image_guidance: self
                .or_default("image_guidance", &request.image_guidance, IMAGE_GUIDANCE, |f, t| real(f, t, GUIDANCE)),
            clip_skip: self.or_default("clip_skip", &request.clip_skip, None, |f, t| {
                whole(f, t, 1..=facts.text_layers as u64).map(|n| Some(n as usize))
            }),
            sampler: self.or_default("sampler", &request.sampler, facts.sampler, sampler),
            schedule: self
                .or_default("schedule", &request.schedule, facts.schedule, |f, t| one_of(f, t, &Spacing::names())),
            seed: self.seed(&request.seed),
            count,
            width,
            height,
            image_prompt: self.image_prompt(request, facts),
            controls: self.controls(request, facts, repaint.drawn((width, height))),
            restoration: self.restoration(request, facts, kind, (width, height)),
            wanted: self.wanted(request, facts, kind, repaint.drawn((width, height))),
            start: Start::Noise,
            noise: self.or_default("noise", &request.noise, NoiseKind::default(), noise),
            inpainting: self.or_default("inpainting", &request.inpainting, Inpainting::Blend, choice),
            decoder: self.or_default("decoder", &request.decoder, Decoder::default(), |f, t| decoder(f, t, facts)),
            economy: self.economy(request),
            model: facts.name.clone(),
        };
        // Noise is no picture to start from, and what is to be restored is none either.
        if kind != TaskKind::Decode && plan.restoration.is_none() {
            plan.start = self.start(request, facts, repaint, plan.inpainting, (width, height, count));
        }
        self.rule(&plan, facts);
        self.economy_fits(&plan, kind, facts);
        if let Task::Decode { noise, .. } = &plan.task {
            (plan.width, plan.height) = (noise.shape[2] * facts.multiple_of, noise.shape[1] * facts.multiple_of);
        }
        plan
    }

    /// A rule other than the usual one needs something to keep, and a model that does not keep it in its own way.
    fn rule(&mut self, plan: &Plan, facts: &Facts) {
        let masked = matches!(plan.start, Start::Picture { mask: Some(_), .. });
        let message = match plan.inpainting {
            Inpainting::Blend => return,
            _ if !masked => "needs a picture and a mask",
            _ if facts.beside != Beside::Nothing => "is for models that were not made for inpainting or editing",
            _ => return,
        };
        self.errors.push(FieldError::new("inpainting", "not_used", message));
    }

    /// The value, or `stand_in` with the error noted.
    pub(super) fn note<T>(&mut self, outcome: Result<T, FieldError>, stand_in: T) -> T {
        outcome.unwrap_or_else(|error| {
            self.errors.push(error);
            stand_in
        })
    }

    /// What was typed, read by `read`; the default where nothing was typed.
    pub(super) fn or_default<T>(
        &mut self,
        field: &str,
        typed: &Option<String>,
        default: T,
        read: impl Fn(&str, &str) -> Result<T, FieldError>,
    ) -> T {
        match typed.as_deref().map(str::trim) {
            None | Some("") => default,
            Some(text) => self.note(read(field, text), default),
        }
    }

    pub(super) fn count(&mut self, field: &str, typed: &Option<String>, default: usize, most: usize) -> usize {
        self.or_default(field, typed, default, |f, t| whole(f, t, 1..=most as u64).map(|n| n as usize))
    }

    fn prompt(&mut self, request: &GenerateRequest) -> String {
        match &request.prompt {
            Some(prompt) => self.text("prompt", prompt),
            // A prompt of the wrong type is noted already.
            None if self.errors.iter().any(|error| error.field == "prompt") => String::new(),
            None => {
                let message = "is missing; \"\" draws without a prompt";
                self.note(Err(FieldError::new("prompt", "required", message)), String::new())
            }
        }
    }

    /// Refuses NUL and excess length; takes out other control characters (but keeps line breaks and tabs) and blank
    /// ends, zero-width spaces among them.
    pub(super) fn text(&mut self, field: &str, text: &str) -> String {
        if text.contains('\0') {
            self.errors.push(FieldError::new(field, "control_character", "contains a NUL character"));
        }
        self.note(check_prompt(field, text), ());
        let kept: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
        kept.trim_matches(|c: char| c.is_whitespace() || c == '\u{200b}' || c == '\u{feff}').to_owned()
    }

    fn seed(&mut self, typed: &Option<String>) -> u64 {
        match typed.as_deref().map(str::trim) {
            None | Some("" | "-1") => random_seed(),
            Some(text) => self.note(whole("seed", text, 0..=u64::MAX), 0),
        }
    }

    fn size(&mut self, request: &GenerateRequest, facts: &Facts, count: usize, repaint: &Repaint) -> (usize, usize) {
        let side = |field: &str, text: &str| side(field, text, facts.multiple_of);
        let before = self.errors.len();
        let width = self.or_default("width", &request.width, facts.width, side);
        let height = self.or_default("height", &request.height, facts.height, side);
        if self.errors.len() == before {
            self.check_drawn(repaint.drawn((width, height)), count);
        }
        (width, height)
    }
}

/// A side in pixels: a multiple of `multiple`, which is also the smallest.
fn side(field: &str, typed: &str, multiple: usize) -> Result<usize, FieldError> {
    let most = MAX_SIDE / multiple * multiple;
    let pixels = whole(field, typed, multiple as u64..=most as u64)? as usize;
    if pixels.is_multiple_of(multiple) {
        return Ok(pixels);
    }
    let below = pixels / multiple * multiple;
    let message =
        format!("must be a multiple of {multiple}, was {pixels}; the nearest are {below} and {}", below + multiple);
    Err(FieldError::new(field, "multiple_of", message).range(multiple as f64, most as f64))
}

pub(super) fn one_of<T: FromStr>(field: &str, typed: &str, names: &[&str]) -> Result<T, FieldError> {
    typed.parse().map_err(|_| {
        let message = format!("must be one of {}, was {}", names.join(", "), quoted(typed));
        FieldError::new(field, "unknown_value", message)
    })
}

/// A sampler with its settings, whose errors are those of this field.
fn sampler(field: &str, typed: &str) -> Result<Sampler, FieldError> {
    let of_field = |error: FieldError| match error.field.as_str() {
        "sampler" => FieldError { field: field.to_owned(), ..error },
        setting => FieldError { message: format!("{setting} {}", error.message), field: field.to_owned(), ..error },
    };
    typed.parse().map_err(|error| match error {
        Error::Invalid(errors) if !errors.is_empty() => of_field(errors[0].clone()),
        error => FieldError::new(field, "unknown_value", error.to_string()),
    })
}

fn noise(field: &str, typed: &str) -> Result<NoiseKind, FieldError> {
    match typed {
        "philox" => Ok(NoiseKind::Philox),
        "torch-cpu" | "torch_cpu" => Ok(NoiseKind::TorchCpu),
        _ => {
            let message = format!("must be one of philox, torch-cpu, was {}", quoted(typed));
            Err(FieldError::new(field, "unknown_value", message))
        }
    }
}

fn decoder(field: &str, typed: &str, facts: &Facts) -> Result<Decoder, FieldError> {
    let known = Decoder::ALL.into_iter().find(|decoder| decoder.name() == typed);
    match known {
        Some(Decoder::Tiny) if !facts.tiny_decoder => {
            let message =
                format!("must be full: {} has no tiny decoder (TAESD) among the models or beside it", facts.name);
            Err(FieldError::new(field, "no_tiny_decoder", message))
        }
        Some(decoder) => Ok(decoder),
        None => {
            let message =
                format!("must be one of {}, was {}", Decoder::ALL.map(Decoder::name).join(", "), quoted(typed));
            Err(FieldError::new(field, "unknown_value", message))
        }
    }
}

/// A seed below 2^32, short enough to be typed again. The standard library's hasher is keyed by the system's generator.
fn random_seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn facts() -> Facts {
        Facts::plain("tiny", (64, 64), 16)
    }

    fn request(set: &[(&str, &str)]) -> GenerateRequest {
        let mut request = GenerateRequest { prompt: Some("red apple".into()), ..Default::default() };
        for (field, value) in set {
            assert!(request.set_text(field, (*value).into()), "{field}");
        }
        request
    }

    fn errors(request: &GenerateRequest) -> Vec<FieldError> {
        match Plan::new(request, &facts()) {
            Err(Error::Invalid(errors)) => errors,
            other => panic!("{other:?}"),
        }
    }

    fn code(set: &[(&str, &str)]) -> &'static str {
        let found = errors(&request(set));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].code
    }

    #[test]
    fn defaults_come_from_the_model() {
        let plan = Plan::new(&request(&[("steps", ""), ("seed", "7")]), &facts()).unwrap();
        assert_eq!((plan.steps, plan.width, plan.height, plan.count, plan.seed), (20, 64, 64, 1, 7));
        assert_eq!((plan.guidance, plan.start, plan.noise), (5.0, Start::Noise, NoiseKind::Philox));
    }

    #[test]
    fn each_wrong_value_has_its_code() {
        for (field, value, expected) in [
            ("steps", "0", "out_of_range"),
            ("steps", "1001", "out_of_range"),
            ("guidance", "NaN", "not_finite"),
            ("guidance", "1e999", "not_finite"),
            ("width", "0", "out_of_range"),
            ("width", "100000", "out_of_range"),
            ("height", "65", "multiple_of"),
            ("sampler", "__proto__", "unknown_value"),
            ("schedule", "karass", "unknown_value"),
            ("noise", "dice", "unknown_value"),
            ("decoder", "huge", "unknown_value"),
            ("decoder", "tiny", "no_tiny_decoder"),
            ("seed", "18446744073709551616", "out_of_range"),
            ("seed", "-2", "out_of_range"),
            ("count", "1000000000", "out_of_range"),
            ("prompt", "a\0b", "control_character"),
            ("strength", "0", "out_of_range"),
            ("clip_skip", "0", "out_of_range"),
            ("clip_skip", "2", "out_of_range"),
            ("image_guidance", "51", "out_of_range"),
        ] {
            let found = errors(&request(&[(field, value)]));
            assert_eq!((found[0].field.as_str(), found[0].code), (field, expected), "{found:?}");
        }
        assert_eq!(code(&[("strength", "0.5")]), "without_image");
        assert_eq!(code(&[("width", "2048"), ("height", "2048"), ("count", "2")]), "too_many_pixels");
    }

    #[test]
    fn messages_name_what_was_given_and_what_is_known() {
        let found = errors(&request(&[("sampler", "eular"), ("width", "520"), ("steps", "0")]));
        let text = Error::Invalid(found).to_string();
        for part in ["dpmpp_2m", "\"eular\"", "512 and 528", "between 1 and 1000, was 0"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_seed_is_chosen_at_the_door() {
        for typed in ["", "-1", " "] {
            assert!(Plan::new(&request(&[("seed", typed)]), &facts()).unwrap().seed < 1 << 32);
        }
        let plan = Plan::new(&request(&[("seed", "18446744073709551615"), ("count", "2")]), &facts()).unwrap();
        assert_eq!((plan.seed_of(0), plan.seed_of(1)), (u64::MAX, 0));
        assert_ne!(random_seed(), random_seed());
    }

    #[test]
    fn a_prompt_may_be_empty_but_not_missing() {
        assert_eq!(Plan::new(&request(&[("prompt", " \u{200b} ")]), &facts()).unwrap().prompt, "");
        assert_eq!(errors(&GenerateRequest::default())[0].code, "required");
        assert_eq!(Plan::new(&request(&[("prompt", "a\u{1b}[31mb\n")]), &facts()).unwrap().prompt, "a[31mb");
    }
}
