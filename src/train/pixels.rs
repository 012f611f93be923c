//! Bytes of a data set's pictures to tensors and back.

use crate::Result;
use candle_core::{Device, Tensor};

/// All pictures of a data set in memory, RGB bytes.
#[derive(Debug)]
pub struct Pixels {
    bytes: Vec<u8>,
    size: usize,
}

impl Pixels {
    /// `bytes` holds whole pictures of `size * size * 3` bytes.
    pub fn new(bytes: Vec<u8>, size: usize) -> Self {
        Self { bytes, size }
    }

    /// Width and height of every picture.
    pub fn size(&self) -> usize {
        self.size
    }

    /// One picture's bytes.
    pub fn picture(&self, index: usize) -> &[u8] {
        let n = self.size * self.size * 3;
        &self.bytes[index * n..(index + 1) * n]
    }

    /// The pictures at `indices` as (B, 3, H, W) in [-1, 1]; those for which `mirrored` is true, left to right.
    pub fn batch(&self, indices: &[usize], mut mirrored: impl FnMut() -> bool) -> Result<Tensor> {
        let area = self.size * self.size;
        let mut values = Vec::with_capacity(indices.len() * 3 * area);
        for &index in indices {
            let (picture, mirror) = (self.picture(index), mirrored());
            for channel in 0..3 {
                values.extend((0..area).map(|p| {
                    let (y, x) = (p / self.size, p % self.size);
                    let x = if mirror { self.size - 1 - x } else { x };
                    f32::from(picture[(y * self.size + x) * 3 + channel]) / 127.5 - 1.0
                }));
            }
        }
        Ok(Tensor::from_vec(values, (indices.len(), 3, self.size, self.size), &Device::Cpu)?)
    }
}

/// Pictures (B, 3, H, W), about [-1, 1], to RGB bytes, clipped and rounded.
pub fn to_bytes(pictures: &Tensor) -> Result<Vec<Vec<u8>>> {
    let byte = |v: f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    let one = |i| -> Result<Vec<u8>> {
        let values = pictures.get(i)?.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?;
        Ok(values.into_iter().map(byte).collect())
    };
    (0..pictures.dim(0)?).map(one).collect()
}
