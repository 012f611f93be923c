//! Models fetched and removed from the API and the page, from a hub on loopback.

use crate::http::{app_that_pulls, bytes, form_encoded, get, of, text, with};
use crate::hub::server::{FakeHub, ID, Mischief};
use crate::hub::{LARGE, UNET, patience, small_model};
use crate::{library, tiny_model};
use axum::Router;
use axum::http::StatusCode;
use limner::hub::{Hub, Pulls};
use limner::library::Library;
use limner::server::{App, router};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tower::ServiceExt;

/// A server whose models are `tiny` (the first, elsewhere) and what is pulled into `models`.
struct Server {
    models: TempDir,
    app: App,
    routes: Router,
    library: Arc<Library>,
}

fn server(hub: &FakeHub, arguments: &[&str]) -> Server {
    let models = tempfile::tempdir().unwrap();
    let elsewhere = tiny_model::path();
    let library = Arc::new(library::library(&[models.path()], &elsewhere, u64::MAX));
    let endpoint = hub.endpoint.clone();
    let pulls = Pulls::new(move || Hub::at(&endpoint, None, patience()), vec![models.path().to_owned()]);
    let app = app_that_pulls(arguments, library.clone(), pulls);
    Server { models, routes: router(app.clone()), app, library }
}

impl Server {
    async fn order(&self, body: &Value) -> (u16, Value) {
        let (status, answer) = of(&self.routes, with("POST", "/api/v1/pulls", &body.to_string())).await;
        (status.as_u16(), answer)
    }

    async fn pull(&self, id: &Value) -> Value {
        of(&self.routes, get(&format!("/api/v1/pulls/{id}"))).await.1
    }

    /// The pull, once `enough` of it has happened.
    async fn until(&self, id: &Value, enough: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..4000 {
            let pull = self.pull(id).await;
            if enough(&pull) {
                return pull;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nothing happens: {}", self.pull(id).await);
    }

    async fn over(&self, id: &Value) -> Value {
        self.until(id, |pull| pull["over"] == true).await
    }

    async fn names(&self) -> Vec<String> {
        let (_, list) = of(&self.routes, get("/api/v1/models")).await;
        list["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn remove(&self, name: &str) -> (u16, Value) {
        let request = with("DELETE", &format!("/api/v1/models/{name}"), "");
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&bytes(response).await).unwrap_or_default())
    }
}

/// A hub with the tests' model, which can be drawn with.
fn real_model() -> FakeHub {
    fn walk(folder: &Path, root: &Path, hub: &FakeHub) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => walk(&path, root, hub),
                path => hub.put(path.strip_prefix(root).unwrap().to_str().unwrap(), &std::fs::read(&path).unwrap()),
            }
        }
    }
    let hub = FakeHub::start(&[]);
    walk(&tiny_model::path(), &tiny_model::path(), &hub);
    hub
}

#[tokio::test]
async fn a_model_is_fetched_drawn_with_and_removed_without_a_restart() {
    let (hub, order) = (real_model(), json!({ "repository": ID, "name": "fetched" }));
    let server = server(&hub, &[]);
    let (status, accepted) = server.order(&order).await;
    assert_eq!((status, &accepted["name"], &accepted["over"]), (202, &json!("fetched"), &json!(false)));
    let done = server.over(&accepted["id"]).await;
    assert_eq!((&done["state"], &done["error"]), (&json!("done"), &Value::Null));
    assert_eq!(server.names().await, ["fetched", "tiny"]);
    let draw = json!({ "prompt": "red", "steps": 2, "seed": 1, "model": "fetched" }).to_string();
    let (status, drawn) = of(&server.routes, with("POST", "/api/v1/generate", &draw)).await;
    assert_eq!((status.as_u16(), &drawn["pictures"][0]["model"]), (200, &json!("fetched")));

    // While somebody draws with it, it stays.
    let held = server.library.lend("fetched", &mut || Ok(())).unwrap();
    let (status, refusal) = server.remove("fetched").await;
    assert_eq!((status, &refusal["type"]), (409, &json!("urn:limner:in_use")));
    drop(held);
    let removed = server.remove("fetched").await;
    assert_eq!(removed.0, 204, "{}", removed.1);
    assert_eq!(server.names().await, ["tiny"]);
    assert!(!server.models.path().join("fetched").exists());
    assert_eq!(server.remove("fetched").await.0, 404);
    // The first model lies elsewhere.
    let (status, refusal) = server.remove("tiny").await;
    assert_eq!((status, &refusal["type"]), (409, &json!("urn:limner:not_removable")));
    assert_eq!(server.remove("..%2F..%2Fetc").await.0, 404);
}

