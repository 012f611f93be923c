//! Guidance by measurements: exact on Gaussians where the rule's assumption holds, and as biased as it must be elsewhere.

use super::analytic::{Gaussian, Rows};
use super::inpaint::{Correlated, pixels};
use super::{assert_close, values};
use candle_core::{Device, Tensor};
use limner::Result;
use limner::diffusion::denoiser::{Denoiser, Estimate};
use limner::diffusion::inverse::{Energy, Grey, LinearOperator, Masked, Measured, Rule, Shrink, Steered, Towards};
use limner::diffusion::sampler::{Sampler, Variance};
use limner::diffusion::schedule::{Betas, NoiseSchedule, Spacing};

const UNIT: Rule = Rule::PseudoInverse { data_variance: 1.0 };

fn picture(values: &[f64], shape: (usize, usize, usize, usize)) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

/// Data N(0, v I): whatever is measured, the posterior is Gaussian and the rule exact. With `x0 ~ N(0, v)`,
/// `x = x0 + sigma n` and `y = A x0 + s m`, the posterior mean is `D + C A^T (A C A^T + s^2)^-1 (y - A D)`, of which A here
/// has orthogonal rows of square length `a`.
#[test]
fn on_isotropic_gaussians_the_rule_is_exact() {
    let x = picture(&(0..12).map(|i| f64::from(i) * 0.7 - 3.0).collect::<Vec<_>>(), (1, 3, 2, 2));
    for (variance, sigma, noise) in [(1.0, 0.5, 0.0), (1.0, 3.0, 0.2), (0.25, 1.5, 0.1)] {
        let rule = Rule::PseudoInverse { data_variance: variance };
        let prior = || Gaussian { mean: 0.0, variance };
        let denoised = prior().denoise(&x, sigma).unwrap();
        let spread = variance * sigma * sigma / (variance + sigma * sigma);
        let exact = |operator: &dyn LinearOperator, y: &Tensor, a: f64| {
            let residual = (y - operator.apply(&denoised).unwrap()).unwrap();
            let gain = spread / (spread * a + noise * noise);
            values(&(&denoised + (operator.adjoint(&residual).unwrap() * gain).unwrap()).unwrap())
        };
        let y = picture(&[0.4, -1.0, 2.0, 0.0], (1, 1, 2, 2));
        let found = Towards::one(prior(), Measured::new(Grey::new(3), y.clone(), noise, rule.clone()))
            .denoise(&x, sigma)
            .unwrap();
        assert_close(&values(&found), &exact(&Grey::new(3), &y, 1.0), 1e-12);
        let y = picture(&[0.4, -1.0, 2.0], (1, 3, 1, 1));
        let found =
            Towards::one(prior(), Measured::new(Shrink::new(2), y.clone(), noise, rule)).denoise(&x, sigma).unwrap();
        assert_close(&values(&found), &exact(&Shrink::new(2), &y, 0.25), 1e-12);
    }
}

/// Measured without error, an element is known.
#[test]
fn an_exact_measurement_is_reproduced() {
    let mask = picture(&[0.0, 1.0, 0.0, 1.0], (1, 1, 2, 2));
    let (x, y) = (picture(&[3.0, -2.0, 0.5, 1.0], (1, 1, 2, 2)), picture(&[1.5, 0.0, -0.5, 0.0], (1, 1, 2, 2)));
    let prior = Gaussian { mean: 0.3, variance: 1.0 };
    let plain = values(&prior.denoise(&x, 2.0).unwrap());
    let found = Towards::one(prior, Measured::new(Masked::new(&mask).unwrap(), y, 0.0, UNIT)).denoise(&x, 2.0).unwrap();
    assert_close(&values(&found), &[1.5, plain[1], -0.5, plain[3]], 1e-12);
}

/// The first of two pixels, weighed by the variance that it really has given the noisy picture.
struct FirstExactly;

impl FirstExactly {
    fn inner(&self) -> Masked {
        Masked::new(&picture(&[0.0, 1.0], (1, 1, 1, 2))).unwrap()
    }
}

