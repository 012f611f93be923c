//! A request as a command that draws the same, to be copied into a terminal.

use crate::request::{FIELDS, GenerateRequest};
use serde_json::{Map, Value};

/// What a request has by itself and need not be said.
const USUAL: [(&str, &str); 10] = [
    ("guidance_rescale", "0"),
    ("image_guidance", "1.5"),
    ("count", "1"),
    ("mask_feather", "0"),
    ("only_masked", "false"),
    ("only_masked_padding", "32"),
    ("extend", "0,0,0,0"),
    ("inpainting", "blend"),
    ("decoder", "full"),
    ("economy", "exact"),
];

/// The fields worth naming, with what was typed.
fn named(request: &GenerateRequest) -> impl Iterator<Item = (&'static str, &str)> {
    let worth = |(field, text): &(&'static str, &str)| !text.is_empty() && !USUAL.contains(&(*field, text));
    FIELDS.into_iter().map(|field| (field, request.text(field))).filter(worth)
}

/// Fields that subcommands for tasks take as flags, with what they call them.
const TASK_FLAGS: [(&str, &str); 11] = [
    ("prompt", "prompt"),
    ("source_prompt", "source-prompt"),
    ("guidance", "guidance"),
    ("width", "width"),
    ("height", "height"),
    ("seed", "seed"),
    ("strength", "strength"),
    ("tolerance", "tolerance"),
    ("draws", "draws"),
    ("probes", "probes"),
    ("model", "model"),
];

/// `limner TASK ...`.
fn limner_task(request: &GenerateRequest) -> String {
    let task = request.text("task");
    let mut words = vec![format!("limner {task} PICTURE")];
    if task == "interpolate" {
        words.push(format!("OTHER --frames {}", quoted(request.text("count"))));
    }
    let applies = |field: &str| field != "strength" || task == "edit";
    for (field, flag) in TASK_FLAGS.into_iter().filter(|(field, _)| applies(field)) {
        let text = request.text(field);
        if !text.is_empty() {
            words.push(format!("--{flag} {}", quoted(text)));
        }
    }
    words.join(" ")
}

/// `limner generate ...`, or what else the request's task is. The files of `uploads` have to be named by the user.
pub(super) fn limner(request: &GenerateRequest, uploads: &[String]) -> String {
    if !request.text("task").is_empty() {
        return limner_task(request);
    }
    let mut words = vec!["limner generate".to_owned(), quoted(request.text("prompt"))];
    for (field, text) in named(request).filter(|(field, _)| *field != "prompt") {
        words.push(format!("--{} {}", field.replace('_', "-"), quoted(text)));
    }
    words.extend(uploads.iter().map(|field| match field.as_str() {
        "image" => "--init-image PICTURE".to_owned(),
        "mask" => "--mask MASK".to_owned(),
        "ip_adapter_image" => "--ip-adapter-image PICTURE".to_owned(),
        "energy_image" => "--energy-image PICTURE".to_owned(),
        _ => "--control-image PICTURE".to_owned(),
    }));
    words.join(" ")
}

/// `curl ...` for the server at `origin`, saving to `file`.
pub(super) fn curl(request: &GenerateRequest, origin: &str, file: &str, uploads: &[String]) -> String {
    let mut body: Map<String, Value> = named(request).map(|(field, text)| (field.to_owned(), text.into())).collect();
    body.extend(uploads.iter().map(|field| (field.clone(), "BASE64 OF THE FILE".into())));
    let body = quoted(&Value::Object(body).to_string());
    let headers = "-H 'Content-Type: application/json' -H 'Accept: image/png'";
    format!("curl {} {headers} -d {body} -o {}", quoted(&format!("{origin}/api/v1/generate")), quoted(file))
}

/// As one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    match !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> GenerateRequest {
        let mut request = GenerateRequest::default();
        for (field, text) in [("prompt", "it's $HOME"), ("seed", "7"), ("guidance_rescale", "0"), ("steps", "20")] {
            request.set_text(field, text.to_owned());
        }
        request
    }

    #[test]
    fn what_a_shell_would_read_is_quoted() {
        assert_eq!(
            limner(&request(), &["control_image".into(), "image".into()]),
            r"limner generate 'it'\''s $HOME' --steps 20 --seed 7 --control-image PICTURE --init-image PICTURE"
        );
        let mut edit = request();
        edit.set_text("task", "edit".to_owned());
        edit.set_text("source_prompt", "a cat".to_owned());
        let expected = r"limner edit PICTURE --prompt 'it'\''s $HOME' --source-prompt 'a cat' --seed 7";
        assert_eq!(limner(&edit, &["image".into()]), expected);
        let curl = curl(&request(), "http://localhost:1", "a b.png", &[]);
        assert!(curl.contains(r#"-d '{"prompt":"it'\''s $HOME","seed":"7","steps":"20"}' -o 'a b.png'"#), "{curl}");
    }
}
