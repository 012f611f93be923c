//! Dormand and Prince's embedded pair of orders 5 and 4, with the step chosen anew after each step.

use super::Effort;
use crate::Result;
use crate::error::Error;
use candle_core::{DType, Device, Tensor};

/// The rows of the tableau below its first; the last is also the solution of order 5 (Dormand and Prince 1980, table 2).
const STAGES: [&[f64]; 6] = [
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// Where in a step each row is evaluated.
const TIMES: [f64; 6] = [0.2, 0.3, 0.8, 8.0 / 9.0, 1.0, 1.0];
/// The solution of order 5 less that of order 4.
const ERROR: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339_200.0, 22.0 / 525.0, -1.0 / 40.0];
/// A tenth of the way in ln sigma is tried first.
const FIRST: f64 = 0.1;
/// The most evaluations: a state that asks for more is not one that a solver can follow.
const MOST: usize = 20_000;

/// Solves `dy / d ln sigma = slope(y, sigma)` from one noise level to the other.
pub(super) fn solve(
    mut slope: impl FnMut(&Tensor, f64) -> Result<Tensor>,
    mut y: Tensor,
    (from, to): (f64, f64),
    tolerance: f64,
    on_step: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<(Tensor, Effort)> {
    let way = (to / from).ln();
    let (mut done, mut step) = (0.0, FIRST);
    let mut effort = Effort { evaluations: 1, ..Effort::default() };
    let mut first = slope(&y, from)?;
    while done < 1.0 {
        let share = step.min(1.0 - done);
        let (h, sigma) = (share * way, |time: f64| from * (way * (done + time * share)).exp());
        let mut slopes = vec![first.clone()];
        let mut next = y.clone();
        for (row, time) in STAGES.iter().zip(TIMES) {
            next = (&y + (combination(&slopes, row)? * h)?)?;
            slopes.push(slope(&next, sigma(time))?);
        }
        effort.evaluations += STAGES.len();
        let error = norm(&(combination(&slopes, &ERROR)? * h)?, &y, &next, tolerance)?;
        if !error.is_finite() || effort.evaluations > MOST {
            let message = format!("the flow at sigma {:.4} could not be followed within {tolerance:e}", sigma(0.0));
            return Err(Error::NonFinite(message));
        }
        if error <= 1.0 {
            (y, first) = (next, slopes.swap_remove(6));
            done = if share < step { 1.0 } else { done + share };
            effort.accepted += 1;
            on_step(done.min(1.0))?;
        } else {
            effort.rejected += 1;
        }
        step = share * (0.9 * error.max(1e-10).powf(-0.2)).clamp(0.2, 10.0);
    }
    Ok((y, effort))
}

fn combination(slopes: &[Tensor], weights: &[f64]) -> Result<Tensor> {
    let mut sum = (&slopes[0] * weights[0])?;
    for (slope, weight) in slopes.iter().zip(weights).skip(1).filter(|(_, weight)| **weight != 0.0) {
        sum = (sum + (slope * *weight)?)?;
    }
    Ok(sum)
}

/// The root mean square of the error over what it may be.
fn norm(error: &Tensor, before: &Tensor, after: &Tensor, tolerance: f64) -> Result<f64> {
    let scale = before.abs()?.maximum(&after.abs()?)?.affine(tolerance, tolerance)?;
    let relative = error.div(&scale)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let square = relative.sqr()?.mean_all()?.to_scalar::<f64>()?;
    Ok(square.sqrt())
}
