//! Black-box tests, in one binary: linking is slow.

mod bad_input;
mod batch;
mod browser;
mod bundled;
mod checkpoint;
mod cli;
mod control;
mod controlnet;
mod crash;
mod data;
mod diffusion;
mod families;
mod http;
mod hub;
mod images;
mod jobs;
mod networks;
mod pages;
mod parity;
mod pipeline;
mod prompts;
mod repaint;
mod taesd;
mod tiny_model;
mod tokenizer;
mod vae;
