//! No configuration makes the loader panic, or ask for memory that the weights on disk do not have.

use super::tiny::Tiny;
use candle_core::{DType, Device};
use limner::Error;
use limner::model::checkpoint::Model;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use std::process::Command;

const TEXT: (&str, &[&str]) = (
    "text_encoder/config.json",
    &[
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "hidden_act",
        "layer_norm_eps",
        "projection_dim",
        "eos_token_id",
    ],
);
const UNET: (&str, &[&str]) = (
    "unet/config.json",
    &[
        "sample_size",
        "in_channels",
        "out_channels",
        "flip_sin_to_cos",
        "freq_shift",
        "down_block_types",
        "up_block_types",
        "block_out_channels",
        "layers_per_block",
        "downsample_padding",
        "norm_num_groups",
        "norm_eps",
        "cross_attention_dim",
        "addition_embed_type",
        "addition_embed_type_num_heads",
        "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
        "attention_head_dim",
        "transformer_layers_per_block",
        "use_linear_projection",
        "num_attention_heads",
        "encoder_hid_dim",
    ],
);
const VAE: (&str, &[&str]) = (
    "vae/config.json",
    &[
        "_class_name",
        "in_channels",
        "out_channels",
        "down_block_types",
        "up_block_types",
        "block_out_channels",
        "layers_per_block",
        "act_fn",
        "latent_channels",
        "norm_num_groups",
        "scaling_factor",
        "shift_factor",
        "use_quant_conv",
        "mid_block_add_attention",
        "sample_size",
    ],
);
const SCHEDULER: (&str, &[&str]) = (
    "scheduler/scheduler_config.json",
    &[
        "beta_start",
        "beta_end",
        "beta_schedule",
        "num_train_timesteps",
        "prediction_type",
        "rescale_betas_zero_snr",
        "trained_betas",
        "timestep_spacing",
    ],
);
const WORDS: [&str; 12] = [
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "UpBlock2D",
    "CrossAttnUpBlock2D",
    "DownEncoderBlock2D",
    "PatchAutoencoder",
    "AutoencoderTiny",
    "text",
    "text_time",
    "gelu",
    "squaredcos_cap_v2",
    "",
];

/// Commonly a power of two, which passes most checks.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => (0..24u32).prop_map(|bits| json!(1u64 << bits)),
        3 => (0..70u64).prop_map(Value::from),
        1 => (0..64u32).prop_map(|bits| json!(1u64 << bits)),
        1 => (0..64u32).prop_map(|bits| json!((1u64 << bits) - 1)),
        1 => any::<i64>().prop_map(Value::from),
        1 => select(vec![-1.0, 0.5, 1e-300, 1e300, 16.0]).prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let word = || select(WORDS.to_vec()).prop_map(Value::from);
    let sizes = (0..24u32, 0..24u32).prop_map(|(a, b)| json!([1u64 << a, 1u64 << b]));
    let list = prop::collection::vec(prop_oneof![3 => number(), 1 => word()], 0..6).prop_map(Value::from);
    let rest = prop_oneof![word(), any::<bool>().prop_map(Value::from), Just(Value::Null)];
    prop_oneof![6 => number(), 5 => sizes, 3 => list, 2 => rest]
}

/// One of the files, with new values for one or two of its fields.
fn change() -> impl Strategy<Value = (&'static str, Value)> {
    let object = |fields: Vec<(&'static str, Value)>| {
        Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
    };
    select(vec![TEXT, UNET, VAE, SCHEDULER]).prop_flat_map(move |(file, fields)| {
        let fields = prop::collection::vec((select(fields), value()), 1..3);
        fields.prop_map(move |fields| (file, object(fields)))
    })
}

#[test]
#[ignore = "run in a process of its own by the test below"]
fn any_configuration_loads_or_is_refused() {
    // Of a missing tensor nothing but the configuration says how large it would be.
    let whole = Tiny::new();
    let hollow = [TEXT.0, UNET.0, VAE.0].map(|file| (file, Tiny::hollow(file)));
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((file, change) in change(), whole_weights in any::<bool>())| {
        let hollow = hollow.iter().find(|(part, _)| !whole_weights && *part == file);
        let tiny = hollow.map_or(&whole, |(_, tiny)| tiny);
        // The last line tells which one it was, should memory run out.
        println!("{file} {change} {whole_weights}");
        let before = std::fs::read(tiny.file(file)).unwrap();
        tiny.change(file, &change);
        let loaded = Model::load(tiny.path(), &Device::Cpu, DType::F32);
        tiny.write(file, &before);
        match loaded {
            Ok(_) => {}
            Err(Error::Model { path, message }) => prop_assert!(path.starts_with(tiny.path()) && !message.is_empty()),
            Err(error) => prop_assert!(false, "not an error of the model: {error}"),
        }
    });
}

#[cfg(unix)]
#[test]
fn no_configuration_costs_a_gigabyte_or_panics() {
    let name = "checkpoint::any_configuration::any_configuration_loads_or_is_refused";
    let command = format!("ulimit -v 1048576; exec \"$0\" --ignored --exact --nocapture {name}");
    let output = Command::new("sh").arg("-c").arg(command).arg(std::env::current_exe().unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().next_back().unwrap_or_default();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{last}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
