//! Orders of convergence on a mixture whose probability-flow ODE can be solved exactly: the flow keeps each point's
//! quantile (methods.md 2.2).

use super::analytic::{Mixture, run_ode};
use super::{geometric, row, values};
use limner::diffusion::sampler::{Churn, Sampler};

/// The walk ends above 0: a last step to 0 is first order and would hide the rest.
const ENDS: (f64, f64) = (20.0, 0.05);

/// The largest endpoint error over 17 quantiles.
fn worst_error(sampler: Sampler, steps: usize) -> f64 {
    let quantiles: Vec<f64> = (0..17).map(|i| 0.02 + 0.06 * f64::from(i)).collect();
    let at = |sigma: f64| quantiles.iter().map(|p| Mixture::quantile(*p, sigma)).collect::<Vec<_>>();
    let end = run_ode(sampler, &Mixture, row(&at(ENDS.0)), &geometric(ENDS.0, ENDS.1, steps));
    values(&end).iter().zip(at(ENDS.1)).map(|(x, exact)| (x - exact).abs()).fold(0.0, f64::max)
}

#[track_caller]
fn assert_order(sampler: Sampler, order: f64) {
    let (coarse, fine) = (worst_error(sampler, 64), worst_error(sampler, 512));
    let slope = (coarse / fine).log2() / 3.0;
    assert!((order - 0.15..order + 0.25).contains(&slope), "{sampler}: order {slope}, errors {coarse:e} to {fine:e}");
}

#[test]
fn euler_and_ddim_are_of_first_order() {
    assert_order(Sampler::Euler { churn: Churn::NONE }, 1.0);
    assert_order(Sampler::Ddim { eta: 0.0 }, 1.0);
}

#[test]
fn heun_is_of_second_order() {
    assert_order(Sampler::Heun { churn: Churn::NONE }, 2.0);
}

#[test]
fn dpmpp_2m_is_of_second_order_and_better_than_heun_per_step() {
    assert_order(Sampler::Dpmpp2m, 2.0);
    assert!(worst_error(Sampler::Dpmpp2m, 128) < worst_error(Sampler::Heun { churn: Churn::NONE }, 128));
}

/// Errors computed independently in float64 (methods.md 2.4), over 17 quantiles that need not be ours: so to 15 %.
#[test]
fn the_errors_are_those_listed() {
    let listed = [
        (Sampler::Euler { churn: Churn::NONE }, [1.52e-1, 4.39e-2, 1.12e-2]),
        (Sampler::Heun { churn: Churn::NONE }, [1.61e-2, 9.93e-4, 6.18e-5]),
        (Sampler::Dpmpp2m, [4.93e-3, 3.52e-4, 2.25e-5]),
    ];
    for (sampler, errors) in listed {
        for (steps, error) in [32, 128, 512].into_iter().zip(errors) {
            let ratio = worst_error(sampler, steps) / error;
            assert!((0.85..1.15).contains(&ratio), "{sampler}, {steps} steps: {ratio} of the listed error");
        }
    }
}
