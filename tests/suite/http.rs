//! The server from outside: its routes through `router`, and its sockets through `serve`.

use crate::tiny_model;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::Device;
use clap::Parser;
use http_body_util::BodyExt;
use limner::config::ServerConfig;
use limner::image::{RgbImage, encode_png, read_png_text};
use limner::pipeline::Pipeline;
use limner::server::{App, router, serve};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

#[derive(clap::Parser)]
struct Settings {
    #[command(flatten)]
    config: ServerConfig,
}

static PIPELINE: LazyLock<Arc<Pipeline>> =
    LazyLock::new(|| Arc::new(Pipeline::load(&tiny_model::path(), &Device::Cpu).unwrap()));

fn app(arguments: &[&str]) -> App {
    let settings = Settings::parse_from([&["limner"], arguments].concat());
    let folder = tempfile::tempdir().unwrap().keep();
    App::start(settings.config, &folder, PIPELINE.clone()).unwrap()
}

fn routes() -> Router {
    router(app(&["--max-body-mib", "1"]))
}

fn post(path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header("host", "127.0.0.1:7860").header("content-type", kind);
    request.body(body.into()).unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "localhost").body(Body::empty()).unwrap()
}

async fn ask(request: Request<Body>) -> Response<Body> {
    routes().oneshot(request).await.unwrap()
}

async fn bytes(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(bytes(response).await).unwrap()
}

/// Status and document of an API call.
async fn api(body: &str) -> (u16, Value) {
    let response = ask(post("/api/v1/generate", "application/json", body.to_owned())).await;
    let (status, kind) = (response.status(), response.headers()["content-type"].clone());
    assert_eq!(kind, if status.is_success() { "application/json" } else { "application/problem+json" });
    (status.as_u16(), serde_json::from_slice(&bytes(response).await).unwrap())
}

