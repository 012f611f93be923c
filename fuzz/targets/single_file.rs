//! Names and shapes in a single file: whatever they are, the model loads or is refused with a sentence.
//!
//! An input is a list of tensors, one a line, `NAME TYPE SIZE SIZE ..`; those after a line `vae` lie in an autoencoder
//! beside the model. Their numbers are all zero.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limner::Error;
use limner::model::checkpoint::{Opened, Precision};
use serde_json::json;
use std::path::Path;

/// Numbers in one file, in bytes.
const LARGEST: u64 = 16 << 20;

fn width(dtype: &str) -> u64 {
    match dtype {
        "F64" | "I64" => 8,
        "F32" | "I32" => 4,
        "F16" | "BF16" => 2,
        _ => 1,
    }
}

/// Writes the tensors that `lines` describe as a safetensors file; false when that would be too large.
fn write<'a>(path: &Path, lines: impl Iterator<Item = &'a str>) -> bool {
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    for line in lines {
        let mut words = line.split(' ');
        let (Some(name), Some(dtype)) = (words.next(), words.next()) else { continue };
        let shape: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let size = shape.iter().try_fold(width(dtype), |size, dim| size.checked_mul(*dim));
        let Some(next) = size.and_then(|size| end.checked_add(size)).filter(|next| *next <= LARGEST) else {
            return false;
        };
        if !header.contains_key(name) {
            header.insert(name.into(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, next] }));
            end = next;
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    std::fs::write(path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(bytes.len() as u64 + end).unwrap();
    true
}

/// Everything that is said of a model, and its networks.
fn load(path: &Path) -> limner::Result<()> {
    let opened = Opened::read(path)?;
    assert!(!opened.kind().is_empty() && opened.text_layers() > 0 && opened.times() > 0);
    let precision = Precision::on(&candle_core::Device::Cpu, None);
    opened.bytes(precision);
    opened.load(&candle_core::Device::Cpu, precision)?;
    Ok(())
}

fuzz_target!(|text: &str| {
    let folder = tempfile::tempdir().unwrap();
    let (path, beside) = (folder.path().join("one.safetensors"), folder.path().join("one.vae.safetensors"));
    let (model, vae) = text.split_once("\nvae\n").map_or((text, None), |(model, vae)| (model, Some(vae)));
    if !write(&path, model.lines()) || vae.is_some_and(|vae| !write(&beside, vae.lines())) {
        return;
    }
    match load(&path) {
        Ok(_) => {}
        Err(Error::Model { path, message }) => assert!(path.starts_with(folder.path()) && !message.is_empty()),
        Err(error) => panic!("not an error of the model: {error}"),
    }
});
