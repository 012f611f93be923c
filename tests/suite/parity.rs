//! The big check against diffusers and transformers. It needs Python: `scripts/parity` makes the models, runs the
//! references (`tests/parity/reference.py`), and starts these tests with `LIMNER_PARITY_MODEL` naming a model, and
//! `LIMNER_PARITY_DIR` a folder of inputs and expected outputs.

use candle_core::{DType, Device, Tensor};
use limner::kernels::Products;
use limner::model::checkpoint::{Model, Precision};
use limner::model::text_encoder::TextEncoder;
use limner::model::unet::{Added, Conditioning};
use limner::pipeline::Pipeline;
use limner::request::{GenerateRequest, Plan};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::PathBuf;

/// What a network's output may be off by, and the latents of a whole picture, in f32.
const NETWORK: f64 = 1e-4;
const PICTURE: f64 = 1e-3;

/// The same with a LoRA whose changed weights are rounded to bf16, while the reference adds the change to what a layer gives.
const LORA_IN_BF16: f64 = 5e-3;

/// The same of a network whose products are in bf16, by the norm of what it is off: what OpenVINO's are off by.
const NETWORK_IN_BF16: f64 = 2.2e-2;

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Drawn {
    name: String,
    fields: BTreeMap<String, String>,
    /// Names of PNG files, by field.
    files: BTreeMap<String, String>,
}

fn path(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("scripts/parity sets {variable}")).into()
}

/// In what products are computed: f32, or what `LIMNER_PARITY_PRODUCTS` says.
pub(crate) fn products() -> Products {
    match std::env::var("LIMNER_PARITY_PRODUCTS").as_deref() {
        Ok("bf16") => Products::Brain,
        _ => Products::Full,
    }
}

/// Weights as they are stored.
fn precision() -> Precision {
    Precision::on(&Device::Cpu, None).with_products(Some(products()))
}

fn model() -> Model {
    Model::load(&path("LIMNER_PARITY_MODEL"), &Device::Cpu, precision()).unwrap()
}

/// Whether the U-Net's weights are stored in bf16, by the header of its file.
fn is_stored_in_bf16() -> bool {
    let file = path("LIMNER_PARITY_MODEL").join("unet/diffusion_pytorch_model.safetensors");
    let mut file = std::fs::File::open(file).unwrap();
    let mut length = [0; 8];
    file.read_exact(&mut length).unwrap();
    let mut header = String::new();
    file.take(u64::from_le_bytes(length)).read_to_string(&mut header).unwrap();
    header.contains("\"BF16\"")
}

