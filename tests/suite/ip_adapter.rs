//! Pictures as prompts: the numbers of transformers and diffusers, the files, and the way from a request to a picture.

use crate::http::{of, post, routes};
use crate::networks::formula::{Formula, input, values};
use crate::pipeline::{PIPELINE, draw, photograph, png, request};
use axum::http::StatusCode;
use candle_core::{DType, Device, Tensor};
use limner::Error;
use limner::image::RgbImage;
use limner::model::clip_vision::{ClipVisionConfig, ClipVisionModel};
use limner::model::ip_adapter::{IpAdapter, IpAdapterSizes, ProjectionSizes, ResamplerSizes};
use limner::model::unet::{Conditioning, UNet2DConditionModel, UNetConfig};
use limner::pipeline::Receipt;
use limner::request::{GenerateRequest, Plan};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Written by tests/fixtures/ip_adapter/make.py.
const GOLDEN: &str = include_str!("../fixtures/ip_adapter/golden.json");

#[derive(Deserialize)]
struct Golden {
    vision: Vec<Vision>,
    adapter: Vec<Case>,
}

#[derive(Deserialize)]
struct Vision {
    config: Value,
    embeds: Vec<f32>,
    hidden: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    unet: Value,
    seen: Vec<usize>,
    times: Vec<f32>,
    scale: f64,
    shapes: BTreeMap<String, Vec<usize>>,
    states: Vec<f32>,
    output: Vec<f32>,
}

fn golden() -> Golden {
    serde_json::from_str(GOLDEN).unwrap()
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &Tensor, expected: &[f32], what: &str) {
    let found = numbers(found);
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
    assert!(off < 2e-5, "{what} is off by {off}");
}

#[test]
fn the_image_encoder_gives_the_numbers_of_transformers() {
    for case in golden().vision {
        let config: ClipVisionConfig = serde_json::from_value(case.config).unwrap();
        config.check().unwrap();
        let model = ClipVisionModel::new(&config, &Formula::default().builder()).unwrap();
        let pixels = input("input.pixels", &[2, 3, 8, 8]);
        assert_close(&model.embeds(&pixels).unwrap(), &case.embeds, "embeds");
        assert_close(&model.hidden(&pixels, 1).unwrap(), &case.hidden, "hidden states");
        let error = model.embeds(&input("input.pixels", &[1, 3, 9, 8])).unwrap_err().to_string();
        assert_eq!(error, "CLIP: pixels [1, 3, 9, 8], not 8 x 8");
    }
}

/// ```text
/// CLIPImageProcessor()(Image.new("RGB", (30, 20), (255, 0, 128)), return_tensors="pt").pixel_values[0, :, 0, 0]
/// ```
#[test]
fn pictures_are_normalised_as_clip_wants_them() {
    let config: ClipVisionConfig = serde_json::from_value(golden().vision[0].config.clone()).unwrap();
    let model = ClipVisionModel::new(&config, &Formula::default().builder()).unwrap();
    let pixels = model.pixels(&RgbImage::from_pixel(30, 20, image::Rgb([255, 0, 128])), &Device::Cpu).unwrap();
    assert_eq!(pixels.dims(), [1, 3, 8, 8]);
    let corner: Vec<f32> = numbers(&pixels.narrow(2, 0, 1).unwrap().narrow(3, 0, 1).unwrap());
    for (found, expected) in corner.iter().zip([1.930_336_2, -1.752_097, 0.339_948_68]) {
        assert!((found - expected).abs() < 2e-6, "{corner:?}");
    }
}

/// The sizes of a golden adapter, from the shapes in its file.
fn sizes(shapes: &BTreeMap<String, Vec<usize>>) -> IpAdapterSizes {
    let of = |name: &str, dim: usize| shapes[&format!("image_proj.{name}")][dim];
    let numbered = |i: usize| shapes.get(&format!("ip_adapter.{}.to_k_ip.weight", 2 * i + 1));
    let layers = (0..).map_while(numbered).map(|shape| shape[0]).collect();
    if shapes.contains_key("image_proj.proj.weight") {
        let context = of("norm.weight", 0);
        let projection =
            ProjectionSizes::Linear { embed: of("proj.weight", 1), tokens: of("proj.weight", 0) / context };
        return IpAdapterSizes { projection, context, layers };
    }
    let resampler = ResamplerSizes {
        embed: of("proj_in.weight", 1),
        width: of("latents", 2),
        queries: of("latents", 1),
        heads: of("layers.0.0.to_q.weight", 0) / 64,
        depth: 4,
        inner: of("layers.0.1.1.weight", 0),
    };
    IpAdapterSizes { projection: ProjectionSizes::Resampler(resampler), context: of("norm_out.weight", 0), layers }
}

