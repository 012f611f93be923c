//! Black-box tests, in one binary: linking is slow.

mod browser;
mod bundled;
mod checkpoint;
mod cli;
mod data;
mod diffusion;
mod http;
mod images;
mod networks;
mod parity;
mod pipeline;
mod tiny_model;
mod tokenizer;
mod vae;
