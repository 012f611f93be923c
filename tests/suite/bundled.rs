//! The model that this repository ships.

use candle_core::Device;
use limner::diffusion::inverse::Energy;
use limner::image::{RgbImage, encode_png};
use limner::pipeline::{Pipeline, Report};
use limner::request::{GenerateRequest, Plan};
use limner::train::judge::Judge;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/icons")
}

fn pipeline() -> &'static Pipeline {
    static PIPELINE: OnceLock<Pipeline> = OnceLock::new();
    PIPELINE.get_or_init(|| Pipeline::load(&folder(), &Device::Cpu).unwrap())
}

fn plan(prompt: &str, seed: u64) -> Plan {
    let text = |value: &str| Some(value.to_owned());
    let request = GenerateRequest {
        prompt: text(prompt),
        seed: Some(seed.to_string()),
        steps: text("10"),
        ..GenerateRequest::default()
    };
    Plan::new(&request, &pipeline().facts()).unwrap()
}

/// The mean colour of what is not background, over four pictures.
fn colour(prompt: &str) -> [f64; 3] {
    let pictures: Vec<RgbImage> = (0..4)
        .map(|seed| pipeline().generate(&plan(prompt, seed), &mut |_| Ok(())).unwrap().remove(0).pixels)
        .collect();
    let inked = || pictures.iter().flat_map(RgbImage::pixels).filter(|p| p.0.iter().any(|&v| v < 200));
    let count = inked().count();
    assert!(count > 400, "{prompt}: only {count} pixels are not background");
    std::array::from_fn(|c| inked().map(|p| f64::from(p.0[c])).sum::<f64>() / count as f64)
}

#[test]
fn it_is_at_most_64_megabytes() {
    fn size(path: &Path) -> u64 {
        let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
        entries.map(|e| if e.path().is_dir() { size(&e.path()) } else { e.metadata().unwrap().len() }).sum()
    }
    let bytes = size(&folder());
    assert!(bytes <= 64_000_000, "{bytes} bytes");
}

#[test]
fn it_follows_the_colour_of_a_prompt() {
    let [red, green, blue] = colour("red apple");
    assert!(red > 1.3 * green && red > 1.3 * blue, "red apple: {red:.0} {green:.0} {blue:.0}");
    let [red, green, blue] = colour("green leaf");
    assert!(green > 1.2 * red && green > 1.2 * blue, "green leaf: {red:.0} {green:.0} {blue:.0}");
    let [red, _, blue] = colour("blue heart");
    assert!(blue > 1.5 * red, "blue heart: {red:.0} {blue:.0}");
}

#[test]
fn it_knows_every_word_of_its_contact_sheet() {
    let prompts = std::fs::read_to_string(folder().join("prompts.txt")).unwrap();
    assert_eq!(prompts.lines().count(), 48);
    for prompt in prompts.lines() {
        assert_eq!(pipeline().notices(&plan(prompt, 0)).unwrap(), [], "{prompt}");
    }
    let codes: Vec<_> = pipeline().notices(&plan("zebroid apple", 0)).unwrap().iter().map(|n| n.code).collect();
    assert_eq!(codes, ["unknown_words"]);
}

/// Three pictures that it drew itself, each with its own caption among others.
#[test]
fn it_tells_which_caption_a_picture_was_drawn_for() {
    let captions = ["red apple", "crying face", "green leaf"];
    for (i, caption) in captions.into_iter().enumerate() {
        let drawn = pipeline().generate(&plan(caption, 3), &mut |_| Ok(())).unwrap().remove(0);
        let mut request = GenerateRequest { prompt: Some(String::new()), ..GenerateRequest::default() };
        for (field, value) in [("task", "rank"), ("captions", &captions.join("\n")), ("levels", "24"), ("seed", "1")] {
            request.set_text(field, value.to_owned());
        }
        request.set_file("image", drawn.to_png().unwrap());
        let plan = Plan::new(&request, &pipeline().facts()).unwrap();
        let Some(Report::Rank(found)) = pipeline().run(&plan, &mut |_| Ok(())).unwrap().report else { panic!("{i}") };
        assert_eq!(found.captions[0].caption, caption, "{found:?}");
        assert!(found.captions[1].behind > 2.0 * found.captions[1].standard_error, "{found:?}");
    }
}