impl LinearOperator for FirstExactly {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.inner().apply(x)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.inner().adjoint(y)
    }

    fn pseudo_inverse(&self, y: &Tensor) -> Result<Tensor> {
        self.inner().pseudo_inverse(y)
    }

    /// `spread` is `s^2 / (1 + s^2)`; the pixel's variance is `s^2 J_11`.
    fn weigh(&self, y: &Tensor, spread: f64, noise: f64) -> Result<Tensor> {
        let variance = spread / (1.0 - spread);
        self.inner().weigh(y, variance * Correlated::gain(variance.sqrt()).0, noise)
    }
}

/// With the variances of the reverse steps that are the model's own.
struct WithVariance<'a>(Towards<'a, &'a Correlated>, &'a Correlated);

impl Denoiser for WithVariance<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.0.denoise(x, sigma)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        Ok(Estimate { denoised: self.denoise(x, sigma)?, ..self.1.estimate(x, sigma)? })
    }
}

/// Mean and variance of the second pixel, the first being measured as 1.5: entry 0 of the batch is the base, 1 and 2 the
/// start of either pixel, the others each draw of either.
fn second_pixel<A: LinearOperator>(operator: A, steps: usize) -> [f64; 2] {
    let schedule = NoiseSchedule::new(Betas::Linear { start: 1e-4, end: 0.02 }, 1000, false).unwrap();
    let sigmas = Spacing::Linspace.sigmas(&schedule, steps).unwrap();
    let entries = 1 + 2 * steps;
    let rows = |first: usize| {
        let mut rows = vec![[0.0; 2]; entries];
        rows[first][0] = 1.0;
        rows[first + 1][1] = 1.0;
        rows
    };
    let mut measured = vec![[0.0; 2]; entries];
    measured[0] = [1.5, 0.0];
    let model = Correlated { sigmas: sigmas.clone() };
    let measured = Measured::new(operator, pixels(&measured), 0.0, UNIT);
    let guided = WithVariance(Towards::one(&model, measured), &model);
    let mut draws = Rows::new((1..steps).map(|i| rows(1 + 2 * i).concat()).collect());
    let sampler = Sampler::Ddpm { variance: Variance::LearnedRange };
    let end = sampler.run(&guided, pixels(&rows(1)), &sigmas, &mut draws, &mut |_| Ok(())).unwrap();
    let second: Vec<f64> = values(&end).chunks(2).map(|pixels| pixels[1]).collect();
    let start = (second[1].powi(2) + second[2].powi(2)) * (1.0 + sigmas[0].powi(2));
    [second[0], start + second[3..].iter().map(|g| g * g).sum::<f64>()]
}

/// The truth is mean 1.35 and variance .19. With the true variance guidance comes within a hundredth of it; with the one
/// that the rule assumes it is biased, but less than replacement (.933, .408). methods.md 2.6.
#[test]
fn guidance_by_one_of_two_pixels_has_the_listed_bias() {
    assert_close(&second_pixel(FirstExactly, 250), &[1.3499, 0.191], 1e-3);
    let mask = picture(&[0.0, 1.0], (1, 1, 1, 2));
    assert_close(&second_pixel(Masked::new(&mask).unwrap(), 250), &[1.280, 0.216], 1e-3);
}

