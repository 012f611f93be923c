//! The text encoder and the U-Net: laws they keep, and the numbers of transformers and diffusers.

pub(crate) mod formula;
mod gradients;

use candle_core::{DType, Device, Tensor};
use formula::{Formula, input};
use limner::model::clip::{ClipTextConfig, ClipTextModel};
use limner::model::unet::{Added, AdditionEmbedType, Conditioning, UNet2DConditionModel, UNetConfig};
use serde::Deserialize;
use serde_json::{Value, json};

/// Written by tests/fixtures/networks/make.py.
const GOLDEN: &str = include_str!("../fixtures/networks/golden.json");

#[derive(Deserialize)]
struct Golden {
    unet: Vec<UNetCase>,
    clip: Vec<ClipCase>,
    pooled: Vec<PooledCase>,
}

#[derive(Deserialize)]
struct UNetCase {
    config: Value,
    height: usize,
    width: usize,
    times: Vec<f32>,
    output: Vec<f32>,
}

#[derive(Deserialize)]
struct ClipCase {
    config: Value,
    ids: Vec<Vec<u32>>,
    output: Vec<f32>,
}

#[derive(Deserialize)]
struct PooledCase {
    config: Value,
    ids: Vec<Vec<u32>>,
    hidden: Vec<f32>,
    pooled: Vec<f32>,
}

impl UNetCase {
    fn config(&self) -> UNetConfig {
        serde_json::from_value(self.config.clone()).unwrap()
    }

    /// What make.py tells a U-Net of this kind.
    fn conditioning(&self, context: &Tensor) -> Conditioning {
        let (config, rows) = (self.config(), self.times.len());
        let sizes = |i: usize| vec![1024.0, 768.0, 8.0 * i as f32, 16.0, 512.0, 640.0];
        let added = (config.addition_embed_type == Some(AdditionEmbedType::TextTime)).then(|| Added {
            pooled: input("input.pooled", &[rows, config.added_channels().unwrap().0]),
            sizes: Tensor::new((0..rows).map(sizes).collect::<Vec<_>>(), &Device::Cpu).unwrap(),
        });
        let guidance = config.time_cond_proj_dim.map(|_| 8.0);
        Conditioning { added, guidance, ..Conditioning::text(context) }
    }
}

fn golden() -> Golden {
    serde_json::from_str(GOLDEN).unwrap()
}

fn unet(config: &Value) -> UNet2DConditionModel {
    let config: UNetConfig = serde_json::from_value(config.clone()).unwrap();
    UNet2DConditionModel::new(&config, &Formula::default().builder()).unwrap()
}

/// The first golden U-Net with its inputs: noisy latents, times and text states of two samples.
fn two_samples() -> (UNet2DConditionModel, [Tensor; 3]) {
    let case = &golden().unet[0];
    let x = input("input.x", &[2, 4, case.height, case.width]);
    let t = Tensor::new(case.times.as_slice(), &Device::Cpu).unwrap();
    (unet(&case.config), [x, t, input("input.context", &[2, 5, 6])])
}

/// All golden U-Nets with noisy latents, times, and what else they are told.
pub(crate) fn golden_unets() -> Vec<(UNet2DConditionModel, [Tensor; 2], Conditioning)> {
    let inputs = |case: UNetCase| {
        let batch = case.times.len();
        let x = input("input.x", &[batch, case.config().in_channels, case.height, case.width]);
        let t = Tensor::new(case.times.as_slice(), &Device::Cpu).unwrap();
        (unet(&case.config), [x, t], case.conditioning(&input("input.context", &[batch, 5, 6])))
    };
    golden().unet.into_iter().map(inputs).collect()
}

fn clip(config: &Value, formula: &Formula) -> ClipTextModel {
    let config: ClipTextConfig = serde_json::from_value(config.clone()).unwrap();
    ClipTextModel::new(&config, &formula.builder()).unwrap()
}

