//! AdamW with clipping by the global norm, and an exponential moving average of the weights.

use super::parameters::Parameters;
use crate::{Error, Result, kernels};
use candle_core::{Tensor, Var};
use rayon::prelude::*;
use std::collections::HashMap;

/// The constants of [`AdamW`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constants {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second mean.
    pub eps: f64,
    /// Decoupled decay of matrices and convolutions (not of biases and norms), times the learning rate.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm when they exceed it.
    pub clip: f64,
    /// Decay of the moving average, reached after a warm-up of (1 + n) / (10 + n).
    pub ema: f64,
}

impl Default for Constants {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, clip: 1.0, ema: 0.999 }
    }
}

/// One variable with its running means.
#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    first: Vec<f32>,
    second: Vec<f32>,
    average: Vec<f32>,
}

/// AdamW (Loshchilov and Hutter 2017, algorithm 2) with bias correction.
#[derive(Debug)]
pub struct AdamW {
    constants: Constants,
    slots: Vec<Slot>,
    steps: usize,
}

impl AdamW {
    /// For all variables that `parameters` has now; the moving average starts at their values.
    pub fn new(parameters: &Parameters, constants: Constants) -> Result<Self> {
        let slot = |(name, var): (String, Var)| -> Result<Slot> {
            let average = var.flatten_all()?.to_vec1::<f32>()?;
            let zeros = vec![0.0; average.len()];
            Ok(Slot { name, var, first: zeros.clone(), second: zeros, average })
        };
        let slots = parameters.named().into_iter().map(slot).collect::<Result<_>>()?;
        Ok(Self { constants, slots, steps: 0 })
    }

    /// The variables, in the order in which [`AdamW::step`] wants their gradients.
    pub fn variables(&self) -> Vec<Var> {
        self.slots.iter().map(|s| s.var.clone()).collect()
    }

    /// Steps taken so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// One update; returns the norm of the gradient before clipping. A gradient that is not finite changes nothing and is
    /// an error.
    pub fn step(&mut self, gradients: &[Vec<f32>], learning_rate: f64) -> Result<f64> {
        let squares = |g: &Vec<f32>| g.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        let norm = gradients.par_iter().map(squares).collect::<Vec<_>>().iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(Error::NonFinite("the gradient is not finite".into()));
        }
        self.steps += 1;
        let c = self.constants;
        let n = self.steps as f64;
        let update = Update {
            scale: (c.clip / norm.max(c.clip)) as f32,
            beta1: c.beta1 as f32,
            beta2: c.beta2 as f32,
            rate: (learning_rate / (1.0 - c.beta1.powf(n))) as f32,
            second_correction: (1.0 / (1.0 - c.beta2.powf(n))) as f32,
            eps: c.eps as f32,
            decay: (learning_rate * c.weight_decay) as f32,
            ema: c.ema.min((1.0 + n) / (10.0 + n)) as f32,
        };
        self.slots.par_iter_mut().zip(gradients).try_for_each(|(slot, g)| update.apply(slot, g))?;
        Ok(norm)
    }

    /// The moving average of the weights, by name.
    pub fn average(&self) -> Result<HashMap<String, Tensor>> {
        self.slots.iter().map(|s| Ok((s.name.clone(), s.tensor(&s.average)?))).collect()
    }

    /// Everything needed to go on: `first.NAME`, `second.NAME`, `average.NAME` and the weights as `weight.NAME`.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::new();
        for s in &self.slots {
            state.insert(format!("weight.{}", s.name), s.var.as_tensor().clone());
            for (kind, values) in [("first", &s.first), ("second", &s.second), ("average", &s.average)] {
                state.insert(format!("{kind}.{}", s.name), s.tensor(values)?);
            }
        }
        Ok(state)
    }

    /// Goes on from [`AdamW::state`] after `steps` steps.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>, steps: usize) -> Result<()> {
        let get = |key: String, shape: &candle_core::Shape| -> Result<Tensor> {
            let found = state.get(&key).filter(|t| t.shape() == shape);
            found.cloned().ok_or_else(|| Error::Training(format!("the saved state does not fit this model: {key}")))
        };
        for s in &mut self.slots {
            s.var.set(&get(format!("weight.{}", s.name), s.var.shape())?)?;
            for (kind, values) in [("first", &mut s.first), ("second", &mut s.second), ("average", &mut s.average)] {
                *values = get(format!("{kind}.{}", s.name), s.var.shape())?.flatten_all()?.to_vec1()?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

impl Slot {
    fn tensor(&self, values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, self.var.shape().clone(), self.var.device())?)
    }
}

/// The constants of one step, as the inner loop wants them.
struct Update {
    scale: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    second_correction: f32,
    eps: f32,
    decay: f32,
    ema: f32,
}

impl Update {
    fn apply(&self, slot: &mut Slot, gradient: &[f32]) -> Result<()> {
        let decay = if slot.var.rank() > 1 { 1.0 - self.decay } else { 1.0 };
        let Slot { var, first, second, average, .. } = slot;
        let weights = kernels::with_values([var.as_tensor()], |[weights]| {
            let state = weights.iter().zip(average).zip(first.iter_mut().zip(second));
            let update = state.zip(gradient).map(|(((w, a), (m, v)), g)| {
                let g = g * self.scale;
                *m += (1.0 - self.beta1) * (g - *m);
                *v += (1.0 - self.beta2) * (g * g - *v);
                let w = *w * decay - self.rate * *m / ((*v * self.second_correction).sqrt() + self.eps);
                *a += (1.0 - self.ema) * (w - *a);
                w
            });
            update.collect::<Vec<f32>>()
        })?;
        let shape = slot.var.shape().clone();
        slot.var.set(&Tensor::from_vec(weights, shape, slot.var.device())?)?;
        Ok(())
    }
}

/// The rate at `step` of `total`: a linear warm-up over `warmup` steps, then half a cosine down to 2 % of `peak`.
pub fn cosine_rate(peak: f64, step: usize, warmup: usize, total: usize) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    peak * (0.02 + 0.98 * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()))
}
