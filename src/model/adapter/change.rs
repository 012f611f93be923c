//! What an adapter does to one parameter, by whichever algorithm.

use super::dora::Dora;
use super::kernel::Kernel;
use super::keys::{Factor, Role};
use super::loha::Loha;
use super::lokr::Lokr;
use super::lora::Lora;
use super::stored::{Mismatch, Parts, Source, Stored};
use crate::Result;
use candle_core::Tensor;

/// The change of a weight or a bias.
#[derive(Debug, Clone)]
pub(super) struct Change {
    algorithm: Algorithm,
    scale: f64,
    dora: Option<Dora>,
    kernel: Kernel,
}

#[derive(Debug, Clone)]
enum Algorithm {
    Lora(Lora),
    Loha(Loha),
    Lokr(Lokr),
    /// The change as it is.
    Whole(Stored),
}

impl Change {
    /// Of the weight that has the shape of `kernel`. `scale` says, for a rank, how strongly it was trained to act.
    pub(super) fn of_weight(
        parts: &mut Parts,
        kernel: Kernel,
        scale: impl FnOnce(&mut Parts, usize) -> Result<f64, Mismatch>,
    ) -> Result<Self, Mismatch> {
        let any = |parts: &Parts, roles: &[Role]| roles.iter().any(|role| parts.get(*role).is_some());
        let lokr = [Factor::W1, Factor::W2, Factor::W1A, Factor::W2A].map(Role::Lokr);
        let (algorithm, rank) = if any(parts, &[Role::Weight]) {
            let whole = parts.need(Role::Weight)?;
            whole.expect(kernel)?;
            (Algorithm::Whole(whole), None)
        } else if any(parts, &[Role::Hada(Factor::W1A), Role::Hada(Factor::W2A)]) {
            let loha = Loha::new(parts, kernel)?;
            let rank = loha.rank();
            (Algorithm::Loha(loha), rank)
        } else if any(parts, &lokr) {
            let lokr = Lokr::new(parts, kernel)?;
            let rank = lokr.rank();
            (Algorithm::Lokr(lokr), rank)
        } else {
            let lora = Lora::new(parts, kernel)?;
            let rank = lora.rank();
            (Algorithm::Lora(lora), Some(rank))
        };
        let scale = match rank {
            Some(rank) => scale(parts, rank)?,
            None => {
                // What has no rank was not scaled, whatever the file says.
                parts.take(Role::Alpha);
                1.0
            }
        };
        Ok(Self { algorithm, scale, dora: Dora::new(parts, kernel)?, kernel })
    }

    /// Of a bias.
    pub(super) fn of_bias(bias: Stored, kernel: Kernel) -> Result<Self, Mismatch> {
        bias.expect(kernel)?;
        Ok(Self { algorithm: Algorithm::Whole(bias), scale: 1.0, dora: None, kernel })
    }

    /// Two factors of what is to be added to a weight, where it is the product of two that are much smaller.
    pub(super) fn factors(&self, source: Source<'_>, strength: f64) -> Result<Option<(Tensor, Tensor)>> {
        match (&self.algorithm, &self.dora) {
            (Algorithm::Lora(lora), None) => lora.factors(source, self.scale * strength).map(Some),
            _ => Ok(None),
        }
    }

    /// What is to be added to `weight`, a matrix as [`Kernel`] has it, when the adapter acts with `strength`.
    pub(super) fn read(&self, source: Source<'_>, weight: &Tensor, strength: f64) -> Result<Tensor> {
        match &self.dora {
            None => self.plain(source, self.scale * strength),
            Some(dora) => Ok((dora.change(source, weight, &self.plain(source, self.scale)?)? * strength)?),
        }
    }

    fn plain(&self, source: Source<'_>, scale: f64) -> Result<Tensor> {
        match &self.algorithm {
            Algorithm::Lora(lora) => lora.change(source, scale),
            Algorithm::Loha(loha) => loha.change(source, scale),
            Algorithm::Lokr(lokr) => lokr.change(source, scale),
            Algorithm::Whole(whole) => Ok((whole.read(source, self.kernel)? * scale)?),
        }
    }
}