pub(crate) fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, relative to the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn the_unet_gives_the_numbers_of_diffusers() {
    for case in golden().unet {
        let channels = case.config().in_channels;
        let batch = case.times.len();
        let x = input("input.x", &[batch, channels, case.height, case.width]);
        let t = Tensor::new(case.times.as_slice(), &Device::Cpu).unwrap();
        let given = case.conditioning(&input("input.context", &[batch, 5, 6]));
        let y = unet(&case.config).forward(&x, &t, &given).unwrap();
        assert_eq!(y.dims(), [batch, 4, case.height, case.width]);
        let off = difference(&numbers(&y), &case.output);
        assert!(off < 2e-5, "off by {off} in {}", case.config);
    }
}

#[test]
fn the_last_layer_but_one_and_the_pooled_text_are_those_of_transformers() {
    for case in golden().pooled {
        let model = clip(&case.config, &Formula::default());
        let ids = Tensor::new(case.ids, &Device::Cpu).unwrap();
        let hidden = model.hidden(&ids, 1).unwrap();
        assert!(difference(&numbers(&hidden), &case.hidden) < 1e-5);
        let pooled = model.pooled(&hidden, 1, 4).unwrap();
        assert_eq!(pooled.dims(), [2, 10]);
        assert!(difference(&numbers(&pooled), &case.pooled) < 1e-5);
        assert_eq!(
            numbers(&model.normed(&model.hidden(&ids, 0).unwrap()).unwrap()),
            numbers(&model.forward(&ids).unwrap())
        );
    }
}

#[test]
fn the_text_encoder_gives_the_numbers_of_transformers() {
    for case in golden().clip {
        let ids = Tensor::new(case.ids, &Device::Cpu).unwrap();
        // Transformers up to 4 writes the prefix, transformers 5 does not.
        for prefix in ["", "text_model."] {
            let states = clip(&case.config, &Formula::with_prefix(prefix)).forward(&ids).unwrap();
            assert_eq!(states.dims(), [2, 5, 12]);
            let off = difference(&numbers(&states), &case.output);
            assert!(off < 1e-5, "off by {off} in {}, prefix {prefix:?}", case.config);
        }
    }
}

#[test]
fn samples_do_not_see_their_batch_mates_and_each_has_its_time() {
    let (unet, [x, t, context]) = two_samples();
    let both = unet.forward(&x, &t, &Conditioning::text(&context)).unwrap();
    for i in 0..2 {
        let [x, t, context] = [&x, &t, &context].map(|tensor| tensor.narrow(0, i, 1).unwrap());
        let alone = unet.forward(&x, &t, &Conditioning::text(&context)).unwrap();
        // Not bit for bit: a matrix product's order of summation depends on its shape.
        let off = difference(&numbers(&alone), &numbers(&both.narrow(0, i, 1).unwrap()));
        assert!(off < 5e-6, "sample {i} is off by {off}");
    }
}

#[test]
fn fractional_times_are_not_rounded() {
    let (unet, [x, _, context]) = two_samples();
    let at = |time: f32| {
        numbers(
            &unet
                .forward(&x, &Tensor::new(&[time, time], &Device::Cpu).unwrap(), &Conditioning::text(&context))
                .unwrap(),
        )
    };
    let (low, middle, high) = (at(20.0), at(20.5), at(21.0));
    assert!(difference(&middle, &low) > 1e-4 && difference(&middle, &high) > 1e-4);
}

#[test]
fn later_tokens_do_not_change_earlier_states() {
    let model = clip(&golden().clip[0].config, &Formula::default());
    let states = |ids: [u32; 4]| model.forward(&Tensor::new(&[ids], &Device::Cpu).unwrap()).unwrap();
    let (a, b) = (states([48, 3, 5, 49]), states([48, 3, 9, 7]));
    let early = |x: &Tensor| numbers(&x.narrow(1, 0, 2).unwrap());
    let late = |x: &Tensor| numbers(&x.narrow(1, 2, 1).unwrap());
    assert_eq!(early(&a), early(&b));
    assert!(difference(&late(&a), &late(&b)) > 0.1);
}

