//! `--model` and `--device`, which several subcommands share.

use crate::error::{Error, FieldError, Result};
use crate::kernels::Products;
use crate::model::checkpoint::{self, Precision};
use crate::pipeline::Pipeline;
use candle_core::{DType, Device};
use std::path::PathBuf;

/// Which model, where it runs, and in which type.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ModelArgs {
    /// A folder as diffusers lays it out, one .safetensors file, or the name of either in the models folder
    #[arg(long, env = "LIMNER_MODEL", value_name = "DIR|NAME", default_value = "icons")]
    model: String,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
    device: DeviceKind,
    /// The type of the model's numbers
    #[arg(long, value_enum, default_value_t = NumberKind::Auto)]
    dtype: NumberKind,
    /// In what a CPU multiplies
    #[arg(long, env = "LIMNER_PRODUCTS", value_enum, default_value_t = ProductKind::Auto)]
    products: ProductKind,
}

/// The types of products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ProductKind {
    /// bf16 where the processor has fast instructions for it, for training and for models stored in half precision, else f32
    Auto,
    /// f32, as exact as other programs' f32
    F32,
    /// bf16, summed in f32
    Bf16,
}

impl ProductKind {
    /// The choice, where one was made.
    pub(super) fn products(self) -> Option<Products> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(Products::Full),
            Self::Bf16 => Some(Products::Brain),
        }
    }
}

/// The types that weights can be kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum NumberKind {
    /// As the file has them on a CPU; half precision on a GPU
    Auto,
    /// Full precision: twice the memory
    F32,
    /// Half precision; a CPU still computes in f32
    F16,
    /// The half precision with f32's range; a CPU still computes in f32
    Bf16,
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

    /// Loads the model: on which device, in which precision.
    pub(super) fn load(&self) -> Result<Pipeline> {
        let device = self.device()?;
        Pipeline::load_as(&self.folder()?, &device, self.precision(&device))
    }

    /// The precision on a device.
    pub(super) fn precision(&self, device: &Device) -> Precision {
        let wanted = match self.dtype {
            NumberKind::Auto => None,
            NumberKind::F32 => Some(DType::F32),
            NumberKind::F16 => Some(DType::F16),
            NumberKind::Bf16 => Some(DType::BF16),
        };
        Precision::on(device, wanted).with_products(self.products.products())
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
            // Not `cuda_if_available`, which gives the CPU where the crate is built for Metal.
            DeviceKind::Auto => Ok(Device::new_cuda(0).or_else(|_| Device::new_metal(0)).unwrap_or(Device::Cpu)),
            DeviceKind::Cpu => Ok(Device::Cpu),
            DeviceKind::Cuda => Device::new_cuda(0).map_err(missing("cuda")),
            DeviceKind::Metal => Device::new_metal(0).map_err(missing("metal")),
        }
    }
}
