//! What the pipeline tells networks of the several families: each is drawn a second time by hand, from the parts of the
//! same model, with the formulas of the papers.

use crate::checkpoint::tiny::Tiny;
use crate::pipeline::{photograph, png};
use candle_core::{DType, Device, Tensor};
use limner::Result;
use limner::diffusion::denoiser::{Denoiser, Network, Preconditioned};
use limner::diffusion::noise::{NoiseKind, NoiseSource, SeededNoise};
use limner::diffusion::sampler::Sampler;
use limner::diffusion::schedule::Spacing;
use limner::image::{Mask, RgbImage, from_tensor, to_tensor};
use limner::model::checkpoint::Model;
use limner::model::unet::{Added, Conditioning, UNet2DConditionModel};
use limner::pipeline::Pipeline;
use limner::request::{GenerateRequest, Plan};
use serde_json::json;

const STEPS: usize = 3;
const SEED: u64 = 5;

/// Euler steps on the trailing ladder, with whatever else is given.
fn draw(tiny: &Tiny, set: &[(&str, &str)], image: Option<&RgbImage>, mask: Option<&RgbImage>) -> RgbImage {
    let pipeline = Pipeline::load(tiny.path(), &Device::Cpu).unwrap();
    let mut request = GenerateRequest { image: image.map(png), mask: mask.map(png), ..Default::default() };
    let usual =
        [("prompt", "red apple"), ("steps", "3"), ("seed", "5"), ("sampler", "euler"), ("schedule", "trailing")];
    for (field, value) in usual.iter().chain(set) {
        assert!(request.set_text(field, (*value).into()), "{field}");
    }
    let plan = Plan::new(&request, &pipeline.facts()).unwrap();
    pipeline.generate(&plan, &mut |_| Ok(())).unwrap().remove(0).pixels
}

/// A U-Net with all that it is told, and channels beside its input.
struct Told<'a>(&'a UNet2DConditionModel, Conditioning, Option<Tensor>);

impl Network for Told<'_> {
    fn predict(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let x = match &self.2 {
            Some(beside) => Tensor::cat(&[x, beside], 1)?,
            None => x.clone(),
        };
        self.0.forward(&x, t, &self.1)
    }
}

/// A sum of denoisers with weights.
struct Sum<D>(Vec<(f64, D)>);

impl<D: Denoiser> Denoiser for Sum<D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let mut sum = x.zeros_like()?;
        for (weight, denoiser) in &self.0 {
            sum = (sum + (denoiser.denoise(x, sigma)? * *weight)?)?;
        }
        Ok(sum)
    }
}

struct ByHand(Model);

impl ByHand {
    fn load(tiny: &Tiny) -> Self {
        Self(Model::load(tiny.path(), &Device::Cpu, DType::F32).unwrap())
    }

    /// What the encoders say, side by side, and the last one's vector.
    fn text(&self, text: &str) -> (Tensor, Option<Tensor>) {
        let said = self.0.text.iter().map(|encoder| {
            let ids = encoder.tokenizer.ids(text).unwrap();
            encoder.read(&encoder.tokenizer.framed(&ids), ids.len() + 1, None, None).unwrap()
        });
        let said: Vec<_> = said.collect();
        let states = Tensor::cat(&said.iter().map(|said| &said.states).collect::<Vec<_>>(), 2).unwrap();
        (states, said.into_iter().last().and_then(|said| said.pooled))
    }

    fn told(&self, given: Conditioning, beside: Option<Tensor>) -> Preconditioned<Told<'_>> {
        Preconditioned::new(Told(&self.0.unet, given, beside), self.0.prediction, self.0.schedule.clone())
    }

    fn with_text(&self, text: &str, beside: Option<&Tensor>) -> Preconditioned<Told<'_>> {
        self.told(Conditioning::text(&self.text(text).0), beside.cloned())
    }

    /// Pure noise down the ladder.
    fn walk(&self, denoiser: &dyn Denoiser, (width, height): (usize, usize)) -> RgbImage {
        let factor = self.0.codec.factor();
        let sigmas = Spacing::Trailing.sigmas(&self.0.schedule, STEPS).unwrap();
        let mut noise = SeededNoise::new(NoiseKind::Philox, &[SEED]);
        let shape = (1, self.0.codec.latent_channels(), height / factor, width / factor).into();
        let x = (noise.normal(&shape, DType::F32, &Device::Cpu).unwrap() * sigmas[0]).unwrap();
        let latents = Sampler::EULER.run(denoiser, x, &sigmas, &mut noise, &mut |_| Ok(())).unwrap();
        from_tensor(&self.0.codec.decode(&latents).unwrap()).unwrap()
    }
}