fn case(name: &str) -> HashMap<String, Tensor> {
    let path = path("LIMNER_PARITY_DIR").join(format!("{name}.safetensors"));
    candle_core::safetensors::load(&path, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn list<T: DeserializeOwned>(name: &str) -> Vec<T> {
    serde_json::from_slice(&std::fs::read(path("LIMNER_PARITY_DIR").join(name)).unwrap()).unwrap()
}

/// Prints the largest difference, relative to the largest expected value, and what it may be; whether it is below that.
fn close(what: &str, found: &Tensor, expected: &Tensor, most: f64) -> bool {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let numbers = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (found, expected) = (numbers(found), numbers(expected));
    if products() == Products::Brain {
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let apart: Vec<f64> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        return report(what, norm(&apart) / norm(&expected), NETWORK_IN_BF16);
    }
    let largest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    let off = found.iter().zip(&expected).fold(0f64, |m, (a, b)| m.max((a - b).abs())) / largest;
    report(what, off, most)
}

/// Prints a row for `scripts/parity`'s table.
fn report(what: &str, off: f64, most: f64) -> bool {
    println!("parity: {what}\t{off:e}\t{most:e}");
    off <= most
}

/// The same of each text encoder; whether all are close.
fn of_each_encoder(model: &Model, check: impl Fn(usize, &TextEncoder) -> bool) -> bool {
    let close: Vec<bool> = model.text.iter().enumerate().map(|(i, encoder)| check(i, encoder)).collect();
    close.into_iter().all(|close| close)
}

#[test]
#[ignore = "needs Python: run scripts/parity"]
fn parity_of_token_ids() {
    let all_equal = of_each_encoder(&model(), |i, TextEncoder { tokenizer, .. }| {
        let texts: Vec<Text> = list(&format!("tokens-{i}.json"));
        let differs = |case: &&Text| tokenizer.framed(&tokenizer.ids(&case.text).unwrap()) != case.ids;
        let different: Vec<&String> = texts.iter().filter(differs).map(|case| &case.text).collect();
        different.iter().for_each(|text| println!("{text:?}"));
        report(&format!("ids of {} texts that differ, encoder {}", texts.len(), i + 1), different.len() as f64, 0.0)
    });
    assert!(all_equal);
}

#[test]
#[ignore = "needs Python: run scripts/parity"]
fn parity_of_text_states() {
    let close = of_each_encoder(&model(), |i, encoder| {
        let case = case(&format!("text-{i}"));
        let ids = case["ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
        let read = |ids: &Vec<u32>| {
            let end = ids.iter().skip(1).position(|id| *id == 49407).unwrap() + 1;
            encoder.read(ids, end, None, None).unwrap()
        };
        let said: Vec<_> = ids.iter().map(read).collect();
        let rows = |rows: Vec<&Tensor>| Tensor::cat(&rows, 0).unwrap();
        let states = rows(said.iter().map(|said| &said.states).collect());
        let close_states = close(&format!("text states, encoder {}", i + 1), &states, &case["expected"], NETWORK);
        let pooled: Vec<_> = said.iter().filter_map(|said| said.pooled.as_ref()).collect();
        assert_eq!(pooled.is_empty(), !case.contains_key("pooled"));
        close_states & (pooled.is_empty() || close("text as one vector", &rows(pooled), &case["pooled"], NETWORK))
    });
    assert!(close);
}

#[test]
#[ignore = "needs Python: run scripts/parity"]
fn parity_of_the_unet() {
    let unet = model().unet;
    let size = |size: &str| {
        let case = case(&format!("unet-{size}"));
        let added =
            case.get("text_embeds").map(|pooled| Added { pooled: pooled.clone(), sizes: case["time_ids"].clone() });
        let given = Conditioning { added, ..Conditioning::text(&case["context"]) };
        let y = unet.forward(&case["x"], &case["t"], &given).unwrap();
        close(&format!("U-Net, {size} size"), &y, &case["expected"], NETWORK)
    };
    assert!(["even", "odd"].map(size).into_iter().all(|close| close));
}

#[test]
#[ignore = "needs Python: run scripts/parity"]
fn parity_of_the_autoencoder() {
    let (codec, case) = (model().codec, case("vae"));
    let encoded = close("VAE encode", &codec.encode(&case["picture"]).unwrap(), &case["mean"], NETWORK);
    let decoded = close("VAE decode", &codec.decode(&case["latents"]).unwrap(), &case["decoded"], NETWORK);
    assert!(encoded && decoded);
}

/// What is decoded at the end, as a user's request draws it.
fn latents(pipeline: &Pipeline, Drawn { fields, files, .. }: &Drawn) -> Tensor {
    let mut request = GenerateRequest::default();
    for (field, file) in files {
        assert!(request.set_file(field, std::fs::read(path("LIMNER_PARITY_DIR").join(file)).unwrap()), "{field}");
    }
    for (field, value) in fields {
        assert!(request.set_text(field, value.clone()), "{field}");
    }
    let plan = Plan::new(&request, &pipeline.facts()).unwrap();
    let mut last = None;
    pipeline
        .generate(&plan, &mut |progress| {
            last = progress.estimate.map(|estimate| estimate.latents().clone());
            Ok(())
        })
        .unwrap();
    last.unwrap()
}

#[test]
#[ignore = "needs Python: run scripts/parity"]
fn parity_of_whole_pictures() {
    let pipeline = Pipeline::load_as(&path("LIMNER_PARITY_MODEL"), &Device::Cpu, precision()).unwrap();
    let most = |name: &str| if name.starts_with("LoRA") && is_stored_in_bf16() { LORA_IN_BF16 } else { PICTURE };
    let drawn = |drawn: &Drawn| {
        let name = &drawn.name;
        close(name, &latents(&pipeline, drawn), &case(name)["expected"], most(name))
    };
    let close: Vec<bool> = list::<Drawn>("pictures.json").iter().map(drawn).collect();
    assert!(!close.is_empty() && close.into_iter().all(|close| close));
}
