//! `--model` and `--device`, which several subcommands share.

use crate::error::{Error, FieldError, Result};
use candle_core::Device;
use std::path::{Path, PathBuf};

/// Which model, and where it runs.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ModelArgs {
    /// A model folder as diffusers lays it out, or the name of a folder in models/
    #[arg(long, env = "LIMNER_MODEL", value_name = "DIR|NAME", default_value = "icons")]
    model: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
    device: DeviceKind,
}

/// The kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DeviceKind {
    /// A GPU when this build has support for one and there is one, else the CPU
    Auto,
    /// The processor
    Cpu,
    /// The first NVIDIA GPU
    Cuda,
    /// Apple's GPU
    Metal,
}

impl ModelArgs {
    /// The model's folder: as typed, else `models/NAME` below the current folder or below this program's source.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let candidates =
            [self.model.clone(), Path::new("models").join(&self.model), source.join("models").join(&self.model)];
        let is_model = |folder: &PathBuf| folder.join("model_index.json").is_file();
        candidates.iter().find(|folder| is_model(folder)).cloned().ok_or_else(|| self.unknown())
    }

    fn unknown(&self) -> Error {
        let names = known_models();
        let known = if names.is_empty() {
            "there are none in models/".to_owned()
        } else {
            format!("models/ has {}", names.join(", "))
        };
        let message = format!("{} is no model folder (it has no model_index.json); {known}", self.model.display());
        Error::invalid(FieldError::new("model", "unknown_model", message))
    }

    /// Opens the device. Fails when one is asked for by name that this build or machine does not have.
    pub(super) fn device(&self) -> Result<Device> {
        let missing = |name: &'static str| {
            move |error| {
                let message = format!("{name} cannot be used here: {error}");
                Error::invalid(FieldError::new("device", "unavailable", message))
            }
        };
        match self.device {
            DeviceKind::Auto => {
                Ok(Device::cuda_if_available(0).or_else(|_| Device::metal_if_available(0)).unwrap_or(Device::Cpu))
            }
            DeviceKind::Cpu => Ok(Device::Cpu),
            DeviceKind::Cuda => Device::new_cuda(0).map_err(missing("cuda")),
            DeviceKind::Metal => Device::new_metal(0).map_err(missing("metal")),
        }
    }
}

fn known_models() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let entries = [Path::new("models"), &folder].into_iter().find_map(|folder| std::fs::read_dir(folder).ok());
    let mut names: Vec<String> =
        entries.into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
