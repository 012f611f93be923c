//! IP-Adapters among the models: files in the folder `ip-adapters` of each place where models are kept, with their image
//! encoders in folders beside them.

use super::file::read_json;
use super::kept::Kept;
use super::weights::{Hash, Weights};
use super::{Precision, Stamps};
use crate::error::FieldError;
use crate::model::clip_vision::{ClipVisionConfig, ClipVisionModel};
use crate::model::ip_adapter::{IpAdapter, IpAdapterSizes, ProjectionSizes, ResamplerSizes};
use crate::model::unet::UNetConfig;
use crate::{Error, Result};
use candle_core::Device;
use std::path::{Path, PathBuf};

/// The folder of each place.
const FOLDER: &str = "ip-adapters";
/// What the names of encoders' folders begin with.
const ENCODER: &str = "image_encoder";

/// The IP-Adapters that are there, seen from one U-Net.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IpAdapters {
    /// None where nothing is drawn (in tests): then there are no adapters.
    unet: Option<UNetConfig>,
    kept: Kept,
}

/// An adapter in memory.
#[derive(Debug)]
pub struct LoadedIpAdapter {
    /// The network.
    pub network: IpAdapter,
    /// What it sees with.
    pub encoder: ClipVisionModel,
    /// Bytes that the weights of both take in memory.
    pub bytes: u64,
    hash: Hash,
}

impl LoadedIpAdapter {
    /// The first ten hexadecimal digits of a SHA-256 over the adapter's file.
    pub fn hash(&self) -> &str {
        self.hash.get()
    }
}

/// An adapter with its sizes read, and the encoder that it sees with.
struct Opened {
    sizes: IpAdapterSizes,
    weights: Weights,
    encoder: (PathBuf, ClipVisionConfig),
}

impl IpAdapters {
    /// For the model at `model` with this U-Net.
    pub(crate) fn of(model: &Path, unet: &UNetConfig) -> Self {
        Self { unet: Some(unet.clone()), kept: Kept::among_models(FOLDER, model) }
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        self.kept.names().into_iter().filter(|name| !name.starts_with(ENCODER)).collect()
    }

    /// What is wrong with asking for the adapter `name`, in the field `field`, if anything: there is none (code
    /// `unknown_ip_adapter`), it cannot be read or has no encoder (`unusable_ip_adapter`), or it is for another model
    /// (`wrong_base`), with the numbers. Reads headers, and no weights.
    pub fn check(&self, field: &str, name: &str) -> std::result::Result<(), FieldError> {
        self.open(field, name).map(drop)
    }

    /// Which files the adapter `name` has now.
    pub(crate) fn stamps(&self, name: &str) -> Stamps {
        self.kept.stamps(name)
    }

    /// Bytes that the weights of the adapter `name` and of its encoder will take in memory, as far as their headers say.
    /// Fails as [`IpAdapters::load`] does.
    pub(crate) fn bytes(&self, name: &str, precision: Precision) -> Result<u64> {
        let (Opened { weights, encoder, .. }, _) = self.open("ip_adapter", name).map_err(Error::invalid)?;
        let of = |weights: &Weights| weights.bytes(precision.of_model(weights.stored()));
        Ok(of(&weights) + of(&Weights::read(&encoder.0, "model")?))
    }

    /// Loads the adapter `name` and its encoder. What [`IpAdapters::check`] would say is an
    /// [`Error::Invalid`]; missing tensors and such are an [`Error::Model`].
    pub fn load(&self, name: &str, device: &Device, precision: impl Into<Precision>) -> Result<LoadedIpAdapter> {
        let (Opened { sizes, weights, encoder }, unet) = self.open("ip_adapter", name).map_err(Error::invalid)?;
        let (seeing, precision) = (Weights::read(&encoder.0, "model")?, precision.into());
        let of = |weights: &Weights| precision.of_model(weights.stored());
        Ok(LoadedIpAdapter {
            network: weights.build(of(&weights), device, |vb| IpAdapter::new(&sizes, unet, vb))?,
            encoder: seeing.build(of(&seeing), device, |vb| ClipVisionModel::new(&encoder.1, vb))?,
            bytes: weights.taken() + seeing.taken(),
            hash: Hash::of([&weights]),
        })
    }

