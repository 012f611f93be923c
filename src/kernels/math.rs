//! Elementary functions in a form that the compiler turns into vector instructions.
//!
//! Call them inside [`vectorised`].

/// `vectorised!(|| loops)` runs the loops compiled for the widest vectors this processor has. A macro, since the closure
/// must be marked for inlining: a large one that is not keeps the baseline's instructions.
macro_rules! vectorised {
    (|| $body:expr) => {
        pulp::Arch::new().dispatch($crate::kernels::math::Inlined(
            #[inline(always)]
            || $body,
        ))
    };
}
pub(super) use vectorised;

/// A closure called through `FnMut`: the adapter to `FnOnce`, which pulp would call, is a function of its own that is not
/// always inlined.
pub(super) struct Inlined<F>(pub(super) F);

impl<R, F: FnMut() -> R> pulp::NullaryFnOnce for Inlined<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}

/// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, which lies in the lowest bits between the two.
const ROUND: f32 = 12_582_912.0;

/// `2^n` for `n + ROUND`, with n from -126 to 127. Without a conversion to an integer, which in Rust looks for what does not fit.
#[inline(always)]
fn power_of_two(shifted: f32) -> f32 {
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `e^x`, relative error below 3e-7; 0 below -87, clamped above 88. Cody-Waite reduction, then a polynomial of degree 6
/// for `e^r` on |r| <= ln(2)/2 (its Taylor terms).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let tail = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0));
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * tail)));
    if x < -87.0 { 0.0 } else { p * power_of_two(shifted) }
}

/// The polynomial of [`exp2`], from its constant on.
pub(super) const EXP2: [f32; 5] = [1.0, 0.693_122, 0.240_237_2, 0.055_916_9, 0.009_600_4];

/// The polynomial of `2^r` for r from 0 to 1, relative error below 8e-5: enough for what is rounded to bf16.
pub(super) const EXP2_FROM_0: [f32; 4] = [0.999_925_2, 0.695_833_5, 0.226_067_19, 0.078_024_5];

/// `2^x` for x up to 127, relative error below 4e-6; 0 below -126, and NaN of NaN. A polynomial of degree 4, fitted on |r| <= 1/2.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    // Not `max`, which would make a number of what is none.
    let clamped = if x < -126.0 { -126.0 } else { x };
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    let p = EXP2[0] + r * (EXP2[1] + r * (EXP2[2] + r * (EXP2[3] + r * EXP2[4])));
    if x < -126.0 { 0.0 } else { p * power_of_two(shifted) }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x / (1 + e^-x)` to four digits and more, for what is then rounded to bf16: in about half of the time.
#[inline(always)]
pub(super) fn silu_for_bf16(x: f32) -> f32 {
    x / (1.0 + exp2((x * -std::f32::consts::LOG2_E).min(126.0)))
}

/// `x` times the standard normal distribution function at x, the same way.
#[inline(always)]
pub(super) fn gelu_for_bf16(x: f32) -> f32 {
    let gauss = exp2(x * x * (-0.5 * std::f32::consts::LOG2_E));
    let upper = 0.5 * upper_over_gauss(x.abs()) * gauss;
    x * if x < 0.0 { upper } else { 1.0 - upper }
}

/// The constants of [`upper_over_gauss`]: p, and a1 to a5.
pub(super) const UPPER: (f32, [f32; 5]) =
    (0.327_591_1, [0.254_829_6, -0.284_496_72, 1.421_413_8, -1.453_152_1, 1.061_405_4]);

/// Twice the probability of more than `x`, from 0 on, over `e^(-x^2 / 2)` (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn upper_over_gauss(x: f32) -> f32 {
    let (p, [a1, a2, a3, a4, a5]) = UPPER;
    let t = 1.0 / (1.0 + p * (x * std::f32::consts::FRAC_1_SQRT_2));
    t * (a1 + t * (a2 + t * (a3 + t * (a4 + t * a5))))
}

/// The standard normal distribution function and its density at x; absolute error below 2e-7
/// (Abramowitz and Stegun 7.1.26).
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    const INV_SQRT_2PI: f32 = 0.398_942_3;
    let gauss = exp(-0.5 * x * x);
    let upper = 0.5 * upper_over_gauss(x.abs()) * gauss;
    let cdf = if x < 0.0 { upper } else { 1.0 - upper };
    (cdf, gauss * INV_SQRT_2PI)
}
