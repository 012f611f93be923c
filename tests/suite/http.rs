//! The server from outside: its routes through `router`, and its sockets through `serve`.

use crate::tiny_model;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use http_body_util::BodyExt;
use limner::config::ServerConfig;
use limner::hub::{Hub, Pulls};
use limner::image::{RgbImage, encode_png, read_png_text};
use limner::library::Library;
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

/// The tests' one model, in memory.
static LIBRARY: LazyLock<Arc<Library>> = LazyLock::new(|| {
    let library = crate::library::library(&[], &tiny_model::path(), u64::MAX);
    library.lend("", &mut || Ok(())).unwrap();
    Arc::new(library)
});

pub(crate) fn app(arguments: &[&str]) -> App {
    app_with(arguments, LIBRARY.clone())
}

pub(crate) fn app_with(arguments: &[&str], library: Arc<Library>) -> App {
    app_that_pulls(arguments, library, no_pulls())
}

pub(crate) fn app_that_pulls(arguments: &[&str], library: Arc<Library>, pulls: Pulls) -> App {
    let settings = Settings::parse_from([&["limner"], arguments].concat());
    let folder = tempfile::tempdir().unwrap().keep();
    App::start(settings.config, &folder, library, pulls).unwrap()
}

/// From a hub that is not there, to nowhere.
pub(crate) fn no_pulls() -> Pulls {
    Pulls::new(Hub::from_env, Vec::new())
}

pub(crate) fn routes() -> Router {
    router(app(&["--max-body-mib", "1"]))
}

pub(crate) fn post(path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header("host", "127.0.0.1:7860").header("content-type", kind);
    request.body(body.into()).unwrap()
}

/// A small form without files.
pub(crate) fn form_encoded(path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    post(path, "application/x-www-form-urlencoded", body)
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "localhost").body(Body::empty()).unwrap()
}

pub(crate) async fn ask(request: Request<Body>) -> Response<Body> {
    routes().oneshot(request).await.unwrap()
}

