//! The tiny autoencoder: the numbers of diffusers, and its place beside a large one.

use crate::checkpoint::Tiny;
use crate::networks::formula::{Formula, input};
use candle_core::{DType, Device, Tensor};
use limner::model::checkpoint::{Model, Opened};
use limner::model::codec::{Codec, Decoder};
use limner::model::taesd::{AutoencoderTiny, TinyConfig};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Written by tests/fixtures/taesd/make.py.
const GOLDEN: &str = include_str!("../fixtures/taesd/golden.json");

#[derive(Deserialize)]
struct Case {
    config: Value,
    height: usize,
    width: usize,
    latents: Vec<f32>,
    picture: Vec<f32>,
}

fn network(config: &Value, formula: &Formula) -> AutoencoderTiny {
    let config: TinyConfig = serde_json::from_value(config.clone()).unwrap();
    config.check().unwrap();
    AutoencoderTiny::new(&config, &formula.builder()).unwrap()
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn encoding_and_decoding_give_the_numbers_of_diffusers() {
    for case in serde_json::from_str::<Vec<Case>>(GOLDEN).unwrap() {
        let model = network(&case.config, &Formula::default());
        let latents = model.encode(&input("input.picture", &[2, 3, case.height, case.width])).unwrap();
        let given = (input("input.latents", latents.dims()) * 5.0).unwrap();
        let picture = model.decode(&given).unwrap();
        assert_eq!(picture.dims(), [2, 3, case.height, case.width]);
        for (found, expected) in [(latents, case.latents), (picture, case.picture)] {
            let (found, largest) = (numbers(&found), expected.iter().fold(0f32, |m, v| m.max(v.abs())));
            assert_eq!(found.len(), expected.len());
            let off = found.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
            assert!(off < 1e-5, "off by {off} in {}", case.config);
        }
    }
}

#[test]
fn configurations_of_other_networks_are_refused_by_name() {
    for (change, expected) in [
        (json!({ "act_fn": "silu" }), "act_fn \"silu\" is not supported"),
        (json!({ "upsample_fn": "bilinear" }), "upsample_fn \"bilinear\" is not supported"),
        (json!({ "upsampling_scaling_factor": 4 }), "upsampling_scaling_factor is 4"),
        (json!({ "out_channels": 4 }), "3 input and 4 output channels"),
        (json!({ "scaling_factor": 0.18215 }), "scaling_factor 0.18215"),
        (json!({ "num_decoder_blocks": [] }), "num_encoder_blocks for 0 levels"),
        (json!({ "num_encoder_blocks": [1, 3] }), "2 num_encoder_blocks for 4 levels"),
        (json!({ "decoder_block_out_channels": [64, 64, 64, 32] }), "not all the same"),
        (json!({ "latent_channels": 0 }), "a size of 0"),
    ] {
        let config: TinyConfig = serde_json::from_value(change).unwrap();
        let message = config.check().unwrap_err();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
}

/// A model, linked to from a place of its own in which a companion can lie beside it.
struct Place {
    tiny: Tiny,
    folder: TempDir,
}

/// For two levels, as the model's autoencoder has.
fn decoder() -> HashMap<String, Tensor> {
    let formula = Formula::default();
    let config = json!({ "encoder_block_out_channels": [6, 6], "decoder_block_out_channels": [6, 6],
        "num_encoder_blocks": [1, 1], "num_decoder_blocks": [2, 1] });
    network(&config, &formula);
    let named = formula.named().into_iter().filter(|(name, _)| name.starts_with("decoder."));
    named.map(|(name, var)| (name, var.as_tensor().clone())).collect()
}

impl Place {
    fn new() -> Self {
        let (tiny, folder) = (Tiny::new(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(tiny.path(), folder.path().join("model")).unwrap();
        Self { tiny, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the decoder with every name passed through `rename`.
    fn write(&self, file: &str, rename: impl Fn(&str) -> String) {
        let tensors: HashMap<String, Tensor> = decoder().into_iter().map(|(k, v)| (rename(&k), v)).collect();
        candle_core::safetensors::save(&tensors, self.path(file)).unwrap();
    }

    fn load(&self) -> limner::Result<Model> {
        Model::load(&self.path("model"), &Device::Cpu, DType::F32)
    }
}

/// Layer n of diffusers is layer n + 1 of the original.
fn original(name: &str) -> String {
    let (number, rest) = name.strip_prefix("decoder.layers.").unwrap().split_once('.').unwrap();
    format!("{}.{rest}", number.parse::<usize>().unwrap() + 1)
}

#[test]
fn a_companion_is_found_beside_the_model_by_any_of_its_names() {
    let mut pictures = Vec::new();
    let latents = input("input.latents", &[1, 4, 3, 2]);
    for (file, prefix) in
        [("taesd.safetensors", ""), ("taesd.safetensors", "taesd_decoder."), ("taesd_decoder.safetensors", "decoder.")]
    {
        let place = Place::new();
        place.write(file, |name| format!("{prefix}{}", original(name)));
        let model = place.load().unwrap();
        assert!(model.companion.is_some());
        let tiny = model.decode(&latents, Decoder::Tiny).unwrap();
        assert_eq!(tiny.dims(), [1, 3, 6, 4]);
        assert_eq!(numbers(&tiny), numbers(&model.preview(&latents).unwrap()));
        assert_ne!(numbers(&tiny), numbers(&model.decode(&latents, Decoder::Full).unwrap()));
        pictures.push(numbers(&tiny));
    }
    let place = Place::new();
    fs::create_dir(place.path("taesd")).unwrap();
    let config = json!({ "_class_name": "AutoencoderTiny", "encoder_block_out_channels": [6, 6],
        "decoder_block_out_channels": [6, 6], "num_encoder_blocks": [1, 1], "num_decoder_blocks": [2, 1] });
    fs::write(place.path("taesd/config.json"), config.to_string()).unwrap();
    place.write("taesd/diffusion_pytorch_model.safetensors", str::to_owned);
    pictures.push(numbers(&place.load().unwrap().preview(&latents).unwrap()));
    assert!(pictures.iter().all(|picture| *picture == pictures[0]));
}

/// As a library sees it, that has looked at the model and loaded it before.
#[test]
fn a_companion_that_comes_or_goes_is_noticed_without_a_restart() {
    let place = Place::new();
    let library = crate::library::library(&[place.folder.path()], &place.path("model"), u64::MAX);
    let offers = |expected: bool| {
        let mut loads = 0;
        let mut on_wait = || {
            loads += 1;
            Ok(())
        };
        let pipeline = library.lend("model", &mut on_wait).unwrap();
        assert_eq!((pipeline.facts().tiny_decoder, loads), (expected, 1), "not loaded anew");
        drop(library.lend("model", &mut || panic!("loaded without need")).unwrap());
        assert_eq!(library.facts("model").unwrap().tiny_decoder, expected);
    };
    offers(false);
    let own = library.get("model").unwrap().bytes_on_disk;
    place.write("taesd.safetensors", original);
    offers(true);
    assert_eq!(library.get("model").unwrap().bytes_on_disk, own, "it is none of the model's files");
    fs::remove_file(place.path("taesd.safetensors")).unwrap();
    offers(false);
}

#[test]
fn without_a_companion_the_models_own_decoder_serves() {
    let place = Place::new();
    let (model, latents) = (place.load().unwrap(), input("input.latents", &[1, 4, 3, 2]));
    assert!(model.companion.is_none());
    let decode = |decoder| numbers(&model.decode(&latents, decoder).unwrap());
    assert_eq!(decode(Decoder::Tiny), decode(Decoder::Full));
    assert_eq!(model.preview(&latents).unwrap().dims(), [1, 3, 3, 2]);
    // Latents of another variance want another companion.
    place.write("taesd.safetensors", original);
    place.tiny.change("vae/config.json", &json!({ "scaling_factor": 0.13025 }));
    assert!(place.load().unwrap().companion.is_none());
    fs::rename(place.path("taesd.safetensors"), place.path("taesdxl_decoder.safetensors")).unwrap();
    assert!(place.load().unwrap().companion.is_some());
}

#[test]
fn a_companion_that_cannot_be_used_is_named() {
    let refusal = |prepare: &dyn Fn(&Place, &Path)| {
        let place = Place::new();
        let file = place.path("taesd.safetensors");
        place.write("taesd.safetensors", original);
        prepare(&place, &file);
        place.load().unwrap_err().to_string()
    };
    let cut = refusal(&|_, file| {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() - 9]).unwrap();
    });
    assert!(cut.contains("taesd.safetensors: the file is cut short"), "{cut}");
    let other = refusal(&|place, _| place.write("taesd.safetensors", |name| format!("x.{name}")));
    assert!(other.contains("taesd.safetensors: no tiny decoder"), "{other}");
    let small = refusal(&|_, file| {
        let keep = |name: &String| !name.starts_with("decoder.layers.4") && !name.starts_with("decoder.layers.5");
        let tensors = decoder().into_iter().filter(|(name, _)| keep(name));
        let tensors: HashMap<String, Tensor> = tensors.map(|(name, tensor)| (original(&name), tensor)).collect();
        candle_core::safetensors::save(&tensors, file).unwrap();
    });
    assert!(small.contains("4 channels of 1/1 of the picture, the model's have 4 channels of 1/2"), "{small}");
}

#[test]
fn a_folder_may_have_it_as_its_autoencoder() {
    let tiny = Tiny::new();
    let config = json!({ "_class_name": "AutoencoderTiny", "encoder_block_out_channels": [6, 6],
        "decoder_block_out_channels": [6, 6], "num_encoder_blocks": [1, 1], "num_decoder_blocks": [2, 1] });
    let formula = Formula::default();
    let alone = network(&config, &formula);
    tiny.write_json("vae/config.json", &config);
    let tensors: HashMap<String, Tensor> =
        formula.named().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
    tiny.save("vae/diffusion_pytorch_model.safetensors", &tensors);
    let model = Model::load(tiny.path(), &Device::Cpu, DType::F32).unwrap();
    assert!(matches!(*model.codec, Codec::Tiny(_)) && Opened::read(tiny.path()).unwrap().has_tiny_decoder());
    assert_eq!((model.codec.factor(), model.codec.latent_channels()), (2, 4));
    let picture = input("input.picture", &[1, 3, 4, 6]);
    let latents = model.codec.encode(&picture).unwrap();
    assert_eq!(numbers(&latents), numbers(&alone.encode(&picture).unwrap()));
    assert_eq!(numbers(&model.preview(&latents).unwrap()), numbers(&alone.decode(&latents).unwrap()));
}
