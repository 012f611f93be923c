//! In which types a model's numbers are kept, and in which they are computed.

use crate::kernels::{Isa, Products};
use candle_core::{DType, Device};

/// Types of weights and of activations. Biases, and scales and shifts of norms, are few and in the type of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Matrices, kernels and tables; without one, as they are stored where that is half precision, else as activations.
    pub(super) weights: Option<DType>,
    /// Everything else; without one, half precision: as the weights are stored, or F16 where they are stored in full.
    pub(super) activations: Option<DType>,
    /// Whether weights are laid out for products in bf16, on a CPU; without a choice, where they are stored in half
    /// precision and that is faster.
    pub(super) packed: Option<bool>,
}

impl Precision {
    /// For a device: `wanted`, or what suits it. On a CPU activations are always in f32, in which [`crate::kernels`]
    /// compute, and weights in half precision save memory; elsewhere everything is in one type.
    pub fn on(device: &Device, wanted: Option<DType>) -> Self {
        let activations = if device.is_cpu() { Some(DType::F32) } else { wanted };
        Self { weights: wanted, activations, packed: Some(false) }
    }

    /// The same with such products on a CPU; elsewhere the type of activations is that of products. Without a choice they
    /// are in bf16 for weights that are stored in half precision, where the processor has fast instructions for it.
    pub fn with_products(self, products: Option<Products>) -> Self {
        let on_cpu = self.activations == Some(DType::F32);
        let packed = if on_cpu { products.map(|products| products == Products::Brain) } else { Some(false) };
        Self { packed, ..self }
    }

    /// With no choice left, for a model whose weights are stored as `stored`.
    pub(super) fn of_model(self, stored: DType) -> Self {
        let half = if is_half(stored) { stored } else { DType::F16 };
        let packed = self.packed.unwrap_or(is_half(self.weights.unwrap_or(stored)) && Isa::best().gains());
        Self { activations: Some(self.activations.unwrap_or(half)), packed: Some(packed), ..self }
    }

    /// For the autoencoder: its activations leave the range of F16 in some models, and so it is not computed in that.
    pub(super) fn of_codec(self) -> Self {
        match self.activations {
            Some(DType::F16) => DType::F32.into(),
            _ => self,
        }
    }

    /// The type of activations.
    pub(super) fn activations(self) -> DType {
        self.activations.unwrap_or(DType::F32)
    }

    /// The type to keep a parameter of this rank in, which is stored as `stored` and is used beside activations of type
    /// `used`.
    pub(super) fn kept(self, stored: DType, rank: usize, used: DType) -> DType {
        match self.weights {
            _ if rank < 2 => used,
            _ if self.packed == Some(true) => DType::BF16,
            Some(dtype) => dtype,
            None if is_half(stored) => stored,
            None => used,
        }
    }
}

/// Everything in one type.
impl From<DType> for Precision {
    fn from(dtype: DType) -> Self {
        Self { weights: Some(dtype), activations: Some(dtype), packed: Some(false) }
    }
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType::{BF16, F16, F32, F64};

    #[test]
    fn on_a_cpu_halves_stay_and_everything_else_is_in_f32() {
        let auto = Precision::on(&Device::Cpu, None).of_model(BF16);
        assert_eq!(auto.activations(), F32);
        for (stored, rank, kept) in [(F16, 4, F16), (BF16, 2, BF16), (F16, 1, F32), (F32, 2, F32), (F64, 2, F32)] {
            assert_eq!(auto.kept(stored, rank, F32), kept, "{stored:?}, rank {rank}");
        }
        let half = Precision::on(&Device::Cpu, Some(F16));
        assert_eq!((half.kept(F32, 2, F32), half.kept(F32, 1, F32), half.activations()), (F16, F32, F32));
        assert_eq!(Precision::on(&Device::Cpu, Some(F32)), F32.into());
    }

    #[test]
    fn products_are_in_bf16_where_it_is_asked_for_or_fits() {
        let on_cpu = |products| Precision::on(&Device::Cpu, None).with_products(products);
        let packed = |precision: Precision, stored| precision.of_model(stored).packed == Some(true);
        for stored in [F16, BF16, F32] {
            assert!(packed(on_cpu(Some(Products::Brain)), stored) && !packed(on_cpu(Some(Products::Full)), stored));
            assert_eq!(packed(on_cpu(None), stored), stored != F32 && Isa::best().gains());
            assert!(!packed(Precision::on(&Device::Cpu, None), stored));
        }
        let brain = on_cpu(Some(Products::Brain)).of_model(F16);
        assert_eq!(
            (brain.kept(F16, 2, F32), brain.kept(F16, 1, F32), brain.of_codec().packed),
            (BF16, F32, Some(true))
        );
        let elsewhere = Precision { weights: None, activations: None, packed: Some(false) };
        assert!(!packed(elsewhere.with_products(Some(Products::Brain)), F16));
    }

    /// As `Precision::on` makes it for a GPU, which there is none of here.
    #[test]
    fn elsewhere_everything_is_in_the_half_precision_of_the_file() {
        let auto = Precision { weights: None, activations: None, packed: Some(false) };
        for (stored, used) in [(F16, F16), (BF16, BF16), (F32, F16)] {
            let precision = auto.of_model(stored);
            assert_eq!(precision.activations(), used);
            assert_eq!((precision.kept(stored, 2, used), precision.kept(stored, 1, used)), (used, used));
        }
        assert_eq!(auto.of_model(F16).of_codec(), F32.into());
        assert_eq!(auto.of_model(BF16).of_codec().activations(), BF16);
    }
}