pub(crate) async fn bytes(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

pub(crate) async fn text(response: Response<Body>) -> String {
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
pub(crate) fn form(fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Request<Body> {
    form_of(fields, file.as_slice())
}

/// A form's body with several files.
pub(crate) fn form_of(fields: &[(&str, &str)], files: &[(&str, &[u8])]) -> Request<Body> {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(format!("--line\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
    }
    for (name, content) in files {
        let head =
            format!("--line\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"../../x.png\"\r\n\r\n");
        body.extend([head.as_bytes(), *content, b"\r\n"].concat());
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
    let routes = routes();
    let accepted = routes.clone().oneshot(form(&fields, Some(("image", &picture)))).await.unwrap();
    let page = crate::pages::refreshed(&routes, &crate::pages::location(&accepted)).await;
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
    let many = vec![("prompt", "x"); 70];
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
async fn there_are_probes_files_and_nothing_else() {
    assert_eq!(text(ask(get("/livez")).await).await, "alive\n");
    let ready: Value = serde_json::from_slice(&bytes(ask(get("/readyz")).await).await).unwrap();
    assert_eq!(ready, json!({ "status": "ready", "model": "tiny", "waiting": 0, "running": 0 }));
    for path in ["/static/app.css", "/static/make.js", "/static/icon.svg"] {
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
pub(crate) async fn of(routes: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = routes.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, serde_json::from_slice(&bytes(response).await).unwrap_or_default())
}

pub(crate) fn with(method: &str, path: &str, body: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    request.header("content-type", "application/json").body(Body::from(body.to_owned())).unwrap()
}

/// Submits a job and waits until it is over.
pub(crate) async fn finished(routes: &Router, body: &str) -> Value {
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
    let (_, before) = of(&routes, with("POST", "/api/v1/jobs", r#"{"prompt":"x","steps":100}"#)).await;
    // Jobs that wait together may be begun together.
    while of(&routes, get(before["links"]["self"].as_str().unwrap())).await.1["state"] == "queued" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
    until(&app, |status| status.running > 0).await;
    drop(stream);
    tokio::time::timeout(Duration::from_secs(20), until(&app, |status| status.running == 0)).await.unwrap();
}

/// The client may go at any moment, also while its job is being accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_at_once_leaves_no_job_behind() {
    let app = app(&[]);
    let routes = router(app.clone());
    for round in 0..30 {
        let asked = routes.clone().oneshot(with("POST", "/api/v1/generate", LONG));
        let _ = tokio::time::timeout(Duration::from_micros(150 * round), asked).await;
    }
    let idle = until(&app, |status| status.running == 0 && status.waiting == 0);
    tokio::time::timeout(Duration::from_secs(60), idle).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_answers_429_and_an_end_comes_in_time() {
    let app = app(&["--queue", "1", "--drain-seconds", "0"]);
    let (address, stop, server) = started(app.clone()).await;
    let _running = send(&address, LONG).await;
    until(&app, |status| status.running > 0).await;
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

/// Status and document of a file that is sent.
async fn upload(routes: &Router, path: &str, kind: &str, file: Vec<u8>) -> (StatusCode, Value) {
    of(routes, post(path, kind, file)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_says_how_it_was_drawn_and_is_drawn_again() {
    let routes = routes();
    let job = finished(&routes, r#"{"prompt":"red apple","steps":3,"seed":18446744073709551615,"guidance":2.5}"#).await;
    let url = job["images"][0]["url"].as_str().unwrap();
    let file = bytes(routes.clone().oneshot(get(url)).await.unwrap()).await;
    let (status, found) = upload(&routes, "/api/v1/inspect", "image/png", file.clone()).await;
    assert_eq!((status, found["source"].as_str()), (StatusCode::OK, Some("limner")), "{found}");
    let request = &found["request"];
    assert_eq!(
        (request["seed"].as_u64(), request["seed_text"].as_str()),
        (Some(u64::MAX), Some("18446744073709551615"))
    );
    assert_eq!((request["steps"].as_u64(), request["guidance"].as_f64()), (Some(3), Some(2.5)));
    let (status, again) = upload(&routes, "/api/v1/replay", "image/png", file.clone()).await;
    assert_eq!((status, &again["identical"], &again["differences"]), (StatusCode::OK, &json!(true), &json!([])));
    // The same picture of another model, by its receipt.
    let receipt = read_png_text(&file, "limner").unwrap();
    let hash = found["receipt"]["model_hash"].as_str().unwrap();
    let picture = limner::image::read("image", &file).unwrap();
    let text = |keyword, text: String| limner::image::Text { keyword, text };
    let other = encode_png(&picture, &[text("limner", receipt.replace(hash, "0123456789"))]).unwrap();
    let (_, differs) = upload(&routes, "/api/v1/replay", "image/png", other).await;
    assert_eq!(differs["identical"], false);
    assert_eq!(differs["differences"], json!([format!("model_hash was \"0123456789\", is \"{hash}\"")]));
    let parameters =
        "a pear\nSteps: 7, Sampler: Euler a, CFG scale: 4, Seed: 5, Size: 64x32, Clip skip: 2, Tiling: True";
    let theirs = encode_png(&picture, &[text("parameters", parameters.to_owned())]).unwrap();
    let (_, found) = upload(&routes, "/api/v1/inspect", "image/png", theirs.clone()).await;
    assert_eq!((found["source"].as_str(), &found["ignored"]), (Some("parameters"), &json!(["Tiling: True"])));
    assert_eq!((&found["request"]["sampler"], &found["request"]["width"]), (&json!("euler_a"), &json!(64)));
    for (path, kind, file, status) in [
        ("replay", "image/png", theirs, 422),
        ("inspect", "image/png", encode_png(&RgbImage::new(4, 4), &[]).unwrap(), 422),
        ("inspect", "image/png", b"\x89PNG\r\n\x1a\n".to_vec(), 422),
        ("inspect", "image/jpeg", vec![0], 415),
        ("replay", "image/png", vec![0; (1 << 20) + 1], 413),
    ] {
        let (refused, problem) = upload(&routes, &format!("/api/v1/{path}"), kind, file).await;
        assert_eq!(refused.as_u16(), status, "{path}: {problem}");
        assert!(problem["code"].is_string() || problem["type"].is_string(), "{problem}");
    }
}

#[tokio::test]
async fn tokens_are_counted() {
    let (status, told) = of(&routes(), with("POST", "/api/v1/tokens", r#"{"prompt":"red apple"}"#)).await;
    assert_eq!((status, told), (StatusCode::OK, json!({ "count": 7, "limit": 14, "chunks": 1 })));
    let long = json!({ "prompt": "apple ".repeat(200) }).to_string();
    let (_, told) = of(&routes(), with("POST", "/api/v1/tokens", &long)).await;
    assert_eq!(told, json!({ "count": 1000, "limit": 1008, "chunks": 72 }));
    let endless = json!({ "prompt": "apple ".repeat(10_000) }).to_string();
    let (status, _) = of(&routes(), with("POST", "/api/v1/tokens", &endless)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn without_the_token_nobody_gets_far() {
    let routes = router(app(&["--token", "correct horse"]));
    let status = async |request: Request<Body>| routes.clone().oneshot(request).await.unwrap().status().as_u16();
    for open in ["/livez", "/readyz", "/login", "/static/app.css"] {
        assert_eq!(status(get(open)).await, 200, "{open}");
    }
    for closed in ["/", "/history", "/metrics", "/api/v1/jobs", "/api/v1/models", "/nothing", "/livez/"] {
        assert_eq!(status(get(closed)).await, 401, "{closed}");
    }
    let refused = routes.clone().oneshot(with("POST", "/api/v1/generate", "{}")).await.unwrap();
    assert_eq!(refused.headers()["www-authenticate"], "Bearer realm=\"limner\"");
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let bearer = |token: &str| {
        let request = Request::get("/api/v1/jobs").header("host", "localhost");
        request.header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap()
    };
    assert_eq!((status(bearer("correct horse")).await, status(bearer("correct")).await), (200, 401));
    // A browser is led to the login page, and with the right token back.
    let page = Request::get("/history?q=a").header("host", "localhost").header("accept", "text/html,*/*");
    let led = routes.clone().oneshot(page.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(
        (led.status().as_u16(), &led.headers()["location"]),
        (303, &"/login?to=%2Fhistory%3Fq%3Da".parse().unwrap())
    );
    let enter = async |token: &str| {
        let body = format!("to=%2Fhistory%3Fq%3Da&token={token}");
        routes.clone().oneshot(post("/login", "application/x-www-form-urlencoded", body)).await.unwrap()
    };
    assert_eq!(enter("wrong").await.status().as_u16(), 401);
    let entered = enter("correct+horse").await;
    let cookie = entered.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains("horse"), "{cookie}");
    assert_eq!(entered.headers()["location"], "/history?q=a");
    let again =
        Request::get("/history").header("host", "localhost").header("cookie", cookie.split(';').next().unwrap());
    assert_eq!(status(again.body(Body::empty()).unwrap()).await, 200);
}

#[test]
fn a_network_is_not_let_in_by_accident() {
    let check = |arguments: &[&str]| Settings::parse_from([&["limner"], arguments].concat()).config.check();
    let refused = check(&["--listen", "0.0.0.0:7860"]).unwrap_err().to_string();
    assert!(refused.contains("--token") && refused.contains("--no-token"), "{refused}");
    assert!(check(&["--listen", "0.0.0.0:7860", "--token", "x"]).is_ok());
    assert!(check(&["--listen", "[::]:7860", "--no-token"]).is_ok() && check(&["--listen", "[::1]:7860"]).is_ok());
    assert!(Settings::try_parse_from(["limner", "--token", ""]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happens() {
    let routes = routes();
    finished(&routes, r#"{"prompt":"red apple","steps":1}"#).await;
    of(&routes, get("/nothing")).await;
    let told = text(routes.clone().oneshot(get("/metrics")).await.unwrap()).await;
    let value = |line: &str| {
        let found = told.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{line} in {told}"));
        found.trim().parse::<f64>().unwrap()
    };
    assert_eq!(value("limner_jobs{state=\"done\"}"), 1.0);
    assert_eq!(value("limner_pictures "), 1.0);
    assert_eq!(value("limner_http_requests_total{route=\"/api/v1/jobs\",method=\"POST\",status=\"202\"}"), 1.0);
    assert_eq!(value("limner_http_requests_total{route=\"other\",method=\"GET\",status=\"404\"}"), 1.0);
    assert!(value("limner_step_seconds ") > 0.0 && value("process_start_time_seconds ") > 1e9);
    // Every line is a comment, or a name with labels and a number.
    for line in told.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.rsplit_once(' ').is_some_and(|(_, number)| number.parse::<f64>().is_ok()), "{line}");
    }
}

/// The values of all `$ref` in a document.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_api_is_described_as_it_is() {
    let routes = routes();
    let (status, document) = of(&routes, get("/openapi.json")).await;
    assert_eq!((status, &document["openapi"].as_str().unwrap()[..3]), (StatusCode::OK, "3.1"));
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path} says nothing");
            let address = path.replace("{id}", &"0".repeat(32)).replace("{name}", "nothing");
            let (status, answer) = of(&routes, with(&method.to_uppercase(), &address, "")).await;
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_ne!(answer["detail"], "There is nothing at this address.", "{method} {path}");
            operations.push(format!("{method} {path}"));
        }
    }
    for known in [
        "post /api/v1/jobs",
        "delete /api/v1/jobs/{id}",
        "patch /api/v1/images/{id}",
        "post /api/v1/replay",
        "get /metrics",
    ] {
        assert!(operations.iter().any(|operation| operation == known), "{known} is not in {operations:?}");
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in &found {
        let schema = document.pointer(reference.trim_start_matches('#'));
        assert!(schema.is_some(), "{reference} leads nowhere");
    }
    let fields = document["components"]["schemas"]["GenerateRequest"]["properties"].as_object().unwrap();
    for field in limner::request::FIELDS {
        assert!(fields[field]["description"].as_str().is_some_and(|text| text.len() > 5), "{field}");
    }
    let page = text(ask(get("/docs")).await).await;
    for operation in &operations {
        let (method, path) = operation.split_once(' ').unwrap();
        assert!(page.contains(&format!("{}</span> <code>{path}</code>", method.to_uppercase())), "{operation}");
    }
}
