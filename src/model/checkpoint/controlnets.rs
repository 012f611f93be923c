//! ControlNets among the models: found by name in the folder `controlnets` of each place where models are kept, as a
//! diffusers folder or as one file, in diffusers' names or in those of the program that trained the first of them.

use super::file::read_json;
use super::kept::Kept;
use super::weights::{Hash, Weights};
use super::{Precision, Stamps, single};
use crate::error::FieldError;
use crate::model::controlnet::{ControlNet, ControlNetConfig};
use crate::model::unet::UNetConfig;
use crate::{Error, Result};
use candle_core::Device;
use std::path::Path;

/// The folder of each place.
const FOLDER: &str = "controlnets";

/// The ControlNets that are there, seen from one U-Net. What is put there later is seen, too.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ControlNets {
    /// None where nothing is drawn (in tests): then there are no nets.
    base: Option<Base>,
    kept: Kept,
}

/// What a net has to fit.
#[derive(Debug, Clone, PartialEq)]
struct Base {
    unet: UNetConfig,
    /// Pixels per latent, along one side.
    factor: usize,
}

/// A net with its description read, and none of its weights.
struct Opened {
    config: ControlNetConfig,
    weights: Weights,
}

/// A net in memory.
#[derive(Debug)]
pub struct LoadedControlNet {
    /// The network.
    pub network: ControlNet,
    /// Bytes that its weights take in memory.
    pub bytes: u64,
    hash: Hash,
}

impl LoadedControlNet {
    /// The first ten hexadecimal digits of a SHA-256 over its weights.
    pub fn hash(&self) -> &str {
        self.hash.get()
    }
}

impl ControlNets {
    /// For the model at `model` with this U-Net, whose latents are 1/`factor` of the picture: the nets in the usual
    /// places, and those beside the model.
    pub(crate) fn of(model: &Path, unet: &UNetConfig, factor: usize) -> Self {
        Self { base: Some(Base { unet: unet.clone(), factor }), kept: Kept::among_models(FOLDER, model) }
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        self.kept.names()
    }

    /// Which files the net `name` has now.
    pub(crate) fn stamps(&self, name: &str) -> Stamps {
        self.kept.stamps(name)
    }

    /// What is wrong with asking for the net `name`, in the field `field`, if anything: there is none (code
    /// `unknown_controlnet`), it cannot be read (`unusable_controlnet`), or it is for another model (`wrong_base`), with
    /// the numbers. Reads its description, and not its weights.
    pub fn check(&self, field: &str, name: &str) -> std::result::Result<(), FieldError> {
        let (Some(path), Some(base)) = (self.kept.path(name), &self.base) else {
            return Err(FieldError::new(
                field,
                "unknown_controlnet",
                Kept::none("ControlNet", FOLDER, name, &self.names()),
            ));
        };
        let unusable = |error: Error| FieldError::new(field, "unusable_controlnet", error.to_string());
        let opened = Opened::read(&path, base).map_err(unusable)?;
        let wrong = |reason| format!("{name} was made for another model: {reason}");
        let fits = opened.config.fits(&base.unet, base.factor);
        fits.map_err(|reason| FieldError::new(field, "wrong_base", wrong(reason)))?;
        opened.config.check().map_err(|message| unusable(Error::model(path, message)))
    }

    /// Bytes that the weights of the net `name` will take in memory, as far as their headers say. Fails as
    /// [`ControlNets::load`] does.
    pub(crate) fn bytes(&self, name: &str, precision: Precision) -> Result<u64> {
        let Opened { weights, .. } = self.open(name)?;
        Ok(weights.bytes(precision.of_model(weights.stored())))
    }

    /// Loads the net `name` in a precision. What [`ControlNets::check`] would say is an [`Error::Invalid`]; missing tensors
    /// and such are an [`Error::Model`].
    pub fn load(&self, name: &str, device: &Device, precision: impl Into<Precision>) -> Result<LoadedControlNet> {
        let Opened { config, weights } = self.open(name)?;
        let precision = precision.into().of_model(weights.stored());
        let network = weights.build(precision, device, |vb| ControlNet::new(&config, vb))?;
        Ok(LoadedControlNet { network, bytes: weights.taken(), hash: Hash::of(&[weights]) })
    }

    fn open(&self, name: &str) -> Result<Opened> {
        self.check("control", name).map_err(Error::invalid)?;
        let (Some(path), Some(base)) = (self.kept.path(name), &self.base) else {
            return Err(Error::Server(format!("the ControlNet {name} has just gone")));
        };
        Opened::read(&path, base)
    }
}

impl Opened {
    fn read(path: &Path, base: &Base) -> Result<Self> {
        let (config, weights) = if path.is_dir() { folder(path)? } else { file(path, &base.unet)? };
        Ok(Self { config, weights })
    }
}

fn folder(path: &Path) -> Result<(ControlNetConfig, Weights)> {
    Ok((read_json(&path.join("config.json"))?, Weights::read(path, "diffusion_pytorch_model")?))
}

fn file(path: &Path, base: &UNetConfig) -> Result<(ControlNetConfig, Weights)> {
    let weights = single::controlnet(&Weights::read_file(path.to_owned())?);
    let config = single::controlnet_config(&weights, base).map_err(|message| Error::model(path, message))?;
    Ok((config, weights))
}
