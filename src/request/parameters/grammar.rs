//! The shape of a `parameters` text, whatever its settings mean:
//!
//! ```text
//! settings := pair *(", " pair)
//! pair     := key ": " value
//! value    := a JSON string, or anything up to the next comma
//! ```

/// What the negative prompt's first line begins with.
pub(super) const NEGATIVE: &str = "Negative prompt:";

/// The lines before and after the first that starts with `Negative prompt:`.
pub(super) fn split_prompts(text: &str) -> (&str, &str) {
    let starts = text.match_indices(NEGATIVE).map(|(at, _)| at);
    let at = starts.into_iter().find(|at| text[..*at].is_empty() || text[..*at].ends_with('\n'));
    let (prompt, negative) = at.map_or((text, ""), |at| (&text[..at], &text[at + NEGATIVE.len()..]));
    (prompt.trim(), negative.trim())
}

/// The `key: value` pairs of a line. A value is a JSON string, or goes up to the next comma; what has no colon is passed
/// over.
pub(super) fn settings(line: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let comma = rest.find(',').unwrap_or(rest.len());
        let Some(colon) = rest[..comma].find(':') else {
            rest = rest[comma..].strip_prefix(',').unwrap_or_default();
            continue;
        };
        let (value, behind) = value(rest[colon + 1..].trim_start());
        if is_key(rest[..colon].trim()) {
            pairs.push((rest[..colon].trim().to_owned(), value));
        }
        rest = behind;
    }
    pairs
}

/// The value at the start of `text`, and what is behind its comma.
fn value(text: &str) -> (String, &str) {
    let mut json = serde_json::Deserializer::from_str(text).into_iter::<String>();
    if let Some(Ok(string)) = json.next() {
        let behind = text[json.byte_offset()..].trim_start();
        if behind.is_empty() || behind.starts_with(',') {
            return (string, behind.get(1..).unwrap_or_default());
        }
    }
    let (bare, behind) = text.split_once(',').unwrap_or((text, ""));
    (bare.trim().to_owned(), behind)
}

/// Letters, digits, spaces and `_-/`, two at least.
fn is_key(text: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | ' ' | '-' | '/');
    text.chars().count() > 1 && text.chars().all(inside) && !text.starts_with(['-', '/'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_far_as_they_are_settings() {
        let read = |line| settings(line).into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        assert_eq!(
            read("Steps: 20, Size: 8x8,CFG scale:7 , Seed: 1"),
            ["Steps=20", "Size=8x8", "CFG scale=7", "Seed=1"]
        );
        assert_eq!(read(r#"Model: "a, \"b\": c", Seed: 1"#), [r#"Model=a, "b": c"#, "Seed=1"]);
        // What only begins as a JSON string ends at the comma.
        assert_eq!(read(r#"Model: "a" b, Hash: "x, Seed: 1"#), [r#"Model="a" b"#, r#"Hash="x"#, "Seed=1"]);
        assert_eq!(read("alone, Steps: 1, -x: 2, y: 3, (zz): 4, Empty:"), ["Steps=1", "Empty="]);
        assert_eq!(read(",,:,:"), [""; 0]);
    }

    #[test]
    fn the_negative_prompt_begins_at_its_mark() {
        assert_eq!(split_prompts("a\nb\nNegative prompt: c\nd"), ("a\nb", "c\nd"));
        assert_eq!(split_prompts("Negative prompt:c"), ("", "c"));
        assert_eq!(split_prompts("no Negative prompt: here"), ("no Negative prompt: here", ""));
    }
}
