//! Names and shapes in a single file: whatever they are, the model loads or is refused with a sentence.
//!
//! An input is a list of tensors, one a line, `NAME TYPE SIZE SIZE ..`; those after a line `vae` lie in an autoencoder
//! beside the model. Their numbers are all zero.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limner::Error;
use limner::model::checkpoint::{Opened, Precision};
use std::path::Path;

mod tensors;

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
    if !tensors::write(&path, model, 0) || vae.is_some_and(|vae| !tensors::write(&beside, vae, 0)) {
        return;
    }
    match load(&path) {
        Ok(_) => {}
        Err(Error::Model { path, message }) => assert!(path.starts_with(folder.path()) && !message.is_empty()),
        Err(error) => panic!("not an error of the model: {error}"),
    }
});
