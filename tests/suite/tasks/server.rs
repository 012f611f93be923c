//! The same tasks over HTTP: as jobs of the one queue, and in one answer.

use super::request;
use crate::http::{app, bytes, get, post};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use limner::request::GenerateRequest;
use limner::server::router;
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;

/// A request's fields as JSON, with its pictures.
fn body(request: &GenerateRequest) -> Value {
    let mut body: Value = serde_json::from_str(&request.to_json()).unwrap();
    for (field, file) in request.files() {
        body[field] = STANDARD.encode(file).into();
    }
    body
}

async fn ask(routes: &Router, request: Request<Body>) -> (u16, Value) {
    let response = routes.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&bytes(response).await).unwrap())
}

async fn submit(routes: &Router, body: &Value) -> String {
    let (status, job) = ask(routes, post("/api/v1/jobs", "application/json", body.to_string())).await;
    assert_eq!(status, 202, "{job}");
    format!("/api/v1/jobs/{}", job["id"].as_str().unwrap())
}

async fn ended(routes: &Router, address: &str) -> Value {
    for _ in 0..600 {
        let (_, job) = ask(routes, get(address)).await;
        if !["queued", "running"].contains(&job["state"].as_str().unwrap()) {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{address} does not end");
}

#[tokio::test]
async fn a_likelihood_is_a_job_with_a_report() {
    let routes = router(app(&[]));
    let address = submit(&routes, &body(&request("likelihood", &[("draws", "2")]))).await;
    let job = ended(&routes, &address).await;
    assert_eq!(job["state"], "done", "{job}");
    let report = &job["report"];
    assert_eq!((&report["task"], &report["space"]), (&json!("likelihood"), &json!("latents")));
    assert!(report["bits_per_dim"].is_f64() && report["standard_error"].is_f64() && report["evaluations"].is_u64());
    assert_eq!((&job["request"]["task"], &job["request"]["draws"]), (&json!("likelihood"), &json!(2)));
    assert_eq!(job["images"], json!([]));
    // Its page says the same, without a script.
    let page = routes.clone().oneshot(get(&address.replace("/api/v1", ""))).await.unwrap();
    let page = String::from_utf8(bytes(page).await).unwrap();
    assert!(page.contains("bits per dimension") && page.contains("How likely"), "{page}");
}

#[tokio::test]
async fn a_long_one_can_be_cancelled() {
    let routes = router(app(&[]));
    let address = submit(&routes, &body(&request("likelihood", &[("draws", "1000"), ("tolerance", "1e-5")]))).await;
    for _ in 0..300 {
        let (_, job) = ask(&routes, get(&address)).await;
        if job["state"] == "running" && job["step"].as_u64() > Some(0) {
            assert_eq!(job["steps"], 100_010);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stop = Request::delete(&address).header("host", "localhost").body(Body::empty()).unwrap();
    assert_eq!(ask(&routes, stop).await.0, 200);
    assert_eq!(ended(&routes, &address).await["state"], "cancelled");
}

#[tokio::test]
async fn one_answer_has_the_report_or_the_picture() {
    let routes = router(app(&[]));
    let ask_now = |body: Value| ask(&routes, post("/api/v1/generate", "application/json", body.to_string()));
    let (status, answer) = ask_now(body(&request("rank", &[("captions", "red apple\nblue")]))).await;
    assert_eq!((status, answer["report"]["captions"].as_array().map(Vec::len)), (200, Some(2)), "{answer}");
    let (status, answer) = ask_now(body(&request("encode", &[]))).await;
    assert_eq!(status, 200, "{answer}");
    let noise = answer["pictures"][0]["png"].clone();
    let (status, answer) =
        ask_now(json!({ "task": "decode", "prompt": "red apple", "tolerance": 0.01, "image": noise })).await;
    assert_eq!((status, answer["pictures"].as_array().map(Vec::len)), (200, Some(1)), "{answer}");
    let (status, answer) = ask_now(body(&request("likelihood", &[("guidance", "4")]))).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (422, &json!("no_likelihood")), "{answer}");
    assert!(ask_now(body(&crate::pipeline::request(&[]))).await.1.get("report").is_none());
    let mut file =
        post("/api/v1/generate", "application/json", body(&request("rank", &[("captions", "a\nb")])).to_string());
    file.headers_mut().insert("accept", "image/png".parse().unwrap());
    let (status, answer) = ask(&routes, file).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (422, &json!("no_picture")), "{answer}");
}

/// A form of the page, with a picture.
fn form(fields: &[(&str, &str)]) -> Request<Body> {
    let picture = crate::pipeline::png(&crate::pipeline::photograph(32, 32));
    let mut request = crate::http::form(fields, Some(("image", &picture)));
    *request.uri_mut() = "/questions".parse().unwrap();
    request
}

#[tokio::test]
async fn the_page_asks_without_a_script() {
    let routes = router(app(&[]));
    let ask = |request| routes.clone().oneshot(request);
    let page = String::from_utf8(bytes(ask(get("/questions?prompt=red+apple")).await.unwrap()).await).unwrap();
    assert!(
        page.contains("How likely is this picture?")
            && page.contains("Which caption fits?")
            && page.contains("red apple")
    );
    let wrong = ask(form(&[("task", "rank"), ("prompt", ""), ("captions", "one")])).await.unwrap();
    assert_eq!(wrong.status(), 422);
    let wrong = String::from_utf8(bytes(wrong).await).unwrap();
    assert!(wrong.contains("captions must be 2 to 64 captions, one a line; there were 1"), "{wrong}");
    let fields = [("task", "rank"), ("prompt", ""), ("captions", "red apple\r\nblue"), ("levels", "5")];
    let right = ask(form(&fields)).await.unwrap();
    assert_eq!(right.status(), 303);
    let address = right.headers()["location"].to_str().unwrap().split('#').next().unwrap().to_owned();
    let job = ended(&routes, &format!("/api/v1{address}")).await;
    assert_eq!(job["state"], "done", "{job}");
    let page = String::from_utf8(bytes(ask(get(&address)).await.unwrap()).await).unwrap();
    assert!(page.contains("fits best.") && page.contains("<meter") && !page.contains("deleted"), "{page}");
}
