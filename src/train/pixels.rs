//! Bytes of a data set's pictures to tensors and back.

use crate::Result;
use ::image::{Rgb, RgbImage};
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

    /// One picture.
    pub fn picture(&self, index: usize) -> RgbImage {
        let side = self.size as u32;
        RgbImage::from_fn(side, side, |x, y| {
            let at = (y * side + x) as usize * 3;
            Rgb(std::array::from_fn(|channel| self.bytes_of(index)[at + channel]))
        })
    }

    fn bytes_of(&self, index: usize) -> &[u8] {
        let n = self.size * self.size * 3;
        &self.bytes[index * n..(index + 1) * n]
    }

    /// The pictures at `indices` as (B, 3, H, W) in [-1, 1]; those for which `mirrored` is true, left to right.
    pub fn batch(&self, indices: &[usize], mut mirrored: impl FnMut() -> bool) -> Result<Tensor> {
        let area = self.size * self.size;
        let mut values = Vec::with_capacity(indices.len() * 3 * area);
        for &index in indices {
            let (picture, mirror) = (self.bytes_of(index), mirrored());
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