/// A gradient that is missing leaves its weights where they are without an error: candle's fused operations do that.
#[test]
fn every_parameter_of_both_networks_gets_a_gradient() {
    for case in golden().unet {
        let (text, net) = (Formula::default(), Formula::default());
        let config = case.config();
        let unet = UNet2DConditionModel::new(&config, &net.builder()).unwrap();
        let clip_config = json!({ "hidden_size": 6, "num_attention_heads": 2, "intermediate_size": 10, "vocab_size": 12,
            "num_hidden_layers": 2, "max_position_embeddings": 4 });
        let ids = Tensor::new(&[[10u32, 1, 2, 11], [10, 3, 11, 11]], &Device::Cpu).unwrap();
        let context = clip(&clip_config, &text).forward(&ids).unwrap();
        // Large enough for several positions at the coarsest level: attention to a single one is constant.
        let x = input("input.x", &[2, config.in_channels, 8, 12]);
        let times = Tensor::new(&[3f32, 700.5], &Device::Cpu).unwrap();
        let given = UNetCase { times: vec![3.0, 700.5], ..case }.conditioning(&context);
        let y = unet.forward(&x, &times, &given).unwrap();
        let target = input("input.target", y.dims());
        let gradients = (y - target).unwrap().sqr().unwrap().mean_all().unwrap().backward().unwrap();
        for (name, var) in text.named().into_iter().chain(net.named()) {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
            let largest = numbers(gradient).iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(numbers(gradient).iter().all(|v| v.is_finite()), "{name}");
            // A bias of the keys shifts all scores of a query alike, which the softmax does not see.
            let free = name.ends_with("k_proj.bias");
            assert!(free || largest > 1e-6, "{name}: the largest gradient is {largest}");
        }
    }
}

/// Our kernels serve f32 on the CPU alone; f64 takes the way that other devices take, through candle's operations.
#[test]
fn both_networks_give_the_same_numbers_without_our_kernels() {
    let double = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
    let single = |x: &Tensor| numbers(&x.to_dtype(DType::F32).unwrap());
    let vb = Formula::default().builder().to_dtype(DType::F64);
    for case in golden().unet {
        let (config, batch) = (case.config(), case.times.len());
        let x = input("input.x", &[batch, config.in_channels, case.height, case.width]);
        let t = Tensor::new(case.times.as_slice(), &Device::Cpu).unwrap();
        let mut given = case.conditioning(&double(&input("input.context", &[batch, 5, 6])));
        given.added.iter_mut().for_each(|added| added.pooled = double(&added.pooled));
        let y = UNet2DConditionModel::new(&config, &vb).unwrap().forward(&double(&x), &t, &given).unwrap();
        let off = difference(&single(&y), &case.output);
        assert!(y.dtype() == DType::F64 && off < 2e-5, "off by {off} in {}", case.config);
    }
    for case in golden().clip {
        let config: ClipTextConfig = serde_json::from_value(case.config).unwrap();
        let states = ClipTextModel::new(&config, &vb).unwrap().forward(&Tensor::new(case.ids, &Device::Cpu).unwrap());
        let states = states.unwrap();
        let off = difference(&single(&states), &case.output);
        assert!(states.dtype() == DType::F64 && off < 1e-5, "off by {off}");
    }
}

#[test]
fn half_precision_weights_run() {
    let (_, [x, t, context]) = two_samples();
    let config: UNetConfig = serde_json::from_value(golden().unet[0].config.clone()).unwrap();
    let vb = Formula::default().builder().to_dtype(DType::F16);
    let model = UNet2DConditionModel::new(&config, &vb).unwrap();
    let [x, context] = [x, context].map(|tensor| tensor.to_dtype(DType::F16).unwrap());
    let y = model.forward(&x, &t, &Conditioning::text(&context)).unwrap();
    assert_eq!(y.dtype(), DType::F16);
    let off = difference(&numbers(&y.to_dtype(DType::F32).unwrap()), &golden().unet[0].output);
    assert!(off < 0.02, "off by {off}");
}

