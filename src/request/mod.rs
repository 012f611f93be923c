//! What was asked for ([`GenerateRequest`], as typed) and what will run ([`Plan`], checked).
//!
//! One request type serves the JSON body, the HTML form and the command line. Its values stay text until
//! [`Plan::new`] reads them, so that "7,5", `1e999` and a missing field get the same answer at every door, and so that
//! all wrong fields are reported together.

mod check;
mod json;
mod numbers;
mod parameters;
mod plan;

pub use parameters::{Parameters, from_parameters};
pub use plan::{Facts, MAX_COUNT, MAX_PIXELS, MAX_PROMPT_CHARS, MAX_SIDE, MAX_STEPS, Plan, Start};

use crate::error::FieldError;

/// The names of all fields, in the order in which the form shows them.
pub const FIELDS: [&str; 15] = [
    "prompt",
    "negative_prompt",
    "steps",
    "guidance",
    "guidance_rescale",
    "sampler",
    "schedule",
    "seed",
    "count",
    "width",
    "height",
    "image",
    "mask",
    "strength",
    "noise",
];

/// What was asked for, as typed. Everything but the prompt may be missing.
///
/// Deserialise it with `serde_json::from_slice` (see [`GenerateRequest::from_json`]), fill it with
/// [`GenerateRequest::set_text`], or build it by hand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerateRequest {
    /// What to draw; "" draws without a prompt.
    pub prompt: Option<String>,
    /// What not to draw.
    pub negative_prompt: Option<String>,
    /// Sampler steps.
    pub steps: Option<String>,
    /// Scale of classifier-free guidance; 1 turns it off.
    pub guidance: Option<String>,
    /// How far guidance's standard deviation is pulled back to the conditional one's, 0 to 1.
    pub guidance_rescale: Option<String>,
    /// A sampler's name.
    pub sampler: Option<String>,
    /// A sigma ladder's name.
    pub schedule: Option<String>,
    /// Seed of the first picture; nothing, "" and -1 mean a random one.
    pub seed: Option<String>,
    /// Number of pictures, with seeds that count up.
    pub count: Option<String>,
    /// Width in pixels.
    pub width: Option<String>,
    /// Height in pixels.
    pub height: Option<String>,
    /// How much of an input picture is redrawn, up to 1.
    pub strength: Option<String>,
    /// A noise generator's name.
    pub noise: Option<String>,
    /// The bytes of an input picture file.
    pub image: Option<Vec<u8>>,
    /// The bytes of a mask file, as large as the picture: white is repainted.
    pub mask: Option<Vec<u8>>,
    /// What was already wrong when the request was read; [`Plan::new`] reports it with the rest.
    pub problems: Vec<FieldError>,
}

impl GenerateRequest {
    /// Sets a field that is typed as text. False when there is no such text field.
    pub fn set_text(&mut self, field: &str, value: String) -> bool {
        let slot = match field {
            "prompt" => &mut self.prompt,
            "negative_prompt" => &mut self.negative_prompt,
            "steps" => &mut self.steps,
            "guidance" => &mut self.guidance,
            "guidance_rescale" => &mut self.guidance_rescale,
            "sampler" => &mut self.sampler,
            "schedule" => &mut self.schedule,
            "seed" => &mut self.seed,
            "count" => &mut self.count,
            "width" => &mut self.width,
            "height" => &mut self.height,
            "strength" => &mut self.strength,
            "noise" => &mut self.noise,
            _ => return false,
        };
        *slot = Some(value);
        true
    }

    /// What was typed into a text field; "" where nothing was.
    pub fn text(&self, field: &str) -> &str {
        self.typed(field).unwrap_or_default()
    }

    /// What was typed into a text field, if anything was.
    fn typed(&self, field: &str) -> Option<&str> {
        let typed = match field {
            "prompt" => &self.prompt,
            "negative_prompt" => &self.negative_prompt,
            "steps" => &self.steps,
            "guidance" => &self.guidance,
            "guidance_rescale" => &self.guidance_rescale,
            "sampler" => &self.sampler,
            "schedule" => &self.schedule,
            "seed" => &self.seed,
            "count" => &self.count,
            "width" => &self.width,
            "height" => &self.height,
            "strength" => &self.strength,
            "noise" => &self.noise,
            _ => &None,
        };
        typed.as_deref()
    }

    /// Sets `image` or `mask`; an empty file (a form's untouched file field) counts as none. False when there is no
    /// such file field.
    pub fn set_file(&mut self, field: &str, bytes: Vec<u8>) -> bool {
        let slot = match field {
            "image" => &mut self.image,
            "mask" => &mut self.mask,
            _ => return false,
        };
        *slot = Some(bytes).filter(|bytes| !bytes.is_empty());
        true
    }
}

/// What other programs call our fields.
const ELSEWHERE: [(&str, &str); 12] = [
    ("cfg", "guidance"),
    ("cfg_scale", "guidance"),
    ("guidance_scale", "guidance"),
    ("num_inference_steps", "steps"),
    ("sampler_name", "sampler"),
    ("scheduler", "schedule"),
    ("n", "count"),
    ("batch_size", "count"),
    ("num_images", "count"),
    ("init_image", "image"),
    ("mask_image", "mask"),
    ("denoising_strength", "strength"),
];

/// The field that was probably meant, for "did you mean": by its name elsewhere, else by its spelling.
fn nearest_field(name: &str) -> &'static str {
    let elsewhere = ELSEWHERE.into_iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| ours);
    let by_spelling = || FIELDS.into_iter().min_by_key(|field| edit_distance(name, field));
    elsewhere.or_else(by_spelling).unwrap_or(FIELDS[0])
}

/// Levenshtein's distance, one row at a time. Names are cut at 64 characters: no field is nearly as long.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// `text` on one line of at most 60 characters with control characters escaped, to be shown in a message.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("\"{}{dots}\"", short.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_field_is_named() {
        for (typed, meant) in [
            ("step", "steps"),
            ("guidance_scale", "guidance"),
            ("cfg", "guidance"),
            ("negativePrompt", "negative_prompt"),
        ] {
            assert_eq!(nearest_field(typed), meant);
        }
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn every_field_can_be_set() {
        let mut request = GenerateRequest::default();
        for field in FIELDS {
            assert!(request.set_text(field, "1".into()) || request.set_file(field, vec![1]), "{field}");
        }
        assert!(!request.set_text("no_such", String::new()));
    }
}
