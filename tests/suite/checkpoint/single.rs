//! Models in one file: the same networks as the folder they were made of, and what is said of other files.

use super::tiny::Tiny;
use super::{TEXT, UNET, VAE, latents, numbers, with_header};
use candle_core::{DType, Device, Tensor};
use limner::diffusion::denoiser::Prediction;
use limner::model::checkpoint::Model;
use limner::model::unet::{Added, Conditioning};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const TEXT_2: &str = "text_encoder_2/model.safetensors";

/// What follows version 2.
const XL: u8 = 3;

pub(super) type Tensors = HashMap<String, Tensor>;

/// Names of diffusers and of the original program. Longer ones first where one begins another.
const RESIDUAL: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];
const UNET_ENDS: [(&str, &str); 7] = [
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];
const VAE_PARTS: [(&str, &str); 18] = [
    ("conv_norm_out", "norm_out"),
    ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
    ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
    ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
    ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
    ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("down_blocks.0.resnets", "down.0.block"),
    ("down_blocks.1.resnets", "down.1.block"),
    ("down_blocks.0.downsamplers.0", "down.0.downsample"),
    ("up_blocks.0.resnets", "up.1.block"),
    ("up_blocks.1.resnets", "up.0.block"),
    ("up_blocks.0.upsamplers.0", "up.1.upsample"),
    ("conv_shortcut", "nin_shortcut"),
    ("quant_conv", "quant_conv"),
    ("conv_in", "conv_in"),
    ("conv_out", "conv_out"),
];

/// A U-Net of two levels, two residual blocks each, with transformers at one of them: the first, except in SDXL.
fn unet_name(name: &str, xl: bool) -> String {
    let mut table: Vec<(String, String)> = UNET_ENDS.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec();
    for (level, first) in [(0, 1), (1, 4)] {
        for layer in 0..2 {
            let block = first + layer;
            table.push((format!("down_blocks.{level}.resnets.{layer}"), format!("input_blocks.{block}.0")));
            table.push((format!("down_blocks.{level}.attentions.{layer}"), format!("input_blocks.{block}.1")));
        }
    }
    table.push(("down_blocks.0.downsamplers.0.conv".into(), "input_blocks.3.0.op".into()));
    for (level, first) in [(0, 0), (1, 3)] {
        for layer in 0..3 {
            let block = first + layer;
            table.push((format!("up_blocks.{level}.resnets.{layer}"), format!("output_blocks.{block}.0")));
            table.push((format!("up_blocks.{level}.attentions.{layer}"), format!("output_blocks.{block}.1")));
        }
    }
    // Where there is no transformer before it, it comes second.
    let place = if xl { 2 } else { 1 };
    table.push(("up_blocks.0.upsamplers.0.conv".into(), format!("output_blocks.2.{place}.conv")));
    table.extend([
        ("mid_block.resnets.0".into(), "middle_block.0".into()),
        ("mid_block.attentions.0".into(), "middle_block.1".into()),
        ("mid_block.resnets.1".into(), "middle_block.2".into()),
    ]);
    let (from, to) = table.iter().find(|(from, _)| name.starts_with(&format!("{from}."))).unwrap();
    let mut rest = name[from.len()..].to_owned();
    if from.contains("resnets") {
        let (from, to) = RESIDUAL.iter().find(|(from, _)| rest.starts_with(&format!(".{from}."))).unwrap();
        rest = format!(".{to}{}", &rest[1 + from.len()..]);
    }
    format!("{to}{rest}")
}

fn vae_name(name: &str) -> String {
    VAE_PARTS.iter().fold(name.to_owned(), |name, (from, to)| {
        if name.contains(&format!("{from}.")) && !name.contains(&format!("_{from}.")) {
            name.replacen(from, to, 1)
        } else {
            name
        }
    })
}

