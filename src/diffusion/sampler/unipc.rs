//! UniPC: a multistep predictor, and a corrector that uses the same evaluation again.

use super::walk::{Walk, shrink};
use crate::Result;
use candle_core::Tensor;

/// `B(h)`, which decides what a step's remainder is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Basis {
    /// `B(h) = h`.
    Bh1,
    /// `B(h) = e^h - 1`; better for guided pictures, by the paper.
    #[default]
    Bh2,
}

/// A rung that was left: where, with which D.
struct Left {
    sigma: f64,
    denoised: Tensor,
}

/// Between two rungs, as the paper writes it with `hh = -ln(s/s')`.
struct Step<'a> {
    from: f64,
    to: f64,
    basis: Basis,
    /// Rungs before `from`, the nearest first: as many as the order less one.
    before: &'a [Left],
}

/// UniPC of order `order` (2 or 3) for the clean estimate (Zhao et al., arXiv:2302.04867, algorithms 5 to 8, with
/// `predict_x0`). One evaluation a step; without the corrector, order 2 is DPM-Solver++(2M).
///
/// The order grows with what is known and falls towards the end: a last step to 0 is of first order.
pub(super) fn run(walk: &mut Walk<'_>, mut x: Tensor, order: usize, basis: Basis) -> Result<Tensor> {
    let total = walk.total();
    // The newest first.
    let mut left: Vec<Left> = Vec::new();
    // Where the last step began, and of which order it was.
    let mut last: Option<(Tensor, usize)> = None;
    for index in 0..total {
        let (sigma, next) = walk.pair(index);
        let denoised = walk.denoiser.denoise(&x, sigma)?;
        if let (Some((start, order)), Some(from)) = (last.take(), left.first()) {
            let step = Step { from: from.sigma, to: sigma, basis, before: &left[1..order] };
            x = step.corrected(&start, &from.denoised, &denoised)?;
        }
        left.insert(0, Left { sigma, denoised: denoised.clone() });
        left.truncate(order);
        let now = order.min(total - index).min(left.len());
        let predicted = Step { from: sigma, to: next, basis, before: &left[1..now] }.predicted(&x, &denoised)?;
        last = Some((x, now));
        x = walk.close(index, &denoised, predicted)?;
    }
    Ok(x)
}

impl Step<'_> {
    fn h(&self) -> f64 {
        (self.from / self.to).ln()
    }

    /// Where the rungs before lie, in units of the step: negative, the nearest first.
    fn places(&self) -> Vec<f64> {
        self.before.iter().map(|left| (self.from / left.sigma).ln() / self.h()).collect()
    }

    fn scale(&self) -> f64 {
        match self.basis {
            Basis::Bh1 => -self.h(),
            Basis::Bh2 => (-self.h()).exp_m1(),
        }
    }

    /// The first `count` moments `phi_(i+1)(hh) i! / B`.
    fn moments(&self, count: usize) -> Vec<f64> {
        let hh = -self.h();
        let (mut phi, mut factorial) = (hh.exp_m1() / hh - 1.0, 1.0);
        (1..=count)
            .map(|i| {
                let moment = phi * factorial / self.scale();
                factorial *= (i + 1) as f64;
                phi = phi / hh - 1.0 / factorial;
                moment
            })
            .collect()
    }

    fn predicted(&self, x: &Tensor, denoised: &Tensor) -> Result<Tensor> {
        let places = self.places();
        let weights = match places.len() {
            // B is no number on a step to 0, which is of first order and needs none.
            0 => return shrink(x, denoised, self.to / self.from),
            1 => vec![0.5],
            n => solve(&places, &self.moments(n)),
        };
        self.moved(x, denoised, &places, &weights, None)
    }

    /// From `start`, where `denoised` was found, again, now that D at the end is known.
    fn corrected(&self, start: &Tensor, denoised: &Tensor, there: &Tensor) -> Result<Tensor> {
        let places = [self.places(), vec![1.0]].concat();
        let weights = match places.len() {
            1 => vec![0.5],
            n => solve(&places, &self.moments(n)),
        };
        self.moved(start, denoised, &places, &weights, Some(there))
    }

    /// `(s'/s) x + (1 - s'/s) D - B sum_k w_k (D_k - D) / r_k`.
    fn moved(
        &self,
        x: &Tensor,
        denoised: &Tensor,
        places: &[f64],
        weights: &[f64],
        there: Option<&Tensor>,
    ) -> Result<Tensor> {
        let others = self.before.iter().map(|left| &left.denoised).chain(there);
        let mut moved = shrink(x, denoised, self.to / self.from)?;
        for ((other, place), weight) in others.zip(places).zip(weights) {
            moved = (moved - ((other - denoised)? * (self.scale() * weight / place))?)?;
        }
        Ok(moved)
    }
}

/// The weights with `sum_k w_k r_k^(i-1) = b_i`: a Vandermonde system of two or three places, by Gauss's elimination.
fn solve(places: &[f64], moments: &[f64]) -> Vec<f64> {
    let n = places.len();
    let row = |i: usize| places.iter().map(|place| place.powi(i as i32)).chain([moments[i]]).collect::<Vec<f64>>();
    let mut rows: Vec<Vec<f64>> = (0..n).map(row).collect();
    for column in 0..n {
        let pivot =
            (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs())).unwrap_or(column);
        rows.swap(column, pivot);
        let leading = rows[column].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let factor = row[column] / leading[column];
            row.iter_mut().zip(&leading).for_each(|(value, lead)| *value -= factor * lead);
        }
    }
    rows.iter().enumerate().map(|(i, row)| row[n] / row[i]).collect()
}
