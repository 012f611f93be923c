//! How a picture was drawn, from outside: as JSON, as plots, on its page, and in a file.

use crate::http::{bytes, finished, get, of, routes, text, with};
use crate::pipeline::{draw, half_mask, photograph, png, request};
use crate::tiny_model;
use axum::Router;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::Device;
use limner::pipeline::Pipeline;
use limner::request::{GenerateRequest, Plan};
use resvg::usvg;
use serde_json::{Value, json};
use tower::ServiceExt;

const FIGURES: [&str; 9] = [
    "step",
    "sigma",
    "evaluations",
    "score_norm",
    "guidance_norm",
    "guidance_angle",
    "drift",
    "local_error",
    "clipped",
];

/// The steps of a job's first picture, after looking at what holds for all.
async fn steps(routes: &Router, job: &Value) -> Vec<Value> {
    let (status, found) = of(routes, get(job["images"][0]["steps"].as_str().unwrap())).await;
    assert_eq!(status, StatusCode::OK, "{found}");
    let steps = found["steps"].as_array().unwrap().clone();
    for step in &steps {
        let fields = step.as_object().unwrap();
        assert!(fields.len() == FIGURES.len() && FIGURES.iter().all(|name| fields.contains_key(*name)), "{step}");
        assert!(["step", "sigma", "evaluations", "score_norm"].iter().all(|name| step[*name].is_number()), "{step}");
    }
    steps
}

fn column(steps: &[Value], name: &str) -> Vec<Option<f64>> {
    steps.iter().map(|step| step[name].as_f64()).collect()
}

