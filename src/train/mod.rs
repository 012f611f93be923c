//! Captioned pictures to a trained model, and the judge that evaluates it.
//!
//! * [`data`]: the training set on disk, how it is built, and the captions drawn from it.
//! * [`judge`]: a small dual encoder of its own that tells which concept a picture shows.
//! * [`evaluate`]: how often the judge finds the prompt in the pictures a model drew for it.

pub mod data;
pub mod evaluate;
pub mod judge;