#[tokio::test]
async fn what_goes_wrong_is_said_in_a_sentence_and_leaves_no_model() {
    let status = |code| Mischief::Status(code, vec![]);
    for (what, mischief, code) in [
        ("listing", status(401), "hub_denied"),
        ("listing", status(404), "not_found"),
        ("listing", Mischief::Status(429, vec![("retry-after", "3600".into())]), "busy"),
        (UNET, Mischief::Instead(vec![7; LARGE]), "hub_broken"),
        ("listing", Mischief::Instead(br#"{"id":"a/b","sha":"0123456789012345678901234567890123456789","siblings":[{"rfilename":"../../x.safetensors","size":1}]}"#.to_vec()), "hub_broken"),
    ] {
        let hub = small_model();
        // A wrong hash is fetched once more.
        (0..3).for_each(|_| hub.next(what, mischief.clone()));
        let server = server(&hub, &[]);
        let (_, accepted) = server.order(&json!({ "repository": ID })).await;
        let failed = server.over(&accepted["id"]).await;
        assert_eq!((&failed["state"], &failed["error"]["code"]), (&json!("failed"), &json!(code)), "{failed}");
        assert!(failed["error"]["message"].as_str().unwrap().len() > 20, "{failed}");
        assert_eq!(server.names().await, ["tiny"]);
    }
}

#[tokio::test]
async fn a_cancelled_pull_ends_at_once_and_goes_on_where_it_was() {
    let (hub, order) = (small_model(), json!({ "repository": ID }));
    let server = server(&hub, &[]);
    hub.next(UNET, Mischief::SilentAfter(LARGE / 2));
    let (_, first) = server.order(&order).await;
    let half = |pull: &Value| pull["path"] == UNET && pull["done_bytes"].as_u64().unwrap() >= LARGE as u64 / 2;
    let seen = server.until(&first["id"], half).await;
    assert_eq!((&seen["state"], seen["total_bytes"].as_u64().unwrap() > LARGE as u64), (&json!("fetching"), true));
    // The same order is the same pull; another waits, and can be taken back.
    assert_eq!(server.order(&order).await.1["id"], first["id"]);
    let (_, second) = server.order(&json!({ "repository": "someone/else" })).await;
    assert_eq!((&second["id"], &second["state"]), (&json!(2), &json!("waiting")));
    assert_eq!(of(&server.routes, with("DELETE", "/api/v1/pulls/2", "")).await.1["state"], "cancelled");

    let (status, cancelled) = of(&server.routes, with("DELETE", "/api/v1/pulls/1", "")).await;
    assert_eq!((status.as_u16(), &cancelled["state"]), (200, &json!("cancelled")));
    hub.asked();
    let (_, again) = server.order(&order).await;
    assert_eq!(server.over(&again["id"]).await["state"], "done");
    let resumed = hub.asked().into_iter().find(|asked| asked.path.ends_with(UNET)).unwrap();
    assert_eq!(resumed.range, Some(format!("bytes={}-", LARGE / 2)));
    let (_, list) = of(&server.routes, get("/api/v1/pulls")).await;
    let states: Vec<_> = list["pulls"].as_array().unwrap().iter().map(|pull| pull["state"].clone()).collect();
    assert_eq!(states, ["done", "cancelled", "cancelled"]);
}

#[tokio::test]
async fn listeners_hear_how_far_it_is_and_how_it_ended() {
    let hub = small_model();
    let server = server(&hub, &[]);
    let (_, accepted) = server.order(&json!({ "repository": ID })).await;
    let response = server.routes.clone().oneshot(get(&format!("/api/v1/pulls/{}/events", accepted["id"]))).await;
    let stream = text(response.unwrap()).await;
    let (told, end) = stream.trim().rsplit_once("\n\n").unwrap_or(("", stream.trim()));
    assert!(told.is_empty() || told.starts_with("event: progress\n"), "{stream}");
    assert!(end.starts_with("event: done\n") && end.contains("\"name\":\"tiny\""), "{stream}");
    assert_eq!(of(&server.routes, get("/api/v1/pulls/77/events")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_a_silent_hub() {
    let hub = small_model();
    hub.next(UNET, Mischief::SilentAfter(LARGE / 2));
    let server = server(&hub, &[]);
    let (_, accepted) = server.order(&json!({ "repository": ID })).await;
    server.until(&accepted["id"], |pull| pull["path"] == UNET).await;
    let (pulls, began) = (server.app.pulls().clone(), Instant::now());
    tokio::task::spawn_blocking(move || pulls.close()).await.unwrap();
    // The hub is given twenty seconds otherwise.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(server.order(&json!({ "repository": ID })).await.0, 503);
}

#[tokio::test]
async fn wrong_orders_are_refused_at_the_door() {
    let hub = small_model();
    let server = server(&hub, &[]);
    for (body, status, field) in [
        (json!({ "repository": "nothing" }), 422, Some("repository")),
        (json!({ "repository": "../../etc/passwd" }), 422, Some("repository")),
        (json!({ "repository": ID, "name": "../x" }), 422, None),
        (json!({ "repository": ID, "variant": "int8" }), 422, Some("body")),
        (json!({ "repository": ID, "folder": "/etc" }), 422, Some("body")),
        (json!([]), 422, Some("body")),
    ] {
        let (found, answer) = server.order(&body).await;
        assert_eq!(found, status, "{body} {answer}");
        assert_eq!(answer["errors"][0]["field"].as_str(), field, "{answer}");
    }
    let (status, answer) = of(&server.routes, with("POST", "/api/v1/pulls", "{")).await;
    assert_eq!((status.as_u16(), &answer["type"]), (400, &json!("urn:limner:bad_json")));
    // One runs, as long as the hub is silent; eight may wait.
    hub.next(UNET, Mischief::SilentAfter(0));
    let (_, running) = server.order(&json!({ "repository": ID })).await;
    server.until(&running["id"], |pull| pull["state"] != "waiting").await;
    for i in 0..8 {
        assert_eq!(server.order(&json!({ "repository": format!("someone/model{i}") })).await.0, 202);
    }
    let (status, answer) = server.order(&json!({ "repository": "someone/model8" })).await;
    assert_eq!((status, &answer["type"]), (429, &json!("urn:limner:busy")));
    server.app.pulls().close();
}

#[tokio::test]
async fn only_those_may_fetch_who_are_allowed_to() {
    let (hub, order) = (small_model(), json!({ "repository": ID }));
    for arguments in [&["--no-pull"][..], &["--listen", "0.0.0.0:7860", "--no-token"]] {
        let server = server(&hub, arguments);
        let (status, answer) = server.order(&order).await;
        assert_eq!((status, &answer["type"]), (403, &json!("urn:limner:pull_forbidden")), "{arguments:?}");
        assert_eq!(server.remove("tiny").await.1["type"], "urn:limner:pull_forbidden");
        let page = text(server.routes.clone().oneshot(get("/models")).await.unwrap()).await;
        assert!(!page.contains("Get a model"));
    }
    let closed = server(&hub, &["--token", "secret"]);
    assert_eq!(closed.order(&order).await.0, 401);
    let server = server(&hub, &[]);
    let mut foreign = with("POST", "/api/v1/pulls", &order.to_string());
    foreign.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    assert_eq!(of(&server.routes, foreign).await.0, StatusCode::FORBIDDEN);
    assert!(hub.asked().is_empty());
}

#[tokio::test]
async fn the_page_fetches_and_removes_without_a_script() {
    let hub = real_model();
    let server = server(&hub, &[]);
    let answer = |request| async { server.routes.clone().oneshot(request).await.unwrap() };
    let wrong = answer(form_encoded("/models", &[("repository", "nothing"), ("name", "<mine>")])).await;
    assert_eq!(wrong.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let page = text(wrong).await;
    assert!(page.contains("is not OWNER/NAME") && page.contains("&#60;mine&#62;"), "{page}");

    let fields = [("repository", ID), ("file", ""), ("name", "fetched"), ("variant", "")];
    let accepted = answer(form_encoded("/models", &fields)).await;
    assert_eq!(
        (accepted.status(), &accepted.headers()["location"]),
        (StatusCode::SEE_OTHER, &"/models#pulls".parse().unwrap())
    );
    server.over(&json!(1)).await;
    let page = text(answer(get("/models")).await).await;
    assert!(
        page.contains("is here: fetched") && page.contains("Delete fetched") && !page.contains("Delete tiny"),
        "{page}"
    );
    let removed = answer(form_encoded("/models/fetched/remove", &[])).await;
    assert_eq!(removed.status(), StatusCode::SEE_OTHER);
    assert_eq!(server.names().await, ["tiny"]);
    assert_eq!(answer(form_encoded("/pulls/9/cancel", &[])).await.status(), StatusCode::NOT_FOUND);
}
