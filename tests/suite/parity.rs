//! The big check against diffusers and transformers. It needs Python: `scripts/parity.py` makes the models, runs the
//! references, and starts these tests with `LIMNER_PARITY_DIR` naming a folder of
//!
//! * `model/`: a diffusers folder;
//! * `PART.safetensors`: inputs, and outputs under `expected`, of each part.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use limner::model::clip::ClipTextModel;
use limner::model::unet::UNet2DConditionModel;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What the issue asks for, in f32.
const TOLERANCE: f64 = 1e-4;

fn folder() -> PathBuf {
    std::env::var_os("LIMNER_PARITY_DIR").expect("scripts/parity.py sets LIMNER_PARITY_DIR").into()
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The configuration and the weights of one part of the model.
fn part<C: DeserializeOwned>(name: &str, weights: &str) -> (C, VarBuilder<'static>) {
    let folder = folder().join("model").join(name);
    let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    (config, VarBuilder::from_tensors(tensors(&folder.join(weights)), DType::F32, &Device::Cpu))
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
fn parity_of_text_states() {
    let (config, vb) = part("text_encoder", "model.safetensors");
    let case = tensors(&folder().join("text.safetensors"));
    let states = ClipTextModel::new(&config, &vb).unwrap().forward(&case["ids"].to_dtype(DType::U32).unwrap()).unwrap();
    check("text states", &states, &case["expected"]);
}

#[test]
#[ignore = "needs Python: run scripts/parity.py"]
fn parity_of_the_unet() {
    let (config, vb) = part("unet", "diffusion_pytorch_model.safetensors");
    let unet = UNet2DConditionModel::new(&config, &vb).unwrap();
    for size in ["even", "odd"] {
        let case = tensors(&folder().join(format!("unet-{size}.safetensors")));
        let y = unet.forward(&case["x"], &case["t"], &case["context"]).unwrap();
        check(&format!("U-Net output, {size} size"), &y, &case["expected"]);
    }
}
