//! ControlNets: the numbers of diffusers, laws they keep, and how they lie on disk.

use crate::checkpoint::Tiny;
use crate::networks::formula::{Formula, input};
use candle_core::{DType, Device, Tensor};
use limner::model::checkpoint::ControlNets;
use limner::model::controlnet::{ControlNet, ControlNetConfig};
use limner::model::unet::{Added, Conditioning, Residuals, UNet2DConditionModel, UNetConfig};
use limner::pipeline::Pipeline;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// Written by tests/fixtures/controlnet/make.py.
const GOLDEN: &str = include_str!("../fixtures/controlnet/golden.json");

#[derive(Deserialize)]
struct Case {
    unet: Value,
    net: Value,
    height: usize,
    width: usize,
    times: Vec<f32>,
    weight: f64,
    middle: Vec<f32>,
    first_skip: Vec<f32>,
    last_skip: Vec<f32>,
    output: Vec<f32>,
}

fn golden() -> Vec<Case> {
    serde_json::from_str(GOLDEN).unwrap()
}

impl Case {
    fn unet(&self) -> UNet2DConditionModel {
        let config: UNetConfig = serde_json::from_value(self.unet.clone()).unwrap();
        UNet2DConditionModel::new(&config, &Formula::default().builder()).unwrap()
    }

    fn net(&self) -> ControlNet {
        let config: ControlNetConfig = serde_json::from_value(self.net.clone()).unwrap();
        ControlNet::new(&config, &Formula::default().builder()).unwrap()
    }

    fn inputs(&self) -> (Tensor, Tensor, Conditioning) {
        let batch = self.times.len();
        let x = input("input.x", &[batch, 4, self.height, self.width]);
        let mut given = Conditioning::text(&input("input.context", &[batch, 5, 6]));
        if self.unet["addition_embed_type"] == "text_time" {
            let sizes = Tensor::new(&[[64f32, 48.0, 0.0, 8.0, 64.0, 48.0]], &Device::Cpu).unwrap();
            let sizes = sizes.repeat((batch, 1)).unwrap();
            given.added = Some(Added { pooled: input("input.pooled", &[batch, 8]), sizes });
        }
        (x, Tensor::new(self.times.as_slice(), &Device::Cpu).unwrap(), given)
    }

    fn hint(&self, net: &ControlNet) -> Tensor {
        let picture = input("input.picture", &[self.times.len(), 3, 2 * self.height, 2 * self.width]);
        net.hint(&picture.affine(0.5, 0.5).unwrap()).unwrap()
    }
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
    assert!(off < 2e-5, "{what} is off by {off}");
}

#[test]
fn residuals_and_what_the_u_net_makes_of_them_are_those_of_diffusers() {
    for case in golden() {
        let (net, unet, (x, t, given)) = (case.net(), case.unet(), case.inputs());
        net.config().fits(unet.config(), 2).unwrap();
        let residuals = net.forward(&x, &t, &given, &case.hint(&net)).unwrap().scaled(case.weight).unwrap();
        let first = |x: &Tensor| numbers(&x.permute((0, 3, 1, 2)).unwrap());
        assert_close(&first(&residuals.middle), &case.middle, "middle");
        assert_close(&first(&residuals.skips[0]), &case.first_skip, "first skip");
        assert_close(&first(residuals.skips.last().unwrap()), &case.last_skip, "last skip");
        let given = Conditioning { residuals: Some(residuals), ..given };
        assert_close(&numbers(&unet.forward(&x, &t, &given).unwrap()), &case.output, "prediction");
    }
}

#[test]
fn weights_and_several_nets_add_up() {
    let case = &golden()[0];
    let (net, (x, t, given)) = (case.net(), case.inputs());
    let hint = case.hint(&net);
    let whole = net.forward(&x, &t, &given, &hint).unwrap();
    let parts = whole.scaled(0.25).unwrap().plus(&whole.scaled(0.75).unwrap()).unwrap();
    assert_close(&numbers(&parts.middle), &numbers(&whole.middle), "middle");
    for (part, whole) in parts.skips.iter().zip(&whole.skips) {
        assert_close(&numbers(part), &numbers(whole), "skip");
    }
    // One picture for the whole batch is the same picture for each.
    let one = hint.narrow(0, 0, 1).unwrap();
    let both = one.repeat((2, 1, 1, 1)).unwrap();
    let answers = [one, both].map(|hint| net.forward(&x, &t, &given, &hint).unwrap());
    assert_eq!(numbers(&answers[0].middle), numbers(&answers[1].middle));
}

#[test]
fn nets_that_say_nothing_change_nothing_bit_for_bit() {
    for case in golden() {
        let (net, unet, (x, t, given)) = (case.net(), case.unet(), case.inputs());
        let nothing = net.forward(&x, &t, &given, &case.hint(&net)).unwrap().scaled(0.0).unwrap();
        let with = Conditioning { residuals: Some(nothing), ..given.clone() };
        assert_eq!(numbers(&unet.forward(&x, &t, &with).unwrap()), numbers(&unet.forward(&x, &t, &given).unwrap()));
    }
}

