//! Stable Diffusion's autoencoder: the numbers of diffusers, and laws it keeps.

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use limner::model::vae::{AutoencoderKl, VaeConfig};
use serde::Deserialize;
use serde_json::{Value, json};

/// Written by tests/fixtures/vae/make.py.
const GOLDEN: &str = include_str!("../fixtures/vae/golden.json");

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) config: Value,
    height: usize,
    width: usize,
    mean: Vec<f32>,
    log_variance: Vec<f32>,
    picture: Vec<f32>,
}

pub(crate) fn golden() -> Vec<Case> {
    serde_json::from_str(GOLDEN).unwrap()
}

/// The twin of `formula` in tests/fixtures/vae/make.py: values that follow from a tensor's name, exact in every language.
pub(crate) fn formula(name: &str, shape: &[usize]) -> Tensor {
    let seed = name.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let uniform = |index: u32| {
        let mut x = index.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503));
        for _ in 0..2 {
            x = (x ^ (x >> 16)).wrapping_mul(0x045d_9f3b);
        }
        f64::from(x ^ (x >> 16)) / 2_147_483_648.0 - 1.0
    };
    let fan_in = shape[1..].iter().product::<usize>() as f64;
    let scaled = |uniform: f64| match shape.len() {
        _ if name.starts_with("input.") => uniform,
        1 if name.contains("norm") && name.ends_with("weight") => 1.0 + 0.3 * uniform,
        1 => 0.3 * uniform,
        _ => uniform * 1.7 / fan_in.sqrt(),
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32).map(|i| scaled(uniform(i)) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The network of `config` and its variables, which hold the formula's values.
pub(crate) fn network(config: &Value) -> (AutoencoderKl, VarMap) {
    let config: VaeConfig = serde_json::from_value(config.clone()).unwrap();
    config.check().unwrap();
    let variables = VarMap::new();
    let build = || AutoencoderKl::new(&config, &VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu)).unwrap();
    // Once to learn the names; a second time because layers rearrange weights when they are built.
    build();
    for (name, variable) in variables.data().lock().unwrap().iter() {
        variable.set(&formula(name, variable.dims())).unwrap();
    }
    (build(), variables)
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &Tensor, expected: &[f32], what: &str) {
    let found = numbers(found);
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
    assert!(off < 1e-5, "{what} is off by {off}");
}

#[test]
fn encoding_and_decoding_give_the_numbers_of_diffusers() {
    for case in golden() {
        let (model, _) = network(&case.config);
        let moments = model.encode(&formula("input.picture", &[2, 3, case.height, case.width])).unwrap();
        assert_close(&moments.mean, &case.mean, "mean");
        assert_close(&moments.log_variance, &case.log_variance, "log-variance");
        let factor = model.config().factor();
        let (h, w) = (case.height / factor, case.width / factor);
        let picture = model.decode(&formula("input.latents", &[2, model.config().latent_channels, h, w])).unwrap();
        assert_eq!(picture.dims(), [2, 3, case.height, case.width]);
        assert_close(&picture, &case.picture, "picture");
    }
}

/// In f64, which our kernels leave to candle's operations, as they leave other devices.
#[test]
fn the_numbers_are_the_same_without_our_kernels() {
    for case in golden() {
        let (_, variables) = network(&case.config);
        let config: VaeConfig = serde_json::from_value(case.config.clone()).unwrap();
        let wide = |(name, var): (&String, &candle_core::Var)| (name.clone(), var.to_dtype(DType::F64).unwrap());
        let tensors = variables.data().lock().unwrap().iter().map(wide).collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
        let model = AutoencoderKl::new(&config, &vb).unwrap();
        let double = |name: &str, shape: &[usize]| formula(name, shape).to_dtype(DType::F64).unwrap();
        let single = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
        let moments = model.encode(&double("input.picture", &[2, 3, case.height, case.width])).unwrap();
        assert_close(&single(&moments.mean), &case.mean, "mean");
        let (h, w) = (case.height / config.factor(), case.width / config.factor());
        let picture = model.decode(&double("input.latents", &[2, config.latent_channels, h, w])).unwrap();
        assert_eq!(picture.dtype(), DType::F64);
        assert_close(&single(&picture), &case.picture, "picture");
    }
}

