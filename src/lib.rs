//! Limner turns a prompt into a picture. One corridor runs through the crate:
//!
//! ```text
//! request -> plan -> text -> ( noise -> sampler <-> denoiser ) -> codec -> png
//! ```
//!
//! * [`request`]: what came in ([`request::GenerateRequest`]) becomes what will run ([`request::Plan`]).
//! * [`pipeline`]: the one place where everything meets: a loaded model draws a plan, or follows its flow.
//! * [`prompt`]: what is typed as a prompt becomes the words that are read at each step, with weights.
//! * [`diffusion`]: the theory, as functions of `(x, sigma)`: noise, schedules, denoisers, samplers.
//! * [`model`]: the networks, with the key names that checkpoints use, and how they are read from disk.
//! * [`hub`]: what is on a hub becomes a model among ours: pull, list, show, remove.
//! * [`kernels`]: the few products and norms where the time goes, with their gradients.
//! * [`image`]: PNG, JPEG and WebP bytes to tensors and back, masks, metadata.
//! * [`library`]: the models there are, those in memory, and which has to go when another needs its place.
//! * [`lab`]: the samplers on data of one or two dimensions, drawn: where the truth is known.
//! * [`jobs`]: the queue and the one worker that runs the pipeline.
//! * [`server`]: HTTP: one page, one JSON route, errors as problem documents.
//! * [`train`]: captioned pictures to a trained model, and the judge that evaluates it.
//! * [`cli`]: the command line's subcommands, each a thin call into the above.
//! * [`memory`]: what the system says of memory.
//! * `patience`: waiting that can be given up.
//! * [`error`]: the crate's one error enum.

pub mod cli;
pub mod config;
pub mod diffusion;
pub mod error;
pub mod hub;
pub mod image;
pub mod jobs;
pub mod kernels;
pub mod lab;
pub mod library;
pub mod memory;
pub mod model;
mod patience;
pub mod pipeline;
pub mod prompt;
pub mod request;
pub mod server;
pub mod train;

pub use error::{Error, Result};
