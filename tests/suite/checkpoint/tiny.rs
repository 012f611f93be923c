//! A Stable Diffusion folder with random weights, a few hundred kilobytes, in a temporary place: to be loaded, and to be
//! damaged.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use limner::diffusion::noise::Philox;
use limner::model::clip::ClipTextModel;
use limner::model::unet::UNet2DConditionModel;
use limner::model::vae::AutoencoderKl;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder that is gone when this is.
pub(crate) struct Tiny(TempDir);

impl Tiny {
    /// The smallest that will do, with a scale and a prediction that are not the usual ones.
    pub(crate) fn new() -> Self {
        Self::with_unet(&json!({}))
    }

    /// The same with other fields in its U-Net's configuration.
    pub(crate) fn with_unet(fields: &Value) -> Self {
        let scheduler = json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "trained_betas": null });
        let text = json!({ "vocab_size": 2014, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 16 });
        let mut unet = json!({ "sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "attention_head_dim": 2,
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": 8 });
        unet.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let vae = json!({ "_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "norm_num_groups": 4,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "scaling_factor": 0.25,
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"] });
        Self::with(&scheduler, &text, &unet, &vae)
    }

    /// The same without the weights of the part that has the configuration file `config`.
    pub(crate) fn hollow(config: &str) -> Self {
        let tiny = Self::new();
        let weights = match config.split('/').next() {
            Some("text_encoder") => "text_encoder/model.safetensors",
            Some(part @ ("unet" | "vae")) => &format!("{part}/diffusion_pytorch_model.safetensors"),
            _ => return tiny,
        };
        tiny.save(weights, &HashMap::new());
        tiny
    }

    /// What Stable Diffusion has in common with all of its kind, so that the sizes tell the rest: 32 groups, 8 heads in
    /// version 1 and heads of 64 channels in version 2.
    pub(crate) fn stable_diffusion(version: u8) -> Self {
        let scheduler = json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear" });
        let (activation, heads, layers) =
            if version == 1 { ("quick_gelu", json!(8), 2) } else { ("gelu", json!([1, 2]), 1) };
        let text = json!({ "vocab_size": 49408, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
            "num_attention_heads": 1, "max_position_embeddings": 16, "hidden_act": activation });
        let unet = json!({ "sample_size": 64, "block_out_channels": [64, 128], "layers_per_block": 2,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "attention_head_dim": heads,
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": 64,
            "use_linear_projection": version == 2 });
        let vae = json!({ "_class_name": "AutoencoderKL", "block_out_channels": [32, 64], "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"] });
        Self::with(&scheduler, &text, &unet, &vae)
    }

    /// The same of SDXL: two text encoders, the second of which gives the text as one vector, and no attention at the
    /// finest level.
    pub(crate) fn xl() -> Self {
        let scheduler = json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear" });
        let text = json!({ "vocab_size": 49408, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 1, "max_position_embeddings": 16, "hidden_act": "quick_gelu" });
        let second = json!({ "vocab_size": 49408, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 1, "max_position_embeddings": 16, "hidden_act": "gelu", "projection_dim": 48,
            "architectures": ["CLIPTextModelWithProjection"] });
        let unet = json!({ "sample_size": 128, "block_out_channels": [64, 128], "layers_per_block": 2,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "attention_head_dim": [1, 2],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "cross_attention_dim": 128,
            "use_linear_projection": true, "transformer_layers_per_block": [1, 2],
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 6 * 256 + 48 });
        let vae = json!({ "_class_name": "AutoencoderKL", "block_out_channels": [32, 64], "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "scaling_factor": 0.13025,
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"] });
        let tiny = Self::with(&scheduler, &text, &unet, &vae);
        tiny.write_json(
            "model_index.json",
            &json!({ "_class_name": "StableDiffusionXLPipeline",
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "image_encoder": [null, null] }),
        );
        tiny.write_tokenizer("tokenizer_2");
        tiny.write_json("tokenizer_2/special_tokens_map.json", &json!({ "pad_token": "!" }));
        tiny.write_text("text_encoder_2", &second);
        tiny
    }

    fn with(scheduler: &Value, text: &Value, unet: &Value, vae: &Value) -> Self {
        let tiny = Self(tempfile::tempdir().unwrap());
        tiny.write_json("model_index.json", &json!({ "_class_name": "StableDiffusionPipeline" }));
        tiny.write_json("scheduler/scheduler_config.json", scheduler);
        tiny.write_tokenizer("tokenizer");
        tiny.write_text("text_encoder", text);
        tiny.write_network("unet", "diffusion_pytorch_model", unet, |vb| {
            UNet2DConditionModel::new(&serde_json::from_value(unet.clone()).unwrap(), vb).map(drop)
        });
        tiny.write_network("vae", "diffusion_pytorch_model", vae, |vb| {
            AutoencoderKl::new(&serde_json::from_value(vae.clone()).unwrap(), vb).map(drop)
        });
        tiny
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file of the model.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn write_json(&self, name: &str, value: &Value) {
        self.write(name, value.to_string().as_bytes());
    }

    /// Changes fields of a configuration file.
    pub(crate) fn change(&self, name: &str, fields: &Value) {
        let mut value: Value = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.write_json(name, &value);
    }

    pub(crate) fn tensors(&self, name: &str) -> HashMap<String, Tensor> {
        candle_core::safetensors::load(self.file(name), &Device::Cpu).unwrap()
    }

    pub(crate) fn save(&self, name: &str, tensors: &HashMap<String, Tensor>) {
        candle_core::safetensors::save(tensors, self.file(name)).unwrap();
    }

    fn write_text(&self, part: &str, config: &Value) {
        self.write_network(part, "model", config, |vb| {
            ClipTextModel::new(&serde_json::from_value(config.clone()).unwrap(), vb).map(drop)
        });
    }

    fn write_tokenizer(&self, part: &str) {
        self.write(&format!("{part}/vocab.json"), include_bytes!("../../fixtures/tokenizer/vocab.json"));
        self.write(&format!("{part}/merges.txt"), include_bytes!("../../fixtures/tokenizer/merges.txt"));
    }

    /// Building a network on an empty map of variables fills the map, under the names it asks for; candle's random numbers
    /// cannot be seeded, so ours take their place.
    fn write_network(
        &self,
        part: &str,
        stem: &str,
        config: &Value,
        build: impl Fn(&VarBuilder<'static>) -> limner::Result<()>,
    ) {
        self.write_json(&format!("{part}/config.json"), config);
        let variables = VarMap::new();
        build(&VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu)).unwrap();
        for (name, variable) in variables.data().lock().unwrap().iter() {
            set(name, variable);
        }
        variables.save(self.file(&format!("{part}/{stem}.safetensors"))).unwrap();
    }
}

/// Random numbers that depend on a variable's name alone, about as large as a new network's. Those that begin all the same
/// stay so: scales of a normalisation, and their biases.
fn set(name: &str, variable: &Var) {
    let values = variable.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    if values.windows(2).all(|pair| pair[0] == pair[1]) {
        return;
    }
    let inputs: usize = variable.dims().iter().skip(1).product();
    let deviation = match variable.rank() {
        1 => 0.05,
        _ if name.contains("embedding") => 0.02,
        _ => 0.6 / (inputs as f32).sqrt(),
    };
    let seed = name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let normals = Philox::new(seed).normals(0, values.len());
    let values: Vec<f32> = normals.into_iter().map(|v| v * deviation).collect();
    variable.set(&Tensor::from_vec(values, variable.shape(), variable.device()).unwrap()).unwrap();
}