/// The same but for rounding: sums in another order may tip a pixel to its neighbour.
fn assert_alike(a: &RgbImage, b: &RgbImage) {
    assert_eq!(a.dimensions(), b.dimensions());
    let apart = a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(apart <= 1, "{apart} levels apart");
    assert!(a.iter().collect::<std::collections::HashSet<_>>().len() > 20, "a flat picture proves nothing");
}

/// White from the ninth column on.
fn half() -> RgbImage {
    RgbImage::from_fn(16, 16, |x, _| image::Rgb([if x < 8 { 0 } else { 255 }; 3]))
}

/// Rombach et al., arXiv:2112.10752, section 4.5: the mask and the latents of the picture without what it covers.
#[test]
fn a_network_for_inpainting_sees_the_mask_and_the_rest_of_the_picture() {
    let tiny = Tiny::with_unet(&json!({ "in_channels": 9 }));
    let (picture, mask) = (photograph(16, 16), half());
    let drawn = draw(&tiny, &[("guidance", "3")], Some(&picture), Some(&mask));

    let hand = ByHand::load(&tiny);
    let seen = Mask::read(&png(&mask), (16, 16), limner::image::Greys::Split).unwrap();
    let kept = to_tensor(&picture, &Device::Cpu).unwrap().broadcast_mul(&seen.kept(&Device::Cpu).unwrap()).unwrap();
    let factor = hand.0.codec.factor();
    let channels = [seen.to_latents(factor, &Device::Cpu).unwrap(), hand.0.codec.encode(&kept).unwrap()];
    let beside = Tensor::cat(&channels, 1).unwrap();
    let guided =
        Sum(vec![(3.0, hand.with_text("red apple", Some(&beside))), (-2.0, hand.with_text("", Some(&beside)))]);
    let whole = hand.walk(&guided, (16, 16));
    let expected = RgbImage::from_fn(16, 16, |x, y| *if x < 8 { &picture } else { &whole }.get_pixel(x, y));
    assert_alike(&drawn, &expected);
    assert!((0..8).all(|x| (0..16).all(|y| drawn.get_pixel(x, y) == picture.get_pixel(x, y))));
}

