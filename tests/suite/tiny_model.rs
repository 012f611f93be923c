//! A model folder with random weights, a few hundred kilobytes, made once per test run: it draws coloured noise, but by
//! the same road as a real one. 32 x 32 pixels, 16 tokens, latents of 4 x 4. The weights are the same in every run, so
//! that a test which compares two pictures cannot pass today and fail tomorrow.

use crate::ip_adapter;
use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use limner::diffusion::noise::Philox;
use limner::diffusion::schedule::{Betas, NoiseSchedule};
use limner::model::autoencoder::{PatchAutoencoder, PatchAutoencoderConfig};
use limner::model::clip::{ClipTextConfig, ClipTextModel};
use limner::model::clip_vision::{ClipVisionConfig, ClipVisionModel};
use limner::model::controlnet::{ControlNet, ControlNetConfig};
use limner::model::unet::{DownBlockType, PerBlock, UNet2DConditionModel, UNetConfig, UpBlockType};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// In a fixed place below target/, because statics are never dropped: a temporary folder would be left behind.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let model = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny");
    let _ = fs::remove_dir_all(&model);
    write_tokenizer(&model.join("tokenizer"));
    write_networks(&model);
    write_controlnets(&model.with_file_name("controlnets"));
    write_ip_adapters(&model.with_file_name("ip-adapters"));
    fs::write(model.join("words.txt"), "red\napple\n").unwrap();
    write_json(
        &model.join("scheduler/scheduler_config.json"),
        &json!({
            "_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.0001, "beta_end": 0.02,
            "beta_schedule": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
            "timestep_spacing": "trailing",
        }),
    );
    write_json(
        &model.join("model_index.json"),
        &json!({
            "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0",
            "scheduler": ["diffusers", "DPMSolverMultistepScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["limner", "PatchAutoencoder"],
        }),
    );
    model
});

/// The folder, called `tiny`.
pub(crate) fn path() -> PathBuf {
    FOLDER.clone()
}

/// The same without an autoencoder, called `tiny-pixels`: pictures of 8 x 8 pixels.
static PIXELS: LazyLock<PathBuf> = LazyLock::new(|| {
    let model = FOLDER.with_file_name("tiny-pixels");
    let _ = fs::remove_dir_all(&model);
    for part in ["text_encoder", "tokenizer"] {
        fs::create_dir_all(model.join(part)).unwrap();
        for file in fs::read_dir(FOLDER.join(part)).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), model.join(part).join(file.file_name())).unwrap();
        }
    }
    let config = UNetConfig { sample_size: 8, in_channels: 3, out_channels: 3, ..unet() };
    write_network(&model.join("unet"), "diffusion_pytorch_model", &serde_json::to_value(&config).unwrap(), |vb| {
        drop(UNet2DConditionModel::new(&config, vb).unwrap());
    });
    let schedule = NoiseSchedule::new(Betas::LogLinear { low: 0.05, high: 20.0 }, 100, false).unwrap();
    write_json(
        &model.join("scheduler/scheduler_config.json"),
        &json!({ "trained_betas": schedule.rates(), "num_train_timesteps": 100, "prediction_type": "v_prediction" }),
    );
    let mut index: Value = serde_json::from_slice(&fs::read(FOLDER.join("model_index.json")).unwrap()).unwrap();
    index["vae"] = json!([null, null]);
    write_json(&model.join("model_index.json"), &index);
    model
});

pub(crate) fn pixels() -> PathBuf {
    PIXELS.clone()
}

