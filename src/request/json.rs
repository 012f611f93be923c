//! JSON text to [`GenerateRequest`]. Only text that is not JSON is an error here; wrong fields become `problems`.

use super::{FIELDS, GenerateRequest, Kind, nearest_field, quoted};
use crate::error::{Error, FieldError, Result};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The standard alphabet, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl GenerateRequest {
    /// Reads a JSON object. Fails only when `bytes` are no JSON object, with line and column.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        serde_json::from_slice(bytes).map_err(|error| Error::Syntax {
            line: error.line(),
            column: error.column(),
            message: without_position(&error),
        })
    }

    /// The text fields as a JSON object that [`GenerateRequest::from_json`] reads back: what was typed, as strings, so
    /// that no digit is lost. Uploads and problems are left out.
    pub fn to_json(&self) -> String {
        let typed = FIELDS.into_iter().filter_map(|field| Some((field.to_owned(), self.typed(field)?.into())));
        serde_json::Value::Object(typed.collect()).to_string()
    }

    /// Sets one field from its JSON text.
    fn set_json(&mut self, field: &str, value: &RawValue) {
        if value.get() == "null" {
            return;
        }
        let outcome = match Self::kind(field) {
            None => text(field, value).and_then(|text| from_base64(field, &text)).map(|bytes| {
                self.set_file(field, bytes);
            }),
            Some(kind) => typed(field, kind, value).map(|text| {
                self.set_text(field, text);
            }),
        };
        self.problems.extend(outcome.err());
    }
}

impl<'de> Deserialize<'de> for GenerateRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = GenerateRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a prompt")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<GenerateRequest, A::Error> {
        let mut request = GenerateRequest::default();
        let mut seen = [false; FIELDS.len()];
        while let Some((field, value)) = map.next_entry::<String, Box<RawValue>>()? {
            match FIELDS.iter().position(|known| *known == field) {
                None => request.problems.push(unknown(&field)),
                Some(i) if seen[i] => request.problems.push(duplicate(&field)),
                Some(i) => {
                    seen[i] = true;
                    request.set_json(&field, &value);
                }
            }
        }
        Ok(request)
    }
}

fn unknown(field: &str) -> FieldError {
    let message = format!("is no field of this request; did you mean {}?", nearest_field(field));
    FieldError::new(field.chars().take(60).collect::<String>(), "unknown_field", message)
}

fn duplicate(field: &str) -> FieldError {
    FieldError::new(field, "duplicate_field", "is given more than once")
}

/// A JSON string's text.
fn text(field: &str, value: &RawValue) -> Result<String, FieldError> {
    let shown = || format!("must be a string, was {}", quoted(value.get()));
    serde_json::from_str(value.get()).map_err(|_| FieldError::new(field, "wrong_type", shown()))
}

/// A string's text; of a number or a switch also the literal. Keeps every digit: no detour through f64.
fn typed(field: &str, kind: Kind, value: &RawValue) -> Result<String, FieldError> {
    match (kind, value.get().as_bytes().first()) {
        (Kind::Text, _) | (_, Some(b'"')) => text(field, value),
        (Kind::Number, Some(b'-' | b'0'..=b'9')) | (Kind::Switch, Some(b't' | b'f')) => Ok(value.get().to_owned()),
        _ => {
            let expected = if kind == Kind::Number { "a number" } else { "true or false" };
            let message = format!("must be {expected}, was {}", quoted(value.get()));
            Err(FieldError::new(field, "wrong_type", message))
        }
    }
}

/// Bytes from base64 or from a `data:image/...;base64,` URL. What they are is decided by content, later.
fn from_base64(field: &str, text: &str) -> Result<Vec<u8>, FieldError> {
    let body = match text.strip_prefix("data:").map(|rest| rest.split_once(";base64,")) {
        None => text,
        Some(Some((kind, body))) if kind.starts_with("image/") => body,
        Some(_) => {
            let message = format!("must be a data:image/...;base64 URL, was {}", quoted(text));
            return Err(FieldError::new(field, "not_an_image", message));
        }
    };
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let wrong = |error| FieldError::new(field, "not_base64", format!("is not base64: {error}"));
    BASE64.decode(body).map_err(wrong)
}

