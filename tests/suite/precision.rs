//! Types of numbers and roads of computation: weights in half precision are worth the same numbers in full precision,
//! and candle's operations, which other devices run, give what ours give.

use crate::checkpoint::tiny::Tiny;
use crate::checkpoint::{TEXT, UNET, VAE};
use crate::pipeline::{half_mask, photograph, png, request};
use crate::tiny_model;
use candle_core::{DType, Device, Tensor};
use limner::kernels::{self, Products};
use limner::model::checkpoint::{Model, Precision};
use limner::model::unet::Conditioning;
use limner::pipeline::Pipeline;
use limner::request::{GenerateRequest, Plan};
use std::path::Path;

/// The weights of `tiny` in another type.
fn stored_as(tiny: &Tiny, dtype: DType) {
    for name in [TEXT, UNET, VAE] {
        let mut tensors = tiny.tensors(name);
        tensors.values_mut().for_each(|t| *t = t.to_dtype(dtype).unwrap());
        tiny.save(name, &tensors);
    }
}

/// The PNG files that `pipeline` draws.
fn drawn(pipeline: &Pipeline, request: &GenerateRequest) -> Vec<Vec<u8>> {
    let plan = Plan::new(request, &pipeline.facts()).unwrap();
    let pictures = pipeline.generate(&plan, &mut |_| Ok(())).unwrap();
    pictures.iter().map(|picture| picture.to_png().unwrap()).collect()
}

/// A prompt with weights and steps, and a picture of which a part is painted: all that a picture can go through.
fn requests() -> [GenerateRequest; 3] {
    let weighted = request(&[("prompt", "(red:1.3) [apple:pear:2] AND blue")]);
    let (image, mask) = (Some(png(&photograph(32, 32))), Some(png(&half_mask())));
    let repaint = GenerateRequest { image, mask, ..request(&[("strength", "0.6"), ("guidance_rescale", "0.5")]) };
    [request(&[("sampler", "euler_a")]), weighted, repaint]
}

#[test]
fn weights_stored_in_half_precision_draw_what_the_same_numbers_in_f32_draw() {
    for dtype in [DType::F16, DType::BF16] {
        let tiny = Tiny::new();
        stored_as(&tiny, dtype);
        let kept = Pipeline::load(tiny.path(), &Device::Cpu).unwrap();
        let widened = Pipeline::load_as(tiny.path(), &Device::Cpu, DType::F32).unwrap();
        for request in requests() {
            assert!(drawn(&kept, &request) == drawn(&widened, &request), "{dtype:?}");
        }
    }
}

/// All numbers of text encoders, U-Net and autoencoder on fixed inputs.
fn outputs(model: &Model) -> Vec<(&'static str, Tensor)> {
    let wave = |shape: &[usize]| {
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin()).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
    };
    let ids = Tensor::new(&[[1u32, 5, 7, 2, 2], [1, 9, 2, 2, 2]], &Device::Cpu).unwrap();
    let states = model.text[0].network.forward(&ids).unwrap();
    let latents = wave(&[2, model.codec.latent_channels(), 6, 10]);
    let times = Tensor::new(&[981f32, 20.5], &Device::Cpu).unwrap();
    let predicted = model.unet.forward(&latents, &times, &Conditioning::text(&states)).unwrap();
    let decoded = model.codec.decode(&latents).unwrap();
    let encoded = model.codec.encode(&decoded.clamp(-1f32, 1f32).unwrap()).unwrap();
    vec![("states", states), ("predicted", predicted), ("decoded", decoded), ("encoded", encoded)]
}

fn largest(x: &Tensor) -> f32 {
    x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_dtype(DType::F32).unwrap().to_scalar().unwrap()
}

/// The largest difference of each output, relative to its largest number.
fn differences(found: &[(&'static str, Tensor)], expected: &[(&'static str, Tensor)]) -> Vec<(&'static str, f32)> {
    let f32 = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
    let off = |a: &Tensor, b: &Tensor| largest(&(f32(a) - f32(b)).unwrap()) / largest(b);
    found.iter().zip(expected).map(|((name, a), (_, b))| (*name, off(a, b))).collect()
}

fn folders(tiny: &Tiny) -> [std::path::PathBuf; 2] {
    [tiny.path().to_owned(), tiny_model::path()]
}

fn load(path: &Path, precision: impl Into<Precision>) -> Model {
    Model::load(path, &Device::Cpu, precision).unwrap()
}

/// What a GPU would run, in f32. Our kernels and candle's operations sum in different orders.
#[test]
fn candles_operations_give_what_our_kernels_give() {
    for folder in folders(&Tiny::new()) {
        let model = load(&folder, DType::F32);
        let (ours, theirs) = (outputs(&model), kernels::by_reference(|| outputs(&model)));
        for (name, off) in differences(&theirs, &ours) {
            assert!(off > 0.0 && off < 1e-5, "{name} of {}: off by {off}", folder.display());
        }
    }
}

/// What a GPU would run in half precision: no operation meets two types, and the numbers are as near as the type allows.
#[test]
fn networks_run_whole_in_half_precision() {
    for folder in folders(&Tiny::new()) {
        let exact = outputs(&load(&folder, DType::F32));
        for (dtype, bound) in [(DType::F16, 0.02), (DType::BF16, 0.1)] {
            let model = load(&folder, dtype);
            assert_eq!(model.unet.dtype(), dtype);
            for (name, off) in differences(&kernels::by_reference(|| outputs(&model)), &exact) {
                assert!(off > 0.0 && off < bound, "{name} of {} in {dtype:?}: off by {off}", folder.display());
            }
        }
    }
}

/// What a processor with fast instructions for it runs, here in whatever way it can.
#[test]
fn networks_with_products_in_bf16_are_near() {
    for folder in folders(&Tiny::new()) {
        let exact = load(&folder, DType::F32);
        let packed = load(&folder, Precision::on(&Device::Cpu, None).with_products(Some(Products::Brain)));
        for (name, off) in differences(&outputs(&packed), &outputs(&exact)) {
            assert!(off > 0.0 && off < 0.04, "{name} of {}: off by {off}", folder.display());
        }
        // Another thread count, and the same again.
        let again = kernels::on_this_thread(|| outputs(&packed));
        for (name, off) in differences(&again, &outputs(&packed)) {
            assert!(off == 0.0, "{name} of {} depends on threads", folder.display());
        }
    }
}

/// The sampler's state stays in f32, whatever the networks compute in.
#[test]
fn pictures_are_drawn_in_every_precision() {
    let tiny = Tiny::new();
    for dtype in [DType::F16, DType::BF16] {
        let uniform = Pipeline::load_as(tiny.path(), &Device::Cpu, dtype).unwrap();
        let on_cpu = Pipeline::load_as(tiny.path(), &Device::Cpu, Precision::on(&Device::Cpu, Some(dtype))).unwrap();
        for request in requests() {
            let half = kernels::by_reference(|| drawn(&uniform, &request));
            assert_eq!(half.len(), drawn(&on_cpu, &request).len());
        }
    }
}
