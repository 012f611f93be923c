//! Vector-Jacobian products of U-Nets of every kind: backward through the kernels in f32, held to finite differences
//! through candle's own operations in f64.

use super::formula::{input, values};
use super::{UNetCase, golden, numbers};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use limner::Result;
use limner::diffusion::denoiser::{Denoiser, Network, Preconditioned, Prediction};
use limner::diffusion::guidance::{Guidance, Guided};
use limner::diffusion::inpaint::Inpaint;
use limner::diffusion::jacobian::Linearised;
use limner::diffusion::schedule::{Betas, NoiseSchedule};
use limner::kernels::on_this_thread;
use limner::model::unet::{Conditioning, UNet2DConditionModel};

/// A U-Net with what it is told, and channels beside the noise where it has more inputs than outputs.
struct Net {
    unet: UNet2DConditionModel,
    given: Conditioning,
    beside: Option<Tensor>,
}

impl Network for Net {
    fn predict(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        match &self.beside {
            Some(beside) => self.unet.forward(&Tensor::cat(&[x, beside], 1)?, t, &self.given),
            None => self.unet.forward(x, t, &self.given),
        }
    }
}

const SIGMA: f64 = 1.3;

/// How a network's numbers are kept: not as variables, as in a model that is used.
#[derive(Clone, Copy)]
struct Kept {
    /// Of matrices and kernels.
    stored: DType,
    /// Whether these are brought to `used` at once.
    widened: bool,
    /// Of everything else.
    used: DType,
}

impl Kept {
    fn all(dtype: DType) -> Self {
        Self { stored: dtype, widened: false, used: dtype }
    }

    fn as_stored(stored: DType) -> Self {
        Self { stored, widened: false, used: DType::F32 }
    }
}

impl SimpleBackend for Kept {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, device: &Device) -> candle_core::Result<Tensor> {
        let (matrix, values) = (shape.rank() > 1, values(name, shape.dims()));
        let kept = Tensor::from_vec(values, shape, device)?.to_dtype(if matrix { self.stored } else { self.used })?;
        if self.widened { kept.to_dtype(self.used) } else { Ok(kept) }
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: no shape to follow")
    }

    /// Everything, but nothing in the layout of kernels, which has names of its own.
    fn contains_tensor(&self, name: &str) -> bool {
        !name.contains('#')
    }
}

/// The case's network for `rows` pictures, as a denoiser.
fn denoiser(case: &UNetCase, rows: usize, kept: Kept, prediction: Prediction) -> Preconditioned<Net> {
    let case = UNetCase { times: vec![1.0; rows], config: case.config.clone(), output: vec![], ..*case };
    let (config, dtype) = (case.config(), kept.used);
    let vb = VarBuilder::from_backend(Box::new(kept), dtype, Device::Cpu);
    let unet = UNet2DConditionModel::new(&config, &vb).unwrap();
    let mut given = case.conditioning(&input("input.context", &[rows, 5, 6]).to_dtype(dtype).unwrap());
    given.added.iter_mut().for_each(|added| added.pooled = added.pooled.to_dtype(dtype).unwrap());
    let more = config.in_channels - 4;
    let beside = (more > 0).then(|| input("input.beside", &[rows, more, 8, 8]).to_dtype(dtype).unwrap());
    let schedule = NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, false).unwrap();
    Preconditioned::new(Net { unet, given, beside }, prediction, schedule)
}

/// Every kind: as it is, guided, guided with the deviation restored, and held to a known half.
fn wrapped(kind: usize, case: &UNetCase, kept: Kept) -> Box<dyn Denoiser> {
    let (dtype, epsilon) = (kept.used, Prediction::Epsilon);
    let guided = |rescale| {
        let guidance = Guidance { scale: 3.0, rescale, ..Guidance::default() };
        Guided::new(denoiser(case, 1, kept, epsilon), denoiser(case, 2, kept, epsilon), guidance)
    };
    match kind {
        0 => Box::new(denoiser(case, 1, kept, epsilon)),
        1 => Box::new(denoiser(case, 1, kept, Prediction::Velocity)),
        2 => Box::new(guided(0.0)),
        3 => Box::new(guided(0.7)),
        _ => {
            let [known, noise] = ["input.known", "input.noise"].map(|name| like(name, dtype));
            let mask = input("input.mask", &[1, 1, 8, 8]).ge(0.0).unwrap().to_dtype(dtype).unwrap();
            Box::new(Inpaint::new(guided(0.0), &known, &mask, &noise))
        }
    }
}

/// Square: the way back through candle's own convolution takes a picture's width for its height.
fn like(name: &str, dtype: DType) -> Tensor {
    input(name, &[1, 4, 8, 8]).to_dtype(dtype).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    let product = (a.to_dtype(DType::F64).unwrap() * b.to_dtype(DType::F64).unwrap()).unwrap();
    product.sum_all().unwrap().to_scalar().unwrap()
}

/// `v^T J u` by central differences in f64.
fn difference(denoiser: &dyn Denoiser, v: &Tensor, u: &Tensor) -> f64 {
    let (x, step) = (like("input.x", DType::F64), 1e-6);
    let at = |h: f64| denoiser.denoise(&(&x + (u * h).unwrap()).unwrap(), SIGMA).unwrap();
    dot(&(at(step) - at(-step)).unwrap(), v) / (2.0 * step)
}

#[test]
fn vector_jacobian_products_are_finite_differences() {
    for (i, case) in golden().unet.iter().enumerate() {
        for kind in 0..5 {
            let [v, u] = ["input.v", "input.u"].map(|name| like(name, DType::F64));
            let double = wrapped(kind, case, Kept::all(DType::F64));
            let exact = Linearised::at(&*double, &like("input.x", DType::F64), SIGMA).unwrap().vjp(&v).unwrap();
            let (found, expected) = (dot(&exact, &u), difference(&*double, &v, &u));
            assert!((found - expected).abs() < 2e-6 * expected.abs().max(1.0), "{i} {kind}: {found} for {expected}");

            let single = wrapped(kind, case, Kept::all(DType::F32));
            let x = like("input.x", DType::F32);
            let product = Linearised::at(&*single, &x, SIGMA).unwrap().vjp(&like("input.v", DType::F32)).unwrap();
            let off = (product.to_dtype(DType::F64).unwrap() - &exact).unwrap();
            let (off, size) = (dot(&off, &off).sqrt(), dot(&exact, &exact).sqrt());
            assert!(off < 2e-5 * size, "{i} {kind}: off by {off} of {size}");
            assert!(size > 0.1, "{i} {kind}: the product is next to nothing");
        }
    }
}

/// With weights in half precision the products are those of the same numbers in f32, as the pictures are; and they
/// take one thread or all, with the same bits.
#[test]
fn weights_in_half_precision_have_products_too() {
    let case = &golden().unet[0];
    let product = |denoiser: &dyn Denoiser| {
        let linearised = Linearised::at(denoiser, &like("input.x", DType::F32), SIGMA).unwrap();
        numbers(&linearised.vjp(&like("input.v", DType::F32)).unwrap())
    };
    let half = wrapped(0, case, Kept::as_stored(DType::F16));
    let found = product(&*half);
    assert!(found.iter().all(|value| value.is_finite()) && found.iter().any(|value| value.abs() > 0.01));
    assert_eq!(found, product(&*wrapped(0, case, Kept { widened: true, ..Kept::as_stored(DType::F16) })));
    assert_ne!(found, product(&*wrapped(0, case, Kept::all(DType::F32))));
    assert_eq!(found, on_this_thread(|| product(&*half)));
}