fn unet_refusal(change: &Value) -> String {
    let mut config = golden().unet[0].config.clone();
    for (name, value) in change.as_object().unwrap() {
        config[name] = value.clone();
    }
    let config: UNetConfig = match serde_json::from_value(config) {
        Ok(config) => config,
        Err(error) => return error.to_string(),
    };
    UNet2DConditionModel::new(&config, &Formula::default().builder()).unwrap_err().to_string()
}

#[test]
fn configurations_of_other_networks_are_refused_by_name() {
    let refusals = [
        (
            json!({ "addition_embed_type": "text_time" }),
            "text_time needs addition_time_embed_dim and projection_class_embeddings_input_dim",
        ),
        (json!({ "act_fn": "gelu" }), r#"act_fn "gelu" is not supported, only "silu" or "swish""#),
        (json!({ "addition_embed_type": "image" }), r#"addition_embed_type "image" is not supported, only null"#),
        (
            json!({ "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 48 }),
            "48 channels of projection_class_embeddings_input_dim do not hold 6 x 8",
        ),
        (json!({ "down_block_types": ["SimpleCrossAttnDownBlock2D", "DownBlock2D"] }), "SimpleCrossAttnDownBlock2D"),
        (json!({ "layers_per_block": [1, 2] }), "layers_per_block: invalid type"),
        (json!({ "norm_num_groups": null }), "norm_num_groups: invalid type"),
        (json!({ "block_out_channels": [8, 18] }), "18 channels are not divisible into 4 groups and 4 heads"),
        (json!({ "attention_head_dim": [2] }), "attention_head_dim must be a number from 1 or a list of 2"),
        (json!({ "attention_head_dim": 0 }), "attention_head_dim must be"),
        (json!({ "block_out_channels": [] }), "0 block_out_channels, 2 down_block_types"),
        (json!({ "freq_shift": 4 }), "freq_shift must be less than 4"),
    ];
    for (change, expected) in refusals {
        let message = unet_refusal(&change);
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let (unet, [x, t, context]) = two_samples();
    let refused = |x: &Tensor, t: &Tensor, context: &Tensor| {
        unet.forward(x, t, &Conditioning::text(context)).unwrap_err().to_string()
    };
    assert!(refused(&x.narrow(1, 0, 3).unwrap(), &t, &context).contains("needs 4 channels"));
    assert!(refused(&x, &t.narrow(0, 0, 1).unwrap(), &context).contains("2 samples need as many times"));
    assert!(refused(&x, &t, &context.narrow(2, 0, 5).unwrap()).contains("5 channels, not 6"));

    let model = clip(&golden().clip[0].config, &Formula::default());
    let long = Tensor::zeros((1, 9), DType::U32, &Device::Cpu).unwrap();
    assert!(model.forward(&long).unwrap_err().to_string().contains("9 tokens, but only 8 positions"));
    assert!(model.forward(&Tensor::new(&[[50u32]], &Device::Cpu).unwrap()).is_err(), "an id outside the vocabulary");

    let config = ClipTextConfig { hidden_size: 12, num_attention_heads: 5, ..ClipTextConfig::default() };
    let error = ClipTextModel::new(&config, &Formula::default().builder()).unwrap_err();
    assert!(error.to_string().contains("5 heads do not divide 12 channels"));
}

#[test]
fn a_configuration_survives_being_written_and_read() {
    for case in golden().unet {
        let config = case.config();
        let again: UNetConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }
    assert_eq!(serde_json::from_str::<UNetConfig>("{}").unwrap(), UNetConfig::default());
}
