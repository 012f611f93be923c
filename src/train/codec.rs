//! The first part: the autoencoder, trained on pictures alone.

use super::data::Dice;
use super::pixels::Pixels;
use super::report::save_picture;
use super::state;
use super::task::{Figures, Task};
use crate::diffusion::noise::Philox;
use crate::image::{RgbImage, batch_from_tensor, grid};
use crate::model::autoencoder::{PatchAutoencoder, PatchAutoencoderConfig};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Weight of the divergence from a standard normal, a mean over the latents' dimensions, beside reconstruction terms that
/// are means over pixels.
const DIVERGENCE_WEIGHT: f64 = 2e-3;

/// Pictures encoded at a time where no gradient is wanted.
const CHUNK: usize = 64;

/// Trains a [`PatchAutoencoder`]: absolute and squared error, error of neighbouring pixels' differences (which keeps
/// edges sharp), and the Kullback-Leibler divergence of the latents.
#[derive(Debug)]
pub struct CodecTask<'a> {
    /// The network's sizes.
    pub config: PatchAutoencoderConfig,
    /// Where pictures come from.
    pub pixels: &'a Pixels,
    /// Indices of the training pictures.
    pub indices: &'a [usize],
    /// Folder that [`Task::export`] writes `config.json` and the weights to.
    pub folder: PathBuf,
}

impl Task for CodecTask<'_> {
    fn loss(&self, vb: &VarBuilder<'_>, samples: &[usize], stream: u64) -> Result<(Tensor, Figures)> {
        let model = PatchAutoencoder::new(&self.config, vb)?;
        let mut dice = Dice::new(stream);
        let indices: Vec<usize> = samples.iter().map(|&s| self.indices[s]).collect();
        let x = self.pixels.batch(&indices, || dice.chance(0.5))?;
        let moments = model.encode(&x)?;
        let noise = Philox::new(stream).normals(0, moments.mean.elem_count());
        let noise = Tensor::from_vec(noise, moments.mean.shape(), x.device())?;
        let latents = (&moments.mean + (noise * (&moments.log_variance * 0.5)?.exp()?)?)?;
        let error = (model.decode(&latents)? - &x)?;
        let squared = error.sqr()?.mean_all()?;
        let divergence =
            ((moments.mean.sqr()? + moments.log_variance.exp()? - &moments.log_variance)? - 1.0)?.mean_all()? * 0.5;
        let divergence = divergence?;
        let reconstruction = ((error.abs()?.mean_all()? + &squared)? + edges(&error)?)?;
        let loss = (reconstruction + (&divergence * DIVERGENCE_WEIGHT)?)?;
        let scalar = |t: &Tensor| -> Result<f64> { Ok(f64::from(t.to_scalar::<f32>()?)) };
        let figures = Figures(vec![
            ("loss", scalar(&loss)?),
            ("psnr", 10.0 * (4.0 / scalar(&squared)?).log10()),
            ("kl", scalar(&divergence)?),
        ]);
        Ok((loss, figures))
    }

    fn preview(&self, vb: &VarBuilder<'_>, path: &Path) -> Result<()> {
        let model = PatchAutoencoder::new(&self.config, vb)?;
        let chosen: Vec<usize> = (0..24).map(|i| i * self.indices.len() / 24).map(|i| self.indices[i]).collect();
        let latents = model.encode(&self.pixels.batch(&chosen, || false)?)?.mean;
        let restored = batch_from_tensor(&model.decode(&latents)?)?;
        let pairs: Vec<RgbImage> =
            chosen.iter().zip(restored).flat_map(|(&i, r)| [self.pixels.picture(i), r]).collect();
        save_picture(&grid(&pairs, 12), path)
    }

    fn export(&self, vb: &VarBuilder<'_>) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder))?;
        let recorder = super::parameters::Parameters::new(0, &Device::Cpu);
        PatchAutoencoder::new(&self.config, &recorder.builder())?;
        let half = |(name, _): (String, _)| -> Result<(String, Tensor)> {
            Ok((name.clone(), vb.get_unchecked(&name)?.to_dtype(DType::F16)?))
        };
        let tensors: HashMap<String, Tensor> = recorder.named().into_iter().map(half).collect::<Result<_>>()?;
        state::write(&self.folder.join("diffusion_pytorch_model.safetensors"), &tensors, None)?;
        super::export::write_json(&self.folder.join("config.json"), &self.config)
    }
}

/// Mean absolute difference of the errors of neighbours, along both axes.
fn edges(error: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = error.dims4()?;
    let down = (error.narrow(2, 1, h - 1)? - error.narrow(2, 0, h - 1)?)?.abs()?.mean_all()?;
    let right = (error.narrow(3, 1, w - 1)? - error.narrow(3, 0, w - 1)?)?.abs()?.mean_all()?;
    Ok((down + right)?)
}

/// The mean latents of the pictures at `indices`, and each channel's mean and deviation over all of them.
pub(super) fn encode_all(model: &PatchAutoencoder, pixels: &Pixels, indices: &[usize]) -> Result<Tensor> {
    let chunks = indices.chunks(CHUNK).map(|chunk| Ok(model.encode(&pixels.batch(chunk, || false)?)?.mean.detach()));
    Ok(Tensor::cat(&chunks.collect::<Result<Vec<_>>>()?, 0)?)
}

/// Each channel's mean and standard deviation of latents (N, C, h, w).
pub(super) fn channel_statistics(latents: &Tensor) -> Result<(Vec<f64>, Vec<f64>)> {
    let channels = latents.transpose(0, 1)?.flatten_from(1)?.to_dtype(DType::F64)?;
    let mean = channels.mean_keepdim(1)?;
    let variance = channels.broadcast_sub(&mean)?.sqr()?.mean(1)?;
    Ok((mean.squeeze(1)?.to_vec1()?, variance.sqrt()?.to_vec1()?))
}
