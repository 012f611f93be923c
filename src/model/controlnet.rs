//! ControlNets (Zhang et al., arXiv:2302.05543), as diffusers' `ControlNetModel` stores them.

mod config;

pub use config::ControlNetConfig;
