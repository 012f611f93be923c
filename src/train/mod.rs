//! Captioned pictures to a trained model, and the judge that evaluates it.
//!
//! * [`data`]: the training set on disk, how it is built, and the captions drawn from it.

pub mod data;
