//! The big check against diffusers and transformers. It needs Python: `scripts/parity.py` makes the models, runs the
//! references, and starts these tests with `LIMNER_PARITY_DIR` naming a folder of `model/` (a diffusers folder),
//! `tokens.json`, and inputs and expected outputs of each network in `PART.safetensors`.

use candle_core::{DType, Device, Tensor};
use limner::model::checkpoint::Model;
use limner::model::unet::Conditioning;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// What the issue asks for, in f32.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn folder() -> PathBuf {
    std::env::var_os("LIMNER_PARITY_DIR").expect("scripts/parity.py sets LIMNER_PARITY_DIR").into()
}

fn model() -> Model {
    Model::load(&folder().join("model"), &Device::Cpu, DType::F32).unwrap()
}

fn case(name: &str) -> HashMap<String, Tensor> {
    let path = folder().join(format!("{name}.safetensors"));
    candle_core::safetensors::load(&path, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
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
#[ignore = "needs Python: run scripts/parity.py"]
fn parity_of_token_ids() {
    let model = model();
    let tokenizer = &model.text[0].tokenizer;
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(folder().join("tokens.json")).unwrap()).unwrap();
    let differs = |case: &&Case| tokenizer.framed(&tokenizer.ids(&case.text).unwrap()) != case.ids;
    let different: Vec<&String> = cases.iter().filter(differs).map(|case| &case.text).collect();
    println!("parity: ids of {} texts: {} differ", cases.len(), different.len());
    assert!(different.is_empty(), "{different:?}");
}

#[test]
#[ignore = "needs Python: run scripts/parity.py"]
fn parity_of_text_states() {
    let case = case("text");
    let states = model().text[0].network.forward(&case["ids"].to_dtype(DType::U32).unwrap()).unwrap();
    check("text states", &states, &case["expected"]);
}

#[test]
#[ignore = "needs Python: run scripts/parity.py"]
fn parity_of_the_unet() {
    let unet = model().unet;
    for size in ["even", "odd"] {
        let case = case(&format!("unet-{size}"));
        let y = unet.forward(&case["x"], &case["t"], &Conditioning::text(&case["context"])).unwrap();
        check(&format!("U-Net output, {size} size"), &y, &case["expected"]);
    }
}

#[test]
#[ignore = "needs Python: run scripts/parity.py"]
fn parity_of_the_autoencoder() {
    let (codec, case) = (model().codec, case("vae"));
    check("latents of a picture", &codec.encode(&case["picture"]).unwrap(), &case["mean"]);
    check("picture of latents", &codec.decode(&case["latents"]).unwrap(), &case["decoded"]);
}
