//! The adapters that a request asks for, in its prompt or in a list, and the embeddings that it names.

use super::check::{Checker, check_prompt};
use super::plan::{Facts, MAX_LORAS};
use super::{GenerateRequest, quoted};
use crate::error::FieldError;
use crate::model::adapter::{Applied, Inversion};
use crate::prompt::{LoraTag, Prompt};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// How strongly an adapter may act.
const STRENGTH: RangeInclusive<f64> = -20.0..=20.0;

/// How many known names a message lists.
const LISTED: usize = 30;

impl Checker {
    /// The adapters of the prompt and of the field `loras`; one that is named several times acts with the sum. Those of
    /// the field become tags behind the prompt, so that it says everything from here on.
    pub(super) fn loras(&mut self, request: &GenerateRequest, prompt: String, facts: &Facts) -> (String, Vec<Applied>) {
        let listed = self.or_default("loras", &request.loras, Vec::new(), listed);
        let of_prompt = Prompt::loras(&prompt);
        if listed.is_empty() && of_prompt.is_empty() {
            return (prompt, Vec::new());
        }
        let known = facts.adapters.catalogue().loras();
        let mut found: Vec<Applied> = Vec::new();
        let of_list = listed.iter().filter_map(|inside| Some(("loras", LoraTag::parse(inside)?)));
        for (field, tag) in of_prompt.iter().map(|tag| ("prompt", *tag)).chain(of_list) {
            let Some(path) = self.known_lora(field, tag, &known) else { continue };
            if let Some(applied) = found.iter_mut().find(|applied| applied.name == tag.name) {
                applied.text += tag.text;
                applied.unet += tag.unet;
                continue;
            }
            if found.len() == MAX_LORAS {
                let message = format!("asks for more than {MAX_LORAS} LoRAs");
                self.errors.push(FieldError::new(field, "too_many", message).range(0.0, MAX_LORAS as f64));
                break;
            }
            if let Err(reason) = facts.adapters.check_lora(&path) {
                let message = format!("{} cannot be used with {}: {reason}", quoted(tag.name), facts.name);
                self.errors.push(FieldError::new(field, "unusable_lora", message));
            }
            found.push(Applied { name: tag.name.to_owned(), path, text: tag.text, unet: tag.unet });
        }
        if listed.is_empty() {
            return (prompt, found);
        }
        let tags = listed.iter().filter_map(|inside| Some(LoraTag::parse(inside)?.typed()));
        let folded = format!("{prompt} {}", tags.collect::<String>()).trim_start().to_owned();
        self.note(check_prompt("loras", &folded), ());
        (folded, found)
    }

    /// Where an adapter is, if there is one of this name and it may act so strongly.
    fn known_lora(&mut self, field: &str, tag: LoraTag<'_>, known: &BTreeMap<String, PathBuf>) -> Option<PathBuf> {
        let (least, most) = (*STRENGTH.start(), *STRENGTH.end());
        if let Some(strength) = [tag.text, tag.unet].into_iter().find(|strength| !STRENGTH.contains(strength)) {
            let message =
                format!("the strength of {} must be between {least} and {most}, was {strength}", quoted(tag.name));
            self.errors.push(FieldError::new(field, "out_of_range", message).range(least, most));
        }
        let path = known.get(tag.name).cloned();
        if path.is_none() {
            let message = format!("there is no LoRA called {}; {}", quoted(tag.name), list(known));
            self.errors.push(FieldError::new(field, "unknown_lora", message));
        }
        path
    }

    /// The embeddings that are named in one of the prompts.
    pub(super) fn embeddings(&mut self, prompt: &str, negative: &str, facts: &Facts) -> Vec<Inversion> {
        let mut found: Vec<Inversion> = Vec::new();
        let prompts = [("prompt", Prompt::parse(prompt)), ("negative_prompt", Prompt::parse_negative(negative))];
        for (field, prompt) in prompts {
            for (inversion, wrong) in facts.adapters.inversions(&prompt.texts()) {
                if let Some(reason) = wrong {
                    let message = format!("{} cannot be used with {}: {reason}", quoted(&inversion.name), facts.name);
                    self.errors.push(FieldError::new(field, "unusable_embedding", message));
                } else if !found.contains(&inversion) {
                    found.push(inversion);
                }
            }
        }
        found
    }
}

/// `name:0.8, other:0.5:1`: each entry as it would stand in a tag.
fn listed(field: &str, typed: &str) -> Result<Vec<String>, FieldError> {
    let entries = typed.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let one = |entry: &str| match LoraTag::parse(entry) {
        Some(_) => Ok(entry.to_owned()),
        None => {
            let message = format!("must be names with strengths, as in \"name:0.8, other:0.5\", was {}", quoted(entry));
            Err(FieldError::new(field, "not_a_lora", message))
        }
    };
    entries.map(one).collect()
}

fn list(known: &BTreeMap<String, PathBuf>) -> String {
    let names: Vec<&str> = known.keys().take(LISTED).map(String::as_str).collect();
    match known.len() {
        0 => "there are none".to_owned(),
        count if count > LISTED => format!("there are {} and {} more", names.join(", "), count - LISTED),
        _ => format!("there are {}", names.join(", ")),
    }
}