/// A form's body, with one file part when there is one.
fn form(fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Request<Body> {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(format!("--line\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
    }
    if let Some((name, content)) = file {
        let head =
            format!("--line\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"../../x.png\"\r\n\r\n");
        body.extend([head.as_bytes(), content, b"\r\n"].concat());
    }
    body.extend(b"--line--\r\n");
    post("/", "multipart/form-data; boundary=line", body)
}

#[tokio::test]
async fn a_program_gets_pictures_with_exact_seeds() {
    let (status, answer) = api(r#"{"prompt":"red apple","steps":2,"seed":"18446744073709551615","count":2}"#).await;
    assert_eq!(status, 200, "{answer}");
    let pictures = answer["pictures"].as_array().unwrap();
    assert_eq!(pictures.iter().map(|p| p["seed"].as_u64().unwrap()).collect::<Vec<_>>(), [u64::MAX, 0]);
    assert_eq!(
        (pictures[0]["seed_text"].as_str(), pictures[0]["steps"].as_u64()),
        (Some("18446744073709551615"), Some(2))
    );
    let file = STANDARD.decode(pictures[0]["png"].as_str().unwrap()).unwrap();
    assert_eq!(limner::image::read("image", &file).unwrap().dimensions(), (32, 32));
    assert!(answer["timings"]["drawn_seconds"].is_f64() && answer["notices"] == json!([]));
}

#[tokio::test]
async fn a_program_may_ask_for_the_file_itself() {
    let mut request = post("/api/v1/generate", "application/json", r#"{"prompt":"红苹果","steps":1,"seed":5}"#);
    request.headers_mut().insert("accept", "image/png".parse().unwrap());
    let response = ask(request).await;
    assert_eq!(
        (&response.headers()["content-type"], &response.headers()["x-seed"]),
        (&"image/png".parse().unwrap(), &"5".parse().unwrap())
    );
    let file = bytes(response).await;
    assert!(read_png_text(&file, "parameters").unwrap().starts_with("红苹果\nSteps: 1,"));
}

#[tokio::test]
async fn a_picture_and_a_mask_go_in_as_base64() {
    let picture = RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8, y as u8, 200]));
    let mask = RgbImage::from_fn(32, 32, |_, y| image::Rgb([if y < 8 { 255 } else { 0 }; 3]));
    let encode = |picture| STANDARD.encode(encode_png(picture, &[]).unwrap());
    let body = json!({ "prompt": "red", "steps": 2, "image": encode(&picture), "mask": encode(&mask) });
    let (status, answer) = api(&body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let file = STANDARD.decode(answer["pictures"][0]["png"].as_str().unwrap()).unwrap();
    let drawn = limner::image::read("image", &file).unwrap();
    assert!(drawn.enumerate_pixels().filter(|(_, y, _)| *y >= 8).all(|(x, y, pixel)| pixel == picture.get_pixel(x, y)));
}

#[tokio::test]
async fn a_picture_is_extended_over_json_and_by_the_form() {
    let picture = encode_png(&RgbImage::from_pixel(40, 24, image::Rgb([9, 90, 200])), &[]).unwrap();
    let body = json!({ "prompt": "red", "steps": 1, "image": STANDARD.encode(&picture), "only_masked": true,
                       "only_masked_padding": 4, "mask_feather": "3", "extend": "0,0,9,0" });
    let (status, answer) = api(&body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let drawn = &answer["pictures"][0];
    let file = STANDARD.decode(drawn["png"].as_str().unwrap()).unwrap();
    assert_eq!(limner::image::read("image", &file).unwrap().dimensions(), (49, 24));
    assert_eq!((&drawn["extend"], &drawn["mask_feather"]), (&json!([0, 0, 9, 0]), &json!(3)));

    let fields = [("prompt", "red"), ("steps", "1"), ("only_masked", "on"), ("extend", "0,0,9,0")];
    let page = text(ask(form(&fields, Some(("image", &picture)))).await).await;
    assert!(page.contains("width=\"49\" height=\"24\""), "{page}");
    let (status, problem) = api(r#"{"prompt":"x","mask_feather":65,"only_masked":1}"#).await;
    let (switch, feather) = (&problem["errors"][0], &problem["errors"][1]);
    assert_eq!((status, &switch["field"], &switch["code"]), (422, &json!("only_masked"), &json!("wrong_type")));
    assert_eq!((&feather["minimum"], &feather["maximum"]), (&json!(0.0), &json!(64.0)));
}

#[tokio::test]
async fn wrong_values_are_all_named() {
    let body = r#"{"prompt":"x","steps":0,"guidance":1e999,"width":44,"sampler":"__proto__","stepz":1,"mask":"AAAA"}"#;
    let (status, problem) = api(body).await;
    assert_eq!(status, 422);
    assert_eq!((problem["type"].as_str(), problem["status"].as_u64()), (Some("urn:limner:invalid_request"), Some(422)));
    let found: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["field"].as_str().unwrap(), e["code"].as_str().unwrap()))
        .collect();
    let expected = [
        ("stepz", "unknown_field"),
        ("width", "multiple_of"),
        ("steps", "out_of_range"),
        ("guidance", "not_finite"),
        ("sampler", "unknown_value"),
        ("mask", "without_image"),
    ];
    assert_eq!(found, expected);
    assert_eq!((&problem["errors"][2]["minimum"], &problem["errors"][2]["maximum"]), (&json!(1.0), &json!(1000.0)));
}

#[tokio::test]
async fn each_kind_of_bad_request_has_its_status() {
    for (body, status, code) in [
        ("{\"prompt\":\"x\",}", 400, "bad_json"),
        ("", 400, "bad_json"),
        ("[]", 400, "bad_json"),
        ("{}", 422, "invalid_request"),
        (r#"{"prompt":"a\u0000b"}"#, 422, "invalid_request"),
        (r#"{"prompt":"\ud800"}"#, 422, "invalid_request"),
        (r#"{"prompt":"x","count":1000000000}"#, 422, "invalid_request"),
        (r#"{"prompt":"x","image":"AAAA"}"#, 422, "invalid_request"),
    ] {
        let (found, problem) = api(body).await;
        assert_eq!(
            (found, problem["type"].as_str().unwrap()),
            (status, format!("urn:limner:{code}").as_str()),
            "{body}"
        );
    }
    let (_, problem) = api("{\"prompt\":\"x\",\n!}").await;
    assert_eq!((&problem["line"], &problem["column"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn bodies_of_the_wrong_kind_or_size_are_refused_by_their_head() {
    let status = async |request| ask(request).await.status().as_u16();
    assert_eq!(status(post("/api/v1/generate", "text/plain", "{}")).await, 415);
    assert_eq!(status(post("/", "application/json", "{}")).await, 415);
    assert_eq!(status(post("/", "multipart/form-data", "")).await, 400);
    let with = |name: &'static str, value: &'static str| {
        let mut request = post("/api/v1/generate", "application/json", "{}");
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    assert_eq!(status(with("content-encoding", "gzip")).await, 415);
    assert_eq!(status(with("content-length", "1048577")).await, 413);
    // No length given: counted while it is read.
    let long = format!("{{\"prompt\":\"{}\"}}", "x".repeat(1 << 20));
    assert_eq!(status(post("/api/v1/generate", "application/json", long)).await, 413);
    let many = vec![("prompt", "x"); 40];
    assert_eq!(status(form(&many, None)).await, 413);
}

#[tokio::test]
async fn foreign_hosts_and_foreign_pages_are_refused() {
    let status =
        async |request: axum::http::request::Builder| ask(request.body(Body::empty()).unwrap()).await.status().as_u16();
    assert_eq!(status(Request::get("/").header("host", "evil.example")).await, 403);
    assert_eq!(status(Request::get("/")).await, 403);
    assert_eq!(
        status(Request::post("/").header("host", "localhost").header("origin", "https://evil.example")).await,
        403
    );
    assert_eq!(status(Request::post("/").header("host", "localhost").header("origin", "null")).await, 403);
    assert_eq!(
        status(Request::post("/").header("host", "localhost").header("sec-fetch-site", "cross-site")).await,
        403
    );
    // A link on another page may lead here.
    assert_eq!(status(Request::get("/").header("host", "localhost").header("sec-fetch-site", "cross-site")).await, 200);
}

#[tokio::test]
async fn the_page_draws_without_a_script() {
    let response =
        ask(form(&[("prompt", "red apple"), ("steps", "2"), ("seed", "3"), ("count", "2"), ("else", "x")], None)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("script-src 'self'"));
    let page = text(response).await;
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 2);
    for part in ["value=\"red apple\"", "<code>3</code>", "<code>4</code>", "download=\"red-apple-3.png\""] {
        assert!(page.contains(part), "{part}");
    }
}

#[tokio::test]
async fn the_form_comes_back_with_what_was_typed_and_messages_beside_it() {
    let response = ask(form(
        &[("prompt", "<script>alert(1)</script>"), ("steps", "0"), ("seed", "7,5")],
        Some(("image", b"GIF89a")),
    ))
    .await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let page = text(response).await;
    assert!(!page.contains("<script>alert") && !page.contains("data:image/png;base64"));
    for part in [
        "value=\"&#60;script&#62;alert(1)&#60;/script&#62;\"",
        "id=\"steps-error\">must be between 1 and 1000, was 0<",
        "id=\"seed-error\">must be a whole number",
        "id=\"image-error\">must be a PNG, JPEG or WebP picture",
        "value=\"7,5\"",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
}

#[tokio::test]
async fn the_address_fills_the_form() {
    let page = text(ask(get("/?prompt=a%22%3E%3Cb%3E&seed=9")).await).await;
    assert!(
        page.contains("value=\"a&#34;&#62;&#60;b&#62;\"") && page.contains("value=\"9\"") && !page.contains("<b>\"")
    );
}

#[tokio::test]
async fn there_are_probes_files_and_nothing_else() {
    assert_eq!(text(ask(get("/livez")).await).await, "alive\n");
    let ready: Value = serde_json::from_slice(&bytes(ask(get("/readyz")).await).await).unwrap();
    assert_eq!(ready, json!({ "status": "ready", "model": "tiny", "waiting": 0, "running": false }));
    for path in ["/static/app.css", "/static/app.js", "/static/icon.svg"] {
        let response = ask(get(path)).await;
        assert_eq!(
            (response.status(), &response.headers()["x-content-type-options"]),
            (StatusCode::OK, &"nosniff".parse().unwrap())
        );
    }
    for path in ["/static/../Cargo.toml", "/static/..%2fCargo.toml", "/images/%00", "/nothing", "/%ff"] {
        assert_eq!(ask(get(path)).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(ask(get("/api/v1/generate")).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

/// Asks one server, whose jobs are then still there.
async fn of(routes: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = routes.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, serde_json::from_slice(&bytes(response).await).unwrap_or_default())
}

fn with(method: &str, path: &str, body: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    request.header("content-type", "application/json").body(Body::from(body.to_owned())).unwrap()
}

/// Submits a job and waits until it is over.
async fn finished(routes: &Router, body: &str) -> Value {
    let (status, job) = of(routes, with("POST", "/api/v1/jobs", body)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    loop {
        let (_, now) = of(routes, get(job["links"]["self"].as_str().unwrap())).await;
        if !["queued", "running"].contains(&now["state"].as_str().unwrap()) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_accepted_drawn_listed_and_its_picture_kept() {
    let routes = routes();
    let job = finished(&routes, r#"{"prompt":"red apple","steps":2,"seed":18446744073709551615,"count":2}"#).await;
    assert_eq!(
        (&job["state"], &job["step"], &job["steps"], &job["attempt"]),
        (&json!("done"), &json!(4), &json!(4), &json!(1))
    );
    assert_eq!(
        (&job["request"]["seed"], &job["request"]["seed_text"]),
        (&json!(u64::MAX), &json!("18446744073709551615"))
    );
    let image = &job["images"][1];
    assert_eq!((&image["receipt"]["seed"], &image["width"]), (&json!(0), &json!(32)));
    let url = image["url"].as_str().unwrap();
    let file = bytes(routes.clone().oneshot(get(url)).await.unwrap()).await;
    assert!(read_png_text(&file, "parameters").unwrap().starts_with("red apple\nSteps: 2,"));
    for (accept, magic) in
        [("image/webp", &b"RIFF"[..]), ("image/jpeg", b"\xff\xd8"), ("image/avif,image/webp,*/*", b"\x89PNG")]
    {
        let mut request = get(url);
        request.headers_mut().insert("accept", accept.parse().unwrap());
        assert!(bytes(routes.clone().oneshot(request).await.unwrap()).await.starts_with(magic), "{accept}");
    }
    assert_eq!(of(&routes, with("PATCH", url, r#"{"starred":true}"#)).await.1["starred"], true);
    for (query, found) in [("", 1), ("?q=APPLE&starred=1&state=done", 1), ("?q=pear", 0), ("?state=failed", 0)] {
        let (_, list) = of(&routes, get(&format!("/api/v1/jobs{query}"))).await;
        assert_eq!((list["jobs"].as_array().unwrap().len(), &list["next"]), (found, &Value::Null), "{query}");
    }
    assert_eq!(of(&routes, with("DELETE", url, "")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(of(&routes, get(url)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(of(&routes, with("POST", &format!("{url}/restore"), "")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(of(&routes, get(url)).await.0, StatusCode::OK);
    assert_eq!(of(&routes, with("DELETE", job["links"]["self"].as_str().unwrap(), "")).await.0, StatusCode::CONFLICT);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_jobs_follow_each_other() {
    let routes = routes();
    for seed in 1..=3 {
        finished(&routes, &format!(r#"{{"prompt":"x","steps":1,"seed":{seed}}}"#)).await;
    }
    let (_, first) = of(&routes, get("/api/v1/jobs?limit=2")).await;
    let cursor = first["next"].as_str().unwrap();
    let (_, second) = of(&routes, get(&format!("/api/v1/jobs?limit=2&cursor={cursor}"))).await;
    let seeds = |page: &Value| {
        page["jobs"].as_array().unwrap().iter().map(|j| j["request"]["seed"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((seeds(&first), seeds(&second)), (vec![json!(3), json!(2)], vec![json!(1)]));
    for query in ["limit=0", "limit=1e9", "limit=101", "cursor=x", "state=late"] {
        let (status, problem) = of(&routes, get(&format!("/api/v1/jobs?{query}"))).await;
        assert_eq!((status.as_u16(), problem["errors"].as_array().map(Vec::len)), (422, Some(1)), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_double_submit_is_one_job() {
    let routes = routes();
    let keyed = |body: &str| {
        let mut request = with("POST", "/api/v1/jobs", body);
        request.headers_mut().insert("idempotency-key", "once".parse().unwrap());
        request
    };
    let (_, first) = of(&routes, keyed(r#"{"prompt":"x","steps":1}"#)).await;
    let (_, again) = of(&routes, keyed(r#"{"prompt":"x","steps":1}"#)).await;
    assert_eq!(first["id"], again["id"]);
    let (status, problem) = of(&routes, keyed(r#"{"prompt":"y","steps":1}"#)).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["code"]), (422, &json!("key_reused")));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_a_job_from_its_place_in_the_queue_to_its_end() {
    let routes = routes();
    let (_, before) = of(&routes, with("POST", "/api/v1/jobs", r#"{"prompt":"x","steps":30}"#)).await;
    let (_, job) = of(&routes, with("POST", "/api/v1/jobs", r#"{"prompt":"y","steps":5}"#)).await;
    let events = routes.clone().oneshot(get(job["links"]["events"].as_str().unwrap())).await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let told = text(events).await;
    let names: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names[0], "snapshot");
    assert_eq!(names[names.len() - 7..], ["started", "step", "step", "step", "step", "step", "done"], "{told}");
    let ids: Vec<u64> =
        told.lines().filter_map(|line| line.strip_prefix("id: ")?.split('-').nth(1)?.parse().ok()).collect();
    assert!(ids.is_sorted() && told.contains("data:image/png;base64,"), "{told}");
    // A stream of what is over says so and ends.
    let over = text(routes.clone().oneshot(get(before["links"]["events"].as_str().unwrap())).await.unwrap()).await;
    assert!(over.contains("event: done") && !over.contains("event: step"), "{over}");
    assert_eq!(ask(get(&format!("/api/v1/jobs/{}/events", "0".repeat(32)))).await.status(), StatusCode::NOT_FOUND);
}

/// A server on a socket of its own, and the switch that ends it.
async fn started(app: App) -> (String, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(serve(listener, app, async {
        let _ = stopped.await;
    }));
    (address, stop, server)
}

async fn send(address: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        "POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close";
    stream.write_all(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    stream
}

async fn until(app: &App, condition: impl Fn(limner::jobs::Status) -> bool) {
    while !condition(app.jobs().status().unwrap()) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

const LONG: &str = r#"{"prompt":"x","steps":1000,"count":64}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_frees_the_worker() {
    let app = app(&[]);
    let (address, _stop, _server) = started(app.clone()).await;
    let stream = send(&address, LONG).await;
    until(&app, |status| status.running).await;
    drop(stream);
    tokio::time::timeout(Duration::from_secs(20), until(&app, |status| !status.running)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_answers_429_and_an_end_comes_in_time() {
    let app = app(&["--queue", "1", "--drain-seconds", "0"]);
    let (address, stop, server) = started(app.clone()).await;
    let _running = send(&address, LONG).await;
    until(&app, |status| status.running).await;
    let mut waiting = send(&address, LONG).await;
    until(&app, |status| status.waiting == 1).await;
    let answer = |mut stream: TcpStream| async move {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let refused = answer(send(&address, LONG).await).await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: "), "{refused}");
    stop.send(()).unwrap();
    let mut turned_away = String::new();
    waiting.read_to_string(&mut turned_away).await.unwrap();
    assert!(turned_away.starts_with("HTTP/1.1 503"), "{turned_away}");
    tokio::time::timeout(Duration::from_secs(20), server).await.unwrap().unwrap();
    assert!(TcpStream::connect(&address).await.is_err());
}
