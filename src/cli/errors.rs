//! `limner evaluate --errors`: how much a model errs at each noise level, kept beside its weights.

use super::evaluate::progress;
use crate::diffusion::errors::{LevelError, SquaredErrors};
use crate::image::{self, RgbImage};
use crate::model::checkpoint::ERRORS;
use crate::pipeline::Pipeline;
use crate::train::data::{Dataset, Split};
use crate::train::evaluate;
use crate::{Error, Result};
use candle_core::Device;
use std::path::Path;

/// Noise levels at which errors are measured; between them they follow a power law.
const LEVELS: usize = 50;

/// Measures the model in `folder` on `count` training pictures under their own captions, and writes the file that the
/// variance `optimal` needs.
pub(super) fn measure(folder: &Path, data: &Dataset, pixels: &[u8], count: usize, seed: u64) -> Result<()> {
    let pipeline = Pipeline::load(folder, &Device::Cpu)?;
    let chosen = evaluate::choose(data, Split::Train, &evaluate::Settings { prompts: count, seed });
    let bar = progress(chosen.len() as u64, "errors: {bar:40} picture {pos}/{len}, {eta} left");
    let mut sums: Vec<LevelError> = Vec::new();
    for (index, seed) in chosen.iter().zip(seed..) {
        let (picture, prompt) = (picture(data, pixels, *index)?, data.records[*index].prompt());
        let found = pipeline.squared_errors(&picture, &prompt, seed, LEVELS)?;
        match sums.is_empty() {
            true => sums = found,
            false => sums.iter_mut().zip(found).for_each(|(sum, found)| sum.squared_error += found.squared_error),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    sums.iter_mut().for_each(|sum| sum.squared_error /= chosen.len() as f64);
    let errors = SquaredErrors::new(sums)?;
    let text = serde_json::to_string_pretty(&errors).map_err(|error| Error::Training(error.to_string()))?;
    image::write_file(&folder.join(ERRORS), (text + "\n").as_bytes())
}

fn picture(data: &Dataset, pixels: &[u8], index: usize) -> Result<RgbImage> {
    let (size, bytes) = (data.size as u32, data.picture_bytes());
    let picture = RgbImage::from_raw(size, size, pixels[index * bytes..][..bytes].to_vec());
    picture.ok_or_else(|| Error::Training("the data set's pictures are cut short".into()))
}