/// Without a picture all is to be painted.
#[test]
fn a_network_for_inpainting_draws_from_a_prompt_alone() {
    let tiny = Tiny::with_unet(&json!({ "in_channels": 9 }));
    let hand = ByHand::load(&tiny);
    let grey = hand.0.codec.encode(&Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu).unwrap()).unwrap();
    let ones = Tensor::ones((1, 1, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let beside = Tensor::cat(&[ones, grey], 1).unwrap();
    let expected = hand.walk(&hand.with_text("red apple", Some(&beside)), (16, 16));
    assert_alike(&draw(&tiny, &[("guidance", "1")], None, None), &expected);
}

/// Brooks et al., arXiv:2211.09800, eq. 3, with the latents of the picture as the autoencoder gives them.
#[test]
fn a_network_for_editing_has_a_scale_for_the_text_and_one_for_the_picture() {
    let tiny = Tiny::with_unet(&json!({ "in_channels": 8 }));
    let picture = photograph(16, 16);
    let set = [("guidance", "4"), ("image_guidance", "1.75"), ("negative_prompt", "the")];
    let drawn = draw(&tiny, &set, Some(&picture), None);

    let hand = ByHand::load(&tiny);
    let seen = hand.0.codec.mean(&to_tensor(&picture, &Device::Cpu).unwrap()).unwrap();
    let nothing = seen.zeros_like().unwrap();
    // D_u + 4 (D - D_p) + 1.75 (D_p - D_u).
    let guided = Sum(vec![
        (1.0 - 1.75, hand.with_text("the", Some(&nothing))),
        (1.75 - 4.0, hand.with_text("the", Some(&seen))),
        (4.0, hand.with_text("red apple", Some(&seen))),
    ]);
    assert_alike(&drawn, &hand.walk(&guided, (16, 16)));
    let weaker = [("guidance", "4"), ("image_guidance", "1"), ("negative_prompt", "the")];
    assert_ne!(draw(&tiny, &weaker, Some(&picture), None), drawn);
}

/// Podell et al., arXiv:2307.01952: both encoders' states, the second's vector and the sizes; nothing at all, that is
/// zeros, for a negative prompt that is empty.
#[test]
fn sdxl_is_told_both_texts_and_the_sizes() {
    let tiny = Tiny::xl();
    let hand = ByHand::load(&tiny);
    let size = Tensor::new(&[[16f32, 24.0, 0.0, 0.0, 16.0, 24.0]], &Device::Cpu).unwrap();
    let given = |text: &str, scale: f64| {
        let (states, pooled) = hand.text(text);
        assert_eq!((states.dims(), pooled.as_ref().unwrap().dims()), (&[1, 16, 128][..], &[1, 48][..]));
        let added = Added { pooled: (pooled.unwrap() * scale).unwrap(), sizes: size.clone() };
        Conditioning { added: Some(added), ..Conditioning::text(&(states * scale).unwrap()) }
    };
    let usual = [("guidance", "2"), ("width", "24"), ("height", "16")];
    for (negative, scale) in [("", 0.0), ("the", 1.0)] {
        let parts = [(2.0, given("red apple", 1.0)), (-1.0, given(negative, scale))];
        let guided = Sum(parts.map(|(weight, given)| (weight, hand.told(given, None))).into());
        let set = [&usual[..], &[("negative_prompt", negative)]].concat();
        assert_alike(&draw(&tiny, &set, None, None), &hand.walk(&guided, (24, 16)));
    }
    let plain = draw(&tiny, &usual, None, None);
    assert_eq!(draw(&tiny, &[&usual[..], &[("clip_skip", "2")]].concat(), None, None), plain, "2 is SDXL's own");
    assert_ne!(draw(&tiny, &[&usual[..], &[("clip_skip", "1")]].concat(), None, None), plain);
}

/// Luo et al., arXiv:2310.04378: the scale goes into the network, and one pass is enough.
#[test]
fn a_network_that_knows_the_guidance_scale_is_told_it_and_not_guided() {
    let tiny = Tiny::with_unet(&json!({ "time_cond_proj_dim": 6 }));
    let hand = ByHand::load(&tiny);
    let given = Conditioning { guidance: Some(8.0), ..Conditioning::text(&hand.text("red apple").0) };
    let expected = hand.walk(&hand.told(given, None), (16, 16));
    let drawn = draw(&tiny, &[("guidance", "8")], None, None);
    assert_alike(&drawn, &expected);
    assert_ne!(draw(&tiny, &[("guidance", "3")], None, None), drawn);
}

#[test]
fn clip_skip_reads_an_earlier_layer_and_is_remembered() {
    let tiny = Tiny::stable_diffusion(1);
    let set = |skip| [("width", "16"), ("height", "16"), ("clip_skip", skip)];
    let last = draw(&tiny, &set("1"), None, None);
    assert_eq!(draw(&tiny, &[("width", "16"), ("height", "16")], None, None), last);
    assert_ne!(draw(&tiny, &set("2"), None, None), last);

    let hand = ByHand::load(&tiny);
    let read = |text: &str| {
        let encoder = &hand.0.text[0];
        let ids = encoder.tokenizer.ids(text).unwrap();
        let ids = Tensor::new(encoder.tokenizer.framed(&ids), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        encoder.network.normed(&encoder.network.hidden(&ids, 1).unwrap()).unwrap()
    };
    let told = |text| hand.told(Conditioning::text(&read(text)), None);
    let guided = Sum(vec![(2.0, told("red apple")), (-1.0, told(""))]);
    assert_alike(
        &draw(&tiny, &[&set("2")[..], &[("guidance", "2")]].concat(), None, None),
        &hand.walk(&guided, (16, 16)),
    );
}