#[test]
fn adapters_give_the_numbers_of_diffusers() {
    for case in golden().adapter {
        let config: UNetConfig = serde_json::from_value(case.unet).unwrap();
        let unet = UNet2DConditionModel::new(&config, &Formula::default().builder()).unwrap();
        let sizes = sizes(&case.shapes);
        sizes.fits(&config).unwrap();
        let adapter = IpAdapter::new(&sizes, &config, &Formula::default().builder()).unwrap();
        let batch = case.times.len();
        let seen = input("input.seen", &[&[batch], &case.seen[..]].concat());
        let states = adapter.project(&seen).unwrap();
        assert_close(&states, &case.states, "states");
        let prompt = adapter.prompt(&states, case.scale, DType::F32).unwrap();
        let text = Conditioning::text(&input("input.context", &[batch, 5, 6]));
        let (x, t) = (input("input.x", &[batch, 4, 5, 6]), Tensor::new(case.times.as_slice(), &Device::Cpu).unwrap());
        let with = Conditioning { image: Some(prompt.clone()), ..text.clone() };
        assert_close(&unet.forward(&x, &t, &with).unwrap(), &case.output, "prediction");
        // At a scale of nothing it is as if there were no picture, bit for bit.
        let nothing = adapter.prompt(&states, 0.0, DType::F32).unwrap();
        let without = Conditioning { image: Some(nothing), ..text.clone() };
        assert_eq!(numbers(&unet.forward(&x, &t, &without).unwrap()), numbers(&unet.forward(&x, &t, &text).unwrap()));
        // Rows are picked by their numbers.
        let turned = prompt.rows(&[1, 0]).unwrap().rows(&[1, 0]).unwrap();
        let again = Conditioning { image: Some(turned), ..text };
        assert_eq!(numbers(&unet.forward(&x, &t, &again).unwrap()), numbers(&unet.forward(&x, &t, &with).unwrap()));
    }
}

#[test]
fn adapters_for_other_models_do_not_fit() {
    let case = &golden().adapter[0];
    let config: UNetConfig = serde_json::from_value(case.unet.clone()).unwrap();
    let fits = |change: &dyn Fn(&mut IpAdapterSizes)| {
        let mut sizes = sizes(&case.shapes);
        change(&mut sizes);
        sizes.fits(&config).unwrap_err()
    };
    assert_eq!(fits(&|sizes| sizes.context = 8), "its cross_attention_dim is 8, the model's 6");
    assert_eq!(fits(&|sizes| sizes.layers.truncate(3)), "it has 3 cross-attentions, the model 4");
    assert_eq!(fits(&|sizes| sizes.layers[0] = 16), "layer 0 has 16 channels, the model's 8");
}

/// The tiny model with the picture `photo` as a prompt.
fn prompted(adapter: &str, photo: &RgbImage, set: &[(&str, &str)]) -> GenerateRequest {
    let mut request = GenerateRequest { ip_adapter_image: Some(png(photo)), ..request(set) };
    request.set_text("ip_adapter", adapter.to_owned());
    request
}

fn pixels(request: &GenerateRequest) -> RgbImage {
    draw(request).remove(0).pixels
}

#[test]
fn a_picture_steers_as_a_prompt_does() {
    let (photo, other) = (photograph(40, 30), RgbImage::from_pixel(20, 20, image::Rgb([200, 30, 60])));
    let plain = pixels(&request(&[]));
    for adapter in ["base", "plus"] {
        let drawn = |typed: &str, photo: &RgbImage| pixels(&prompted(&format!("{adapter}{typed}"), photo, &[]));
        let full = drawn("", &photo);
        assert_ne!(full, plain, "{adapter}");
        assert_ne!(drawn("", &other), full);
        assert_ne!(drawn(":0.5", &photo), full);
        assert_eq!(drawn(":0", &photo), plain);
        assert_eq!(drawn(":1:0:1", &photo), full);
        assert_ne!(drawn(":1:0:0.5", &photo), full);
        // Of four steps none lies between these.
        assert_eq!(drawn(":1:0.3:0.45", &photo), plain);
        // Without guidance there is one row, and it follows the picture.
        assert_ne!(pixels(&prompted(adapter, &photo, &[("guidance", "1")])), pixels(&request(&[("guidance", "1")])));
    }
}

