//! What was asked for ([`GenerateRequest`], as typed) and what will run ([`Plan`], checked).
//!
//! One request type serves the JSON body, the HTML form and the command line. Its values stay text until
//! [`Plan::new`] reads them, so that "7,5", `1e999` and a missing field get the same answer at every door, and so that
//! all wrong fields are reported together.

mod adapters;
mod axes;
mod check;
pub(crate) mod control;
mod economy;
mod energy;
mod fields;
mod inpainting;
mod json;
mod numbers;
mod parameters;
mod plan;
mod repaint;
mod restore;
mod start;
mod task;

pub use axes::{AXES, Axis, Grid, MAX_CELLS};
pub(crate) use check::check_prompt;
pub use control::{Control, ControlSetting, MAX_CONTROLS, Preprocessor};
pub use economy::Economy;
pub use energy::{EnergySetting, Wanted};
pub use fields::{FIELDS, FILES, GenerateRequest, Kind};
pub use inpainting::Inpainting;
pub use parameters::{Parameters, from_parameters};
pub use plan::{
    Facts, MAX_COUNT, MAX_LORAS, MAX_PIXELS, MAX_PROMPT_CHARS, MAX_RESULT_PIXELS, MAX_SIDE, MAX_STEPS, Plan, Start,
};
pub use repaint::Repaint;
pub use restore::{Restoration, Restore, Shown};
pub use task::{Likelihood, MAX_CAPTIONS, Task};

impl GenerateRequest {
    /// Sets a field that is typed as text. False when there is no such text field.
    pub fn set_text(&mut self, field: &str, value: String) -> bool {
        let Some(slot) = self.slot(field) else { return false };
        *slot = Some(value);
        true
    }

    /// What was typed into a text field; "" where nothing was.
    pub fn text(&self, field: &str) -> &str {
        self.typed(field).unwrap_or_default()
    }

    /// Sets a file field; an empty file (a form's untouched file field) counts as none. False when there is no such file
    /// field.
    pub fn set_file(&mut self, field: &str, bytes: Vec<u8>) -> bool {
        let Some(slot) = self.file_slot(field) else { return false };
        *slot = Some(bytes).filter(|bytes| !bytes.is_empty());
        true
    }

    /// The same with only the text fields.
    pub fn without_files(&self) -> Self {
        let mut request = self.clone();
        for field in FILES {
            request.set_file(field, Vec::new());
        }
        request
    }
}

/// What other programs call our fields.
const ELSEWHERE: [(&str, &str); 25] = [
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
    ("mask_blur", "mask_feather"),
    ("inpaint_full_res", "only_masked"),
    ("inpaint_full_res_padding", "only_masked_padding"),
    ("padding_mask_crop", "only_masked_padding"),
    ("outpaint", "extend"),
    ("controlnet", "control"),
    ("controlnet_conditioning_scale", "control"),
    ("control_guidance_end", "control"),
    ("checkpoint", "model"),
    ("lora", "loras"),
    ("deepcache", "economy"),
    ("token_merging_ratio", "economy"),
    ("sd_model_checkpoint", "model"),
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
pub(crate) fn quoted(text: &str) -> String {
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
