//! Files that do not fit: each is refused with what is wrong with it.

use super::load;
use super::models::{GOLDEN, save};
use candle_core::{DType, Device, Tensor};
use limner::Error;
use limner::model::adapter::Applied;
use limner::model::checkpoint::Model;
use serde_json::json;
use std::fs;
use std::path::Path;

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

/// What the model says of a file, or why the file was taken.
fn refusal(model: &Model, path: &Path) -> String {
    let applied = Applied { name: "x".into(), path: path.to_owned(), text: 1.0, unet: 1.0 };
    match model.adapted(&[applied]) {
        Err(Error::Model { path: named, message }) => {
            assert!(named.starts_with(path), "{}", named.display());
            message
        }
        Err(other) => panic!("{other}"),
        Ok(_) => "taken".to_owned(),
    }
}

#[test]
fn an_adapter_of_another_base_lists_its_first_mismatches() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = GOLDEN.model();
    let model = load(tiny.path());
    let path = GOLDEN.xl_cases["xl_kohya"].write(folder.path(), "xl_kohya");
    let message = refusal(&model, &path);
    let start = "does not fit the model (10 mismatches): \
        lora_te2_text_model_encoder_layers_0_self_attn_q_proj.alpha: the model has no such layer, found []; ";
    assert!(message.starts_with(start), "{message}");
    assert!(message.ends_with("; and 5 more"), "{message}");
    assert_eq!(message.matches(": the model has no such layer").count(), 5);

    // The width of the text that another base has, and what the file says of itself.
    let tensors = [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", [4, 2048]),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight", [8, 4]),
    ];
    let tensors = tensors.map(|(key, shape)| (key, zeros(&shape)));
    let notes =
        [("ss_base_model_version", "sdxl_base_v1-0"), ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora")];
    save(&path, &tensors.each_ref().map(|(key, tensor)| (*key, tensor)), &notes);
    let expected = "does not fit the model (1 mismatches): \
        lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight: \
        expected [4, 12], found [4, 2048]; \
        it says it is for \"stable-diffusion-xl-v1-base/lora\", \"sdxl_base_v1-0\"";
    assert_eq!(refusal(&model, &path), expected);
}

/// Endings of keys, with shapes.
type Shapes<'a> = &'a [(&'a str, &'a [usize])];

#[test]
fn every_tensor_must_be_of_use() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = GOLDEN.model();
    let model = load(tiny.path());
    let layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
    let conv = "lora_unet_down_blocks_0_resnets_0_conv1";
    let cases: [(Shapes<'_>, &str); 12] = [
        (&[(".lora_down.weight", &[2, 8]), (".lora_up.weight", &[8, 2])], "taken"),
        (&[(".lora_down.weight", &[2, 8])], ".lora_down.weight: there is no Up beside it"),
        (&[(".lora_up.weight", &[8, 2])], ".lora_up.weight: there is no Down beside it"),
        (
            &[(".lora_down.weight", &[2, 8]), (".lora_up.weight", &[8, 3])],
            ".lora_up.weight: expected [8, 2], found [8, 3]",
        ),
        (&[(".lora_down.weight", &[2, 8, 3, 3]), (".lora_up.weight", &[8, 2])], "expected [2, 8], found [2, 8, 3, 3]"),
        (
            &[(".lora_down.weight", &[2, 8]), (".lora_up.weight", &[8, 2]), (".lora_mid.weight", &[2, 2, 3, 3])],
            ".lora_mid.weight: expected [2, 2], found [2, 2, 3, 3]",
        ),
        (
            &[(".lora_down.weight", &[2, 8]), (".lora_up.weight", &[8, 2]), (".hada_w1_b", &[2, 8])],
            ".hada_w1_b: it does nothing beside the layer's other tensors",
        ),
        (
            &[(".lora_down.weight", &[2, 8]), (".lora_up.weight", &[8, 2]), (".dora_scale", &[3])],
            ".dora_scale: expected 8 lengths, found [3]",
        ),
        (&[(".lokr_w1", &[3, 4]), (".lokr_w2", &[2, 2])], ".lokr_w1: 3 x 4 do not divide the layer's 8 x 8"),
        (&[(".diff_b", &[8])], ".diff_b: the model's layer has no bias"),
        (&[(".oft_blocks", &[2, 4, 4])], ".oft_blocks: not a kind of tensor that LoRA, LoHa or LoKr have"),
        (&[(".lora_down.weight", &[0, 8]), (".lora_up.weight", &[8, 0])], "the rank is 0"),
    ];
    for (parts, expected) in cases {
        let tensors: Vec<_> = parts.iter().map(|(part, shape)| (format!("{layer}{part}"), zeros(shape))).collect();
        let path = folder.path().join("x.safetensors");
        save(&path, &tensors.iter().map(|(key, tensor)| (key.as_str(), tensor)).collect::<Vec<_>>(), &[]);
        let found = refusal(&model, &path);
        assert!(found.ends_with(expected), "{found:?} does not end with {expected:?}");
    }
    // By hand: what the crate safetensors makes of nothing, it cannot read.
    let path = folder.path().join("empty.safetensors");
    std::fs::write(&path, [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
    assert!(refusal(&model, &path).ends_with("it has no tensors"));
    let infinite = Tensor::new(f32::INFINITY, &Device::Cpu).unwrap();
    let (down, up) = (zeros(&[2, 8, 3, 3]), zeros(&[8, 2, 1, 1]));
    let [d, u, a] = ["lora_down.weight", "lora_up.weight", "alpha"].map(|part| format!("{conv}.{part}"));
    let path = folder.path().join("infinite.safetensors");
    save(&path, &[(&d, &down), (&u, &up), (&a, &infinite)], &[]);
    assert!(refusal(&model, &path).ends_with(".alpha: it is inf"));
    // A whole number is a number, too.
    save(&path, &[(&d, &down), (&u, &up), (&a, &Tensor::new(4i64, &Device::Cpu).unwrap())], &[]);
    assert_eq!(refusal(&model, &path), "taken");
    // The same layer by two of its names.
    let other = "unet.down_blocks.0.resnets.0.conv1.lora_A.weight";
    save(&path, &[(&d, &down), (&u, &up), (other, &down)], &[]);
    assert!(refusal(&model, &path).contains(&format!("{d}: {other} is there for the same")));
}

#[test]
fn what_is_no_adapter_or_of_another_kind_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = GOLDEN.model();
    let model = load(tiny.path());
    let path = GOLDEN.cases["peft"].write(folder.path(), "peft");
    assert_eq!(refusal(&model, &path), "taken");
    let config = |value: serde_json::Value| fs::write(path.join("adapter_config.json"), value.to_string()).unwrap();
    config(json!({ "peft_type": "LOHA", "lora_alpha": 1 }));
    let expected = "its PEFT configuration: peft_type \"LOHA\" is not supported, only LORA";
    assert_eq!(refusal(&model, &path), expected);
    config(json!({ "peft_type": "LORA", "lora_alpha": 1, "alpha_pattern": { "down.*": 2 } }));
    assert!(refusal(&model, &path).contains("alpha_pattern \"down.*\" is not supported"));
    fs::write(path.join("adapter_model.safetensors"), b"PK\x03\x04 and so on").unwrap();
    assert!(refusal(&model, &path).contains("pickle"));
    fs::remove_file(path.join("adapter_model.safetensors")).unwrap();
    assert_eq!(refusal(&model, &path), "the file is missing");
}
