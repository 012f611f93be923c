//! What a person should know about a picture although nothing was wrong with the request.

use crate::model::checkpoint::read_file;
use crate::prompt::{Piece, Prompt, pieces};
use crate::request::{Facts, Plan};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::HashSet;
use std::path::Path;

/// One thing to know, for programs (`code`) and people (`message`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// `no_prompt`, `unknown_words` or `unusual_size`.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
}

impl Notice {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The words of the captions a model was trained on.
pub(super) struct Words(HashSet<String>);

/// No list of words is longer.
const LARGEST: u64 = 16 << 20;

impl Words {
    /// Reads `words.txt` of a model folder, one word a line. Most models have none, and a single file never has.
    pub(super) fn read(model: &Path) -> Result<Option<Self>> {
        let path = model.join("words.txt");
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read_file(&path, LARGEST)?;
        let text = std::str::from_utf8(&bytes).map_err(|e| Error::model(&path, e.to_string()))?;
        Ok(Some(Self(text.lines().map(|line| line.trim().to_lowercase()).collect())))
    }

    /// The words of `text` that no caption had, in order and once each. Words of one or two letters are passed over, as
    /// are the articles and prepositions that people put between the words they mean.
    fn unknown(&self, text: &str) -> Vec<String> {
        let mut seen = HashSet::new();
        words(text)
            .filter(|word| word.chars().count() > 2 && !SMALL_WORDS.contains(&word.as_str()))
            .filter(|word| !self.0.contains(word) && seen.insert(word.clone()))
            .collect()
    }

    fn knows_any(&self, text: &str) -> bool {
        words(text).any(|word| self.0.contains(&word) && !SMALL_WORDS.contains(&word.as_str()))
    }
}

const SMALL_WORDS: [&str; 10] = ["the", "and", "with", "for", "from", "that", "this", "into", "very", "some"];

/// Lower-cased runs of letters and digits.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

pub(super) fn of(plan: &Plan, facts: &Facts, known: Option<&Words>) -> Vec<Notice> {
    let mut notices = Vec::new();
    let prompt = Prompt::parse(&plan.prompt);
    if prompt.is_empty() && plan.task.is_generate() {
        notices.push(Notice::new("no_prompt", "There was no prompt, so the model drew what it liked."));
    }
    notices.extend(known.and_then(|known| unknown_words(&words_of(&prompt, plan), known)));
    let (width, height) = plan.drawn();
    if (width, height) != (facts.width, facts.height) {
        let message = format!(
            "The model {} was trained on {} x {} pixels and may repeat or distort things at {width} x {height}.",
            facts.name, facts.width, facts.height
        );
        notices.push(Notice::new("unusual_size", message));
    }
    notices
}

/// Without weights, step numbers and the names of embeddings, which are no words.
fn words_of(prompt: &Prompt, plan: &Plan) -> String {
    let names: Vec<&str> = plan.embeddings.iter().flat_map(|named| named.words.iter().map(String::as_str)).collect();
    let text = |piece| if let Piece::Text(text) = piece { Some(text) } else { None };
    prompt.texts().iter().flat_map(|part| pieces(part, &names)).filter_map(text).collect::<Vec<_>>().join(" ")
}

fn unknown_words(prompt: &str, known: &Words) -> Option<Notice> {
    let unknown = known.unknown(prompt);
    if unknown.is_empty() && (prompt.is_empty() || known.knows_any(prompt)) {
        return None;
    }
    let start = if known.knows_any(prompt) { "" } else { "The prompt names nothing that this model knows. " };
    let list = unknown.iter().take(20).map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let listed =
        if unknown.is_empty() { String::new() } else { format!("Not in the model's training captions: {list}.") };
    Some(Notice::new("unknown_words", format!("{start}{listed}").trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Words {
        Words(["red", "apple", "face", "crying", "of"].map(str::to_owned).into())
    }

    #[test]
    fn unknown_words_are_named_once_and_in_order() {
        assert_eq!(known().unknown("A Red zebra, with the flux zebra-apple of 7"), ["zebra", "flux"]);
        assert_eq!(unknown_words("red apple", &known()), None);
        assert_eq!(unknown_words("", &known()), None);
    }

    #[test]
    fn a_prompt_that_names_nothing_known_says_so() {
        let message = |prompt| unknown_words(prompt, &known()).unwrap().message;
        assert_eq!(message("red flux"), "Not in the model's training captions: \"flux\".");
        let nothing = "The prompt names nothing that this model knows.";
        assert_eq!(message("qwerty"), format!("{nothing} Not in the model's training captions: \"qwerty\"."));
        assert_eq!(message("🍎 红"), nothing);
    }
}