/// A later call that begins with what the deeper levels found begins with what nets added as well.
#[test]
fn what_nets_added_is_kept_with_what_deeper_levels_found() {
    for case in golden() {
        let (net, unet, (x, t, given)) = (case.net(), case.unet(), case.inputs());
        let residuals = net.forward(&x, &t, &given, &case.hint(&net)).unwrap();
        let with = Conditioning { residuals: Some(residuals), ..given.clone() };
        for depth in 1..=unet.config().cache_depth() {
            let (whole, deep) = unet.forward_keeping(&x, &t, &with, depth).unwrap();
            assert_ne!(numbers(&whole), numbers(&unet.forward(&x, &t, &given).unwrap()));
            assert_eq!(numbers(&unet.forward_reusing(&x, &t, &given, &deep).unwrap()), numbers(&whole));
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let case = &golden()[0];
    let (net, unet, (x, t, given)) = (case.net(), case.unet(), case.inputs());
    let hint = case.hint(&net);
    let short = net.forward(&x, &t, &given, &hint.narrow(1, 0, 4).unwrap()).unwrap_err().to_string();
    assert!(short.contains("the picture to follow became [2, 4, 6, 8], the latents are [2, 4, 5, 6]"), "{short}");
    let Residuals { mut skips, middle } = net.forward(&x, &t, &given, &hint).unwrap();
    skips.pop();
    let given = Conditioning { residuals: Some(Residuals { skips, middle }), ..given };
    let few = unet.forward(&x, &t, &given).unwrap_err().to_string();
    assert_eq!(few, "U-Net: 3 residuals for 4 skip connections");
}

/// A model, linked to from a place of its own in which nets can lie beside it.
struct Place {
    _tiny: Tiny,
    folder: TempDir,
}

/// The config of a net for [`Tiny::new`], which draws half as many latents as pixels.
fn config() -> Value {
    json!({ "_class_name": "ControlNetModel", "block_out_channels": [8, 16], "layers_per_block": 1,
        "norm_num_groups": 4, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "attention_head_dim": 2,
        "cross_attention_dim": 8, "conditioning_embedding_out_channels": [4, 6] })
}

fn tensors(config: &Value) -> HashMap<String, Tensor> {
    let formula = Formula::default();
    ControlNet::new(&serde_json::from_value(config.clone()).unwrap(), &formula.builder()).unwrap();
    formula.named().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect()
}

impl Place {
    fn new() -> Self {
        let (tiny, folder) = (Tiny::new(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(tiny.path(), folder.path().join("model")).unwrap();
        fs::create_dir(folder.path().join("controlnets")).unwrap();
        Self { _tiny: tiny, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("controlnets").join(name)
    }

    fn write_folder(&self, name: &str, config: &Value) {
        fs::create_dir(self.path(name)).unwrap();
        fs::write(self.path(&format!("{name}/config.json")), config.to_string()).unwrap();
        let file = self.path(&format!("{name}/diffusion_pytorch_model.safetensors"));
        candle_core::safetensors::save(&tensors(config), file).unwrap();
    }

    fn write_file(&self, name: &str, tensors: &HashMap<String, Tensor>) {
        candle_core::safetensors::save(tensors, self.path(&format!("{name}.safetensors"))).unwrap();
    }

    fn nets(&self) -> ControlNets {
        Pipeline::load(&self.folder.path().join("model"), &Device::Cpu).unwrap().facts().controlnets
    }

    /// What a net says to some input.
    fn answer(&self, name: &str) -> Vec<f32> {
        let net = self.nets().load(name, &Device::Cpu, DType::F32).unwrap().network;
        let (x, t) = (input("input.x", &[1, 4, 4, 6]), Tensor::new(&[40f32], &Device::Cpu).unwrap());
        let hint = net.hint(&input("input.picture", &[1, 3, 8, 12])).unwrap();
        let given = Conditioning::text(&input("input.context", &[1, 5, 8]));
        let Residuals { mut skips, middle } = net.forward(&x, &t, &given, &hint).unwrap();
        skips.push(middle);
        skips.iter().flat_map(numbers).collect()
    }
}

/// diffusers' names to those of the program that trained the first ControlNets: two levels of one residual block each.
fn original(name: &str) -> String {
    let table = [
        ("controlnet_cond_embedding.conv_in", "input_hint_block.0"),
        ("controlnet_cond_embedding.blocks.0", "input_hint_block.2"),
        ("controlnet_cond_embedding.blocks.1", "input_hint_block.4"),
        ("controlnet_cond_embedding.conv_out", "input_hint_block.14"),
        ("controlnet_mid_block", "middle_block_out.0"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("down_blocks.0.resnets.0", "input_blocks.1.0"),
        ("down_blocks.0.attentions.0", "input_blocks.1.1"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
        ("down_blocks.1.resnets.0", "input_blocks.3.0"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
        ("conv_in", "input_blocks.0.0"),
        (".norm1", ".in_layers.0"),
        (".conv1", ".in_layers.2"),
        (".time_emb_proj", ".emb_layers.1"),
        (".norm2", ".out_layers.0"),
        (".conv2", ".out_layers.3"),
        (".conv_shortcut", ".skip_connection"),
    ];
    if let Some(rest) = name.strip_prefix("controlnet_down_blocks.") {
        return format!("control_model.zero_convs.{}", rest.replacen('.', ".0.", 1));
    }
    // Transformer blocks have norms of their own.
    let inside = |from: &str| name.contains("transformer_blocks") && from.starts_with('.');
    let renamed = table.iter().filter(|(from, _)| !inside(from));
    format!("control_model.{}", renamed.fold(name.to_owned(), |name, (from, to)| name.replacen(from, to, 1)))
}

#[test]
fn a_folder_and_a_file_in_either_names_are_the_same_net() {
    let place = Place::new();
    place.write_folder("folder", &config());
    place.write_file("file", &tensors(&config()));
    let renamed = tensors(&config()).into_iter().map(|(name, tensor)| (original(&name), tensor));
    place.write_file("original-1.0", &renamed.collect());
    assert_eq!(place.nets().names(), ["file", "folder", "original-1.0"]);
    let answers = ["folder", "file", "original-1.0"].map(|name| place.answer(name));
    assert!(answers[0].iter().any(|value| value.abs() > 0.1));
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

#[test]
fn nets_for_other_models_are_refused_with_the_numbers() {
    let place = Place::new();
    let changed = |name: &str, value: Value| {
        let mut config = config();
        config[name] = value;
        config
    };
    place.write_folder("wide", &changed("cross_attention_dim", json!(12)));
    place.write_file("wide-file", &tensors(&changed("cross_attention_dim", json!(12))));
    place.write_folder("large", &changed("block_out_channels", json!([8, 32])));
    place.write_folder("coarse", &changed("conditioning_embedding_out_channels", json!([4, 4, 6])));
    place.write_file("deep", &tensors(&changed("layers_per_block", json!(2))));
    for (name, expected) in [
        ("wide", "its cross_attention_dim is 12, the model's 8"),
        ("wide-file", "its cross_attention_dim is 12, the model's 8"),
        ("large", "its block_out_channels is [8, 32], the model's [8, 16]"),
        ("coarse", "its reduction of the picture is 4, the model's 2"),
        ("deep", "its layers_per_block is 2, the model's 1"),
    ] {
        let error = place.nets().check("control", name).unwrap_err();
        assert_eq!((error.field.as_str(), error.code), ("control", "wrong_base"));
        assert!(error.message.contains(expected), "{}", error.message);
    }
}

#[test]
fn what_is_no_net_is_said_to_be_none() {
    let place = Place::new();
    place.write_file("lora", &HashMap::from([("lora_unet_x.weight".to_owned(), input("input.x", &[2, 2]))]));
    fs::write(place.path("pickle.safetensors"), b"\x80\x02}q\0.").unwrap();
    place.write_folder(
        "other",
        &json!({ "_class_name": "ControlNetModel", "block_out_channels": [8, 16],
        "layers_per_block": 1, "norm_num_groups": 4, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "attention_head_dim": 2, "cross_attention_dim": 8 }),
    );
    place.write_folder("broken", &config());
    fs::write(place.path("broken/config.json"), "{\"global_pool_conditions\": true}").unwrap();
    for (name, code, expected) in [
        ("none", "unknown_controlnet", "known are: broken, lora, other, pickle"),
        ("../model", "unknown_controlnet", "known are"),
        ("lora", "unusable_controlnet", "lora.safetensors: no ControlNet"),
        ("pickle", "unusable_controlnet", "a pickle file"),
        ("broken", "unusable_controlnet", "global_pool_conditions true is not supported"),
        ("other", "wrong_base", "its reduction of the picture is 8, the model's 2"),
    ] {
        let error = place.nets().check("control", name).unwrap_err();
        assert_eq!(error.code, code, "{name}: {}", error.message);
        assert!(error.message.contains(expected), "{}", error.message);
    }
    // Missing tensors are found where the net is loaded, and named.
    let mut tensors = tensors(&config());
    tensors.remove("controlnet_mid_block.bias").unwrap();
    place.write_file("less", &tensors);
    let error = place.nets().load("less", &Device::Cpu, DType::F32).unwrap_err().to_string();
    assert!(error.contains("less.safetensors: 1 tensor is missing: controlnet_mid_block.bias"), "{error}");
}