/// Transformers' tensors as OpenCLIP stores them.
fn open_clip(mut text: Tensors) -> Tensors {
    let mut stored = Tensors::new();
    for (layer, kind) in [(0, "weight"), (0, "bias"), (1, "weight"), (1, "bias")] {
        let part =
            |letter: char| text.get(&format!("text_model.encoder.layers.{layer}.self_attn.{letter}_proj.{kind}"));
        if let (Some(q), Some(k), Some(v)) = (part('q'), part('k'), part('v')) {
            let joined = Tensor::cat(&[q, k, v], 0).unwrap();
            stored.insert(format!("transformer.resblocks.{layer}.attn.in_proj_{kind}"), joined);
        }
    }
    if let Some(projection) = text.remove("text_projection.weight") {
        stored.insert("text_projection".into(), projection.t().unwrap().contiguous().unwrap());
    }
    text.retain(|name, _| !name.contains("q_proj") && !name.contains("k_proj") && !name.contains("v_proj"));
    let table = [
        ("text_model.embeddings.token_embedding", "token_embedding"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.final_layer_norm", "ln_final"),
        ("text_model.encoder.layers", "transformer.resblocks"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("self_attn.out_proj", "attn.out_proj"),
    ];
    for (name, tensor) in text {
        stored.insert(table.iter().fold(name, |name, (from, to)| name.replace(from, to)), tensor);
    }
    stored.insert("logit_scale".into(), Tensor::new(4.6f32, &Device::Cpu).unwrap());
    stored
}

/// OpenCLIP's tensors with one more layer than version 2 uses, and a projection that it does not use either.
fn with_last_layer(mut stored: Tensors) -> Tensors {
    let last: Vec<_> = stored.iter().filter(|(name, _)| name.contains("resblocks.0")).collect();
    let last: Vec<_> =
        last.iter().map(|(n, t)| (n.replace("resblocks.0", "resblocks.1"), t.ones_like().unwrap())).collect();
    stored.extend(last);
    stored.insert("text_projection".into(), Tensor::zeros((64, 64), DType::F32, &Device::Cpu).unwrap());
    stored
}

fn prefixed(prefix: &str, tensors: Tensors, name: impl Fn(&str) -> String) -> impl Iterator<Item = (String, Tensor)> {
    tensors.into_iter().map(move |(old, tensor)| (format!("{prefix}{}", name(&old)), tensor))
}

/// The tensors of a folder as one file has them, and some that nobody asks for.
pub(super) fn joined(tiny: &Tiny, version: u8) -> Tensors {
    let xl = version == XL;
    let text = tiny.tensors(TEXT);
    let text: Vec<(&str, Tensors)> = match version {
        1 => vec![("cond_stage_model.transformer.", text)],
        2 => vec![("cond_stage_model.model.", with_last_layer(open_clip(text)))],
        _ => vec![
            ("conditioner.embedders.0.transformer.", text),
            ("conditioner.embedders.1.model.", open_clip(tiny.tensors(TEXT_2))),
        ],
    };
    let averaged = tiny.tensors(UNET).into_iter().map(|(name, tensor)| {
        let squeezed = unet_name(&name, xl).replace('.', "");
        (format!("model_ema.diffusion_model{squeezed}"), tensor.zeros_like().unwrap())
    });
    let betas = ("betas".to_owned(), Tensor::zeros(1000, DType::F64, &Device::Cpu).unwrap());
    prefixed("model.diffusion_model.", tiny.tensors(UNET), move |name| unet_name(name, xl))
        .chain(prefixed("first_stage_model.", tiny.tensors(VAE), vae_name))
        .chain(text.into_iter().flat_map(|(prefix, text)| prefixed(prefix, text, str::to_owned)))
        .chain(averaged)
        .chain([betas])
        .collect()
}

fn load(path: &Path) -> limner::Result<Model> {
    Model::load(path, &Device::Cpu, DType::F32)
}

/// What loading says, without the folder's path.
fn refusal(tiny: &Tiny, name: &str) -> String {
    let error = load(&tiny.file(name)).err().unwrap_or_else(|| panic!("{name} loaded")).to_string();
    error.replace(&format!("{}/", tiny.path().display()), "")
}

/// Text states, one call of the U-Net, a decoded and an encoded picture.
fn outputs(model: &Model) -> Vec<Vec<f32>> {
    let said: Vec<_> =
        model.text.iter().map(|text| text.read(&[49406, 320, 5, 77, 49407, 49407], 4, None, None).unwrap()).collect();
    let states = Tensor::cat(&said.iter().map(|said| &said.states).collect::<Vec<_>>(), 2).unwrap();
    let sizes = Tensor::new(&[[64f32, 48.0, 0.0, 0.0, 64.0, 48.0]], &Device::Cpu).unwrap();
    let pooled = said.into_iter().last().and_then(|said| said.pooled);
    let given = Conditioning { added: pooled.map(|pooled| Added { pooled, sizes }), ..Conditioning::text(&states) };
    let time = Tensor::new(&[411.5f32], &Device::Cpu).unwrap();
    let prediction = model.unet.forward(&latents(), &time, &given).unwrap();
    let picture = model.codec.decode(&latents()).unwrap();
    let again = model.codec.encode(&picture).unwrap();
    [states, prediction, picture, again].iter().map(numbers).collect()
}

#[test]
fn a_single_file_draws_bit_for_bit_what_its_folder_draws() {
    for version in [1, 2, XL] {
        let tiny = if version == XL { Tiny::xl() } else { Tiny::stable_diffusion(version) };
        tiny.save("one.safetensors", &joined(&tiny, version));
        let (folder, one) = (load(tiny.path()).unwrap(), load(&tiny.file("one.safetensors")).unwrap());
        assert_eq!(outputs(&one), outputs(&folder), "version {version}");
        assert_eq!((one.name.as_str(), one.prediction), ("one", Prediction::Epsilon));
        assert_eq!(one.schedule.sigma_max(), folder.schedule.sigma_max());
        assert_eq!(one.text[0].tokenizer.vocabulary_size(), 49408);
        let pad = if version == 1 { 49407 } else { 0 };
        assert_eq!(one.text.last().unwrap().tokenizer.framed(&[320])[..4], [49406, 320, 49407, pad]);
    }
}

#[test]
fn the_text_encoders_names_may_lack_their_prefix() {
    let tiny = Tiny::stable_diffusion(1);
    let tensors = joined(&tiny, 1).into_iter().map(|(name, tensor)| (name.replace("text_model.", ""), tensor));
    tiny.save("bare.safetensors", &tensors.collect());
    assert_eq!(outputs(&load(&tiny.file("bare.safetensors")).unwrap()), outputs(&load(tiny.path()).unwrap()));
}

/// As sha256sum and other programs name it.
#[test]
fn the_hash_of_a_single_file_is_its_own() {
    use sha2::{Digest, Sha256};
    let tiny = Tiny::stable_diffusion(1);
    tiny.save("one.safetensors", &joined(&tiny, 1));
    let digest = Sha256::digest(fs::read(tiny.file("one.safetensors")).unwrap());
    let digits: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(load(&tiny.file("one.safetensors")).unwrap().hash(), digits);
}

fn with_note(tiny: &Tiny, tensors: &Tensors, key: &str, value: &str) -> PathBuf {
    let notes = HashMap::from([(key.to_owned(), value.to_owned())]);
    let path = tiny.file("noted.safetensors");
    safetensors::serialize_to_file(tensors, Some(notes), &path).unwrap();
    path
}

#[test]
fn what_the_network_predicts_is_said_by_the_file() {
    let tiny = Tiny::stable_diffusion(2);
    let mut tensors = joined(&tiny, 2);
    for (value, expected) in [("v", Prediction::Velocity), ("epsilon", Prediction::Epsilon)] {
        let path = with_note(&tiny, &tensors, "modelspec.prediction_type", value);
        assert_eq!(load(&path).unwrap().prediction, expected);
    }
    for mark in ["v_pred", "ztsnr"] {
        tensors.insert(mark.into(), Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap());
    }
    tiny.save("marked.safetensors", &tensors);
    let marked = load(&tiny.file("marked.safetensors")).unwrap();
    assert_eq!(marked.prediction, Prediction::Velocity);
    assert!((marked.schedule.sigma_max() - 4096.0).abs() < 1.0);
}

#[test]
fn an_autoencoder_beside_the_file_is_used_by_either_kind_of_names() {
    let tiny = Tiny::stable_diffusion(1);
    let whole = joined(&tiny, 1);
    let expected = outputs(&load(tiny.path()).unwrap());
    let without: Tensors =
        whole.iter().filter(|(n, _)| !n.starts_with("first_stage")).map(|(n, t)| (n.clone(), t.clone())).collect();
    tiny.save("part.safetensors", &without);
    let message = "part.safetensors: the file has no autoencoder; put one beside it, called part.vae.safetensors";
    assert_eq!(refusal(&tiny, "part.safetensors"), message);

    tiny.save("part.vae.safetensors", &prefixed("", tiny.tensors(VAE), vae_name).collect());
    let original = load(&tiny.file("part.safetensors")).unwrap();
    assert_eq!(outputs(&original), expected);
    fs::copy(tiny.file(VAE), tiny.file("part.vae.safetensors")).unwrap();
    let diffusers = load(&tiny.file("part.safetensors")).unwrap();
    assert_eq!(outputs(&diffusers), expected);
    assert_ne!(diffusers.hash(), original.hash());

    // It comes before the one in the file.
    tiny.save("part.safetensors", &whole);
    let zeros = tiny.tensors(VAE).into_iter().map(|(name, tensor)| (name, tensor.zeros_like().unwrap()));
    tiny.save("part.vae.safetensors", &zeros.collect());
    assert!(outputs(&load(&tiny.file("part.safetensors")).unwrap())[2].iter().all(|&pixel| pixel == 0.0));
    tiny.save("part.vae.safetensors", &tiny.tensors(TEXT));
    let message = "part.vae.safetensors: no autoencoder: it has neither encoder nor decoder";
    assert_eq!(refusal(&tiny, "part.safetensors"), message);
}

#[test]
fn other_files_are_called_what_they_are() {
    let tiny = Tiny::stable_diffusion(1);
    let named = |names: &[&str]| -> Tensors {
        names
            .iter()
            .map(|name| ((*name).to_owned(), Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap()))
            .collect()
    };
    let unet = "model.diffusion_model.input_blocks.0.0.weight";
    for (names, expected) in [
        (&["lora_unet_down_blocks_0.alpha"][..], "a LoRA, not a whole model"),
        (&["unet.down_blocks.0.to_q.lora.up.weight"], "a LoRA, not a whole model"),
        (&["control_model.input_blocks.0.0.weight"], "a ControlNet, not a whole model"),
        (&["emb_params"], "a textual inversion, not a whole model"),
        (&["decoder.conv_in.weight"], "an autoencoder alone, not a whole model"),
        (&["model.diffusion_model.joint_blocks.0.x"], "a model of the Stable Diffusion 3 family, which"),
        (&["double_blocks.0.img_attn.norm"], "a model of the Flux family, which this program does not run"),
        (&["something"], "its tensors are not those of a Stable Diffusion model"),
        (&[], "its tensors are not those of a Stable Diffusion model"),
        (&[unet], "the file has no text encoder; only whole checkpoints can be used"),
    ] {
        tiny.save("other.safetensors", &named(names));
        let message = refusal(&tiny, "other.safetensors");
        assert!(message.starts_with(&format!("other.safetensors: {expected}")), "{names:?}: {message}");
    }
    tiny.write("model.ckpt", b"PK\x03\x04 and so on");
    assert!(refusal(&tiny, "model.ckpt").starts_with("model.ckpt: a pickle file can run code when it is opened"));
}

#[test]
fn what_is_wrong_with_a_tensor_is_said_by_its_name_in_the_file() {
    let tiny = Tiny::stable_diffusion(2);
    let good = joined(&tiny, 2);
    let damaged = |name: &str, tensor: Option<Tensor>| {
        let mut tensors = good.clone();
        let old = tensors.remove(name);
        assert!(old.is_some(), "{name}");
        tensors.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
        tiny.save("bad.safetensors", &tensors);
        refusal(&tiny, "bad.safetensors")
    };
    let zeros = |shape: &[usize]| Some(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
    let joint = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight";
    for (name, tensor, expected) in [
        (
            "model.diffusion_model.out.0.bias",
            zeros(&[7]),
            "bad.safetensors: tensor model.diffusion_model.out.0.bias: expected [64], found [7]",
        ),
        (joint, zeros(&[191, 64]), "in_proj_weight: expected [64, 64], found [63, 64]"),
        (joint, zeros(&[]), "in_proj_weight: expected [64, 64], found []"),
        ("cond_stage_model.model.ln_final.bias", None, "1 tensor is missing: text_model.final_layer_norm.bias"),
        ("first_stage_model.decoder.conv_in.weight", None, "the file has no autoencoder"),
        ("first_stage_model.encoder.conv_in.weight", None, "encoder.conv_in.weight in diffusers is missing"),
        ("model.diffusion_model.input_blocks.0.0.weight", zeros(&[64]), "has the shape [64]"),
        ("model.diffusion_model.input_blocks.0.0.weight", zeros(&[64, 6, 3, 3]), "6 input and 4 output channels"),
        ("cond_stage_model.model.token_embedding.weight", zeros(&[100, 64]), "ids up to 49407, but the text encoder's"),
        ("cond_stage_model.model.positional_embedding", zeros(&[2, 64]), "a text length of 2 leaves no room"),
    ] {
        let message = damaged(name, tensor);
        assert!(message.contains(expected), "{name}: {message}");
    }
}

/// Whatever a file's header claims, it is refused and nothing panics.
#[test]
fn headers_of_single_files_may_claim_anything() {
    let tiny = Tiny::stable_diffusion(1);
    let names = [
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.99999999999999999999.0.op.weight",
        "model.diffusion_model.input_blocks.0.0.op.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "first_stage_model.decoder.up.18446744073709551615.block.0.conv1.weight",
        "first_stage_model.decoder.conv_in.weight",
    ];
    for shape in ["[]", "[0]", "[0,0,0,0]", "[0,9223372036854775807]"] {
        let tensor = |name: &&str| format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}"#);
        let header = format!("{{{}}}", names.iter().map(tensor).collect::<Vec<_>>().join(","));
        tiny.write("odd.safetensors", &with_header(&header, 0));
        assert!(refusal(&tiny, "odd.safetensors").starts_with("odd.safetensors: "));
    }
}

/// With a dimension of 0 the others may be as large as they like; read from the other side, their product overflowed.
#[test]
fn a_projection_without_numbers_may_have_any_other_side() {
    let tiny = Tiny::stable_diffusion(2);
    let mut tensors = joined(&tiny, 2);
    tensors.remove("cond_stage_model.model.text_projection");
    tiny.save("whole.safetensors", &tensors);
    let bytes = fs::read(tiny.file("whole.safetensors")).unwrap();
    let (start, end) = (8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize, bytes.len());
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let (size, large) = (end - start, 1u64 << 62);
    header["cond_stage_model.model.text_projection"] =
        serde_json::json!({ "dtype": "F32", "shape": [0, large, 8], "data_offsets": [size, size] });
    let head = header.to_string();
    let bytes = [&(head.len() as u64).to_le_bytes(), head.as_bytes(), &bytes[start..]].concat();
    tiny.write("odd.safetensors", &bytes);
    let read = |name: &str| limner::model::checkpoint::Opened::read(&tiny.file(name)).unwrap();
    let (opened, precision) = (read("odd.safetensors"), limner::model::checkpoint::Precision::on(&Device::Cpu, None));
    assert_eq!(opened.bytes(precision), read("whole.safetensors").bytes(precision));
    opened.load(&Device::Cpu, precision).unwrap();
}
