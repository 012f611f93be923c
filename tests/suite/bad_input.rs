//! What strangers send: every kind is refused by name, nothing of it is stored, and the server draws on.

use crate::http::{bytes, finished, get, of, post, routes, with};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use limner::image::{RgbImage, encode_png};
use serde_json::{Value, json};
use tower::ServiceExt;

/// The status and the problem of a body that is posted to the jobs.
async fn job(routes: &Router, body: impl Into<Body>) -> (u16, Value) {
    let (status, problem) = of(routes, post("/api/v1/jobs", "application/json", body)).await;
    (status.as_u16(), problem)
}

/// Everything is as before: no job is there, and one can be drawn.
async fn is_well(routes: &Router) {
    let (status, jobs) = of(routes, get("/api/v1/jobs")).await;
    assert_eq!((status, jobs["jobs"].as_array().map(Vec::len)), (StatusCode::OK, Some(0)), "{jobs}");
    assert_eq!(finished(routes, r#"{"prompt":"red","steps":1}"#).await["state"], "done");
}

fn file(picture: &RgbImage) -> Vec<u8> {
    encode_png(picture, &[]).unwrap()
}

/// A PNG that claims to be larger than it is.
fn claiming(width: u32, height: u32) -> Vec<u8> {
    let mut png = file(&RgbImage::new(4, 4));
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let mut hash = crc32fast::Hasher::new();
    hash.update(&png[12..29]);
    png[29..33].copy_from_slice(&hash.finalize().to_be_bytes());
    png
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_values_name_their_field() {
    let routes = routes();
    let numbers = [
        ("steps", json!(0)),
        ("steps", json!(-1)),
        ("steps", json!(1001)),
        ("steps", json!(1u64 << 63)),
        ("steps", json!(1.5)),
        ("steps", json!("7,5")),
        ("steps", json!("７")),
        ("guidance", json!("NaN")),
        ("guidance", json!(-1)),
        ("guidance_rescale", json!(1.1)),
        ("width", json!(0)),
        ("width", json!(-64)),
        ("width", json!(513)),
        ("height", json!(65536)),
        ("count", json!(1_000_000_000)),
        ("seed", json!(1.5)),
        ("seed", json!("0x10")),
        ("seed", json!("18446744073709551616")),
        ("sampler", json!("__proto__")),
        ("schedule", json!("")),
        ("noise", json!("cuda")),
        ("strength", json!(0.5)),
        ("mask_feather", json!(65)),
        ("only_masked", json!("perhaps")),
        ("extend", json!("1,2,3")),
        ("prompt", json!("a\u{0}b")),
        ("prompt", json!(null)),
        ("prompt", json!("x".repeat(32_001))),
        ("negative_prompt", json!(7)),
        ("image", json!("!!!!")),
        ("image", json!("data:text/html;base64,AAAA")),
        ("mask", json!("AAAA")),
        ("stepz", json!(5)),
        ("ｓteps", json!(5)),
    ];
    for (field, value) in numbers {
        // An empty name means the default in forms; in JSON it is as good as none.
        if value == json!("") {
            continue;
        }
        let mut body = json!({ "prompt": "x" });
        body[field] = value.clone();
        let (status, problem) = job(&routes, body.to_string()).await;
        assert_eq!(status, 422, "{field} {value}: {problem}");
        let named = problem["errors"].as_array().unwrap().iter().any(|error| error["field"] == field);
        assert!(named, "{field} {value}: {problem}");
    }
    is_well(&routes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_as_such() {
    let routes = routes();
    let deep = "[".repeat(100_000);
    let texts: [(&[u8], u16); 12] = [
        (b"", 400),
        (b"{", 400),
        (b"{\"prompt\":\"x\",}", 400),
        (b"{\"prompt\":\"x\"}{}", 400),
        (b"{\"prompt\":\"\\ud800\"}", 400),
        (b"{\"prompt\":\"\xff\"}", 400),
        (deep.as_bytes(), 400),
        (b"[]", 400),
        (b"null", 400),
        (b"{}", 422),
        (b"{\"prompt\":\"x\",\"prompt\":\"y\"}", 422),
        (b"{\"prompt\":\"x\",\"steps\":1e999}", 422),
    ];
    for (text, expected) in texts {
        let (status, problem) = job(&routes, text.to_vec()).await;
        let shown: String = String::from_utf8_lossy(text).chars().take(60).collect();
        let also = [expected, 422, 400];
        assert!(also.contains(&status), "{shown}: {status} {problem}");
        assert!(problem["request_id"].is_string(), "{shown}: {problem}");
        if expected == 422 {
            assert_eq!(status, 422, "{shown}");
        }
    }
    for kind in ["text/plain", "image/png", "application/x-www-form-urlencoded", ""] {
        let (status, _) = of(&routes, post("/api/v1/jobs", kind, "{}")).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
    }
    is_well(&routes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_are_none_are_refused_before_they_are_decoded() {
    let routes = routes();
    let good = file(&RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 90])));
    let mut files = vec![
        ("text", b"hello".to_vec()),
        ("an animation of another kind", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;".to_vec()),
        ("a page", b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec()),
        ("huge", claiming(i32::MAX as u32, i32::MAX as u32)),
        ("a bomb", claiming(50_000, 50_000)),
        ("a line", claiming(1, 60_000)),
    ];
    files.extend((1..20).map(|cut| ("cut", good[..good.len() * cut / 20].to_vec())));
    for (name, bytes) in files {
        let body = json!({ "prompt": "x", "steps": 1, "image": STANDARD.encode(&bytes) }).to_string();
        let (status, problem) = job(&routes, body).await;
        assert_eq!(status, 422, "{name}, {} bytes: {problem}", bytes.len());
        assert_eq!(problem["errors"][0]["field"], "image", "{name}: {problem}");
    }
    // Flipped bits may leave a picture; they must never be a fault of the server.
    for at in (0..good.len()).step_by(3) {
        let mut flipped = good.clone();
        flipped[at] ^= 0x55;
        let body = json!({ "prompt": "x", "steps": 0, "image": STANDARD.encode(&flipped) }).to_string();
        let (status, problem) = job(&routes, body).await;
        assert_eq!(status, 422, "byte {at}: {problem}");
    }
    let (black, wide) = (file(&RgbImage::new(32, 32)), file(&RgbImage::new(64, 32)));
    for (mask, name) in [(black, "nothing to repaint"), (wide, "another size")] {
        let body =
            json!({ "prompt": "x", "image": STANDARD.encode(&good), "mask": STANDARD.encode(&mask) }).to_string();
        let (status, problem) = job(&routes, body).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("mask")), "{name}: {problem}");
    }
    is_well(&routes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_queries_are_taken_for_what_they_are() {
    let routes = routes();
    for path in [
        "/api/v1/images/..%2f..%2fetc%2fpasswd",
        "/api/v1/images/%00",
        "/api/v1/images/....//",
        "/api/v1/images/%ff",
        "/jobs/%ff",
        "/api/v1/jobs/limner.db",
        "/static/%2e%2e/Cargo.toml",
        "/history/../api",
    ] {
        let status = routes.clone().oneshot(get(path)).await.unwrap().status();
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    for query in ["limit=0", "limit=1000000000", "limit=-1", "limit=x", "cursor=../x", "state=flying"] {
        let (status, problem) = of(&routes, get(&format!("/api/v1/jobs?{query}"))).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}: {problem}");
    }
    let long = format!("/history?q={}", "x".repeat(60_000));
    assert!(routes.clone().oneshot(get(&long)).await.unwrap().status().is_success());
    for key in ["", &"k".repeat(256)] {
        let request =
            Request::post("/api/v1/jobs").header("host", "localhost").header("content-type", "application/json");
        let request = request.header("idempotency-key", key).body(Body::from(r#"{"prompt":"x"}"#)).unwrap();
        assert_eq!(of(&routes, request).await.0, StatusCode::UNPROCESSABLE_ENTITY, "a key of {} letters", key.len());
    }
    for body in ["{}", r#"{"starred":"yes"}"#, r#"{"starred":true,"deleted":true}"#, "["] {
        let (status, _) = of(&routes, with("PATCH", &format!("/api/v1/images/{}", "0".repeat(32)), body)).await;
        assert!(status.is_client_error(), "{body}: {status}");
    }
    is_well(&routes).await;
}

/// What a person types comes back as it was, and is nowhere taken for markup.
#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_text_everywhere() {
    let routes = routes();
    for prompt in
        ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "👩‍🚀 中文 العربية हिन्दी", "((((a:1e999)"]
    {
        let job = finished(&routes, &json!({ "prompt": prompt, "steps": 1 }).to_string()).await;
        assert_eq!(job["request"]["prompt"], prompt);
        let page = bytes(routes.clone().oneshot(get(job["links"]["page"].as_str().unwrap())).await.unwrap()).await;
        let history = bytes(routes.clone().oneshot(get("/history")).await.unwrap()).await;
        for html in [page, history] {
            let html = String::from_utf8(html).unwrap();
            assert!(!html.contains("<script>alert") && !html.contains("<img src=x"), "{prompt}");
        }
        let file = bytes(routes.clone().oneshot(get(job["images"][0]["url"].as_str().unwrap())).await.unwrap()).await;
        let (_, found) = of(&routes, post("/api/v1/inspect", "image/png", file)).await;
        assert_eq!(found["request"]["prompt"], prompt);
    }
}
