//! `--model` and `--device`, which several subcommands share.

use crate::error::{Error, FieldError, Result};
use crate::model::checkpoint;
use candle_core::Device;
use std::path::PathBuf;

/// Which model, and where it runs.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ModelArgs {
    /// A folder as diffusers lays it out, one .safetensors file, or the name of either in the models folder
    #[arg(long, env = "LIMNER_MODEL", value_name = "DIR|NAME", default_value = "icons")]
    model: String,
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
    /// The model's folder.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        checkpoint::find(Some(&self.model))
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
