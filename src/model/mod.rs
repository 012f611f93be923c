//! The networks, with the key names and configuration files of diffusers and transformers.

pub mod adapter;
pub mod autoencoder;
pub mod checkpoint;
pub mod clip;
pub mod clip_vision;
pub mod codec;
pub mod controlnet;
pub mod ip_adapter;
pub mod layers;
pub mod taesd;
pub mod text_encoder;
pub mod tokenizer;
pub mod unet;
pub mod vae;
