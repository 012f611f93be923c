//! A convolution in bf16 with gradients: weights, activations and gradients are rounded as they are multiplied.

use super::sizes::Sizes;
use crate::kernels::packed::conv2d::Convolution;
use crate::kernels::packed::linear::{Added, linear};
use crate::kernels::packed::{Isa, Packed, gradient};
use candle_core::Result;

/// The result for `x` (B, H, W, I), (B, H', W', O).
pub(in crate::kernels) fn forward(isa: Isa, sizes: &Sizes, x: &[f32], w: &[f32], b: &[f32]) -> Result<Vec<f32>> {
    let weights = Packed::of(w, &sizes.weights())?;
    let added = Added { bias: Some(b), ..Added::default() };
    Convolution { sizes: *sizes, weights: &weights, affine: None }.run(isa, x, added, None)
}

/// Gradients of x and of w, where they are wanted, else nothing.
pub(in crate::kernels) fn backward(
    isa: Isa,
    sizes: &Sizes,
    [x, w, dy]: [&[f32]; 3],
    (of_x, of_w): (bool, bool),
) -> Result<(Vec<f32>, Vec<f32>)> {
    let dx = if of_x { towards_input(isa, sizes, w, dy)? } else { Vec::new() };
    Ok((dx, if of_w { gradient::of_convolution(isa, sizes, x, dy) } else { Vec::new() }))
}

/// At stride 1 it is a convolution of `dy`; else the rows of the unfolded input, which are added to where they came from.
fn towards_input(isa: Isa, sizes: &Sizes, w: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
    if let Some(reversed) = sizes.reversed() {
        let weights = Packed::reversed(w, &sizes.weights())?;
        let convolution = Convolution { sizes: reversed, weights: &weights, affine: None };
        return convolution.run(isa, dy, Added::default(), None);
    }
    let weights = Packed::reversed(w, &[sizes.outputs, sizes.patch()])?;
    let mut dx = vec![0.0; sizes.batch * sizes.height * sizes.width * sizes.inputs];
    let chunk = sizes.gradient_chunk();
    for (i, dy) in dy.chunks(chunk * sizes.outputs).enumerate() {
        sizes.fold_add(&linear(isa, &weights, dy, Added::default())?, i * chunk, &mut dx);
    }
    Ok(dx)
}
