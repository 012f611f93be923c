//! Noise as a picture file: it can be looked at, and the numbers stand in the file beside the pixels.

use super::{RgbImage, Text, read_png_text, resize};
use crate::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The PNG chunk that holds them.
const KEYWORD: &str = "limner-noise";
/// The most numbers: four channels at 1/8 of the largest picture's sides, and three of a picture of 1024 x 1024.
const MOST: usize = 1 << 22;
/// How many standard deviations are black, and white.
const SHOWN: f32 = 3.0;

/// The noise of a picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Encoded {
    /// The model whose flow gave it.
    pub model: String,
    /// Its noise level.
    pub sigma: f64,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// The numbers, divided by sigma.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub values: Vec<f32>,
}

impl Encoded {
    /// From (1, C, H, W) at noise level `sigma`.
    pub fn new(model: &str, noise: &Tensor, sigma: f64) -> Result<Self> {
        let (_, channels, height, width) = noise.dims4()?;
        let values = (noise / sigma)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Self { model: model.to_owned(), sigma, shape: [channels, height, width], values })
    }

    /// Back to (1, C, H, W) in f32.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        let unit = Tensor::from_slice(&self.values, (1, channels, height, width), &Device::Cpu)?.to_device(device)?;
        Ok((unit * self.sigma)?)
    }

    /// The noise that stands in a PNG file; none in any other file.
    pub fn from_png(bytes: &[u8]) -> Option<Self> {
        let found: Self = serde_json::from_str(&read_png_text(bytes, KEYWORD)?).ok()?;
        let count = found.shape.iter().try_fold(1usize, |count, side| count.checked_mul(*side))?;
        let sound = found.sigma.is_finite() && found.sigma > 0.0 && found.values.iter().all(|value| value.is_finite());
        (sound && count == found.values.len() && (1..=MOST).contains(&count)).then_some(found)
    }

    /// As it stands in a file.
    pub fn text(&self) -> Result<Text> {
        let text = serde_json::to_string(self).map_err(|error| Error::Server(error.to_string()))?;
        Ok(Text { keyword: KEYWORD, text })
    }

    /// The first three channels, or one thrice, as colours.
    pub fn picture(&self, width: u32, height: u32) -> RgbImage {
        let [channels, rows, columns] = self.shape;
        let shade = |channel: usize, x: u32, y: u32| {
            let index = (channel.min(channels - 1) * rows + y as usize) * columns + x as usize;
            ((self.values[index] / SHOWN + 1.0) * 127.5) as u8
        };
        let shown = RgbImage::from_fn(columns as u32, rows as u32, |x, y| {
            ::image::Rgb([shade(0, x, y), shade(1, x, y), shade(2, x, y)])
        });
        if shown.dimensions() == (width, height) { shown } else { enlarged(&shown, width, height) }
    }
}

/// By repeating pixels where that goes: noise has no gradients.
fn enlarged(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (columns, rows) = picture.dimensions();
    if !width.is_multiple_of(columns) || !height.is_multiple_of(rows) {
        return resize(picture.clone(), width, height);
    }
    RgbImage::from_fn(width, height, |x, y| *picture.get_pixel(x / (width / columns), y / (height / rows)))
}

fn to_base64<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
    let bytes = STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() {
        Ok(numbers.iter().map(|n| f32::from_le_bytes(*n)).collect())
    } else {
        Err(serde::de::Error::custom("cut short"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::encode_png;

    fn noise() -> Encoded {
        let values: Vec<f32> = (0..24).map(|i| i as f32 * 0.37 - 4.0).collect();
        let x = Tensor::from_vec(values, (1, 2, 3, 4), &Device::Cpu).unwrap();
        Encoded::new("icons", &(x * 12.5).unwrap(), 12.5).unwrap()
    }

    #[test]
    fn noise_survives_its_file_bit_for_bit() {
        let noise = noise();
        let file = encode_png(&noise.picture(8, 6), &[noise.text().unwrap()]).unwrap();
        assert_eq!(Encoded::from_png(&file), Some(noise.clone()));
        assert_eq!(Encoded::new("icons", &noise.tensor(&Device::Cpu).unwrap(), 12.5).unwrap().shape, [2, 3, 4]);
        assert_eq!(noise.picture(8, 6).get_pixel(0, 0).0, [0, 146, 146]);
        assert_eq!(noise.picture(7, 5).dimensions(), (7, 5));
    }

    #[test]
    fn other_files_have_none_and_false_ones_are_refused() {
        assert_eq!(Encoded::from_png(b"GIF89a"), None);
        for wrong in [
            Encoded { shape: [2, 3, 5], ..noise() },
            Encoded { shape: [usize::MAX, 2, 2], ..noise() },
            Encoded { sigma: 0.0, ..noise() },
            Encoded { values: vec![f32::NAN; 24], ..noise() },
            Encoded { values: vec![], shape: [0, 1, 1], ..noise() },
        ] {
            let file = encode_png(&RgbImage::new(1, 1), &[wrong.text().unwrap()]).unwrap();
            assert_eq!(Encoded::from_png(&file), None);
        }
    }
}
