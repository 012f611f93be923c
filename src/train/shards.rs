//! One batch's gradient, computed in shards: each on its own thread, with its own graph, added in a fixed order.
//!
//! Operations of candle that know one thread only are then spread over the cores too. The number of shards is part of a
//! run's settings and not of the machine, so that a run can be resumed elsewhere.

use super::task::{Figures, Task};
use crate::{Result, kernels};
use candle_core::{Tensor, Var};
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
    mean(&parts.collect::<Result<Vec<_>>>()?, variables)
}

/// What one shard gives; a variable that its loss does not depend on has no gradient.
struct Part {
    gradients: Vec<Option<Tensor>>,
    figures: Figures,
}

fn shard<T: Task>(task: &T, vb: &VarBuilder<'_>, variables: &[Var], samples: &[usize], stream: u64) -> Result<Part> {
    kernels::on_this_thread(|| {
        let (loss, figures) = task.loss(vb, samples, stream)?;
        let mut gradients = loss.backward()?;
        let take = |var: &Var| Ok(gradients.remove(var).map(|g| g.contiguous()).transpose()?);
        Ok(Part { gradients: variables.iter().map(take).collect::<Result<_>>()?, figures })
    })
}

fn mean(parts: &[Part], variables: &[Var]) -> Result<Gradient> {
    let scale = 1.0 / parts.len() as f32;
    let values = variables.par_iter().enumerate().map(|(i, var)| {
        let mut gradients = parts.iter().filter_map(|part| part.gradients[i].as_ref());
        let Some(first) = gradients.next() else { return Ok(vec![0.0; var.elem_count()]) };
        let mut sum = first.flatten_all()?.to_vec1::<f32>()?;
        for gradient in gradients {
            kernels::with_values([gradient], |[values]| sum.iter_mut().zip(values).for_each(|(s, g)| *s += g))?;
        }
        sum.iter_mut().for_each(|v| *v *= scale);
        Ok(sum)
    });
    let mut figures = Figures::default();
    for (i, part) in parts.iter().enumerate() {
        if i == 0 { figures = part.figures.clone() } else { figures.add(&part.figures) }
    }
    figures.scale(f64::from(scale));
    Ok(Gradient { values: values.collect::<Result<_>>()?, figures })
}
