//! The shape of what an adapter changes, as the matrix that all its algorithms compute.

use crate::Result;
use candle_core::{DType, Tensor};

/// A weight is a matrix (outputs, height * width * inputs): convolution kernels lie channels last, as they do in memory,
/// and everything else is a kernel of one pixel; a vector is a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Kernel {
    /// Of a parameter's shape; none has three dimensions, or more than four.
    pub(super) fn new(shape: &[usize]) -> Option<Self> {
        let (outputs, inputs, height, width) = match *shape {
            [outputs] => (outputs, 1, 1, 1),
            [outputs, inputs] => (outputs, inputs, 1, 1),
            [outputs, inputs, height, width] => (outputs, inputs, height, width),
            _ => return None,
        };
        Some(Self { outputs, inputs, height, width })
    }

    /// Of a matrix.
    pub(super) fn matrix_of(outputs: usize, inputs: usize) -> Self {
        Self { outputs, inputs, height: 1, width: 1 }
    }

    /// The shape of kernels with so many outputs and inputs instead.
    pub(super) fn of(self, outputs: usize, inputs: usize) -> Self {
        Self { outputs, inputs, ..self }
    }

    /// As files have it.
    pub(super) fn shape(self) -> [usize; 4] {
        [self.outputs, self.inputs, self.height, self.width]
    }

    /// Pixels.
    pub(super) fn area(self) -> usize {
        self.height * self.width
    }

    /// Columns of the matrix.
    pub(super) fn columns(self) -> usize {
        self.area() * self.inputs
    }

    /// A tensor of this shape, in the order of files, as a matrix in f32.
    pub(super) fn matrix(self, tensor: &Tensor) -> Result<Tensor> {
        Ok(self.stored(tensor)?.to_dtype(DType::F32)?)
    }

    /// The same in the type in which it is stored. Of a parameter, which lies in memory so, it is no copy.
    pub(super) fn stored(self, tensor: &Tensor) -> Result<Tensor> {
        let tensor = match self.area() {
            1 => tensor.clone(),
            // A view that has the shape already would be copied by reshaping it.
            _ if tensor.rank() == 4 => tensor.permute((0, 2, 3, 1))?,
            _ => tensor.reshape(&self.shape())?.permute((0, 2, 3, 1))?,
        };
        Ok(tensor.contiguous()?.reshape((self.outputs, self.columns()))?)
    }

    /// A matrix as the parameter `like`, of its type and shape, and lying in memory as it does.
    pub(super) fn parameter(self, matrix: &Tensor, like: &Tensor) -> Result<Tensor> {
        let values = matrix.to_dtype(like.dtype())?;
        Ok(match like.rank() {
            4 => values.reshape((self.outputs, self.height, self.width, self.inputs))?.permute((0, 3, 1, 2))?,
            _ => values.reshape(like.shape())?,
        })
    }
}
