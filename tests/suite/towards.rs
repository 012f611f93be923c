//! Pictures drawn towards something beside their prompt, on models with random weights: laws that hold for any weights.

use crate::pipeline::{PIPELINE, draw, photograph, png, request};
use crate::tiny_model;
use candle_core::Device;
use limner::error::FieldError;
use limner::image::RgbImage;
use limner::pipeline::{Picture, Pipeline};
use limner::request::{GenerateRequest, Plan, from_parameters};
use limner::{Error, Result};
use std::sync::LazyLock;

static PIXELS: LazyLock<Pipeline> = LazyLock::new(|| Pipeline::load(&tiny_model::pixels(), &Device::Cpu).unwrap());

fn with(file: (&str, &RgbImage), set: &[(&str, &str)]) -> GenerateRequest {
    let mut request = request(set);
    request.set_file(file.0, png(file.1));
    request
}

fn run(pipeline: &Pipeline, request: &GenerateRequest) -> Result<Picture> {
    Ok(pipeline.generate(&Plan::new(request, &pipeline.facts())?, &mut |_| Ok(()))?.remove(0))
}

fn refusals(request: &GenerateRequest) -> Vec<FieldError> {
    match Plan::new(request, &PIPELINE.facts()) {
        Err(Error::Invalid(errors)) => errors,
        other => panic!("{other:?}"),
    }
}

/// Each draws something of its own, and what its receipt says, as JSON and as text, draws the same again.
#[test]
fn everything_that_can_be_restored_or_wanted_is_drawn_and_drawn_again() {
    let mut drawn = vec![draw(&request(&[])).remove(0).pixels];
    for (file, field, value) in [
        ("image", "restore", "grey"),
        ("image", "restore", "small(factor=8, noise=0.1)"),
        ("image", "restore", "blurred(radius=1)"),
        ("image", "restore", "grey(posterior=0.5)"),
        ("energy_image", "energy", "colours(scale=0.5)"),
    ] {
        let asked = with((file, &photograph(50, 40)), &[(field, value)]);
        let picture = run(&PIPELINE, &asked).unwrap();
        assert!(picture.receipt.needs_pictures(), "{value}");
        let parameters = from_parameters(&picture.receipt.parameters()).unwrap();
        assert_eq!(parameters.ignored, [""; 0]);
        for again in [picture.receipt.request(), parameters.request] {
            assert_eq!(again.text(field), value);
            let mut again = again;
            again.set_file(file, png(&photograph(50, 40)));
            assert_eq!(run(&PIPELINE, &again).unwrap().pixels, picture.pixels, "{value}");
        }
        assert!(!drawn.contains(&picture.pixels), "{value}");
        drawn.push(picture.pixels);
    }
}

fn brightness(picture: &RgbImage) -> Vec<f64> {
    picture.pixels().map(|pixel| pixel.0.iter().map(|value| f64::from(*value)).sum::<f64>() / 3.0).collect()
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64).sqrt()
}

/// What was known of a picture holds of the one that is drawn better than of one that was not told; not exactly, as the
/// colours of a network with random weights are mostly none that bytes have.
#[test]
fn what_is_known_holds() {
    let grey = image::imageops::grayscale(&photograph(8, 8));
    let grey = RgbImage::from_fn(8, 8, |x, y| image::Rgb([64 + grey.get_pixel(x, y).0[0] / 2; 3]));
    let settings = [("width", "8"), ("height", "8"), ("steps", "20"), ("guidance", "1"), ("schedule", "karras")];
    let free = run(&PIXELS, &request(&settings)).unwrap().pixels;
    let told = run(&PIXELS, &with(("image", &grey), &[&settings[..], &[("restore", "grey(noise=0)")]].concat()));
    let (free, told) = (brightness(&free), brightness(&told.unwrap().pixels));
    let known = brightness(&grey);
    assert!(apart(&told, &known) < 0.7 * apart(&free, &known), "{} {}", apart(&told, &known), apart(&free, &known));
}

/// A picture's neighbours in a request have no part in it.
#[test]
fn the_second_picture_is_the_one_that_its_seed_gives_alone() {
    let set = |extra: &[(&'static str, &'static str)]| [&[("energy", "colours")], extra].concat();
    let asked = |extra: &[(&'static str, &'static str)]| with(("energy_image", &photograph(32, 32)), &set(extra));
    let both = draw(&asked(&[("count", "2"), ("seed", "6")]));
    assert_eq!(both[1].pixels, draw(&asked(&[("seed", "7")]))[0].pixels);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let picture = photograph(32, 32);
    for (request, field, code) in [
        (request(&[("restore", "grey")]), "image", "required"),
        (with(("image", &picture), &[("restore", "colour")]), "restore", "unknown_value"),
        (with(("image", &picture), &[("restore", "small(factor=5)")]), "restore", "multiple_of"),
        (with(("image", &picture), &[("restore", "grey"), ("strength", "0.5")]), "strength", "not_used"),
        (with(("image", &picture), &[("restore", "grey"), ("task", "encode")]), "restore", "not_used"),
        (with(("image", &picture), &[("restore", "grey"), ("extend", "16,0,0,0")]), "extend", "not_used"),
        (request(&[("energy", "colours")]), "energy_image", "required"),
        (request(&[("energy", "judge")]), "energy", "no_judge"),
        (with(("energy_image", &picture), &[("energy", "colours(scale=x)")]), "energy", "unknown_value"),
    ] {
        let errors = refusals(&request);
        assert_eq!((errors[0].field.as_str(), errors[0].code), (field, code), "{errors:?}");
    }
    // A sampler that stops between the steps knows no next one.
    let restless = with(("image", &picture), &[("restore", "grey(posterior=1)"), ("sampler", "dpmpp_2s")]);
    assert!(run(&PIPELINE, &restless).unwrap_err().to_string().contains("take a sampler with one call a step"));
}
