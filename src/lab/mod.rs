//! The laboratory: the real samplers on data of one or two dimensions, where the truth is known and can be drawn.
//!
//! * [`data`]: mixtures of Gaussians, with the density, the score and the clean estimate at every noise level.
//! * [`walk`]: a sampler's way through them, recorded.
//! * [`errors`]: how far solvers are from the exact end, for how many evaluations.
//! * [`plot`]: both as SVG, and what the steps of any finished picture did.

pub mod data;
pub mod errors;
pub mod plot;
pub mod walk;

pub use data::Mixture;
pub use errors::{Curve, curves};
pub use walk::{Experiment, Walked};

/// Noise levels of every walk: far above the data's contrast, and far below.
pub const SIGMAS: (f64, f64) = (20.0, 0.02);
