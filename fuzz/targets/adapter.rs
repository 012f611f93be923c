//! Adapters and embeddings: whatever their tensors are called, they change the model or are refused with a sentence.
//!
//! An input is a list of tensors, see `tensors.rs`; what follows a line `config` is PEFT's configuration beside them.
#![no_main]

use candle_core::{DType, Device};
use libfuzzer_sys::fuzz_target;
use limner::Error;
use limner::model::adapter::{Adapters, Applied};
use limner::model::checkpoint::{Model, Opened};
use std::cell::OnceCell;
use std::path::Path;

mod tensors;
#[path = "../../tests/suite/checkpoint/tiny.rs"]
#[allow(dead_code)]
mod tiny;

thread_local! {
    static BASE: OnceCell<(tiny::Tiny, Adapters, Model)> = const { OnceCell::new() };
}

fn base() -> (tiny::Tiny, Adapters, Model) {
    let tiny = tiny::Tiny::new();
    let opened = Opened::read(tiny.path()).unwrap();
    (tiny, opened.adapters(), opened.load(&Device::Cpu, DType::F32).unwrap())
}

fn try_on(adapters: &Adapters, model: &Model, path: &Path) {
    let applied = Applied { name: "any".into(), path: path.to_owned(), text: 0.5, unet: -1.0 };
    let checked = adapters.check_lora(path);
    match model.adapted(&[applied]) {
        Ok(_) => assert!(checked.is_ok()),
        Err(Error::Model { path: at, message }) => {
            assert!(at.starts_with(path.parent().unwrap()) && !message.is_empty())
        }
        Err(error) => panic!("not an error of the file: {error}"),
    }
    if let Ok(embedding) = adapters.embedding(path) {
        assert!(embedding.count() > 0);
        let _ = embedding.vectors(0, &Device::Cpu);
    }
}

fuzz_target!(|text: &str| {
    let folder = tempfile::tempdir().unwrap();
    let (lines, config) = text.split_once("\nconfig\n").map_or((text, None), |(lines, config)| (lines, Some(config)));
    let path = folder.path().join("adapter_model.safetensors");
    // The bytes of small floating-point numbers of any type.
    if !tensors::write(&path, lines, 0x3c) {
        return;
    }
    config.iter().for_each(|config| std::fs::write(folder.path().join("adapter_config.json"), config).unwrap());
    BASE.with(|base_| {
        let (_, adapters, model) = base_.get_or_init(base);
        try_on(adapters, model, &path);
    });
});
