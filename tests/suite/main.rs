//! Black-box tests, in one binary: linking is slow.

mod browser;
mod cli;
mod data;
mod http;
mod images;
mod pipeline;
mod tiny_model;
mod diffusion;
mod networks;
mod parity;
mod against_diffusers;
mod checkpoint;
mod tokenizer;
mod vae;
