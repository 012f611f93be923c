//! Laws of the pipeline, on a model with random weights.

use crate::tiny_model;
use candle_core::Device;
use limner::Error;
use limner::image::{RgbImage, encode_png, read_png_text};
use limner::pipeline::{Picture, Pipeline, Receipt, TokenCount};
use limner::request::{GenerateRequest, Plan};
use std::sync::LazyLock;

pub(crate) static PIPELINE: LazyLock<Pipeline> =
    LazyLock::new(|| Pipeline::load(&tiny_model::path(), &Device::Cpu).unwrap());

pub(crate) fn request(set: &[(&str, &str)]) -> GenerateRequest {
    let mut request = GenerateRequest { prompt: Some("red apple".into()), ..Default::default() };
    for (field, value) in [("steps", "4"), ("seed", "7")].iter().chain(set) {
        assert!(request.set_text(field, (*value).into()), "{field}");
    }
    request
}

pub(crate) fn draw(request: &GenerateRequest) -> Vec<Picture> {
    let plan = Plan::new(request, &PIPELINE.facts()).unwrap();
    PIPELINE.generate(&plan, &mut |_| Ok(())).unwrap()
}

fn pixels(set: &[(&str, &str)]) -> RgbImage {
    draw(&request(set)).remove(0).pixels
}

pub(crate) fn photograph(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 8) as u8, (y * 8) as u8, (x * y) as u8]))
}

pub(crate) fn png(picture: &RgbImage) -> Vec<u8> {
    encode_png(picture, &[]).unwrap()
}

/// White in the right half.
pub(crate) fn half_mask() -> RgbImage {
    RgbImage::from_fn(32, 32, |x, _| image::Rgb([if x < 16 { 0 } else { 255 }; 3]))
}

#[test]
fn a_picture_is_the_same_file_alone_and_in_company() {
    let together = draw(&request(&[("count", "3")]));
    let files: Vec<_> = together.iter().map(|picture| picture.to_png().unwrap()).collect();
    for (k, seed) in ["7", "8", "9"].into_iter().enumerate() {
        let alone = draw(&request(&[("seed", seed)])).remove(0);
        assert_eq!(alone.to_png().unwrap(), files[k]);
        assert_eq!(alone.steps, together[k].steps);
    }
    assert_ne!(together[0].pixels, together[1].pixels);
}

#[test]
fn every_part_of_a_request_matters() {
    let plain = pixels(&[]);
    assert_eq!(plain.dimensions(), (32, 32));
    for (field, value) in [
        ("prompt", "blue"),
        ("negative_prompt", "blue"),
        ("steps", "5"),
        ("guidance", "1"),
        ("guidance_rescale", "0.7"),
        ("sampler", "euler"),
        ("schedule", "karras"),
        ("seed", "8"),
        ("noise", "torch-cpu"),
        ("width", "48"),
        ("economy", "exact(merge=0.25)"),
    ] {
        assert_ne!(pixels(&[(field, value)]), plain, "{field}");
    }
}

#[test]
fn every_sampler_takes_one_step_and_several() {
    for sampler in limner::diffusion::sampler::Sampler::names() {
        for steps in ["1", "2", "7"] {
            assert_eq!(pixels(&[("sampler", sampler), ("steps", steps)]).dimensions(), (32, 32), "{sampler} {steps}");
        }
    }
}

#[test]
fn pixels_outside_the_mask_come_back_bit_for_bit() {
    let original = photograph(32, 32);
    let mut masked = request(&[]);
    (masked.image, masked.mask) = (Some(png(&original)), Some(png(&half_mask())));
    let drawn = draw(&masked).remove(0);
    let changed = |x: u32| (0..32).filter(|y| drawn.pixels.get_pixel(x, *y) != original.get_pixel(x, *y)).count();
    assert!((0..16).all(|x| changed(x) == 0));
    assert!((16..32).all(|x| changed(x) > 0));
    assert!(drawn.receipt.masked && drawn.receipt.strength == Some(1.0));
}

#[test]
fn strength_one_forgets_the_picture_and_a_small_one_does_not() {
    let with = |strength| {
        let picture = request(&[("strength", strength), ("steps", "10")]);
        draw(&GenerateRequest { image: Some(png(&photograph(32, 32))), ..picture }).remove(0).pixels
    };
    assert_eq!(with("1"), pixels(&[("steps", "10")]));
    assert_ne!(with("0.5"), with("1"));
    // One step of ten: the autoencoder's picture of it, nearly.
    assert_ne!(with("0.01"), with("0.5"));
}

#[test]
fn a_stop_is_heard_at_the_next_step() {
    let plan = Plan::new(&request(&[("count", "2"), ("steps", "6")]), &PIPELINE.facts()).unwrap();
    let mut heard = Vec::new();
    let outcome = PIPELINE.generate(&plan, &mut |progress| {
        heard.push(progress.overall());
        if heard.len() == 8 { Err(Error::Cancelled) } else { Ok(()) }
    });
    assert!(matches!(outcome, Err(Error::Cancelled)));
    assert_eq!(heard, (1..=8).map(|done| (done, 12)).collect::<Vec<_>>());
}

