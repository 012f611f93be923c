//! Captioned pictures to a trained model, and the judge that evaluates it.
//!
//! * [`data`]: the training set on disk, how it is built, and the captions drawn from it.
//! * [`fit`]: the loop, the same for every part; [`task`] is what it is given: [`codec`], [`mod@text`] and [`denoiser`].
//! * [`parameters`], [`optimizer`], `shards`: variables, updates, gradients over the cores.
//! * [`space`]: what is drawn, latents or pixels, and what follows from that.
//! * [`gamma`]: a noise schedule that is learned with the networks.
//! * `report`, `state`, `export`: what a run shows, what it can go on from, what it leaves behind.
//! * [`judge`]: a small dual encoder of its own that tells which concept a picture shows.
//! * [`evaluate`]: how often the judge finds the prompt in the pictures a model drew for it.

pub mod codec;
pub mod data;
pub mod denoiser;
pub mod evaluate;
mod export;
pub mod fit;
pub mod gamma;
pub mod judge;
pub mod optimizer;
pub mod parameters;
pub mod pixels;
pub mod recipe;
mod report;
mod shards;
pub mod space;
mod state;
pub mod task;
pub mod text;

#[cfg(test)]
mod tests;
