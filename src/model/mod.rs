//! The networks, with the key names and configuration files of diffusers and transformers.

pub mod autoencoder;
pub mod layers;
