//! What the training loop is given: something with a loss, and named figures to report.

use crate::Result;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use std::path::Path;

/// One part of a model to be trained.
pub trait Task: Sync {
    /// The mean loss over these samples, a differentiable scalar, and what to report of it. All randomness comes from
    /// `stream`, so that a resumed run goes on exactly.
    fn loss(&self, vb: &VarBuilder<'_>, samples: &[usize], stream: u64) -> Result<(Tensor, Figures)>;

    /// Draws a picture that shows how far training has come, with the weights of `vb`.
    fn preview(&self, vb: &VarBuilder<'_>, path: &Path) -> Result<()>;

    /// Writes the part as others load it, with the weights of `vb`.
    fn export(&self, vb: &VarBuilder<'_>) -> Result<()>;
}

/// Named values of one step, or means of several.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures(pub Vec<(&'static str, f64)>);

impl Figures {
    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| a.1 += b.1);
    }

    pub(super) fn scale(&mut self, factor: f64) {
        self.0.iter_mut().for_each(|f| f.1 *= factor);
    }

    /// The first figure, which is the loss.
    pub fn loss(&self) -> f64 {
        self.0.first().map_or(f64::NAN, |f| f.1)
    }

    /// Moves this running mean a little towards `now`.
    pub(super) fn follow(&mut self, now: &Self) {
        if self.0.is_empty() {
            self.clone_from(now);
        }
        self.0.iter_mut().zip(&now.0).for_each(|(a, b)| a.1 += 0.02 * (b.1 - a.1));
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        f.write_str(&parts.join("  "))
    }
}
