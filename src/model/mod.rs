//! The networks, with the key names and configuration files of diffusers and transformers.

pub mod autoencoder;
pub mod clip;
pub mod layers;
pub mod tokenizer;
pub mod unet;
