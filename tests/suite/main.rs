//! Black-box tests, in one binary: linking is slow.

mod against_diffusers;
mod checkpoint;
mod data;
mod tokenizer;
mod vae;
