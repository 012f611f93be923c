//! Pictures that are decoded in bands of rows are those that are decoded whole.

use crate::checkpoint::tiny::Tiny;
use crate::vae::{formula, golden, network};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use limner::kernels::profile::noted;
use limner::kernels::{self, Products};
use limner::model::checkpoint::{Model, Precision};
use limner::model::codec::Codec;
use limner::model::vae::{AutoencoderKl, VaeConfig};
use std::path::PathBuf;
use std::time::Instant;

/// Rows of a band.
const ROWS: usize = 64;

fn numbers(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The network of `config` with the formula's values, none of which is a variable: those would want gradients.
fn model(config: &serde_json::Value, dtype: DType) -> AutoencoderKl {
    let (_, variables) = network(config);
    let plain = |(name, var): (&String, &Var)| (name.clone(), var.detach().to_dtype(dtype).unwrap());
    let tensors = variables.data().lock().unwrap().iter().map(plain).collect();
    let config: VaeConfig = serde_json::from_value(config.clone()).unwrap();
    AutoencoderKl::new(&config, &VarBuilder::from_tensors(tensors, dtype, &Device::Cpu)).unwrap()
}

fn whole(model: &AutoencoderKl, latents: &Tensor) -> Tensor {
    model.decode_within(latents, usize::MAX).unwrap()
}

fn in_bands(model: &AutoencoderKl, latents: &Tensor) -> Tensor {
    model.decode_within(latents, 0).unwrap()
}

/// The largest difference, relative to the largest number.
fn off(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (numbers(found), numbers(expected));
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn bands_of_any_size_make_the_whole_picture() {
    for case in golden() {
        let model = model(&case.config, DType::F32);
        let (channels, factor) = (model.config().latent_channels, model.config().factor());
        // Two bands and a row more; a last band with fewer rows than are looked at around it; several.
        for (batch, rows, width) in [(2, 2 * ROWS + factor, 3), (1, ROWS + factor, 1), (1, 3 * ROWS - 8, 5)] {
            let latents = formula("input.latents", &[batch, channels, rows / factor, width]);
            let (found, by_bands) = noted(|| in_bands(&model, &latents));
            let (expected, at_once) = noted(|| whole(&model, &latents));
            assert!(by_bands.len() > batch * at_once.len(), "it was not in bands");
            assert_eq!(found.dims()[2], rows / factor * factor);
            let off = off(&found, &expected);
            assert!(off < 2e-6, "{batch} pictures of {rows} rows: off by {off}");
        }
    }
}

#[test]
fn pictures_are_encoded_in_bands_as_they_are_whole() {
    for case in golden() {
        let model = model(&case.config, DType::F32);
        let factor = model.config().factor();
        for (batch, rows, width) in [(2, 2 * ROWS + factor, 3 * factor), (1, 3 * ROWS - 2 * factor, factor)] {
            let pictures = formula("input.picture", &[batch, 3, rows, width]);
            let (found, expected) = (model.encode_within(&pictures, 0), model.encode_within(&pictures, usize::MAX));
            let (found, expected) = (found.unwrap(), expected.unwrap());
            let off = off(&found.mean, &expected.mean).max(off(&found.log_variance, &expected.log_variance));
            assert!(off < 2e-6, "{batch} pictures of {rows} rows: off by {off}");
        }
    }
}

#[test]
fn a_picture_of_one_band_is_the_whole_one_bit_for_bit() {
    for case in golden() {
        let model = model(&case.config, DType::F32);
        let factor = model.config().factor();
        let latents = formula("input.latents", &[1, model.config().latent_channels, ROWS / factor, 7]);
        assert_eq!(numbers(&in_bands(&model, &latents)), numbers(&whole(&model, &latents)));
    }
}

/// Products in bf16, as well, where a number that falls on the other side is rounded to another: at most one in its last place.
#[test]
fn bands_serve_every_kind_of_weights_on_any_number_of_threads() {
    let tiny = Tiny::new();
    for (products, most) in [(Products::Full, 2e-6), (Products::Brain, 1.0 / 256.0)] {
        let precision = Precision::on(&Device::Cpu, None).with_products(Some(products));
        let model = Model::load(tiny.path(), &Device::Cpu, precision).unwrap();
        let Codec::Kl(model) = &*model.codec else { panic!("another codec") };
        let latents = formula("input.latents", &[1, 4, 75, 6]);
        let found = in_bands(model, &latents);
        let off = off(&found, &whole(model, &latents));
        assert!(off < most, "{products:?}: off by {off}");
        let alone = kernels::on_this_thread(|| in_bands(model, &latents));
        assert_eq!(numbers(&alone), numbers(&found), "{products:?} depends on threads");
    }
}

/// In f64, which our kernels leave to candle's operations, as they leave other devices.
#[test]
fn bands_make_the_whole_picture_without_our_kernels() {
    let model = model(&golden()[0].config, DType::F64);
    let rows = 2 * ROWS / model.config().factor() + 1;
    let latents = formula("input.latents", &[1, 4, rows, 3]).to_dtype(DType::F64).unwrap();
    let found = in_bands(&model, &latents);
    assert_eq!(found.dtype(), DType::F64);
    assert!(off(&found, &whole(&model, &latents)) < 2e-6);
}

/// Bands are told the moments of the picture, of which they would have no gradient.
#[test]
fn latents_get_their_gradient_although_they_are_many() {
    let model = model(&golden()[0].config, DType::F32);
    let latents = formula("input.latents", &[1, 4, 2 * ROWS / model.config().factor(), 1]);
    let gradient = |decode: &dyn Fn(&Tensor) -> Tensor| {
        let latents = Var::from_tensor(&latents).unwrap();
        let gradients = decode(&latents).sqr().unwrap().mean_all().unwrap().backward().unwrap();
        numbers(gradients.get(&latents).unwrap())
    };
    assert_eq!(gradient(&|x| in_bands(&model, x)), gradient(&|x| whole(&model, x)));
}

/// A landscape, as it were: hardly anything above, waves that become finer below.
fn picture_like(channels: usize, side: usize) -> Tensor {
    let value = |c: usize, y: usize, x: usize| {
        let (v, u) = (y as f64 / side as f64, x as f64 / side as f64);
        let ground = (v - 0.4).max(0.0);
        let waves = ((9.0 + 40.0 * u) * v * v * (c + 2) as f64).sin() * (7.0 * u + c as f64).cos();
        (2.5 * ground * waves + (1.0 - v) * [0.9, -0.5, 0.3, 1.2][c % 4]) as f32
    };
    let all = (0..channels).flat_map(|c| (0..side * side).map(move |i| value(c, i / side, i % side)));
    Tensor::from_vec(all.collect::<Vec<_>>(), (1, channels, side, side), &Device::Cpu).unwrap()
}

/// Bytes of memory, as the kernel names them, and the most of them from now on.
fn memory(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() << 10
}

/// What `decode` gives; prints what it took.
fn measured(what: &str, decode: impl Fn() -> Tensor) -> Tensor {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, began) = (memory("VmRSS:"), Instant::now());
    let picture = decode();
    let (seconds, peak) = (began.elapsed().as_secs_f64(), memory("VmHWM:") - before);
    println!("  {what:8} {seconds:7.1} s, {:5} MiB more than before", peak >> 20);
    picture
}

/// Prints how far two pictures are apart, and of the rows beside the borders of bands alone.
fn compare(found: &Tensor, expected: &Tensor) {
    let (found, expected, width) = (numbers(found), numbers(expected), expected.dims()[3]);
    let height = expected.len() / 3 / width;
    let at_border = |i: &usize| (i / width % height + 2) % ROWS < 4 && (2..height - 2).contains(&(i / width % height));
    let squares = |of: &dyn Fn(&usize) -> bool| {
        let apart = (0..found.len()).filter(of).map(|i| f64::from(found[i] - expected[i]).powi(2));
        let (count, sum) = apart.fold((0, 0.0), |(count, sum), v| (count + 1, sum + v));
        (sum / f64::from(count)).sqrt()
    };
    let norm = (expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / expected.len() as f64).sqrt();
    let largest = found.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    let all = squares(&|_| true);
    println!(
        "  relative error {:.1e}, PSNR {:.1} dB, at most {largest:.1e}; at borders {:.1e}, elsewhere {:.1e}",
        all / norm,
        20.0 * (2.0 / all).log10(),
        squares(&at_border),
        squares(&|i| !at_border(i)),
    );
}

/// `LIMNER_BANDS_MODEL`: a folder of Stable Diffusion; `LIMNER_BANDS_SIDES`: of pictures, in pixels; with
/// `LIMNER_BANDS_ONLY` nothing is decoded whole. In which products: as `LIMNER_PARITY_PRODUCTS` says.
#[test]
#[ignore = "a measurement: it takes a model of the full size and minutes"]
fn how_near_and_how_large() {
    let path = PathBuf::from(std::env::var("LIMNER_BANDS_MODEL").expect("LIMNER_BANDS_MODEL"));
    let sides = std::env::var("LIMNER_BANDS_SIDES").unwrap_or("1024".into());
    let products = crate::parity::products();
    let model = Model::load(&path, &Device::Cpu, Precision::on(&Device::Cpu, None).with_products(Some(products)));
    let codec = model.unwrap().codec;
    let Codec::Kl(model) = &*codec else { panic!("another codec") };
    for side in sides.split(',').map(|side| side.trim().parse::<usize>().unwrap()) {
        let (channels, latent) = (model.config().latent_channels, side / model.config().factor());
        let noise = formula("input.latents", &[1, channels, latent, latent]);
        for (kind, latents) in [("noise", (noise * 3.0).unwrap()), ("picture", picture_like(channels, latent))] {
            println!("{side} x {side}, {products:?}, {kind}");
            let found = measured("in bands", || in_bands(model, &latents));
            if std::env::var_os("LIMNER_BANDS_ONLY").is_none() {
                compare(&found, &measured("whole", || whole(model, &latents)));
            }
        }
    }
}
