//! RGB bytes to tensors in [-1, 1] and back.

use crate::{Error, Result};
use ::image::RgbImage;
use candle_core::{DType, Device, Tensor};

/// A picture as (1, 3, H, W) f32 in [-1, 1].
pub fn to_tensor(picture: &RgbImage, device: &Device) -> Result<Tensor> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let values: Vec<f32> = picture.as_raw().iter().map(|byte| f32::from(*byte) / 127.5 - 1.0).collect();
    let rows = Tensor::from_vec(values, (1, height, width, 3), &Device::Cpu)?;
    Ok(rows.permute((0, 3, 1, 2))?.contiguous()?.to_device(device)?)
}

/// (1, 3, H, W) about [-1, 1] to a picture; what lies outside is clipped. NaN is [`Error::NonFinite`]: cast to a byte it
/// would be black.
pub fn from_tensor(x: &Tensor) -> Result<RgbImage> {
    let (_, _, height, width) = x.dims4()?;
    let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.permute((0, 2, 3, 1))?;
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    if values.iter().any(|v| v.is_nan()) {
        return Err(Error::NonFinite("the autoencoder decoded a picture with values that are not finite".into()));
    }
    // Casting from float to u8 saturates, and rounds towards zero.
    let bytes = values.into_iter().map(|v| ((v + 1.0) * 127.5 + 0.5) as u8).collect();
    RgbImage::from_raw(width as u32, height as u32, bytes)
        .ok_or_else(|| Error::NonFinite(format!("a decoded picture has shape {:?}", x.dims())))
}

/// The share of the numbers of pictures about [-1, 1] that lie outside, and are clipped by [`from_tensor`].
pub fn clipped(x: &Tensor) -> Result<f64> {
    let values = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let outside = values.iter().filter(|v| v.abs() > 1.0).count();
    Ok(outside as f64 / values.len().max(1) as f64)
}

/// (B, 3, H, W) to B pictures, as [`from_tensor`].
pub fn batch_from_tensor(x: &Tensor) -> Result<Vec<RgbImage>> {
    (0..x.dim(0)?).map(|i| from_tensor(&x.narrow(0, i, 1)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_round_trip() {
        let picture = RgbImage::from_raw(16, 16, (0..768u32).map(|i| (i % 256) as u8).collect()).unwrap();
        let x = to_tensor(&picture, &Device::Cpu).unwrap();
        assert_eq!(x.dims(), [1, 3, 16, 16]);
        assert_eq!(from_tensor(&x).unwrap(), picture);
    }

    /// It was a black picture.
    #[test]
    fn nan_is_not_a_picture() {
        let x = Tensor::new(&[0f32, f32::NAN, 0.0], &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
        assert!(matches!(from_tensor(&x), Err(Error::NonFinite(_))));
    }

    #[test]
    fn values_outside_are_clipped() {
        let x = Tensor::new(&[-7f32, 0.0, 7.0], &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
        assert_eq!(from_tensor(&x).unwrap().into_raw(), [0, 128, 255]);
        assert_eq!(clipped(&x).unwrap(), 2.0 / 3.0);
    }
}