fn asked(fields: &Value) -> String {
    let mut body = json!({ "prompt": "red apple", "steps": 6, "seed": 7, "guidance": 3 });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_picture_has_an_entry_for_each_step() {
    let routes = routes();
    for (sampler, evaluations) in [("dpmpp_2m", 6), ("heun", 11), ("dpmpp_2s", 11), ("euler_a", 6), ("lcm", 6)] {
        let job = finished(&routes, &asked(&json!({ "sampler": sampler }))).await;
        let steps = steps(&routes, &job).await;
        let sigmas = column(&steps, "sigma");
        assert!(sigmas.len() == 6 && sigmas.windows(2).all(|pair| pair[0] > pair[1]), "{sampler}: {sigmas:?}");
        assert_eq!(column(&steps, "evaluations").into_iter().flatten().sum::<f64>(), f64::from(evaluations));
        for name in ["drift", "local_error"] {
            assert!(steps[0][name].is_null() && column(&steps[1..], name).iter().all(Option::is_some), "{steps:?}");
        }
        assert!(column(&steps, "guidance_norm").iter().all(Option::is_some));
        assert!(column(&steps, "guidance_angle").into_iter().all(|angle| (0.0..=180.0).contains(&angle.unwrap())));
        // Between, a decoder would have to be asked.
        let clipped = column(&steps, "clipped");
        assert!(clipped[..5].iter().all(Option::is_none) && (0.0..=1.0).contains(&clipped[5].unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_ladder_and_ladders_walked_twice_are_told_as_they_were_walked() {
    let routes = routes();
    let picture = STANDARD.encode(png(&photograph(32, 32)));
    let mask = STANDARD.encode(png(&half_mask()));
    let count = async |fields: Value| {
        let job = finished(&routes, &asked(&fields)).await;
        assert_eq!(job["state"], "done", "{job}");
        steps(&routes, &job).await.len()
    };
    assert_eq!(count(json!({ "image": picture, "strength": 0.5 })).await, 3);
    assert_eq!(count(json!({ "image": picture, "mask": mask, "sampler": "heun" })).await, 6);
    assert_eq!(count(json!({ "image": picture, "mask": mask, "inpainting": "pseudo_inverse" })).await, 6);
    let repaint = json!({ "image": picture, "mask": mask, "inpainting": "repaint(jump=2,times=3)" });
    assert_eq!(count(repaint).await, 6 + 2 * 2 * 2);
    assert!(count(json!({ "sampler": "restart(low=0.5,high=5)" })).await > 6);
    assert!(count(json!({ "sampler": "dopri5(tolerance=0.01)" })).await > 2);
    assert_eq!(count(json!({ "steps": 1, "guidance": 1 })).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn plots_are_whole_and_the_page_shows_them() {
    let routes = routes();
    let job = finished(&routes, &asked(&json!({ "guidance": 1 }))).await;
    let id = job["images"][0]["id"].as_str().unwrap();
    let response = routes.clone().oneshot(get(&format!("/api/v1/images/{id}/steps.svg"))).await.unwrap();
    assert_eq!(response.headers()["content-type"], "image/svg+xml");
    let svg = String::from_utf8(bytes(response).await).unwrap();
    let tree = usvg::Tree::from_str(&svg, &usvg::Options::default()).unwrap();
    assert_eq!((tree.size().width(), tree.size().height()), (640.0, 600.0));
    assert!(svg.contains("Figures of 6 steps") && svg.matches(">none</text>").count() == 2, "there is no guidance");
    assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("style="));
    let page = text(routes.clone().oneshot(get(job["links"]["page"].as_str().unwrap())).await.unwrap()).await;
    for part in [
        "<summary>How it was drawn</summary>",
        &format!("/images/{id}/steps.svg\" width=\"640\" height=\"600\""),
        &format!("href=\"/api/v1/images/{id}/steps\""),
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_steps_says_so() {
    let routes = routes();
    let code = async |address: &str| {
        let (status, problem) = of(&routes, get(address)).await;
        (status.as_u16(), problem["type"].as_str().unwrap_or_default().to_owned())
    };
    let missing = (404, "urn:limner:not_found".to_owned());
    for address in ["/api/v1/images/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/steps", "/api/v1/images/x/steps.svg"] {
        assert_eq!(code(address).await, missing);
    }
    let picture = STANDARD.encode(png(&photograph(32, 32)));
    let fields = json!({ "task": "encode", "tolerance": 0.05, "image": picture, "guidance": 1 });
    let job = finished(&routes, &asked(&fields)).await;
    let image = &job["images"][0];
    assert!(image["steps"].is_null() && image["id"].is_string(), "{job}");
    let address = format!("/api/v1/images/{}/steps", image["id"].as_str().unwrap());
    assert_eq!(code(&address).await, (404, "urn:limner:no_steps".to_owned()));
    assert_eq!(code(&format!("{address}.svg")).await, (404, "urn:limner:no_steps".to_owned()));
    // They go and come with their picture.
    let job = finished(&routes, &asked(&json!({}))).await;
    let address = format!("/api/v1/images/{}", job["images"][0]["id"].as_str().unwrap());
    routes.clone().oneshot(with("DELETE", &address, "")).await.unwrap();
    assert_eq!(code(&format!("{address}/steps")).await, missing);
    routes.clone().oneshot(with("POST", &format!("{address}/restore"), "")).await.unwrap();
    assert_eq!(code(&format!("{address}/steps")).await.0, 200);
}

#[test]
fn a_model_of_pixels_tells_of_every_step_what_is_clipped() {
    let pipeline = Pipeline::load(&tiny_model::pixels(), &Device::Cpu).unwrap();
    let plan = Plan::new(&request(&[("sampler", "euler")]), &pipeline.facts()).unwrap();
    let drawn = pipeline.generate(&plan, &mut |_| Ok(())).unwrap().remove(0);
    let shares: Vec<f64> = drawn.steps.iter().map(|step| step.clipped.unwrap()).collect();
    // A number outside becomes a byte at the end of its range; a few are there without having been outside.
    let ends = drawn.pixels.iter().filter(|byte| [0, 255].contains(*byte)).count() as f64;
    let share = ends / drawn.pixels.as_raw().len() as f64;
    assert!(shares.len() == 4 && shares.iter().all(|s| (0.0..=1.0).contains(s)), "{shares:?}");
    assert!(shares[3] <= share && share - shares[3] < 0.03, "{shares:?}, {share}");
}

#[test]
fn steps_under_a_measurement_know_of_guidance_too() {
    let measured = |rule: &str| {
        let picture = request(&[("inpainting", rule), ("sampler", "ddpm"), ("guidance", "3")]);
        let (image, mask) = (Some(png(&photograph(32, 32))), Some(png(&half_mask())));
        draw(&GenerateRequest { image, mask, ..picture }).remove(0).steps
    };
    for rule in ["blend", "pseudo_inverse", "posterior"] {
        assert!(measured(rule).iter().all(|step| step.guidance_norm.is_some()), "{rule}");
    }
}
