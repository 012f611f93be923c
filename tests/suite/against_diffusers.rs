//! The big check of a whole folder against transformers' tokenizer and diffusers' autoencoder. It needs Python:
//! `scripts/parity_vae.py` makes the models, runs the references, and starts these tests with `LIMNER_PARITY_DIR` naming a
//! folder of `model/`, `tokens.json` and `vae.safetensors`.

use candle_core::{DType, Device, Tensor};
use limner::model::checkpoint::Model;
use serde::Deserialize;
use std::path::PathBuf;

/// What the issue asks for, in f32.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn folder() -> PathBuf {
    std::env::var_os("LIMNER_PARITY_DIR").expect("scripts/parity_vae.py sets LIMNER_PARITY_DIR").into()
}

fn model() -> Model {
    Model::load(&folder().join("model"), &Device::Cpu, DType::F32).unwrap()
}

/// Prints and checks the largest difference, relative to the largest expected value.
fn check(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let numbers = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (found, expected) = (numbers(found), numbers(expected));
    let largest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    let off = found.iter().zip(&expected).fold(0f64, |m, (a, b)| m.max((a - b).abs())) / largest;
    println!("parity: {what}: {off:.2e} of {largest:.3}");
    assert!(off < TOLERANCE, "{what}: {off:.2e} is not below {TOLERANCE:.0e}");
}

#[test]
#[ignore = "needs Python: run scripts/parity_vae.py"]
fn the_autoencoder_gives_the_same_latents_and_pictures() {
    let codec = model().codec;
    let case = candle_core::safetensors::load(folder().join("vae.safetensors"), &Device::Cpu).unwrap();
    check("latents of a picture", &codec.encode(&case["picture"]).unwrap(), &case["mean"]);
    check("picture of latents", &codec.decode(&case["latents"]).unwrap(), &case["decoded"]);
}

#[test]
#[ignore = "needs Python: run scripts/parity_vae.py"]
fn the_tokenizer_gives_the_same_ids() {
    let tokenizer = model().tokenizer;
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(folder().join("tokens.json")).unwrap()).unwrap();
    let differs = |case: &&Case| tokenizer.encode(&case.text).unwrap().ids != case.ids;
    let different: Vec<&String> = cases.iter().filter(differs).map(|case| &case.text).collect();
    println!("parity: ids of {} texts: {} differ", cases.len(), different.len());
    assert!(different.is_empty(), "{different:?}");
}