/// A gradient that is missing leaves its weights where they are without an error: candle's fused operations do that.
#[test]
fn every_parameter_and_the_latents_get_a_gradient() {
    for case in golden() {
        let (model, variables) = network(&case.config);
        let pictures = formula("input.picture", &[2, 3, case.height, case.width]);
        let moments = model.encode(&pictures).unwrap();
        let latents = candle_core::Var::from_tensor(&moments.mean).unwrap();
        let sampled = ((moments.mean + (moments.log_variance * 0.5).unwrap().exp().unwrap()).unwrap()
            + latents.as_tensor())
        .unwrap();
        let error = (model.decode(&sampled).unwrap() - pictures).unwrap().sqr().unwrap().mean_all().unwrap();
        let gradients = error.backward().unwrap();
        let largest = |variable: &Tensor, name: &str| {
            let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{name} has no gradient"));
            numbers(gradient).iter().fold(0f32, |m, v| if v.is_finite() { m.max(v.abs()) } else { f32::NAN })
        };
        assert!(largest(&latents, "latents") > 1e-6);
        for (name, variable) in variables.data().lock().unwrap().iter() {
            let found = largest(variable, name);
            // A bias of the keys shifts all scores of a query alike, which the softmax does not see.
            assert!(found > 1e-7 || name.ends_with("to_k.bias"), "{name}: the largest gradient is {found}");
        }
    }
}

#[test]
fn pictures_do_not_see_their_batch_mates() {
    let case = &golden()[0];
    let (model, _) = network(&case.config);
    let latents = formula("input.latents", &[2, 4, 3, 2]);
    let alone = model.decode(&latents.narrow(0, 1, 1).unwrap()).unwrap();
    let both = model.decode(&latents).unwrap();
    assert_close(&alone, &numbers(&both.narrow(0, 1, 1).unwrap()), "a picture");
}

#[test]
fn sides_that_are_no_multiple_are_refused() {
    let (model, _) = network(&golden()[0].config);
    let error = model.encode(&formula("input.picture", &[1, 3, 12, 10])).unwrap_err();
    assert_eq!(error.to_string(), "4 does not divide 10 x 12 pixels");
}

#[test]
fn configurations_of_other_networks_are_refused_by_name() {
    let refusal = |change: &Value| {
        let mut config = golden()[0].config.clone();
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value::<VaeConfig>(config).map_err(|e| e.to_string()).and_then(|c| c.check()).unwrap_err()
    };
    let refusals = [
        (json!({ "act_fn": "gelu" }), "act_fn \"gelu\" is not supported"),
        (json!({ "down_block_types": ["AttnDownEncoderBlock2D", "x", "y"] }), "AttnDownEncoderBlock2D"),
        (json!({ "up_block_types": ["UpDecoderBlock2D"] }), "3 down_block_types, 1 up_block_types"),
        (json!({ "block_out_channels": [] }), "0 block_out_channels"),
        (json!({ "block_out_channels": [8, 12, 1_000_000] }), "block_out_channels is 1000000"),
        (json!({ "block_out_channels": [8, 12, 10] }), "4 groups do not divide 10 channels"),
        (json!({ "layers_per_block": 0 }), "layers_per_block is 0"),
        (json!({ "norm_num_groups": -4 }), "invalid value: integer `-4`"),
        (json!({ "scaling_factor": 0.0 }), "scaling_factor must be above 0"),
        (json!({ "latents_mean": [0.0] }), "latents_mean"),
    ];
    for (change, expected) in refusals {
        let message = refusal(&change);
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
}
