//! Between candle's tensors and plain slices: what every kernel of our own starts and ends with.

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor};

/// The values of a contiguous f32 argument of a custom operation.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| candle_core::Error::Msg("not contiguous".into()))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Runs `f` on the values of several contiguous f32 CPU tensors.
pub(crate) fn with_values<const N: usize, R>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> R) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices = [&[][..]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(cpu) = &**storage else { candle_core::bail!("a CPU kernel was given a tensor elsewhere") };
        *slice = values(cpu, layout)?;
    }
    Ok(f(slices))
}

/// Runs `f` on the values of a contiguous f32 CPU tensor, where there is one.
pub(super) fn with_some<R>(tensor: Option<&Tensor>, f: impl FnOnce(Option<&[f32]>) -> R) -> Result<R> {
    match tensor {
        Some(tensor) => with_values([tensor], |[values]| f(Some(values))),
        None => Ok(f(None)),
    }
}

/// What a custom operation returns.
pub(super) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// A gradient with the shape of `like`.
pub(super) fn gradient(values: Vec<f32>, like: &Tensor) -> Result<Option<Tensor>> {
    Ok(Some(Tensor::from_vec(values, like.shape().clone(), like.device())?))
}
