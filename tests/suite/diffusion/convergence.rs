//! Orders of convergence on a mixture whose probability-flow ODE can be solved exactly: the flow keeps each point's
//! quantile (methods.md 2.2).

use super::analytic::{Mixture, run_ode};
use super::{geometric, row, values};
use limner::diffusion::sampler::{Basis, Sampler, SecondOrder};

/// The walk ends above 0: a last step to 0 is first order and would hide the rest.
const ENDS: (f64, f64) = (20.0, 0.05);

/// The largest endpoint error over 17 quantiles.
fn worst_error(sampler: Sampler, steps: usize) -> f64 {
    let quantiles: Vec<f64> = (0..17).map(|i| 0.02 + 0.06 * f64::from(i)).collect();
    let at = |sigma: f64| quantiles.iter().map(|p| Mixture::quantile(*p, sigma)).collect::<Vec<_>>();
    let mut ladder = geometric(ENDS.0, ENDS.1, steps);
    if matches!(sampler, Sampler::Unipc { .. }) {
        // Its order falls on the last steps: so that they do not matter, they are of no length.
        ladder.extend([1.0 - 1e-7, 1.0 - 2e-7].map(|share| ENDS.1 * share));
    }
    let end = run_ode(sampler, &Mixture, row(&at(ENDS.0)), &ladder);
    values(&end).iter().zip(at(ENDS.1)).map(|(x, exact)| (x - exact).abs()).fold(0.0, f64::max)
}

#[track_caller]
fn assert_order(sampler: Sampler, order: f64) {
    let (coarse, fine) = (worst_error(sampler, 64), worst_error(sampler, 512));
    let slope = (coarse / fine).log2() / 3.0;
    assert!((order - 0.15..order + 0.25).contains(&slope), "{sampler}: order {slope}, errors {coarse:e} to {fine:e}");
}

const UNIPC_2: Sampler = Sampler::Unipc { order: 2, basis: Basis::Bh2 };
const UNIPC_3: Sampler = Sampler::Unipc { order: 3, basis: Basis::Bh2 };

/// UniPC is of one order more than its name says; DPM-Solver++(3M) starts with a step of first order, whose error stays.
/// (Multistep methods of order 3 and 4 start so, too, and are of second order for it.)
#[test]
fn every_solver_is_of_its_order() {
    for (sampler, order) in [
        (Sampler::EULER, 1.0),
        (Sampler::Ddim { eta: 0.0 }, 1.0),
        (Sampler::HEUN, 2.0),
        (Sampler::Dpmpp2m, 2.0),
        (Sampler::Dpmpp2mSde { eta: 0.0, kind: SecondOrder::Heun }, 2.0),
        (Sampler::Dpmpp2s { eta: 0.0 }, 2.0),
        (Sampler::Dpm2 { eta: 0.0 }, 2.0),
        (Sampler::Dpmpp3m, 2.0),
        (Sampler::Deis { order: 2 }, 2.0),
        (UNIPC_2, 3.0),
        (Sampler::Unipc { order: 2, basis: Basis::Bh1 }, 3.0),
        // On its way to 4.
        (UNIPC_3, 3.6),
    ] {
        assert_order(sampler, order);
    }
}

/// Errors computed independently in float64 (methods.md 2.4), over 17 quantiles that need not be ours: so to 20 %.
#[test]
fn the_errors_are_those_listed() {
    let listed = [
        (Sampler::EULER, [1.52e-1, 4.39e-2, 1.12e-2]),
        (Sampler::HEUN, [1.61e-2, 9.93e-4, 6.18e-5]),
        (Sampler::Dpmpp2m, [4.93e-3, 3.52e-4, 2.25e-5]),
        (Sampler::Dpmpp2mSde { eta: 0.0, kind: SecondOrder::Heun }, [1.09e-2, 7.11e-4, 4.46e-5]),
        (Sampler::Dpmpp2s { eta: 0.0 }, [9.00e-3, 5.87e-4, 3.70e-5]),
        (Sampler::Dpm2 { eta: 0.0 }, [7.51e-3, 4.66e-4, 2.90e-5]),
        (Sampler::Dpmpp3m, [3.03e-3, 1.43e-4, 8.39e-6]),
        (UNIPC_2, [2.27e-3, 3.79e-5, 6.01e-7]),
        (Sampler::Unipc { order: 2, basis: Basis::Bh1 }, [4.59e-3, 6.93e-5, 1.07e-6]),
        (UNIPC_3, [1.28e-4, 1.20e-6, 5.83e-9]),
    ];
    for (sampler, errors) in listed {
        for (steps, error) in [32, 128, 512].into_iter().zip(errors) {
            let ratio = worst_error(sampler, steps) / error;
            assert!((0.8..1.2).contains(&ratio), "{sampler}, {steps} steps: {ratio} of the listed error");
        }
    }
}

/// The methods that extrapolate the noise come to the same end.
#[test]
fn linear_multistep_methods_converge() {
    for (sampler, most) in [(Sampler::Lms, 1e-3), (Sampler::Pndm, 1e-3), (Sampler::Deis { order: 3 }, 1e-4)] {
        let (coarse, fine) = (worst_error(sampler, 64), worst_error(sampler, 512));
        assert!(fine < most && fine < coarse / 16.0, "{sampler}: {coarse:e} to {fine:e}");
    }
}
