//! The numeric core against truths that are known: other programs' numbers, closed forms, exact endpoints.

mod analytic;
mod convergence;
mod diagnostics;
mod elbo;
mod flow;
mod guidance;
mod identities;
mod inpaint;
mod inverse;
mod likelihood;
mod loss;
mod moments;
mod noise;
mod scheduled;
mod trajectories;
mod walking;

use candle_core::{Device, Tensor};

/// A row of f64 values as a batch of one picture, (1, 1, 1, n).
fn row(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, (1, 1, 1, values.len()), &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails unless every pair differs by at most `tolerance`; NaN fails.
#[track_caller]
fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let close = (a - b).abs() <= tolerance;
        assert!(close, "element {i}: found {a}, expected {b} within {tolerance:e}");
    }
}

/// `steps + 1` sigmas evenly spaced in ln sigma, both ends included.
fn geometric(high: f64, low: f64, steps: usize) -> Vec<f64> {
    (0..=steps).map(|i| high * (low / high).powf(i as f64 / steps as f64)).collect()
}
