//! The models and adapters of tests/fixtures/adapters/golden.json, in files of their own.

use crate::checkpoint::tiny::Tiny;
use crate::networks::formula::{Formula, values};
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use limner::model::clip::ClipTextModel;
use limner::model::unet::UNet2DConditionModel;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Written by tests/fixtures/adapters/make.py.
pub(crate) static GOLDEN: LazyLock<Golden> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../fixtures/adapters/golden.json")).unwrap());

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) ids: Vec<Vec<u32>>,
    configs: Value,
    xl_configs: Value,
    pub(crate) plain: Outputs,
    pub(crate) xl_plain: Outputs,
    pub(crate) cases: BTreeMap<String, Case>,
    pub(crate) xl_cases: BTreeMap<String, Case>,
    pub(crate) two: Two,
    pub(crate) inversion: Inverted,
}

/// What a text encoder says of words around two vectors.
#[derive(Deserialize)]
pub(crate) struct Inverted {
    pub(crate) before: Vec<u32>,
    pub(crate) after: Vec<u32>,
    pub(crate) states: Vec<f32>,
}

/// What the networks say.
#[derive(Deserialize)]
pub(crate) struct Outputs {
    pub(crate) text: Vec<Vec<f32>>,
    pub(crate) unet: Vec<f32>,
}

/// An adapter, and what the networks say with it.
#[derive(Deserialize)]
pub(crate) struct Case {
    file: BTreeMap<String, Value>,
    #[serde(default)]
    metadata: Option<HashMap<String, String>>,
    #[serde(default)]
    config: Option<Value>,
    /// On the text encoders and on the U-Net.
    pub(crate) strength: [f64; 2],
    #[serde(flatten)]
    pub(crate) outputs: Outputs,
}

#[derive(Deserialize)]
pub(crate) struct Two {
    pub(crate) of: [String; 2],
    pub(crate) strengths: [f64; 2],
    #[serde(flatten)]
    pub(crate) outputs: Outputs,
}

impl Golden {
    /// A folder of Stable Diffusion 1's kind.
    pub(crate) fn model(&self) -> Tiny {
        let tiny = Tiny::new();
        write_networks(&tiny, &self.configs);
        tiny
    }

    /// A folder of SDXL's kind.
    pub(crate) fn xl_model(&self) -> Tiny {
        let tiny = Tiny::new();
        write_networks(&tiny, &self.xl_configs);
        tiny.write_json(
            "model_index.json",
            &json!({ "_class_name": "StableDiffusionXLPipeline",
                "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"] }),
        );
        for name in ["vocab.json", "merges.txt"] {
            tiny.write(&format!("tokenizer_2/{name}"), &fs::read(tiny.file(&format!("tokenizer/{name}"))).unwrap());
        }
        tiny
    }
}

impl Case {
    /// Writes the adapter called `name`, and says where it is.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let tensors = self.file.iter().map(|(key, value)| (key.clone(), tensor(&format!("{name}.{key}"), value)));
        let tensors: Vec<(String, Tensor)> = tensors.collect();
        let (path, file) = match &self.config {
            None => (folder.join(format!("{name}.safetensors")), folder.join(format!("{name}.safetensors"))),
            Some(config) => {
                fs::create_dir_all(folder.join(name)).unwrap();
                fs::write(folder.join(name).join("adapter_config.json"), config.to_string()).unwrap();
                (folder.join(name), folder.join(name).join("adapter_model.safetensors"))
            }
        };
        let views = tensors.iter().map(|(key, tensor)| (key.as_str(), tensor));
        safetensors::serialize_to_file(views, self.metadata.clone(), &file).unwrap();
        path
    }
}

/// Writes a file of tensors.
pub(crate) fn save(path: &Path, tensors: &[(&str, &Tensor)], notes: &[(&str, &str)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let notes = notes.iter().map(|(key, note)| ((*key).to_owned(), (*note).to_owned())).collect();
    safetensors::serialize_to_file(tensors.iter().copied(), Some(notes), path).unwrap();
}

/// By its shape, or by its value.
fn tensor(name: &str, described: &Value) -> Tensor {
    match described {
        Value::Array(shape) => {
            let shape: Vec<usize> = shape.iter().map(|dim| dim.as_u64().unwrap() as usize).collect();
            Tensor::from_vec(values(name, &shape), shape, &Device::Cpu).unwrap()
        }
        number => Tensor::new(number.as_f64().unwrap() as f32, &Device::Cpu).unwrap(),
    }
}

fn write_networks(tiny: &Tiny, configs: &Value) {
    for (part, stem) in [("text_encoder", "text"), ("text_encoder_2", "text_2")] {
        let Some(config) = configs.get(stem) else { continue };
        write_network(tiny, part, "model", config, |vb| {
            ClipTextModel::new(&serde_json::from_value(config.clone()).unwrap(), vb).map(drop)
        });
    }
    let config = &configs["unet"];
    write_network(tiny, "unet", "diffusion_pytorch_model", config, |vb| {
        UNet2DConditionModel::new(&serde_json::from_value(config.clone()).unwrap(), vb).map(drop)
    });
}

fn write_network(
    tiny: &Tiny,
    part: &str,
    stem: &str,
    config: &Value,
    build: impl Fn(&VarBuilder<'static>) -> limner::Result<()>,
) {
    tiny.write_json(&format!("{part}/config.json"), config);
    let formula = Formula::default();
    build(&formula.builder()).unwrap();
    let tensors = formula.named().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
    tiny.save(&format!("{part}/{stem}.safetensors"), &tensors);
}