    fn open(&self, field: &str, name: &str) -> std::result::Result<(Opened, &UNetConfig), FieldError> {
        let found = self.kept.path(name).filter(|path| path.is_file());
        let (Some(path), Some(unet)) = (found, &self.unet) else {
            return Err(FieldError::new(
                field,
                "unknown_ip_adapter",
                Kept::none("IP-Adapter", FOLDER, name, &self.names()),
            ));
        };
        let unusable = |error: Error| FieldError::new(field, "unusable_ip_adapter", error.to_string());
        let weights = Weights::read_file(path.clone()).map_err(unusable)?;
        let sizes = sizes(&weights).map_err(|message| unusable(Error::model(&path, message)))?;
        let wrong = |reason| format!("{name} was made for another model: {reason}");
        sizes.fits(unet).map_err(|reason| FieldError::new(field, "wrong_base", wrong(reason)))?;
        let encoder = self.encoder(&sizes.projection).map_err(|message| unusable(Error::model(&path, message)))?;
        Ok((Opened { sizes, weights, encoder }, unet))
    }

    /// The first encoder that gives what a projection takes.
    fn encoder(&self, projection: &ProjectionSizes) -> std::result::Result<(PathBuf, ClipVisionConfig), String> {
        let fits = |config: &ClipVisionConfig| match projection {
            ProjectionSizes::Linear { embed, .. } => config.projection_dim == *embed,
            ProjectionSizes::Resampler(sizes) => config.hidden_size == sizes.embed,
        };
        let found = self.encoders().into_iter().filter_map(|path| {
            let config: ClipVisionConfig = read_json(&path.join("config.json")).ok()?;
            config.check().ok().map(|()| (path, config))
        });
        found.into_iter().find(|(_, config)| fits(config)).ok_or_else(|| {
            let wanted = match projection {
                ProjectionSizes::Linear { embed, .. } => format!("projection_dim {embed}"),
                ProjectionSizes::Resampler(sizes) => format!("hidden_size {}", sizes.embed),
            };
            format!("there is no image encoder with {wanted} in a folder {ENCODER} beside it")
        })
    }

    fn encoders(&self) -> Vec<PathBuf> {
        let entries =
            self.kept.folders().iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(ENCODER));
        let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }
}

/// The sizes of an adapter, read off its tensors.
fn sizes(weights: &Weights) -> std::result::Result<IpAdapterSizes, String> {
    let size = |name: &str, dim: usize| {
        let shape = weights.shape(name).ok_or_else(|| format!("no IP-Adapter of a known kind: {name} is missing"))?;
        shape.get(dim).copied().filter(|&n| n > 0).ok_or_else(|| format!("tensor {name} has the shape {shape:?}"))
    };
    let count = |name: &dyn Fn(usize) -> String| (0..).take_while(|&i| weights.shape(&name(i)).is_some()).count();
    let layers = count(&|i| format!("ip_adapter.{}.to_k_ip.weight", 2 * i + 1));
    let layers = (0..layers).map(|i| size(&format!("ip_adapter.{}.to_k_ip.weight", 2 * i + 1), 0));
    let layers = layers.collect::<std::result::Result<_, _>>()?;
    if weights.shape("image_proj.latents").is_none() {
        let context = size("image_proj.norm.weight", 0)?;
        let (rows, embed) = (size("image_proj.proj.weight", 0)?, size("image_proj.proj.weight", 1)?);
        let projection = ProjectionSizes::Linear { embed, tokens: rows / context };
        return Ok(IpAdapterSizes { projection, context, layers });
    }
    let resampler = ResamplerSizes {
        embed: size("image_proj.proj_in.weight", 1)?,
        width: size("image_proj.latents", 2)?,
        queries: size("image_proj.latents", 1)?,
        heads: size("image_proj.layers.0.0.to_q.weight", 0)? / 64,
        depth: count(&|i| format!("image_proj.layers.{i}.0.to_q.weight")),
        inner: size("image_proj.layers.0.1.1.weight", 0)?,
    };
    let context = size("image_proj.norm_out.weight", 0)?;
    Ok(IpAdapterSizes { projection: ProjectionSizes::Resampler(resampler), context, layers })
}
