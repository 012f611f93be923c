//! The small files of a diffusers folder: whatever one of them holds, the model loads or is refused with a sentence.
//!
//! An input's first byte says which file; if the rest is a JSON object its fields are laid over those that the file has,
//! and otherwise it is the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limner::Error;
use limner::model::checkpoint::{Opened, Precision};
use std::cell::OnceCell;

#[path = "../../tests/suite/checkpoint/tiny.rs"]
#[allow(dead_code)]
mod tiny;

const FILES: [&str; 9] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "unet/config.json",
    "vae/config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "unet/diffusion_pytorch_model.safetensors.index.json",
];

thread_local! {
    static TINY: OnceCell<tiny::Tiny> = const { OnceCell::new() };
}

/// Everything that is said of a model, and its networks.
fn load(path: &std::path::Path) -> limner::Result<()> {
    let opened = Opened::read(path)?;
    assert!(!opened.kind().is_empty() && opened.text_layers() > 0 && opened.times() > 0);
    let precision = Precision::on(&candle_core::Device::Cpu, None);
    let bytes = opened.bytes(precision);
    let model = opened.load(&candle_core::Device::Cpu, precision)?;
    assert!(model.bytes <= bytes);
    Ok(())
}

fn try_with(tiny: &tiny::Tiny, file: &str, content: &[u8]) {
    let path = tiny.file(file);
    let before = std::fs::read(&path).ok();
    match serde_json::from_slice(content) {
        Ok(fields @ serde_json::Value::Object(_)) if before.is_some() => tiny.change(file, &fields),
        _ => tiny.write(file, content),
    }
    match load(tiny.path()) {
        Ok(_) => {}
        Err(Error::Model { path, message }) => {
            assert!(path.starts_with(tiny.path()) && !message.is_empty());
        }
        Err(error) => panic!("not an error of the model: {error}"),
    }
    match before {
        Some(bytes) => tiny.write(file, &bytes),
        None => std::fs::remove_file(&path).unwrap(),
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&which, content)) = input.split_first() else { return };
    let Some(file) = FILES.get(usize::from(which.wrapping_sub(b'0'))) else { return };
    TINY.with(|tiny| try_with(tiny.get_or_init(tiny::Tiny::new), file, content));
});
