//! Captioned pictures to a trained model, and the judge that evaluates it.
//!
//! * [`data`]: the training set on disk, how it is built, and the captions drawn from it.
//! * [`fit`]: the loop, the same for every part; [`task`] is what it is given, [`codec`] and `denoiser` are the two parts.
//! * [`parameters`], [`optimizer`], `shards`: variables, updates, gradients over the cores.
//! * `report`, `state`, `export`: what a run shows, what it can go on from, what it leaves behind.

pub mod codec;
pub mod data;
mod export;
pub mod fit;
pub mod optimizer;
pub mod parameters;
pub mod pixels;
pub mod recipe;
mod report;
mod shards;
mod state;
pub mod task;
