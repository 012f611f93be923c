//! Which instructions multiply bf16 numbers here.

use std::sync::OnceLock;

/// Ways to multiply, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Tiles of 16 by 16 sums: Intel's AMX, since Sapphire Rapids.
    Amx,
    /// Vectors of 16 sums of pairs: AVX-512 BF16.
    Avx512,
    /// Plain Rust.
    Portable,
}

impl Isa {
    /// The best one that this processor and system have.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::all()[0])
    }

    /// All that this processor and system have.
    pub(super) fn all() -> Vec<Self> {
        let has = |isa: &Self| match isa {
            Self::Amx => super::amx::is_here(),
            Self::Avx512 => super::avx512::is_here(),
            Self::Portable => true,
        };
        [Self::Amx, Self::Avx512, Self::Portable].into_iter().filter(has).collect()
    }

    /// Whether products in bf16 take less time than those in f32.
    ///
    /// Intel's processors do half as many in AVX-512 BF16 as in f32 (measured on one with AMX); AMD's do twice as many.
    pub fn gains(self) -> bool {
        match self {
            Self::Amx => true,
            Self::Avx512 => super::avx512::is_fast(),
            Self::Portable => false,
        }
    }
}
