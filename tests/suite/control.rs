//! Drawing along other pictures: from the request to the receipt.

use crate::http::{bytes, finished, form_of, get, of, post, routes, text};
use crate::pipeline::{PIPELINE, draw, photograph, png, request};
use crate::tiny_model;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use limner::Error;
use limner::error::FieldError;
use limner::image::{RgbImage, canny};
use limner::pipeline::Receipt;
use limner::request::{GenerateRequest, Plan, Preprocessor};
use serde_json::json;
use tower::ServiceExt;

/// A request with these nets and pictures.
fn along(control: &str, pictures: &[RgbImage], set: &[(&str, &str)]) -> GenerateRequest {
    let mut request = request(set);
    request.set_text("control", control.to_owned());
    for (field, picture) in ["control_image", "control_image_2", "control_image_3"].iter().zip(pictures) {
        assert!(request.set_file(field, png(picture)));
    }
    request
}

fn pixels(request: &GenerateRequest) -> RgbImage {
    draw(request).remove(0).pixels
}

fn plan(request: &GenerateRequest) -> Result<Plan, Vec<FieldError>> {
    match Plan::new(request, &PIPELINE.facts()) {
        Ok(plan) => Ok(plan),
        Err(Error::Invalid(errors)) => Err(errors),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_net_changes_the_picture_and_one_that_says_nothing_does_not() {
    let (plain, photo) = (pixels(&request(&[])), photograph(32, 32));
    let drawn = |control: &str| pixels(&along(control, std::slice::from_ref(&photo), &[]));
    let full = drawn("edges");
    assert_ne!(full, plain);
    assert_eq!(drawn("nothing"), plain);
    assert_eq!(drawn("edges:0"), plain);
    assert_eq!(drawn(" edges : 1 : 0 : 1 "), full);
    assert_ne!(drawn("edges:0.5"), full);
    assert_ne!(pixels(&along("edges", &[RgbImage::new(32, 32)], &[])), full);
}

#[test]
fn a_net_counts_between_its_start_and_its_end() {
    let photo = [photograph(32, 32)];
    let drawn = |control: &str| pixels(&along(control, &photo, &[]));
    let plain = pixels(&request(&[]));
    // Of four steps none lies between 0.3 and 0.45, and one between 0.2 and 0.5.
    assert_eq!(drawn("edges:1:0.3:0.45"), plain);
    assert_ne!(drawn("edges:1:0.2:0.5"), plain);
    assert_ne!(drawn("edges:1:0:0.5"), drawn("edges:1:0.5:1"));
    let steps = |control: &str, steps: usize| {
        let setting = plan(&along(control, &photo, &[])).unwrap().controls.remove(0).setting;
        (0..steps).filter(|step| setting.counts_in(*step, steps)).collect::<Vec<_>>()
    };
    // [i for i in range(20) if not (i / 20 < 0.1 or (i + 1) / 20 > 0.6)], as in diffusers' pipelines.
    assert_eq!(steps("edges:1:0.1:0.6", 20), (2..12).collect::<Vec<_>>());
    assert_eq!(steps("edges", 3), [0, 1, 2]);
}

#[test]
fn several_nets_add_up_in_any_order() {
    let (first, second) = (photograph(32, 32), RgbImage::from_pixel(32, 32, image::Rgb([90, 200, 30])));
    let one = pixels(&along("edges:0.6", std::slice::from_ref(&first), &[]));
    let both = pixels(&along("edges:0.6, edges:0.4", &[first.clone(), second.clone()], &[]));
    let turned = pixels(&along("edges:0.4, edges:0.6", &[second, first.clone()], &[]));
    assert_ne!(one, both);
    let apart = both.iter().zip(turned.iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(apart <= Some(1), "{apart:?}");
    assert_eq!(pixels(&along("nothing, edges:0.6", &[first.clone(), first], &[])), one);
}

#[test]
fn pictures_are_fitted_and_their_edges_found() {
    let photo = photograph(100, 50);
    let canny_of = |typed: &str| {
        plan(&along("edges", std::slice::from_ref(&photo), &[("control_preprocessor", typed)]))
            .unwrap()
            .controls
            .remove(0)
    };
    let fitted = limner::image::fit(photo.clone(), 32, 32);
    assert_eq!(canny_of("none").picture, fitted);
    assert_eq!(canny_of("canny").picture, canny(&fitted, 100, 200));
    assert_eq!(canny_of("canny:20:40").setting.preprocessor, Preprocessor::Canny { low: 20, high: 40 });
    let wide = along("edges", &[photo], &[("width", "64"), ("control_preprocessor", "canny")]);
    assert_eq!(plan(&wide).unwrap().controls[0].picture.dimensions(), (64, 32));
    assert_eq!(pixels(&wide).dimensions(), (64, 32));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let photo = photograph(32, 32);
    let errors = |control: &str, pictures: usize, set: &[(&str, &str)]| {
        let pictures = vec![photo.clone(); pictures];
        plan(&along(control, &pictures, set)).unwrap_err()
    };
    let preprocessor = "control_preprocessor";
    for (control, pictures, set, field, code) in [
        ("edgez", 1, vec![], "control", "unknown_controlnet"),
        ("wide", 1, vec![], "control", "wrong_base"),
        ("edges:3", 1, vec![], "control", "out_of_range"),
        ("edges:NaN", 1, vec![], "control", "not_finite"),
        ("edges:1:0.5:0.5", 1, vec![], "control", "empty_range"),
        ("edges:1:0:1:2", 1, vec![], "control", "malformed"),
        ("edges,,edges", 3, vec![], "control", "malformed"),
        ("edges,edges,edges,edges", 3, vec![], "control", "too_many"),
        ("edges", 0, vec![], "control_image", "required"),
        ("edges, edges", 1, vec![], "control_image_2", "required"),
        ("", 1, vec![], "control_image", "without_control"),
        ("edges", 2, vec![], "control_image_2", "without_control"),
        ("edges", 1, vec![(preprocessor, "canny, none")], preprocessor, "without_control"),
        ("edges", 1, vec![(preprocessor, "pose")], preprocessor, "unknown_value"),
        ("edges", 1, vec![(preprocessor, "canny:1")], preprocessor, "unknown_value"),
        ("edges", 1, vec![(preprocessor, "canny:1:2041")], preprocessor, "out_of_range"),
    ] {
        let found = errors(control, pictures, &set);
        assert_eq!(found.len(), 1, "{control}: {found:?}");
        assert_eq!((found[0].field.as_str(), found[0].code), (field, code), "{control}: {}", found[0].message);
    }
    let message = errors("wide", 1, &[])[0].message.clone();
    assert_eq!(message, "wide was made for another model: its cross_attention_dim is 40, the model's 32");
    let message = errors("edgez", 1, &[])[0].message.clone();
    assert!(message.ends_with("known are: edges, nothing, wide"), "{message}");
    let bad = GenerateRequest { control_image: Some(b"GIF89a".to_vec()), ..along("edges", &[], &[]) };
    assert_eq!(plan(&bad).unwrap_err()[0].code, "not_an_image");
}

#[test]
fn receipts_name_the_nets_and_give_the_request_again() {
    let photo = photograph(32, 32);
    let request = along("edges:0.8:0:0.6, nothing", &[photo.clone(), photo], &[("control_preprocessor", "canny")]);
    let picture = draw(&request).remove(0);
    let receipt = Receipt::from_png(&picture.to_png().unwrap()).unwrap();
    assert_eq!(receipt, picture.receipt);
    let [first, second] = &receipt.controls[..] else { panic!("{receipt:?}") };
    assert_eq!((first.setting.to_string(), first.hash.len()), ("edges:0.8:0:0.6".to_owned(), 10));
    assert_ne!(first.hash, second.hash);
    assert!(receipt.needs_pictures());
    let again = receipt.request();
    assert_eq!(
        (again.text("control"), again.text("control_preprocessor")),
        ("edges:0.8:0:0.6, nothing", "canny, none")
    );
    let files =
        GenerateRequest { control_image: request.control_image, control_image_2: request.control_image_2, ..again };
    assert_eq!(pixels(&files), picture.pixels);
    let text = receipt.parameters();
    assert!(text.contains("ControlNet 0: \"Module: canny, Model: edges ["), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_kept_with_the_job_and_used_again() {
    let routes = routes();
    let photo = png(&photograph(40, 30));
    let body =
        json!({ "prompt": "red", "steps": 2, "seed": 5, "control": "edges", "control_image": STANDARD.encode(&photo) });
    let job = finished(&routes, &body.to_string()).await;
    assert_eq!((job["state"].as_str(), &job["files"]), (Some("done"), &json!(["control_image"])), "{job}");
    assert_eq!((&job["has_image"], &job["request"]["control"]), (&json!(false), &json!("edges")));
    let id = job["id"].as_str().unwrap();
    let fields = [("prompt", "red"), ("steps", "2"), ("seed", "5"), ("control", "edges"), ("uploads_of", id)];
    let again = routes.clone().oneshot(form_of(&fields, &[])).await.unwrap();
    assert_eq!(again.status(), StatusCode::SEE_OTHER);
    // Without nets their pictures are not asked for.
    let without = routes.clone().oneshot(form_of(&[("prompt", "red"), ("steps", "2"), ("uploads_of", id)], &[])).await;
    assert_eq!(without.unwrap().status(), StatusCode::SEE_OTHER);
    let files = [("control_image", photo.as_slice()), ("control_image_2", b"")];
    let sent = routes.clone().oneshot(form_of(&[("prompt", "x"), ("steps", "1"), ("control", "edges")], &files)).await;
    assert_eq!(sent.unwrap().status(), StatusCode::SEE_OTHER);
}

#[tokio::test(flavor = "multi_thread")]
async fn nets_are_listed_and_a_replay_asks_for_the_pictures() {
    let routes = routes();
    tiny_model::path();
    let (status, listed) = of(&routes, get("/api/v1/controlnets")).await;
    assert_eq!(status, StatusCode::OK);
    let nets = listed["controlnets"].as_array().unwrap();
    let fits: Vec<_> = nets.iter().map(|net| (net["name"].as_str().unwrap(), net["fits"].as_bool().unwrap())).collect();
    assert_eq!(fits, [("edges", true), ("nothing", true), ("wide", false)]);
    assert!(nets[2]["reason"].as_str().unwrap().contains("is 40, the model's 32"));
    let page = text(routes.clone().oneshot(get("/")).await.unwrap()).await;
    assert!(page.contains("Nets to choose from: edges, nothing, wide.") && page.contains("name=\"control_image_3\""));
    let picture = draw(&along("edges", &[photograph(32, 32)], &[])).remove(0).to_png().unwrap();
    let (status, problem) = of(&routes, post("/api/v1/replay", "image/png", picture)).await;
    assert_eq!((status, problem["type"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some("urn:limner:needs_image")));
}

#[tokio::test]
async fn edges_can_be_looked_at() {
    let photo = photograph(40, 30);
    let look =
        async |with: &str| routes().oneshot(post(&format!("/api/v1/preprocess{with}"), "image/png", png(&photo))).await;
    let seen = look("?with=canny:20:40").await.unwrap();
    assert_eq!((seen.status(), &seen.headers()["content-type"]), (StatusCode::OK, &"image/png".parse().unwrap()));
    let seen = limner::image::read("image", &bytes(seen).await).unwrap();
    assert_eq!(seen, canny(&photo, 20, 40));
    assert_eq!(limner::image::read("image", &bytes(look("").await.unwrap()).await).unwrap(), photo);
    assert_eq!(look("?with=pose").await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    let text = routes().oneshot(post("/api/v1/preprocess", "text/plain", "x")).await.unwrap();
    assert_eq!(text.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn what_is_wrong_stands_beside_its_field() {
    let fields = [("prompt", "x"), ("control", "edgez"), ("control_preprocessor", "canny")];
    let response = routes().oneshot(form_of(&fields, &[("control_image", &png(&photograph(8, 8)))])).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let page = String::from_utf8(bytes(response).await).unwrap();
    assert!(page.contains("id=\"control-error\">no ControlNet") && page.contains("choose them again"), "{page}");
}
