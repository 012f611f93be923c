//! Flash attention (Dao, arXiv:2307.08691) for half precision on NVIDIA's GPUs, from candle-flash-attn. It has no
//! gradient; asking for one is an error.

use crate::Result;
use candle_core::{DType, Tensor};

/// The largest head it has kernels for.
const LARGEST_HEAD: usize = 512;

/// Whether it serves these arguments of [`super::attention`].
pub(super) fn serves(q: &Tensor, k: &Tensor, heads: usize, causal: bool) -> bool {
    let (Ok((_, t, channels)), Ok(s)) = (q.dims3(), k.dim(1)) else { return false };
    let half = matches!(q.dtype(), DType::F16 | DType::BF16);
    let fits = channels.checked_div(heads).is_some_and(|head| head.is_multiple_of(8) && head <= LARGEST_HEAD);
    // Of queries and keys that are not equally many, it lines up the last ones where this crate lines up the first.
    q.device().is_cuda() && half && fits && channels.is_multiple_of(heads) && (!causal || t == s)
}

/// [`super::attention`], of arguments that it [`serves`].
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, t, channels) = q.dims3()?;
    let head = channels / heads;
    let split = |x: &Tensor| x.contiguous()?.reshape((batch, (), heads, head));
    let scale = 1.0 / (head as f32).sqrt();
    let y = candle_flash_attn::flash_attn(&split(q)?, &split(k)?, &split(v)?, scale, causal)?;
    Ok(y.reshape((batch, t, channels))?)
}