/// One step of the paper's algorithm, in its own variables: x_{t-1} = x'_{t-1} - zeta grad_{x_t} |y - A x0(x_t)|.
#[test]
fn posterior_sampling_takes_the_papers_step() {
    let (ladder, zeta, y) = ([2.0f64, 0.8, 0.0], 0.3, 1.2);
    let x = picture(&[0.9], (1, 1, 1, 1));
    let prior = || Gaussian { mean: 0.1, variance: 0.5 };
    let rule = Rule::Posterior { scale: zeta, ladder: ladder.to_vec() };
    let operator = Masked::new(&picture(&[0.0], (1, 1, 1, 1))).unwrap();
    let guided = Towards::one(prior(), Measured::new(operator, picture(&[y], (1, 1, 1, 1)), 0.0, rule));
    let step = |denoiser: &dyn Denoiser| {
        let draws = || Rows::new(vec![vec![0.4]; 2]);
        let mut first = None;
        let sampler = Sampler::Ddpm { variance: Variance::FixedSmall };
        let mut after = |step: limner::diffusion::sampler::Step<'_>| {
            first.get_or_insert(values(step.denoised)[0]);
            Ok(())
        };
        sampler.run(denoiser, x.clone(), &ladder, &mut draws(), &mut after).unwrap();
        first.unwrap()
    };
    let [a, a_next] = [ladder[0], ladder[1]].map(|sigma| 1.0 / (1.0 + sigma * sigma).sqrt());
    let share = 1.0 - (ladder[1] / ladder[0]).powi(2);
    let shift = (step(&guided) - step(&prior())) * share * a_next;
    // x0 = .5 (x_t / a) / 4.5 + const, so its gradient by x_t is (1 / 9) / a; the residual is positive.
    let denoised = values(&prior().denoise(&x, ladder[0]).unwrap())[0];
    assert!(y > denoised);
    let expected = zeta * (0.5 / 4.5) / a;
    assert_close(&[shift], &[expected], 1e-12);
    assert!(guided.denoise(&x, 1.0).is_err());
}

/// A view that is a multiple of the identity, c x: what is measured through it of data N(0, 1) is measured by the operator
/// c A, for which the rule is exact. Here A sees everything, so that `y / c` has the error `noise / c`.
#[test]
fn through_a_linear_view_the_rule_is_that_of_both_together() {
    let (c, sigma, noise) = (3.0, 1.2, 0.4);
    let (x, y) = (picture(&[0.4, -1.0, 2.0, 0.3], (1, 1, 2, 2)), picture(&[1.0, 2.0, -1.5, 0.0], (1, 1, 2, 2)));
    let all = || Masked::new(&picture(&[0.0; 4], (1, 1, 2, 2))).unwrap();
    let prior = || Gaussian { mean: 0.0, variance: 1.0 };
    let view = |z: &Tensor| -> Result<Tensor> { Ok((z * c)?) };
    let seen = Measured::new(all(), y.clone(), noise, UNIT).through(&view);
    let found = Towards::one(prior(), seen).denoise(&x, sigma).unwrap();
    let plain = Measured::new(all(), (y / c).unwrap(), noise / c, UNIT);
    let expected = Towards::one(prior(), plain).denoise(&x, sigma).unwrap();
    assert_close(&values(&found), &values(&expected), 1e-9);
}

/// What is seen twice as bright is wanted black.
struct Dark;

impl Energy for Dark {
    fn energy(&self, pictures: &Tensor) -> Result<Tensor> {
        Ok((pictures.sqr()?.flatten_from(1)?.sum(1)? * 0.5)?)
    }
}

/// `w = exp(-k |2 D|^2 / 2)`, with D = x / (1 + s^2): `D' = D - s^2 k 4 D / (1 + s^2)`. Two pulls add up.
#[test]
fn an_energy_moves_by_its_gradient_and_pulls_add_up() {
    let (x, sigma, scale) = (picture(&[0.4, -1.0, 2.0, 0.3], (1, 1, 2, 2)), 1.5, 0.1);
    let prior = || Gaussian { mean: 0.0, variance: 1.0 };
    let view = |z: &Tensor| -> Result<Tensor> { Ok((z * 2.0)?) };
    let plain = prior().denoise(&x, sigma).unwrap();
    let steered = || Steered::new(Dark, scale, Some(&view));
    let share = sigma * sigma * scale * 4.0 / (1.0 + sigma * sigma);
    let found = Towards::one(prior(), steered()).denoise(&x, sigma).unwrap();
    assert_close(&values(&found), &values(&(&plain * (1.0 - share)).unwrap()), 1e-12);
    let twice = Towards::new(prior(), vec![Box::new(steered()), Box::new(steered())]).denoise(&x, sigma).unwrap();
    assert_close(&values(&twice), &values(&(&plain * (1.0 - 2.0 * share)).unwrap()), 1e-12);
}
