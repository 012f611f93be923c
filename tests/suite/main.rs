//! Black-box tests, in one binary: linking is slow.

mod adapters;
mod bad_input;
mod batch;
mod browser;
mod bundled;
mod checkpoint;
mod cli;
mod crash;
mod data;
mod diffusion;
mod families;
mod http;
mod hub;
mod images;
mod jobs;
mod library;
mod networks;
mod pages;
mod parity;
mod pipeline;
mod precision;
mod prompts;
mod repaint;
mod tiny_model;
mod tokenizer;
mod vae;
