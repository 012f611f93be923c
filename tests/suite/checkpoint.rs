//! Models on disk: what loads, and what is said of those that do not.

mod any_configuration;
mod hostile;
mod single;
pub(crate) mod tiny;

use candle_core::{DType, Device, Tensor};
use limner::Error;
use limner::diffusion::denoiser::Prediction;
use limner::diffusion::schedule::{Betas, NoiseSchedule};
use limner::model::checkpoint::{Model, Opened};
use limner::model::codec::{Codec, Decoder};
use serde_json::json;
use std::fs;
pub(crate) use tiny::Tiny;

pub(crate) const TEXT: &str = "text_encoder/model.safetensors";
pub(crate) const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
pub(crate) const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

fn load(tiny: &Tiny) -> Model {
    Model::load(tiny.path(), &Device::Cpu, DType::F32).unwrap()
}

/// What loading says, without the folder's path.
fn refusal(tiny: &Tiny) -> String {
    match Model::load(tiny.path(), &Device::Cpu, DType::F32) {
        Err(error @ Error::Model { .. }) => error.to_string().replace(&format!("{}/", tiny.path().display()), ""),
        Err(error) => panic!("not an error of the model: {error}"),
        Ok(_) => panic!("it loaded"),
    }
}

fn latents() -> Tensor {
    let numbers: Vec<f32> = (0..4 * 4 * 6).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::from_vec(numbers, (1, 4, 4, 6), &Device::Cpu).unwrap()
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn decode(model: &Model) -> Vec<f32> {
    numbers(&model.codec.decode(&latents()).unwrap())
}

#[test]
fn a_folder_as_diffusers_writes_it_loads() {
    let tiny = Tiny::new();
    let model = load(&tiny);
    assert_eq!(model.name, tiny.path().file_name().unwrap().to_string_lossy());
    assert_eq!(model.hash().len(), 10);
    assert_eq!(model.prediction, Prediction::Velocity);
    assert_eq!(model.schedule.steps(), 1000);
    assert!((model.schedule.sigma_max() - 4096.0).abs() < 1.0, "rescaled to zero terminal SNR");
    assert_eq!((model.codec.factor(), model.codec.latent_channels()), (2, 4));
    assert_eq!(model.text[0].tokenizer.max_length(), 16);
}

#[test]
fn latents_are_scaled_both_ways() {
    let model = load(&Tiny::new());
    let Codec::Kl(vae) = &*model.codec else { panic!("another codec") };
    let picture = latents().narrow(1, 0, 3).unwrap();
    let scaled = (vae.encode(&picture).unwrap().mean * 0.25).unwrap();
    assert_eq!(numbers(&model.codec.encode(&picture).unwrap()), numbers(&scaled));
    assert_eq!(decode(&model), numbers(&vae.decode(&(latents() * 4.0).unwrap()).unwrap()));
}

#[test]
fn a_tensor_that_nobody_asks_for_is_ignored() {
    let tiny = Tiny::new();
    let mut tensors = tiny.tensors(TEXT);
    let positions = Tensor::arange(0i64, 16, &Device::Cpu).unwrap().reshape((1, 16)).unwrap();
    tensors.insert("text_model.embeddings.position_ids".into(), positions);
    tiny.save(TEXT, &tensors);
    load(&tiny);
}

#[test]
fn half_precision_variants_load() {
    let tiny = Tiny::new();
    let full = load(&tiny);
    for dtype in [DType::F16, DType::BF16] {
        for name in [TEXT, UNET, VAE] {
            let mut tensors = tiny.tensors(name);
            tensors.values_mut().for_each(|t| *t = t.to_dtype(dtype).unwrap());
            tiny.save(name, &tensors);
        }
        let variant = VAE.replace(".safetensors", &format!(".{}.safetensors", dtype.as_str()));
        fs::rename(tiny.file(VAE), tiny.file(&variant)).unwrap();
        // Not averaged over training: the last choice. No variant at all: a backup.
        for worse in [".non_ema.safetensors", ".safetensors.orig"] {
            tiny.write(&VAE.replace(".safetensors", worse), b"not to be read");
        }
        let half = load(&tiny);
        assert_ne!(half.hash(), full.hash());
        let largest = decode(&full).into_iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = decode(&half).iter().zip(decode(&full)).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(off < 0.05 * largest, "{dtype:?} is off by {off} of {largest}");
        fs::rename(tiny.file(&variant), tiny.file(VAE)).unwrap();
    }
}

/// Splits the U-Net's weights in two files with an index, in which `shard` names the second.
fn split_unet(tiny: &Tiny, shard: &str) {
    let (mut first, mut second) = (tiny.tensors(UNET), tiny.tensors(UNET));
    first.retain(|name, _| name.starts_with("down"));
    second.retain(|name, _| !name.starts_with("down"));
    let entry = |(names, file): (Vec<&String>, &str)| {
        names.into_iter().map(move |n| (n.clone(), json!(file))).collect::<Vec<_>>()
    };
    let map = [entry((first.keys().collect(), "a.safetensors")), entry((second.keys().collect(), shard))].concat();
    let map: serde_json::Map<_, _> = map.into_iter().collect();
    tiny.write_json(&format!("{UNET}.index.json"), &json!({ "weight_map": map }));
    tiny.save("unet/a.safetensors", &first);
    tiny.save("unet/b.safetensors", &second);
    fs::remove_file(tiny.file(UNET)).unwrap();
}

#[test]
fn shards_load_and_their_names_cannot_lead_elsewhere() {
    let tiny = Tiny::new();
    split_unet(&tiny, "b.safetensors");
    load(&tiny);

    for hostile in ["../unet/b.safetensors", "/etc/passwd", "..", "", "x/b.safetensors", "..\\b.safetensors"] {
        let tiny = Tiny::new();
        split_unet(&tiny, hostile);
        let message = refusal(&tiny);
        assert_eq!(message, format!("{UNET}.index.json: the shard name {hostile:?} is not a plain file name"));
    }

    let tiny = Tiny::new();
    split_unet(&tiny, "c.safetensors");
    assert_eq!(refusal(&tiny), "unet/c.safetensors: the file is missing");
}

/// Before diffusers 0.15 the autoencoder's attention had these names, and its weights were 1x1 convolutions'.
#[test]
fn the_older_names_of_attention_load() {
    let tiny = Tiny::new();
    let expected = decode(&load(&tiny));
    let older = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
    let rename = |(name, tensor): (String, Tensor)| {
        let renamed = older.iter().fold(name, |n, (new, old)| n.replace(&format!(".{new}."), &format!(".{old}.")));
        let convolution = renamed.contains("attentions") && tensor.rank() == 2;
        (renamed, if convolution { tensor.reshape((8, 8, 1, 1)).unwrap() } else { tensor })
    };
    tiny.save(VAE, &tiny.tensors(VAE).into_iter().map(rename).collect());
    assert_eq!(decode(&load(&tiny)), expected);
}

#[test]
fn missing_tensors_are_counted_and_the_first_five_named() {
    let tiny = Tiny::new();
    let mut tensors = tiny.tensors(UNET);
    tensors.remove("conv_in.weight");
    tiny.save(UNET, &tensors);
    assert_eq!(refusal(&tiny), format!("{UNET}: 1 tensor is missing: conv_in.weight"));

    let all = tensors.len() + 1;
    tensors.retain(|name, _| name == "conv_out.bias");
    tiny.save(UNET, &tensors);
    let message = refusal(&tiny);
    assert!(message.starts_with(&format!("{UNET}: {} tensors are missing: ", all - 1)), "{message}");
    assert!(message.ends_with(&format!(" and {} more", all - 6)), "{message}");
    assert_eq!(message.matches(", ").count(), 4, "{message}");
}

#[test]
fn a_tensor_of_another_shape_or_type_is_named() {
    let tiny = Tiny::new();
    let mut tensors = tiny.tensors(UNET);
    tensors.insert("conv_in.weight".into(), Tensor::zeros((8, 9, 3, 3), DType::F32, &Device::Cpu).unwrap());
    tiny.save(UNET, &tensors);
    assert_eq!(refusal(&tiny), format!("{UNET}: tensor conv_in.weight: expected [8, 4, 3, 3], found [8, 9, 3, 3]"));

    tensors.insert("conv_in.weight".into(), Tensor::zeros((8, 4, 3, 3), DType::I64, &Device::Cpu).unwrap());
    tiny.save(UNET, &tensors);
    let expected = "tensor conv_in.weight: expected F16, BF16, F32 or F64 numbers, found I64";
    assert_eq!(refusal(&tiny), format!("{UNET}: {expected}"));
}

#[test]
fn a_file_cut_anywhere_says_how_long_it_should_be() {
    let tiny = Tiny::new();
    let whole = fs::read(tiny.file(VAE)).unwrap();
    let header = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize + 8;
    for length in [header, header + 1, whole.len() / 2, whole.len() - 1] {
        tiny.write(VAE, &whole[..length]);
        let expected = format!("it has {length} bytes, its header needs {}", whole.len());
        assert!(refusal(&tiny).ends_with(&format!("cut short, perhaps by an incomplete download: {expected}")));
    }
    for length in [8, 100, header - 1] {
        tiny.write(VAE, &whole[..length]);
        assert!(refusal(&tiny).contains("cut short"), "{length} bytes");
    }
    for length in [0, 3, 7] {
        tiny.write(VAE, &whole[..length]);
        let message = refusal(&tiny);
        assert!(message.starts_with(&format!("{VAE}: not a safetensors file")), "{message}");
        assert!(message.ends_with(&format!("({length} bytes)")), "{message}");
    }
    tiny.write(VAE, &[whole.as_slice(), b"more"].concat());
    assert!(refusal(&tiny).contains("too long"));
}

/// A safetensors file with the header `json`, and `data` bytes of zeros.
fn with_header(json: &str, data: usize) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn headers_that_lie_are_refused() {
    let one = |fields: &str| with_header(&format!(r#"{{"conv_in.weight": {{{fields}}}}}"#), 16);
    let lies: [(&str, Vec<u8>); 12] = [
        ("the shape is larger than the span", one(r#""dtype":"F32","shape":[5],"data_offsets":[0,16]"#)),
        ("the shape overflows", one(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]"#)),
        ("the span is reversed", one(r#""dtype":"F32","shape":[4],"data_offsets":[16,0]"#)),
        ("the span is past the end", one(r#""dtype":"F32","shape":[8],"data_offsets":[0,32]"#)),
        ("the span begins late", one(r#""dtype":"F32","shape":[3],"data_offsets":[4,16]"#)),
        ("the type is unknown", one(r#""dtype":"F99","shape":[4],"data_offsets":[0,16]"#)),
        ("a dimension is negative", one(r#""dtype":"F32","shape":[-4],"data_offsets":[0,16]"#)),
        ("it is a list", with_header("[]", 0)),
        ("it is nested too deeply", with_header(&"[".repeat(100_000), 0)),
        ("it is not UTF-8", [&3u64.to_le_bytes()[..], b"\xff\xfe\xfd"].concat()),
        ("its length is the largest", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("its length is zero", vec![0; 8]),
    ];
    for (lie, bytes) in lies {
        let tiny = Tiny::new();
        tiny.write(UNET, &bytes);
        let message = refusal(&tiny);
        let known = ["not a safetensors file", "cut short", "too long"];
        assert!(message.starts_with(UNET) && known.iter().any(|k| message.contains(k)), "{lie}: {message}");
    }
}

#[test]
fn other_formats_are_told_by_their_content() {
    let formats: [(&[u8], &str); 6] = [
        (b"PK\x03\x04 and so on", "a pickle file can run code when it is opened and is refused"),
        (b"\x80\x02}q\x00(X\x01", "a pickle file can run code"),
        (b"\x80\x05\x95\x10\x00", "a pickle file can run code"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "not a safetensors file"),
    ];
    let tiny = Tiny::new();
    for (bytes, expected) in formats {
        tiny.write(VAE, bytes);
        let message = refusal(&tiny);
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
    fs::rename(tiny.file(VAE), tiny.file("vae/diffusion_pytorch_model.bin")).unwrap();
    assert!(refusal(&tiny).starts_with("vae/diffusion_pytorch_model.bin: a pickle file"));
}

/// The first bytes of a safetensors file are its header's length: at 640 they are those of a pickle.
#[test]
fn a_header_of_640_bytes_is_not_a_pickle() {
    let tiny = Tiny::new();
    let padding = |length: usize| format!(r#"{{"__metadata__":{{"x":"{}"}}}}"#, " ".repeat(length));
    tiny.write(VAE, &with_header(&padding(640 - padding(0).len()), 0));
    assert_eq!(fs::read(tiny.file(VAE)).unwrap()[..2], [0x80, 2]);
    assert!(refusal(&tiny).contains("tensors are missing"));
}

#[test]
fn configurations_out_of_range_are_refused_before_memory_is_asked_for() {
    let changes = [
        ("text_encoder/config.json", json!({ "hidden_size": -1 }), "invalid value: integer `-1`"),
        ("text_encoder/config.json", json!({ "hidden_size": 1u64 << 40 }), "hidden_size is 1099511627776"),
        ("text_encoder/config.json", json!({ "hidden_size": "8" }), "invalid type"),
        ("text_encoder/config.json", json!({ "num_hidden_layers": 0 }), "num_hidden_layers is 0"),
        ("text_encoder/config.json", json!({ "num_attention_heads": 3 }), "3 heads do not divide 8 channels"),
        (
            "text_encoder/config.json",
            json!({ "vocab_size": 2013 }),
            "ids up to 2013, but the text encoder's table only 2013",
        ),
        // In range one by one, yet petabytes together, or work for hours.
        (
            "text_encoder/config.json",
            json!({ "vocab_size": 1 << 20, "intermediate_size": 1 << 20 }),
            "expected [1048576, 8]",
        ),
        ("text_encoder/config.json", json!({ "num_hidden_layers": 1 << 20 }), "at least 10000 tensors are missing"),
        (
            "unet/config.json",
            json!({ "cross_attention_dim": 16 }),
            "cross_attention_dim is 16, the text encoder gives 8",
        ),
        ("unet/config.json", json!({ "in_channels": 10 }), "10 input and 4 output channels: neither"),
        ("vae/config.json", json!({ "latent_channels": 3 }), "3 latent channels, but the U-Net draws 4"),
        ("vae/config.json", json!({ "in_channels": 1 }), "1 input and 3 output channels"),
        ("vae/config.json", json!({ "act_fn": "relu" }), "act_fn \"relu\" is not supported"),
        ("vae/config.json", json!({ "_class_name": "VQModel" }), "unknown autoencoder \"VQModel\""),
        ("scheduler/scheduler_config.json", json!({ "beta_schedule": "sigmoid" }), "unknown beta_schedule"),
        ("scheduler/scheduler_config.json", json!({ "beta_end": 1.5 }), "beta_start 0.00085 and beta_end 1.5"),
        ("scheduler/scheduler_config.json", json!({ "prediction_type": "flow" }), "unknown prediction_type \"flow\""),
        (
            "scheduler/scheduler_config.json",
            json!({ "trained_betas": [0.1] }),
            "1 trained_betas for num_train_timesteps 1000",
        ),
        ("model_index.json", json!({ "_class_name": "FluxPipeline" }), "\"FluxPipeline\" cannot be run"),
        (
            "model_index.json",
            json!({ "text_encoder": [null, null], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"] }),
            "the refiner of SDXL, and refiners are not supported",
        ),
    ];
    for (file, change, expected) in changes {
        let tiny = Tiny::new();
        tiny.change(file, &change);
        let message = refusal(&tiny);
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
}

/// Turbo models are told by their names, and people call what they pull as they like.
#[test]
fn a_distilled_model_is_known_by_its_repositorys_name_too() {
    let tiny = Tiny::new();
    let usual = || Opened::read(tiny.path()).unwrap().defaults();
    assert_eq!((usual().steps, usual().guidance), (20, 5.0));
    tiny.write_json("limner.json", &json!({ "repository": "someone/Tiny-Turbo", "revision": "main" }));
    assert_eq!((usual().steps, usual().guidance), (4, 1.0));
    tiny.write_json("limner.json", &json!({ "repository": "turbo/tiny", "revision": "main" }));
    assert_eq!(usual().steps, 20, "an owner's name says nothing of a model");
}

/// As `limner train --pixels` writes it: no autoencoder, and its forward process as a table.
#[test]
fn a_model_without_an_autoencoder_draws_pixels() {
    let schedule = NoiseSchedule::new(Betas::LogLinear { low: 0.01, high: 20.0 }, 50, false).unwrap();
    let tiny = Tiny::with_unet(&json!({ "in_channels": 3, "out_channels": 3, "sample_size": 16 }));
    std::fs::remove_dir_all(tiny.file("vae")).unwrap();
    tiny.change("model_index.json", &json!({ "vae": [null, null] }));
    let table =
        json!({ "trained_betas": schedule.rates(), "num_train_timesteps": 50, "rescale_betas_zero_snr": false });
    tiny.change("scheduler/scheduler_config.json", &table);
    let opened = Opened::read(tiny.path()).unwrap();
    assert_eq!((opened.kind().as_str(), opened.factor(), opened.times()), ("Limner", 1, 50));
    let model = opened.load(&Device::Cpu, DType::F32).unwrap();
    assert!(
        (model.schedule.sigma_max() / 20.0 - 1.0).abs() < 1e-9
            && (model.schedule.sigma_min() / 0.01 - 1.0).abs() < 1e-9
    );
    let picture = Tensor::rand(-1f32, 1.0, (1, 3, 16, 16), &Device::Cpu).unwrap();
    let there_and_back = model.decode(&model.codec.encode(&picture).unwrap(), Decoder::Full).unwrap();
    assert_eq!(
        there_and_back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        picture.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    );
    assert_eq!(model.hash().len(), 10);
}

#[test]
fn a_missing_tensor_of_any_size_costs_no_memory() {
    let tiny = Tiny::new();
    let mut tensors = tiny.tensors(TEXT);
    tensors.remove("text_model.embeddings.token_embedding.weight");
    tiny.save(TEXT, &tensors);
    tiny.change("text_encoder/config.json", &json!({ "vocab_size": 1 << 20, "hidden_size": 1 << 20 }));
    tiny.change("unet/config.json", &json!({ "cross_attention_dim": 1 << 20 }));
    let message = refusal(&tiny);
    assert!(message.contains("at least 1 tensor is missing"), "{message}");
}

#[test]
fn configuration_files_that_are_none_are_refused() {
    let file = "unet/config.json";
    let tiny = Tiny::new();
    for (content, expected) in [("[]", "not a JSON object"), ("", "not a JSON object"), ("{", "EOF"), ("{\u{0}", "key")]
    {
        tiny.write(file, content.as_bytes());
        let message = refusal(&tiny);
        assert!(message.starts_with(file) && message.contains(expected), "{content:?}: {message}");
    }
    tiny.write(file, &vec![b' '; (1 << 20) + 1]);
    assert_eq!(refusal(&tiny), format!("{file}: 1048577 bytes are too many for this file, 1048576 at most"));
    tiny.write(file, r#"{"x":"#.repeat(100_000).as_bytes());
    assert!(refusal(&tiny).starts_with(file), "and no stack overflow");
    fs::remove_file(tiny.file(file)).unwrap();
    assert_eq!(refusal(&tiny), format!("{file}: the file is missing"));
    fs::create_dir(tiny.file(file)).unwrap();
    assert_eq!(refusal(&tiny), format!("{file}: not a regular file"));
    fs::remove_file(tiny.file("model_index.json")).unwrap();
    assert!(refusal(&tiny).ends_with("not a model folder: it has no model_index.json"));
}

/// Opening a pipe waits until somebody writes to it.
#[cfg(unix)]
#[test]
fn pipes_and_dangling_links_do_not_hang() {
    for name in [VAE, "unet/config.json", "tokenizer/vocab.json"] {
        let tiny = Tiny::new();
        let path = tiny.file(name);
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(refusal(&tiny), format!("{name}: not a regular file"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", &path).unwrap();
        assert_eq!(refusal(&tiny), format!("{name}: the file is missing"));
    }
}