#[test]
fn a_receipt_names_the_adapter_and_gives_the_request_again() {
    let photo = photograph(40, 30);
    let picture = draw(&prompted("plus:0.6:0:0.75", &photo, &[])).remove(0);
    let receipt = Receipt::from_png(&picture.to_png().unwrap()).unwrap();
    let adapter = receipt.ip_adapter.as_ref().unwrap();
    assert_eq!((adapter.setting.to_string(), adapter.hash.len()), ("plus:0.6:0:0.75".to_owned(), 10));
    assert!(receipt.needs_pictures() && receipt.parameters().contains("IP-Adapter: \"plus:0.6:0:0.75\""));
    let again = GenerateRequest { ip_adapter_image: Some(png(&photo)), ..receipt.request() };
    assert_eq!(pixels(&again), picture.pixels);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_asks_for_the_picture() {
    let picture = draw(&prompted("base", &photograph(40, 30), &[])).remove(0).to_png().unwrap();
    let (status, problem) = of(&routes(), post("/api/v1/replay", "image/png", picture)).await;
    assert_eq!((status, problem["type"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some("urn:limner:needs_image")));
    let (_, listed) = of(&routes(), crate::http::get("/api/v1/ip-adapters")).await;
    let names = |entry: &Value| (entry["name"].as_str().unwrap().to_owned(), entry["fits"].as_bool().unwrap());
    let listed: Vec<_> = listed["ip_adapters"].as_array().unwrap().iter().map(names).collect();
    assert_eq!(
        listed,
        [("base", true), ("blind", false), ("other", false), ("plus", true)].map(|(n, f)| (n.into(), f))
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let error = |request: &GenerateRequest| match Plan::new(request, &PIPELINE.facts()) {
        Err(Error::Invalid(mut errors)) => errors.remove(0),
        other => panic!("{other:?}"),
    };
    let photo = photograph(8, 8);
    for (adapter, field, code, message) in [
        ("none", "ip_adapter", "unknown_ip_adapter", "known are: base, blind, other, plus"),
        ("image_encoder", "ip_adapter", "unknown_ip_adapter", "known are: base, blind, other, plus"),
        ("other", "ip_adapter", "wrong_base", "its cross_attention_dim is 40, the model's 32"),
        ("blind", "ip_adapter", "unusable_ip_adapter", "there is no image encoder with projection_dim 99"),
        ("base:3", "ip_adapter", "out_of_range", "between 0 and 2"),
        ("", "ip_adapter_image", "without_ip_adapter", "without an adapter"),
    ] {
        let found = error(&prompted(adapter, &photo, &[]));
        assert_eq!((found.field.as_str(), found.code), (field, code), "{adapter}: {}", found.message);
        assert!(found.message.contains(message), "{}", found.message);
    }
    let missing = GenerateRequest { ip_adapter_image: None, ..prompted("base", &photo, &[]) };
    assert_eq!((error(&missing).field.as_str(), error(&missing).code), ("ip_adapter_image", "required"));
}

/// Tensors of an adapter: from vectors of `embed` channels, or with `plus` from states, to states of `context` channels.
pub(crate) fn tensors(unet: &UNetConfig, embed: usize, plus: bool, context: usize) -> BTreeMap<String, Tensor> {
    let linear = vec![("proj.weight", vec![4 * context, embed]), ("proj.bias", vec![4 * context])];
    let norm = vec![("norm.weight", vec![context]), ("norm.bias", vec![context])];
    let resampler = vec![
        ("latents", vec![1, 3, 8]),
        ("proj_in.weight", vec![8, embed]),
        ("proj_in.bias", vec![8]),
        ("layers.0.0.norm1.weight", vec![8]),
        ("layers.0.0.norm1.bias", vec![8]),
        ("layers.0.0.norm2.weight", vec![8]),
        ("layers.0.0.norm2.bias", vec![8]),
        ("layers.0.0.to_q.weight", vec![64, 8]),
        ("layers.0.0.to_kv.weight", vec![128, 8]),
        ("layers.0.0.to_out.weight", vec![8, 64]),
        ("layers.0.1.0.weight", vec![8]),
        ("layers.0.1.0.bias", vec![8]),
        ("layers.0.1.1.weight", vec![32, 8]),
        ("layers.0.1.3.weight", vec![8, 32]),
        ("proj_out.weight", vec![context, 8]),
        ("proj_out.bias", vec![context]),
        ("norm_out.weight", vec![context]),
        ("norm_out.bias", vec![context]),
    ];
    let projection = if plus { resampler } else { [linear, norm].concat() };
    let projection = projection.into_iter().map(|(name, shape)| (format!("image_proj.{name}"), shape));
    let layers = unet.cross_attentions().into_iter().enumerate().flat_map(|(i, (_, channels))| {
        ["to_k_ip", "to_v_ip"].map(|part| (format!("ip_adapter.{}.{part}.weight", 2 * i + 1), vec![channels, context]))
    });
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let tensor = Tensor::from_vec(values(&name, &shape), shape, &Device::Cpu).unwrap();
        (name, tensor)
    };
    projection.chain(layers).map(tensor).collect()
}