fn write_json(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

/// Every printable ASCII character by itself, alone and at a word's end, and one merge.
fn write_tokenizer(folder: &Path) {
    let letters = ('!'..='~').map(String::from);
    let ends = ('!'..='~').map(|c| format!("{c}</w>"));
    let special = ["re".into(), "<|startoftext|>".into(), "<|endoftext|>".into()];
    let vocabulary: serde_json::Map<String, Value> =
        letters.chain(ends).chain(special).enumerate().map(|(id, token)| (token, json!(id))).collect();
    write_json(&folder.join("vocab.json"), &Value::Object(vocabulary));
    fs::write(folder.join("merges.txt"), "#version: 0.2\nr e\n").unwrap();
    write_json(
        &folder.join("tokenizer_config.json"),
        &json!({ "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
                 "model_max_length": 16, "tokenizer_class": "CLIPTokenizer" }),
    );
    write_json(
        &folder.join("special_tokens_map.json"),
        &json!({ "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>" }),
    );
}

fn unet() -> UNetConfig {
    UNetConfig {
        sample_size: 4,
        in_channels: 4,
        out_channels: 4,
        down_block_types: vec![DownBlockType::CrossAttention, DownBlockType::Plain],
        up_block_types: vec![UpBlockType::Plain, UpBlockType::CrossAttention],
        block_out_channels: vec![32, 32],
        layers_per_block: 1,
        norm_num_groups: 8,
        cross_attention_dim: 32,
        attention_head_dim: PerBlock::All(4),
        ..UNetConfig::default()
    }
}

fn write_networks(model: &Path) {
    let text = json!({
        "vocab_size": 191, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 16, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "architectures": ["CLIPTextModel"],
    });
    let config: ClipTextConfig = serde_json::from_value(text.clone()).unwrap();
    write_network(&model.join("text_encoder"), "model", &text, |vb| drop(ClipTextModel::new(&config, vb).unwrap()));

    let config = unet();
    let value = serde_json::to_value(&config).unwrap();
    write_network(&model.join("unet"), "diffusion_pytorch_model", &value, |vb| {
        drop(UNet2DConditionModel::new(&config, vb).unwrap());
    });

    let config = PatchAutoencoderConfig {
        block_out_channels: [16, 32],
        encoder_blocks: [1, 1],
        decoder_blocks: [1, 1],
        latent_channels: 4,
        norm_num_groups: 8,
        latents_mean: vec![0.1, 0.0, -0.1, 0.0],
        latents_std: vec![0.9, 1.0, 1.1, 1.0],
        ..PatchAutoencoderConfig::small()
    };
    let value = serde_json::to_value(&config).unwrap();
    write_network(&model.join("vae"), "diffusion_pytorch_model", &value, |vb| {
        drop(PatchAutoencoder::new(&config, vb).unwrap());
    });
}

/// `edges`, `nothing`, which is the same with zeros where its answers leave it, and `wide`, which is for another model.
fn write_controlnets(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    let config = json!({
        "_class_name": "ControlNetModel", "block_out_channels": [32, 32], "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "cross_attention_dim": 32, "attention_head_dim": 4,
        "conditioning_embedding_out_channels": [4, 4, 4, 4],
    });
    let mut wide = config.clone();
    wide["cross_attention_dim"] = json!(40);
    for (name, config) in [("edges", &config), ("nothing", &config), ("wide", &wide)] {
        let read: ControlNetConfig = serde_json::from_value(config.clone()).unwrap();
        write_network(&folder.join(name), "diffusion_pytorch_model", config, |vb| {
            drop(ControlNet::new(&read, vb).unwrap());
        });
    }
    let file = folder.join("nothing/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    for (name, tensor) in &mut tensors {
        if name.starts_with("controlnet_down_blocks.") || name.starts_with("controlnet_mid_block.") {
            *tensor = tensor.zeros_like().unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, file).unwrap();
}

/// `base` and `plus` with an encoder, `blind`, which has none that fits, and `other`, which is for another model.
fn write_ip_adapters(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    let vision = ClipVisionConfig {
        hidden_size: 12,
        intermediate_size: 20,
        projection_dim: 10,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        image_size: 8,
        patch_size: 4,
        ..ClipVisionConfig::default()
    };
    write_network(&folder.join("image_encoder"), "model", &serde_json::to_value(&vision).unwrap(), |vb| {
        drop(ClipVisionModel::new(&vision, vb).unwrap());
    });
    for (name, embed, plus, context) in
        [("base", 10, false, 32), ("plus", 12, true, 32), ("blind", 99, false, 32), ("other", 10, false, 40)]
    {
        let tensors = ip_adapter::tensors(&unet(), embed, plus, context).into_iter().collect();
        candle_core::safetensors::save::<String, _>(&tensors, folder.join(format!("{name}.safetensors"))).unwrap();
    }
}

/// Building a network on an empty map of variables fills the map, under the names it asks for; candle's random numbers
/// cannot be seeded, so ours take their place.
fn write_network(folder: &Path, file: &str, config: &Value, build: impl Fn(&VarBuilder<'static>)) {
    write_json(&folder.join("config.json"), config);
    let variables = VarMap::new();
    build(&VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu));
    for (name, variable) in variables.data().lock().unwrap().iter() {
        variable.set(&weights(name, variable.dims())).unwrap();
    }
    variables.save(folder.join(format!("{file}.safetensors"))).unwrap();
}

/// Random numbers that depend on a variable's name alone, so large that every input of the network shows in its output.
fn weights(name: &str, shape: &[usize]) -> Tensor {
    let seed = name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let normal = Philox::new(seed).normals(0, shape.iter().product());
    let (mean, deviation) = match shape {
        // A bias, or the scale of a normalisation.
        [_] if name.ends_with("weight") => (1.0, 0.1),
        [_] => (0.0, 0.1),
        // A table of embeddings is looked up, not summed over.
        _ if name.contains("embedding") && !name.contains("linear") => (0.0, 1.0),
        [_, inputs @ ..] => (0.0, 1.2 / (inputs.iter().product::<usize>() as f32).sqrt()),
        [] => (1.0, 0.0),
    };
    let values = normal.into_iter().map(|value| mean + deviation * value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
