//! What is done with a picture besides drawing it, on models with random weights: laws that hold for any weights.

mod flow;
mod likelihood;
mod server;

use crate::pipeline::{photograph, png};
use crate::tiny_model;
use candle_core::Device;
use limner::error::FieldError;
use limner::pipeline::{Outcome, Pipeline};
use limner::request::{GenerateRequest, Plan};
use limner::{Error, Result};
use std::sync::LazyLock;

/// Of latents: 4 x 4 x 4 for a picture of 32 x 32.
static LATENTS: LazyLock<Pipeline> = LazyLock::new(|| Pipeline::load(&tiny_model::path(), &Device::Cpu).unwrap());
/// Of pixels: 8 x 8.
static PIXELS: LazyLock<Pipeline> = LazyLock::new(|| Pipeline::load(&tiny_model::pixels(), &Device::Cpu).unwrap());

/// A task about a photograph. Networks with random weights bend their flow more than trained ones: it is followed less
/// closely than by itself.
fn request(task: &str, set: &[(&str, &str)]) -> GenerateRequest {
    let mut request = GenerateRequest::default();
    let usual = [("task", task), ("prompt", "red apple"), ("seed", "7"), ("tolerance", "0.01"), ("levels", "10")];
    for (field, value) in usual.iter().chain(set) {
        assert!(request.set_text(field, (*value).into()), "{field}");
    }
    request.set_file("image", png(&photograph(32, 32)));
    request
}

fn run(pipeline: &Pipeline, request: &GenerateRequest) -> Result<Outcome> {
    pipeline.run(&Plan::new(request, &pipeline.facts())?, &mut |_| Ok(()))
}

fn refusals(request: &GenerateRequest) -> Vec<FieldError> {
    match Plan::new(request, &LATENTS.facts()) {
        Err(Error::Invalid(errors)) => errors,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plan_of_every_task_gives_its_request_again() {
    for task in ["likelihood", "edit", "rank", "interpolate", "encode"] {
        let mut request =
            request(task, &[("captions", "red apple\n\n blue "), ("source_prompt", "green"), ("draws", "3")]);
        request.set_file("image_2", png(&photograph(20, 30)));
        let plan = Plan::new(&request, &LATENTS.facts()).unwrap();
        assert_eq!(plan.task.name(), task);
        let mut again = plan.request();
        assert_eq!(again.text("task"), task);
        for (field, file) in request.files() {
            again.set_file(field, file.to_vec());
        }
        assert_eq!(Plan::new(&again, &LATENTS.facts()).unwrap(), plan);
    }
    let plain = Plan::new(&crate::pipeline::request(&[]), &LATENTS.facts()).unwrap();
    assert!(plain.task.is_generate() && plain.request().task.is_none());
}

#[test]
fn what_makes_no_task_is_refused_by_name() {
    let without = |task| {
        let mut request = request(task, &[("captions", "a\nb")]);
        request.set_file("image", Vec::new());
        request
    };
    let masked = {
        let mut request = request("encode", &[]);
        request.set_file("mask", png(&crate::pipeline::half_mask()));
        request
    };
    for (request, field, code) in [
        (request("draw", &[]), "task", "unknown_value"),
        (without("likelihood"), "image", "required"),
        (without("rank"), "image", "required"),
        (masked, "mask", "without_drawing"),
        (request("encode", &[("extend", "16,0,0,0")]), "extend", "without_drawing"),
        (request("encode", &[("tolerance", "1e-9")]), "tolerance", "out_of_range"),
        (request("likelihood", &[("guidance", "3")]), "guidance", "no_likelihood"),
        (request("likelihood", &[("draws", "0")]), "draws", "out_of_range"),
        (request("likelihood", &[("levels", "1001")]), "levels", "out_of_range"),
        (request("rank", &[("captions", "only one")]), "captions", "out_of_range"),
        (request("interpolate", &[]), "image_2", "required"),
        (request("decode", &[]), "image", "no_noise"),
    ] {
        let found = refusals(&request);
        assert_eq!((found[0].field.as_str(), found[0].code), (field, code), "{found:?}");
    }
}