#[test]
fn a_preview_is_a_picture_and_the_last_one_is_the_result() {
    let plan = Plan::new(&request(&[("sampler", "euler"), ("schedule", "karras")]), &PIPELINE.facts()).unwrap();
    let (mut sigmas, mut previews) = (Vec::new(), Vec::new());
    let pictures = PIPELINE.generate(&plan, &mut |progress| {
        sigmas.push(progress.sigma);
        previews.push(progress.preview()?.unwrap());
        Ok(())
    });
    assert!(sigmas.len() == 4 && sigmas.windows(2).all(|pair| pair[0] > pair[1]), "{sigmas:?}");
    assert_ne!(previews[0], previews[3]);
    // Euler's last step to sigma 0 is the clean estimate itself, up to rounding.
    let result = &pictures.unwrap()[0].pixels;
    assert!(result.iter().zip(previews[3].iter()).all(|(a, b)| a.abs_diff(*b) <= 1));
}

#[test]
fn the_file_says_how_it_was_drawn() {
    let file = draw(&request(&[("negative_prompt", "blue"), ("guidance", "7.50")])).remove(0).to_png().unwrap();
    let parameters = read_png_text(&file, "parameters").unwrap();
    let start = "red apple\nNegative prompt: blue\nSteps: 4, Sampler: DPM++ 2M, Schedule type: Trailing, CFG scale: 7.5, Seed: 7, Size: 32x32, Model hash: ";
    assert!(parameters.starts_with(start), "{parameters}");
    let receipt: serde_json::Value = serde_json::from_str(&read_png_text(&file, "limner").unwrap()).unwrap();
    assert_eq!((receipt["model"].as_str(), receipt["seed"].as_u64()), (Some("tiny"), Some(7)));
}

#[test]
fn the_receipt_in_a_file_draws_it_again() {
    let files: Vec<_> = draw(&request(&[("seed", "18446744073709551615"), ("count", "2"), ("guidance", "0.1")]))
        .iter()
        .map(|picture| picture.to_png().unwrap())
        .collect();
    let [first, second] = [0, 1].map(|k: usize| Receipt::from_png(&files[k]).unwrap());
    assert_eq!(draw(&second.request())[0].to_png().unwrap(), files[1]);
    assert_eq!(first.differences(&first), [""; 0]);
    assert_eq!(first.differences(&second), ["seed was 18446744073709551615, is 0"]);
    let other = Receipt { strength: Some(0.5), ..first.clone() };
    assert_eq!(first.differences(&other), ["strength was none, is 0.5"]);
    assert_eq!(Receipt::from_png(&png(&photograph(8, 8))), None);
    assert_eq!(Receipt::from_png(b"no picture"), None);
}

#[test]
fn what_is_unknown_is_said() {
    let codes = |set: &[(&str, &str)]| {
        let plan = Plan::new(&request(set), &PIPELINE.facts()).unwrap();
        PIPELINE.notices(&plan).unwrap().into_iter().map(|notice| (notice.code, notice.message)).collect::<Vec<_>>()
    };
    assert_eq!(codes(&[]), []);
    assert_eq!(codes(&[("prompt", "")])[0].0, "no_prompt");
    assert_eq!(codes(&[("width", "48")])[0].0, "unusual_size");
    assert_eq!(codes(&[("prompt", "(red apple:1.333) red apple BREAK [red|apple] [red:apple:0.125]")]), []);
    let unknown = codes(&[("prompt", "zebra")]);
    assert!(unknown[0].0 == "unknown_words" && unknown[0].1.contains("\"zebra\""), "{unknown:?}");
}

/// The tiny model has a token for each letter, one for "re", and room for 14.
#[test]
fn tokens_are_counted_in_chunks() {
    let count = |prompt: &str| PIPELINE.tokens(prompt).unwrap();
    let told = |count, limit, chunks| TokenCount { count, limit, chunks };
    assert_eq!(count(""), told(0, 14, 1));
    assert_eq!(count("red apple"), told(7, 14, 1));
    assert_eq!(count("red apple red apple"), told(14, 14, 1));
    assert_eq!(count("red apple red apple blue"), told(18, 28, 2));
    // Weights and step numbers are no words, and an empty rest of a chunk is taken.
    assert_eq!(count("([red]:1.3) apple"), told(7, 14, 1));
    assert_eq!(count("red BREAK apple"), told(19, 28, 2));
    assert_eq!(count("red apple BREAK"), told(7, 14, 1));
    assert_eq!(count("red AND [apple:red apple:0.9]"), told(7, 14, 1));
    assert!(PIPELINE.tokens(&"a".repeat(32_001)).is_err());
}

#[test]
fn a_folder_that_is_no_model_is_named() {
    let empty = tempfile::tempdir().unwrap();
    match Pipeline::load(empty.path(), &Device::Cpu) {
        Err(Error::Model { path, .. }) => assert!(path.starts_with(empty.path())),
        _ => panic!("an empty folder is no model"),
    }
}
