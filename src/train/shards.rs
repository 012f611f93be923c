//! One batch's gradient, computed in shards: each on its own thread, with its own graph, added in a fixed order.
//!
//! Operations of candle that know one thread only are then spread over the cores too. The number of shards is part of a
//! run's settings and not of the machine, so that a run can be resumed elsewhere.

use super::task::{Figures, Task};
use crate::{Result, kernels};
use candle_core::Var;
use candle_nn::VarBuilder;
use rayon::prelude::*;

/// Mean gradient of every variable and mean figures over all shards.
pub(super) struct Gradient {
    pub(super) values: Vec<Vec<f32>>,
    pub(super) figures: Figures,
}

/// The gradient of the mean loss over `samples`, split into `shards` parts of equal length.
pub(super) fn gradient<T: Task>(
    task: &T,
    vb: &VarBuilder<'_>,
    variables: &[Var],
    samples: &[usize],
    shards: usize,
    stream: u64,
) -> Result<Gradient> {
    let per_shard = samples.len().div_ceil(shards);
    // On rayon's threads, which stay: the allocator gives a thread's memory back when it ends.
    let parts = samples.par_chunks(per_shard).enumerate();
    let parts = parts.map(|(i, samples)| shard(task, vb, variables, samples, stream + i as u64));
    Ok(mean(parts.collect::<Result<_>>()?))
}

fn shard<T: Task>(
    task: &T,
    vb: &VarBuilder<'_>,
    variables: &[Var],
    samples: &[usize],
    stream: u64,
) -> Result<Gradient> {
    kernels::on_this_thread(|| {
        let (loss, figures) = task.loss(vb, samples, stream)?;
        let mut gradients = loss.backward()?;
        let take = |var: &Var| -> Result<Vec<f32>> {
            match gradients.remove(var) {
                Some(g) => Ok(g.flatten_all()?.to_vec1()?),
                None => Ok(vec![0.0; var.elem_count()]),
            }
        };
        Ok(Gradient { values: variables.iter().map(take).collect::<Result<_>>()?, figures })
    })
}

fn mean(parts: Vec<Gradient>) -> Gradient {
    let scale = 1.0 / parts.len() as f32;
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or(Gradient { values: Vec::new(), figures: Figures::default() });
    for part in parts {
        total.values.par_iter_mut().zip(part.values).for_each(|(sum, g)| {
            sum.iter_mut().zip(g).for_each(|(s, g)| *s += g);
        });
        total.figures.add(&part.figures);
    }
    total.values.par_iter_mut().for_each(|values| values.iter_mut().for_each(|v| *v *= scale));
    total.figures.scale(f64::from(scale));
    total
}