/// The other one: small, and with a likelihood that is finite for pictures of its kind and worse for noise.
#[test]
fn the_pixel_model_finds_icons_likelier_than_noise() {
    let model = folder().with_file_name("icons-pixel");
    let bytes: u64 = ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
        .iter()
        .map(|file| std::fs::metadata(model.join(file)).unwrap().len())
        .sum();
    assert!(bytes <= 16_000_000, "{bytes} bytes");
    let pixels = Pipeline::load(&model, &Device::Cpu).unwrap();
    let bits = |picture: &RgbImage| {
        let settings = [
            ("prompt", ""),
            ("task", "likelihood"),
            ("draws", "1"),
            ("levels", "0"),
            ("tolerance", "0.01"),
            ("seed", "1"),
        ];
        let mut request =
            GenerateRequest { image: Some(encode_png(picture, &[]).unwrap()), ..GenerateRequest::default() };
        for (field, value) in settings {
            assert!(request.set_text(field, value.to_owned()));
        }
        let plan = Plan::new(&request, &pixels.facts()).unwrap();
        let Some(Report::Likelihood(report)) = pixels.run(&plan, &mut |_| Ok(())).unwrap().report else {
            panic!("no report")
        };
        report.bits_per_dim
    };
    let disc = RgbImage::from_fn(32, 32, |x, y| {
        let inside = (x as i32 - 16).pow(2) + (y as i32 - 16).pow(2) < 140;
        image::Rgb(if inside { [210, 40, 50] } else { [255; 3] })
    });
    let noise = RgbImage::from_fn(32, 32, |x, y| image::Rgb([7, 11, 13].map(|k| (x * 97 * k + y * 61 * k * k) as u8)));
    let (disc, noise) = (bits(&disc), bits(&noise));
    assert!(disc < 5.0 && noise > disc + 2.0, "{disc} and {noise} bits/dim");
}

fn restored(pipeline: &Pipeline, restore: &str, shown: &RgbImage) -> RgbImage {
    let mut request = GenerateRequest { prompt: Some("red apple".into()), ..GenerateRequest::default() };
    for (field, value) in [("restore", restore), ("guidance", "1"), ("steps", "16"), ("seed", "1")] {
        request.set_text(field, value.to_owned());
    }
    request.set_file("image", encode_png(shown, &[]).unwrap());
    let plan = Plan::new(&request, &pipeline.facts()).unwrap();
    pipeline.generate(&plan, &mut |_| Ok(())).unwrap().remove(0).pixels
}

fn spread(pixel: &image::Rgb<u8>) -> u8 {
    pixel.0.iter().max().unwrap() - pixel.0.iter().min().unwrap()
}

fn off(a: &RgbImage, b: &RgbImage) -> f64 {
    let squares = a.iter().zip(b.iter()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}

/// Through the autoencoder, which is not linear: of its own apple made grey it makes a coloured one as bright, and of the
/// apple made small one that is nearer to the apple than the plain enlargement.
#[test]
fn it_makes_grey_and_small_pictures_whole() {
    use image::imageops::{FilterType, grayscale, resize};
    let grey = |picture: &RgbImage| {
        let grey = grayscale(picture);
        RgbImage::from_fn(64, 64, |x, y| image::Rgb([grey.get_pixel(x, y).0[0]; 3]))
    };
    let apple = pipeline().generate(&plan("red apple", 3), &mut |_| Ok(())).unwrap().remove(0).pixels;
    let coloured = restored(pipeline(), "grey", &grey(&apple));
    let bright = off(&grey(&coloured), &grey(&apple));
    let colourful = coloured.pixels().filter(|pixel| spread(pixel) > 60).count();
    assert!(bright < 20.0 && colourful > 400, "{bright} {colourful}");
    let small = resize(&apple, 16, 16, FilterType::Triangle);
    let large = restored(pipeline(), "small", &small);
    let plain = resize(&small, 64, 64, FilterType::CatmullRom);
    assert!(off(&large, &apple) < 0.9 * off(&plain, &apple), "{} {}", off(&large, &apple), off(&plain, &apple));
}

/// By the variance that was measured for it, which is neither of the fixed ones; and what pleases its judge pleases it more
/// than what was drawn without.
#[test]
fn it_knows_its_errors_and_has_a_judge() {
    let draw = |set: &[(&str, &str)]| {
        let mut request = GenerateRequest { prompt: Some("octopus".into()), ..GenerateRequest::default() };
        let usual = [("guidance", "1"), ("seed", "5"), ("steps", "12")];
        usual.iter().chain(set).for_each(|(field, value)| assert!(request.set_text(field, (*value).to_owned())));
        let plan = Plan::new(&request, &pipeline().facts()).unwrap();
        pipeline().generate(&plan, &mut |_| Ok(())).unwrap().remove(0).pixels
    };
    let by = |variance: &str| draw(&[("sampler", &format!("ddpm(variance={variance})"))]);
    let (optimal, small, large) = (by("optimal"), by("fixed_small"), by("fixed_large"));
    assert!(optimal != small && optimal != large);
    let judge = Judge::open(&folder().join("judge.safetensors")).unwrap().into_recognised("octopus").unwrap().unwrap();
    let surprise = |picture: &RgbImage| {
        let picture = limner::image::to_tensor(picture, &Device::Cpu).unwrap();
        judge.energy(&picture).unwrap().to_vec1::<f32>().unwrap()[0]
    };
    let (without, with) = (surprise(&draw(&[])), surprise(&draw(&[("energy", "judge")])));
    assert!(with < 0.5 * without, "{with} {without}");
}