/// serde_json ends its messages with the position, which has fields of its own here.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::FILES;

    fn read(json: &str) -> GenerateRequest {
        GenerateRequest::from_json(json.as_bytes()).unwrap()
    }

    fn codes(json: &str) -> Vec<(String, &'static str)> {
        read(json).problems.into_iter().map(|p| (p.field, p.code)).collect()
    }

    #[test]
    fn numbers_keep_every_digit() {
        let request = read(r#"{"prompt":"x","seed":18446744073709551615,"guidance":1e999,"steps":"7","count":null}"#);
        assert_eq!(request.seed.as_deref(), Some("18446744073709551615"));
        assert_eq!(request.guidance.as_deref(), Some("1e999"));
        assert_eq!((request.steps.as_deref(), request.count), (Some("7"), None));
    }

    #[test]
    fn switches_are_true_or_false() {
        for (json, typed) in [("true", "true"), ("false", "false"), ("\"on\"", "on")] {
            let request = read(&format!(r#"{{"only_masked":{json},"extend":"0,0,8,0","mask_feather":8}}"#));
            assert_eq!((request.problems.len(), request.text("only_masked")), (0, typed));
            assert_eq!((request.text("extend"), request.text("mask_feather")), ("0,0,8,0", "8"));
        }
        let found = codes(r#"{"only_masked":1,"mask_feather":true,"extend":8}"#);
        assert_eq!(found, ["only_masked", "mask_feather", "extend"].map(|field| (field.to_owned(), "wrong_type")));
    }

    #[test]
    fn what_was_typed_survives_storage() {
        let mut request = GenerateRequest::default();
        for field in FIELDS.into_iter().filter(|field| !FILES.contains(field) && *field != "count") {
            assert!(request.set_text(field, format!(" {field}, \"\u{1f34e}\"\n1e999 ")), "{field}");
        }
        assert_eq!(read(&request.to_json()), request);
        request.set_file("image", vec![1]);
        assert_eq!(read(&request.to_json()).image, None);
    }

    #[test]
    fn all_wrong_fields_are_listed() {
        let found = codes(r#"{"prompt":1,"stepz":3,"steps":[1],"seed":1,"seed":2,"image":"!!"}"#);
        let expected = [
            ("prompt", "wrong_type"),
            ("stepz", "unknown_field"),
            ("steps", "wrong_type"),
            ("seed", "duplicate_field"),
            ("image", "not_base64"),
        ];
        assert_eq!(found, expected.map(|(field, code)| (field.to_owned(), code)));
        assert!(read(r#"{"stepz":3}"#).problems[0].message.contains("did you mean steps?"));
    }

    #[test]
    fn text_that_is_no_json_object_names_line_and_column() {
        for (json, at) in [("{\"prompt\": \"x\",\n}", (2, 1)), ("{\"prompt\":\"x\"} {}", (1, 16)), ("[1]", (1, 0))] {
            match GenerateRequest::from_json(json.as_bytes()) {
                Err(Error::Syntax { line, column, .. }) => assert_eq!((line, column), at, "{json}"),
                other => panic!("{json}: {other:?}"),
            }
        }
        assert!(GenerateRequest::from_json(b"{\"prompt\":\"\xff\"}").is_err());
        assert!(GenerateRequest::from_json(format!("{{\"steps\":{}", "[".repeat(100_000)).as_bytes()).is_err());
    }

    #[test]
    fn pictures_come_as_base64_or_data_urls() {
        for text in ["AQID", "data:image/png;base64,AQID", "AQ\\nID", "AQIDBA", "AQIDBA=="] {
            let image = read(&format!(r#"{{"image":"{text}"}}"#)).image.unwrap();
            assert_eq!(image[..3], [1, 2, 3], "{text}");
        }
        assert_eq!(codes(r#"{"mask":"data:text/html;base64,AQID"}"#), [("mask".to_owned(), "not_an_image")]);
    }
}
