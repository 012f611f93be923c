//! A tiny decoder for the latents of a model that has a large one: found by its name, beside the model or among the models.

use super::file::read_json;
use super::find::places;
use super::weights::{Hash, Part, Weights};
use crate::model::codec::CodecConfig;
use crate::model::taesd::{TinyConfig, TinyDecoder};
use crate::{Error, Result};
use candle_core::{DType, Device};
use std::path::{Path, PathBuf};

/// What the decoder's tensors are called in a file of its own, which counts the clamp before them as layer 0.
const ORIGINAL: [&str; 3] = ["taesd_decoder.", "decoder.", ""];

/// What companions are called: that of Stable Diffusion and that of XL.
const NAMES: [&str; 2] = ["taesd", "taesdxl"];

/// A tiny decoder beside a large autoencoder.
#[derive(Debug)]
pub struct Companion {
    /// Latents as the U-Net sees them to pictures.
    pub decoder: TinyDecoder,
    hash: Hash,
    /// Bytes that they take in memory.
    pub(super) bytes: u64,
}

impl Companion {
    /// Reads a folder as diffusers writes it, or a file, in diffusers' names or the original ones. One that is there but
    /// cannot be used is an error that names its file: it would be missed without a word.
    pub(super) fn load(path: &Path, codec: &CodecConfig, device: &Device) -> Result<Self> {
        let (config, weights) = if path.is_dir() { folder(path)? } else { file(path)? };
        config.check().map_err(|message| Error::model(path, message))?;
        let (found, wanted) = ((config.latent_channels, config.factor()), (codec.latent_channels(), codec.factor()));
        if found != wanted {
            let told = |(channels, factor)| format!("{channels} channels of 1/{factor} of the picture");
            let message = format!("it decodes latents with {}, the model's have {}", told(found), told(wanted));
            return Err(Error::model(path, message));
        }
        // It is small enough to be kept, and computed, in full precision.
        let decoder = weights.build(DType::F32.into(), device, |vb| TinyDecoder::new(&config, vb))?;
        let bytes = weights.taken();
        Ok(Self { decoder, hash: Hash::of(&[weights]), bytes })
    }
}

impl Companion {
    /// The first ten hexadecimal digits of a SHA-256 over its weights.
    pub fn hash(&self) -> &str {
        self.hash.get()
    }
}

/// Where the companion of the model at `model` is whose autoencoder is `codec`; nothing where there is none.
pub(super) fn find(model: &Path, codec: &CodecConfig) -> Option<PathBuf> {
    let name = codec.companion()?;
    searched(model).flat_map(|place| candidates(&place, name)).find(|path| path.exists())
}

/// All companions where that of the model at `model` is looked for, whichever it is.
pub(crate) fn companions(model: &Path) -> Vec<PathBuf> {
    let candidates = |place: PathBuf| NAMES.map(|name| candidates(&place, name));
    searched(model).flat_map(candidates).flatten().filter(|path| path.exists()).collect()
}

fn searched(model: &Path) -> impl Iterator<Item = PathBuf> {
    // A model may be a link to where it really is, and the companion in either place.
    let models = [Some(model.to_owned()), model.canonicalize().ok()].into_iter().flatten();
    let beside = models.filter_map(|model| Some(model.parent()?.to_owned()));
    beside.chain(places())
}

fn candidates(place: &Path, name: &str) -> [PathBuf; 3] {
    [name.to_owned(), format!("{name}.safetensors"), format!("{name}_decoder.safetensors")].map(|file| place.join(file))
}

/// Whether a file of this name is a companion and no model.
pub(super) fn is_companion(name: &str) -> bool {
    NAMES.iter().any(|companion| match name.strip_prefix(companion) {
        Some(rest) => [".safetensors", "_decoder.safetensors", "_encoder.safetensors"].contains(&rest),
        None => false,
    })
}

fn folder(path: &Path) -> Result<(TinyConfig, Weights)> {
    let config = read_json(&path.join("config.json"))?;
    Ok((config, Weights::read(path, "diffusion_pytorch_model")?))
}

fn file(path: &Path) -> Result<(TinyConfig, Weights)> {
    let weights = Weights::read_file(path.to_owned())?;
    let weights = if is_ours(&weights) { weights } else { renamed(&weights) };
    let Some(&[width, latent_channels, ..]) = weights.shape("decoder.layers.0.weight").as_deref() else {
        return Err(Error::model(path, "no tiny decoder: the first of its layers is missing"));
    };
    let num_decoder_blocks = blocks(&weights);
    let widths = vec![width; num_decoder_blocks.len()];
    let config = TinyConfig {
        latent_channels,
        // There may be no encoder here; one of the same shape will pass for it.
        encoder_block_out_channels: widths.clone(),
        num_encoder_blocks: num_decoder_blocks.clone(),
        decoder_block_out_channels: widths,
        num_decoder_blocks,
        ..TinyConfig::default()
    };
    Ok((config, weights))
}

/// How many residual blocks there are at each resolution: up to a number without weights, where the resolution doubles.
fn blocks(weights: &Weights) -> Vec<usize> {
    let has = |i: usize, name: &str| weights.shape(&format!("decoder.layers.{i}.{name}")).is_some();
    let (mut counts, mut layer) = (Vec::new(), 2);
    loop {
        let count = (layer..).take_while(|&i| has(i, "conv.0.weight")).count();
        counts.push(count);
        layer += count;
        if !has(layer + 1, "weight") {
            return counts;
        }
        layer += 2;
    }
}

fn is_ours(weights: &Weights) -> bool {
    weights.shape("decoder.layers.0.weight").is_some()
}

/// The original layer 1 is diffusers' layer 0.
fn renamed(weights: &Weights) -> Weights {
    let prefix = ORIGINAL.into_iter().find(|prefix| weights.shape(&format!("{prefix}1.weight")).is_some());
    let target = |name: &str| {
        let (number, rest) = name.strip_prefix(prefix?)?.split_once('.')?;
        Some(format!("decoder.layers.{}.{rest}", number.parse::<usize>().ok()?.checked_sub(1)?))
    };
    weights.renamed(|name| target(name).map(|name| (name, Part::Whole)).into_iter().collect())
}
