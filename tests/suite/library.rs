//! Several models: switched between, taken out of memory, replaced on disk, and refused with the reason.

use crate::adapters::models::save;
use crate::checkpoint::tiny::Tiny;
use crate::http::{app_with, bytes, finished, form, get, of, post, text, with};
use crate::jobs::{One, Sleeper, ended, request, state};
use crate::pipeline::{photograph, png};
use crate::tiny_model;
use axum::Router;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::{DType, Device, Tensor};
use limner::Error;
use limner::error::FieldError;
use limner::image::read_png_text;
use limner::jobs::{Draw, Drawn, Event, Id, Jobs, Lend, Limits, State, Work, Worker};
use limner::library::{Library, Presence, Settings, Unloaded};
use limner::memory::size;
use limner::pipeline::{Pipeline, Progress};
use limner::request::{Facts, GenerateRequest, Plan};
use limner::server::router;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tower::ServiceExt;

/// A library of what lies in `places`, in which `first` comes first. Gives nothing back: the tests' allocator is another.
pub(crate) fn library(places: &[&Path], first: &Path, budget: u64) -> Library {
    let places = places.iter().map(|place| PathBuf::from(*place)).collect();
    Library::new(Settings {
        places,
        first: first.to_owned(),
        device: Device::Cpu,
        precision: DType::F32.into(),
        budget,
    })
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A place with the models `a` (32 x 32 pixels) and `b` (16 x 16).
pub(crate) fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    copy(&tiny_model::path(), &place.path().join("a"));
    copy(Tiny::new().path(), &place.path().join("b"));
    place
}

/// The same with `c`, which is as `a`.
fn place_of_three() -> TempDir {
    let place = place();
    copy(&tiny_model::path(), &place.path().join("c"));
    place
}

/// How many models were loaded to lend this one.
fn loads(library: &Library, name: &str) -> usize {
    let mut count = 0;
    let mut on_wait = || {
        // It is heard more than once as long as there is no room.
        count = 1;
        Ok(())
    };
    drop(library.lend(name, &mut on_wait).unwrap());
    count
}

fn bytes_of(library: &Library, name: &str) -> u64 {
    library.list().into_iter().find(|entry| entry.name == name).unwrap().outline.unwrap().bytes
}

pub(crate) fn loaded(library: &Library) -> Vec<String> {
    library.loaded().into_iter().map(|(name, _)| name).collect()
}

pub(crate) fn refusal<T>(outcome: limner::Result<T>) -> FieldError {
    match outcome {
        Err(Error::Invalid(errors)) if errors.len() == 1 => errors[0].clone(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("not refused"),
    }
}

fn draw(library: &Library, model: &str) -> Vec<u8> {
    let pipeline = library.lend(model, &mut || Ok(())).unwrap();
    let plan = Plan::new(&request(&[("seed", "5"), ("steps", "2")]), &pipeline.facts()).unwrap();
    pipeline.generate(&plan, &mut |_| Ok(())).unwrap()[0].to_png().unwrap()
}

#[test]
fn what_is_said_of_a_model_before_it_is_loaded_is_what_is_true_of_it_then() {
    let place = place();
    let library = library(&[place.path()], &place.path().join("a"), u64::MAX);
    for name in ["a", "b"] {
        let (facts, bytes) = (library.facts(name).unwrap(), bytes_of(&library, name));
        assert!(library.loaded().is_empty());
        let alone = Pipeline::load(&place.path().join(name), &Device::Cpu).unwrap();
        // Where adapters lie is the library's business.
        let facts = Facts { adapters: alone.facts().adapters, ..facts };
        assert!((facts, bytes) == (alone.facts(), alone.bytes()), "{name}");
    }
    let sizes = library.list().into_iter().map(|entry| (entry.name, entry.outline.unwrap().facts.width));
    assert_eq!(sizes.collect::<Vec<_>>(), [("a".to_owned(), 32), ("b".to_owned(), 16)]);
}

/// Its file has a hole of eight gigabytes: reading it would take as much memory, and long.
#[test]
fn a_model_is_described_from_the_headers_of_its_files() {
    let place = place();
    let path = place.path().join("a/unet/diffusion_pytorch_model.safetensors");
    let file = fs::read(&path).unwrap();
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, numbers) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let hole = 8u64 << 30;
    let span = [numbers.len() as u64, numbers.len() as u64 + hole];
    header["nobody.asks"] = json!({ "dtype": "F32", "shape": [hole / 4], "data_offsets": span });
    let header = header.to_string().into_bytes();
    let head = [&(header.len() as u64).to_le_bytes()[..], &header, numbers].concat();
    fs::write(&path, &head).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(head.len() as u64 + hole).unwrap();
    let began = Instant::now();
    let library = library(&[place.path()], &place.path().join("b"), 1 << 30);
    let error = refusal(library.facts("a"));
    assert!(error.code == "model_too_large" && error.message.contains("it needs 8.0 GiB"), "{}", error.message);
    assert_eq!(library.get("a").unwrap().bytes_on_disk >> 30, 8);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_least_recently_used_goes_for_another_and_draws_the_same_when_it_is_back() {
    let place = place_of_three();
    let open = |budget| library(&[place.path()], &place.path().join("a"), budget);
    let library = open(2 * bytes_of(&open(u64::MAX), "a"));
    let before = draw(&library, "a");
    assert_eq!((loads(&library, "b"), loads(&library, "b"), loads(&library, "a")), (1, 0, 0));
    assert_eq!(loads(&library, "c"), 1);
    assert_eq!(loaded(&library), ["a", "c"], "b was used before a");
    assert_eq!(loads(&library, "b"), 1);
    assert_eq!(loaded(&library), ["c", "b"], "and then a before c");
    assert!(draw(&library, "a") == before, "the same seed, another picture");
    assert!(library.loaded().iter().map(|(_, bytes)| bytes).sum::<u64>() <= library.budget());
}

#[test]
fn what_is_lent_out_stays_and_who_needs_its_room_waits() {
    let place = place();
    let open = |budget| library(&[place.path()], &place.path().join("a"), budget);
    let library = open(bytes_of(&open(u64::MAX), "a"));
    let lent = library.lend("a", &mut || Ok(())).unwrap();
    assert_eq!(library.unload("a"), Unloaded::InUse);
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        let library = &library;
        scope.spawn(move || done.send(loads(library, "b")).unwrap());
        assert!(is_done.recv_timeout(Duration::from_millis(200)).is_err(), "it did not wait");
        let entry = |name: &str| library.list().into_iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(entry("b").presence, Presence::Loading);
        assert!(matches!(entry("a").presence, Presence::Loaded { in_use: true, .. }));
        drop(lent);
        assert_eq!(is_done.recv_timeout(Duration::from_secs(60)).unwrap(), 1);
    });
    assert_eq!(loaded(&library), ["b"]);
    assert_eq!((library.unload("b"), library.unload("b")), (Unloaded::Done, Unloaded::NotLoaded));
}

fn along_request(net: &str) -> GenerateRequest {
    let mut request = request(&[("seed", "5"), ("steps", "1"), ("control", net)]);
    assert!(request.set_file("control_image", png(&photograph(32, 32))));
    request
}

/// A plan for `a` along a picture.
fn along(net: &str, facts: &Facts) -> Plan {
    Plan::new(&along_request(net), facts).unwrap()
}

/// The models of [`place`] with two ControlNets of the same size, and what `a`, `b` and such a net take.
fn place_with_nets() -> (TempDir, [u64; 3]) {
    let place = place();
    copy(&tiny_model::path().with_file_name("controlnets"), &place.path().join("controlnets"));
    let library = library(&[place.path()], &place.path().join("a"), u64::MAX);
    let [a, b] = ["a", "b"].map(|name| library.lend(name, &mut || Ok(())).unwrap());
    let alone = a.bytes();
    a.generate(&along("edges", &a.facts()), &mut |_| Ok(())).unwrap();
    let sizes = [alone, b.bytes(), a.bytes() - alone];
    (place, sizes)
}

#[test]
fn a_model_that_is_not_in_use_goes_for_a_net_and_the_budget_is_kept() {
    let (place, [a, b, net]) = place_with_nets();
    for (spare, left) in [(0, vec!["b", "a"]), (1, vec!["a"])] {
        let library = library(&[place.path()], &place.path().join("a"), a + b + net - spare);
        loads(&library, "b");
        let pipeline = library.lend("a", &mut || Ok(())).unwrap();
        pipeline.generate(&along("edges", &pipeline.facts()), &mut |_| Ok(())).unwrap();
        assert_eq!((loaded(&library), pipeline.bytes()), (left.iter().map(ToString::to_string).collect(), a + net));
    }
}

#[test]
fn nets_of_earlier_plans_go_before_one_is_refused() {
    let (place, [a, _, net]) = place_with_nets();
    let open = |budget| library(&[place.path()], &place.path().join("a"), budget);
    let roomy = open(a + net);
    let pipeline = roomy.lend("a", &mut || Ok(())).unwrap();
    for name in ["edges", "nothing", "edges"] {
        pipeline.generate(&along(name, &pipeline.facts()), &mut |_| Ok(())).unwrap();
        assert_eq!(pipeline.bytes(), a + net, "{name}");
    }
    let narrow = open(a + net - 1);
    let pipeline = narrow.lend("a", &mut || Ok(())).unwrap();
    let error = refusal(pipeline.generate(&along("edges", &pipeline.facts()), &mut |_| Ok(())));
    let numbers = format!("needs {} of memory, and all models together may take {}", size(a + net), size(a + net - 1));
    assert!(error.code == "model_too_large" && error.message.contains(&numbers), "{}", error.message);
    assert_eq!((loaded(&narrow), pipeline.bytes()), (vec!["a".to_owned()], a));
    let plain = Plan::new(&request(&[("steps", "1")]), &pipeline.facts()).unwrap();
    assert_eq!(pipeline.generate(&plain, &mut |_| Ok(())).unwrap().len(), 1);
}

/// Writes a LoRA that changes one weight of the model `a`, and says how many bytes that weight takes.
fn write_lora(place: &Path) -> u64 {
    let weights = place.join("a/unet/diffusion_pytorch_model.safetensors");
    let weights = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    let (name, weight) =
        weights.iter().filter(|(name, _)| name.ends_with("attn1.to_q.weight")).min_by_key(|(name, _)| *name).unwrap();
    let (outputs, inputs) = weight.dims2().unwrap();
    let layer = format!("unet.{}", name.strip_suffix(".weight").unwrap());
    let factor = |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let [down, up] = [("lora_A", (2, inputs)), ("lora_B", (outputs, 2))]
        .map(|(part, shape)| (format!("{layer}.{part}.weight"), factor(shape)));
    save(&place.join("loras/one.safetensors"), &[(&down.0, &down.1), (&up.0, &up.1)], &[]);
    (4 * outputs * inputs) as u64
}

/// And that model for a net, and a net for one with adapters: whatever is used no more.
#[test]
fn a_model_with_the_adapters_of_an_earlier_plan_goes_before_a_net_is_refused() {
    let (place, [a, _, net]) = place_with_nets();
    let changed = write_lora(place.path());
    let library = library(&[place.path()], &place.path().join("a"), a + net.max(changed));
    let pipeline = library.lend("a", &mut || Ok(())).unwrap();
    let facts = pipeline.facts();
    let adapted = Plan::new(&request(&[("steps", "1"), ("loras", "one")]), &facts).unwrap();
    for (plan, more) in [(&adapted, changed), (&along("edges", &facts), net), (&adapted, changed)] {
        pipeline.generate(plan, &mut |_| Ok(())).unwrap();
        assert_eq!(pipeline.bytes(), a + more);
    }
}

/// Somebody else draws with `b`, and is done after a while.
#[test]
fn a_net_waits_for_a_model_that_is_lent_out() {
    let (place, [a, b, net]) = place_with_nets();
    let library = library(&[place.path()], &place.path().join("a"), a + b.max(net));
    let lent = library.lend("b", &mut || Ok(())).unwrap();
    let pipeline = library.lend("a", &mut || Ok(())).unwrap();
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        let draw = || pipeline.generate(&along("edges", &pipeline.facts()), &mut |_| Ok(())).unwrap().len();
        scope.spawn(move || done.send(draw()).unwrap());
        assert!(is_done.recv_timeout(Duration::from_millis(200)).is_err(), "it did not wait");
        drop(lent);
        assert_eq!(is_done.recv_timeout(Duration::from_secs(60)).unwrap(), 1);
    });
    assert_eq!(loaded(&library), ["a"]);
}

#[test]
fn a_model_larger_than_the_budget_is_refused_with_the_numbers() {
    let place = place();
    let open = |budget| library(&[place.path()], &place.path().join("b"), budget);
    let (whole, budget) = (bytes_of(&open(u64::MAX), "a"), bytes_of(&open(u64::MAX), "b"));
    let library = open(budget);
    let error = refusal(library.facts("a"));
    assert_eq!((error.field.as_str(), error.code), ("model", "model_too_large"));
    let numbers = format!("it needs {} of memory, and all models together may take {}", size(whole), size(budget));
    assert_eq!(error.message, format!("a cannot be used: {numbers} (--memory-mib)"));
    let entry = library.get("a").unwrap();
    assert_eq!(entry.outline.unwrap_err(), format!("{numbers} (--memory-mib)"));
    assert_eq!(refusal(library.lend("a", &mut || panic!("loaded"))).code, "model_too_large");
    assert_eq!(loads(&library, "b"), 1);
}

#[test]
fn a_model_that_was_replaced_on_disk_is_loaded_anew() {
    let place = place();
    let a = place.path().join("a");
    let library = library(&[place.path()], &a, u64::MAX);
    let before = draw(&library, "a");
    copy(Tiny::new().path(), &a);
    assert_eq!((library.facts("a").unwrap().width, loads(&library, "a"), loads(&library, "a")), (16, 1, 0));
    assert_eq!(loaded(&library), ["a"], "the old one is gone");
    copy(&tiny_model::path(), &a);
    assert!(draw(&library, "a") == before);
    fs::remove_dir_all(place.path().join("b")).unwrap();
    assert_eq!(refusal(library.facts("b")).code, "unknown_model");
}

#[test]
fn only_names_lead_to_models() {
    let place = place();
    let library = library(&[place.path()], &place.path().join("a"), u64::MAX);
    let absolute = place.path().join("b").display().to_string();
    for name in ["../b", "./b", "b/", "/", "..", &absolute, "b\0", "B", &"b".repeat(5000)] {
        let error = refusal(library.facts(name));
        assert_eq!((error.field.as_str(), error.code), ("model", "unknown_model"), "{name:?}");
        assert!(
            error.message.starts_with("must be one of a, b, was \"") && error.message.len() < 200,
            "{}",
            error.message
        );
    }
    assert_eq!((library.facts("").unwrap().name, library.facts("a").unwrap().name), ("a".into(), "a".into()));
}

#[test]
fn tokens_are_counted_by_each_models_own_vocabulary_in_memory_or_not() {
    let place = place();
    let library = library(&[place.path()], &place.path().join("a"), u64::MAX);
    let before = ["a", "b"].map(|name| library.tokens(name, "red apple").unwrap());
    assert!(library.loaded().is_empty() && before[0] != before[1], "{before:?}");
    for (name, count) in ["a", "b"].into_iter().zip(&before) {
        assert_eq!(library.lend(name, &mut || Ok(())).unwrap().tokens("red apple").unwrap(), *count);
        assert_eq!(library.tokens(name, "red apple").unwrap(), *count);
    }
    assert_eq!(refusal(library.tokens("b", &"x".repeat(40_000))).field, "prompt");
}

/// A server with the models of a place, `a` first.
fn server(place: &TempDir) -> Router {
    let library = library(&[place.path()], &place.path().join("a"), u64::MAX);
    router(app_with(&[], Arc::new(library)))
}

async fn model(routes: &Router, name: &str) -> Value {
    let (_, list) = of(routes, get("/api/v1/models")).await;
    list["models"].as_array().unwrap().iter().find(|model| model["name"] == name).unwrap().clone()
}

/// Waits until a model is in this state.
async fn until(routes: &Router, name: &str, state: &str) {
    for _ in 0..2000 {
        if model(routes, name).await["state"] == state {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{name} is not {state}: {}", model(routes, name).await);
}

async fn generate(routes: &Router, body: &Value) -> (u16, Value) {
    let (status, answer) = of(routes, with("POST", "/api/v1/generate", &body.to_string())).await;
    (status.as_u16(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_drawn_with_its_model() {
    let place = place();
    let routes = server(&place);
    let mut hashes = Vec::new();
    for (typed, name, width) in [(json!(null), "a", 32), (json!("b"), "b", 16), (json!(" a "), "a", 32)] {
        let (status, answer) = generate(&routes, &json!({ "prompt": "x", "steps": 1, "model": typed })).await;
        assert_eq!(status, 200, "{answer}");
        let picture = &answer["pictures"][0];
        assert_eq!((&picture["model"], &picture["width"]), (&json!(name), &json!(width)));
        hashes.push(picture["model_hash"].clone());
    }
    assert!(hashes[0] == hashes[2] && hashes[0] != hashes[1]);
    let (_, list) = of(&routes, get("/api/v1/models")).await;
    let used: u64 =
        list["models"].as_array().unwrap().iter().map(|model| model["memory_bytes"].as_u64().unwrap()).sum();
    assert_eq!((&list["default"], &list["memory"]["used_bytes"]), (&json!("a"), &json!(used)));
    let a = model(&routes, "a").await;
    assert_eq!(
        (&a["default"], &a["loaded"], &a["kind"], &a["reason"]),
        (&json!(true), &json!(true), &json!("Limner"), &json!(null))
    );
    assert_eq!(a["defaults"], json!({ "steps": 20, "guidance": 5.0, "width": 32, "height": 32 }));
    let folder_bytes = fs::read_dir(place.path().join("a/unet")).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
    assert!(a["bytes_on_disk"].as_u64().unwrap() > folder_bytes.sum());
    let metrics = text(routes.clone().oneshot(get("/metrics")).await.unwrap()).await;
    let bytes = a["memory_bytes"].as_u64().unwrap();
    for line in [format!("limner_model_bytes{{model=\"a\"}} {bytes}"), "limner_models_loaded 2".to_owned()] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_and_unloaded_by_hand() {
    let place = place();
    let routes = server(&place);
    let change = async |path: &str| of(&routes, with("POST", &format!("/api/v1/models/{path}"), "")).await;
    let (status, _) = change("b/load").await;
    assert_eq!(status.as_u16(), 202);
    until(&routes, "b", "loaded").await;
    let (status, told) = change("b/unload").await;
    assert_eq!((status.as_u16(), &told["state"], &told["loaded"]), (200, &json!("on_disk"), &json!(false)));
    assert_eq!(change("b/unload").await.0.as_u16(), 200, "what is not there is unloaded");
    for unknown in ["c/load", "c/unload", "..%2fa/load", "%ff/load", "%00/unload"] {
        assert_eq!(change(unknown).await.0.as_u16(), 404, "{unknown}");
    }
    // One that is drawn with stays.
    let (_, job) = of(&routes, with("POST", "/api/v1/jobs", r#"{"prompt":"x","steps":1000,"model":"b"}"#)).await;
    until(&routes, "b", "loaded").await;
    let (status, problem) = change("b/unload").await;
    assert_eq!((status.as_u16(), &problem["detail"]), (409, &json!("b is being drawn with now.")));
    // A wish to load waits for the job, and can be taken back.
    assert_eq!(change("a/load").await.1["state"], "waiting");
    assert_eq!(change("a/unload").await.1["state"], "on_disk");
    of(&routes, with("DELETE", job["links"]["self"].as_str().unwrap(), "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_model_is_listed_with_the_reason_and_spoils_nothing() {
    let place = place();
    let (broken, torn) = (place.path().join("broken"), place.path().join("torn"));
    copy(&tiny_model::path(), &broken);
    fs::write(broken.join("unet/config.json"), r#"{"cross_attention_dim": 7}"#).unwrap();
    // This one looks well until its weights are read.
    copy(&tiny_model::path(), &torn);
    let weights = torn.join("unet/diffusion_pytorch_model.safetensors");
    let good = fs::read(&weights).unwrap();
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    tensors.remove("conv_in.weight");
    candle_core::safetensors::save(&tensors, &weights).unwrap();

    let routes = server(&place);
    let reason = model(&routes, "broken").await["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("unet/config.json: "), "{reason}");
    let (status, problem) =
        generate(&routes, &json!({ "prompt": "x", "steps": 0, "model": "broken", "stepz": 1 })).await;
    let codes: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["code"].as_str().unwrap()).collect();
    assert_eq!((status, codes), (422, vec!["unknown_field", "unusable_model"]));
    assert_eq!(problem["errors"][1]["message"], format!("broken cannot be used: {reason}"));

    assert_eq!(model(&routes, "torn").await["reason"], json!(null));
    let job = finished(&routes, r#"{"prompt":"x","steps":1,"model":"torn"}"#).await;
    let missing = "torn cannot be used: unet/diffusion_pytorch_model.safetensors: 1 tensor is missing: conv_in.weight";
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("failed"), &json!("unusable_model")));
    assert_eq!(job["error"]["message"], format!("{missing}."));
    let (status, problem) = generate(&routes, &json!({ "prompt": "x", "model": "torn" })).await;
    assert_eq!((status, &problem["errors"][0]["message"]), (422, &json!(missing)), "now it is known at the door");
    let (status, answer) = generate(&routes, &json!({ "prompt": "x", "steps": 1 })).await;
    assert_eq!(status, 200, "{answer}");
    fs::write(&weights, good).unwrap();
    assert_eq!(generate(&routes, &json!({ "prompt": "x", "steps": 1, "model": "torn" })).await.0, 200, "mended");

    let page = text(routes.clone().oneshot(get("/models")).await.unwrap()).await;
    assert!(page.contains(&format!("<p class=\"error\">{reason}</p>")) && page.contains("Try again"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_replaced_between_two_jobs() {
    let place = place();
    let routes = server(&place);
    let body = json!({ "prompt": "x", "steps": 1, "seed": 3 });
    let (_, before) = generate(&routes, &body).await;
    copy(Tiny::new().path(), &place.path().join("a"));
    let (status, after) = generate(&routes, &body).await;
    assert_eq!((status, &after["pictures"][0]["width"]), (200, &json!(16)), "{after}");
    assert_ne!(before["pictures"][0]["model_hash"], after["pictures"][0]["model_hash"]);
    // What waits for a model that is gone fails by its name, and pages are still shown.
    fs::remove_dir_all(place.path().join("a")).unwrap();
    let (status, problem) = generate(&routes, &body).await;
    assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("unusable_model")), "{problem}");
    for page in ["/", "/models", "/history", "/grid", "/questions"] {
        assert_eq!(routes.clone().oneshot(get(page)).await.unwrap().status().as_u16(), 200, "{page}");
    }
    assert_eq!(generate(&routes, &json!({ "prompt": "x", "steps": 1, "model": "b" })).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_models_are_refused_at_every_door() {
    let place = place();
    let routes = server(&place);
    for (typed, code) in [("\"nothing\"", "unknown_model"), ("\"../b\"", "unknown_model"), ("7", "wrong_type")] {
        for path in ["/api/v1/generate", "/api/v1/jobs"] {
            let body = format!(r#"{{"prompt":"x","model":{typed}}}"#);
            let (status, problem) = of(&routes, with("POST", path, &body)).await;
            let error = &problem["errors"][0];
            assert_eq!(
                (status.as_u16(), &error["field"], &error["code"]),
                (422, &json!("model"), &json!(code)),
                "{path} {typed}"
            );
        }
    }
    let (_, problem) = of(&routes, with("POST", "/api/v1/jobs", r#"{"prompt":"x","model":"nothing"}"#)).await;
    assert_eq!(problem["errors"][0]["message"], "must be one of a, b, was \"nothing\"");
    let (status, problem) = of(&routes, with("POST", "/api/v1/tokens", r#"{"prompt":"x","model":"z"}"#)).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["code"]), (422, &json!("unknown_model")));
    // The form keeps what was chosen, and says beside it what is wrong.
    let answer = routes.clone().oneshot(form(&[("prompt", "x"), ("model", "no\"thing")], None)).await.unwrap();
    assert_eq!(answer.status().as_u16(), 422);
    let page = text(answer).await;
    for part in ["<option value=\"no&#34;thing\" selected>", "id=\"model-error\">must be one of a, b, was"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let page = text(routes.clone().oneshot(get("/?model=b")).await.unwrap()).await;
    for part in
        ["<option value=\"b\" selected>b, 16 × 16<", "id=\"width\"", "placeholder=\"16\"", "data-multiple=\"2\""]
    {
        assert!(page.contains(part), "{part} in {page}");
    }
    let (_, list) = of(&routes, get("/api/v1/jobs")).await;
    assert_eq!(list["jobs"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_page_has_a_button_for_each() {
    let place = place();
    let routes = server(&place);
    let page = async || text(routes.clone().oneshot(get("/models")).await.unwrap()).await;
    let press = async |path: &str| routes.clone().oneshot(with("POST", path, "")).await.unwrap();
    assert!(page().await.contains("action=\"/models/b/load\""));
    let answer = press("/models/b/load").await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["location"]), (303, &"/models".parse().unwrap()));
    until(&routes, "b", "loaded").await;
    let shown = page().await;
    assert!(shown.contains("action=\"/models/b/unload\"") && !shown.contains("http-equiv=\"refresh\""), "{shown}");
    assert_eq!(press("/models/b/unload").await.status().as_u16(), 303);
    assert!(page().await.contains("action=\"/models/b/load\""));
    for wrong in ["/models/z/load", "/models/b/explode", "/models/%ff/load"] {
        assert_eq!(press(wrong).await.status().as_u16(), 404, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_drawn_again_with_its_own_model() {
    let place = place();
    let routes = server(&place);
    let (_, answer) = generate(&routes, &json!({ "prompt": "x", "steps": 2, "model": "b" })).await;
    let file = STANDARD.decode(answer["pictures"][0]["png"].as_str().unwrap()).unwrap();
    let send = async |path: &str, file: Vec<u8>| of(&routes, post(path, "image/png", file)).await;
    let (_, again) = send("/api/v1/replay", file.clone()).await;
    assert_eq!(again["identical"], true, "{again}");
    let (_, found) = send("/api/v1/inspect", file.clone()).await;
    assert_eq!((&found["request"]["model"], &found["ignored"]), (&json!("b"), &json!([])));
    fs::rename(place.path().join("b"), place.path().join("d")).unwrap();
    let (status, problem) = send("/api/v1/replay", file.clone()).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["code"]), (422, &json!("unknown_model")));
    let (_, found) = send("/api/v1/inspect", file.clone()).await;
    assert_eq!((&found["request"]["model"], &found["ignored"]), (&json!(null), &json!(["Model: b"])));
    assert!(read_png_text(&file, "parameters").unwrap().contains("Model: b,"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grid_compares_models() {
    let place = place();
    let routes = server(&place);
    let address = "/grid?prompt=x&steps=1&x=model&x_values=a,b";
    let page = text(routes.clone().oneshot(get(address)).await.unwrap()).await;
    assert!(page.contains("<h1>2 pictures</h1>"), "{page}");
    let start =
        page.split("method=\"post\" action=\"").nth(1).unwrap().split('"').next().unwrap().replace("&#38;", "&");
    let started = routes.clone().oneshot(with("POST", &start, "")).await.unwrap();
    crate::pages::refreshed(&routes, &crate::pages::location(&started)).await;
    let (_, list) = of(&routes, get("/api/v1/jobs?state=done")).await;
    let models: Vec<_> =
        list["jobs"].as_array().unwrap().iter().map(|job| job["images"][0]["receipt"]["model"].clone()).collect();
    assert_eq!(models, [json!("b"), json!("a")]);
    let wrong = routes.clone().oneshot(get("/grid?prompt=x&x=model&x_values=a,z")).await.unwrap();
    assert_eq!(wrong.status().as_u16(), 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_hear_that_a_model_is_loaded() {
    let place = place();
    let routes = server(&place);
    let (_, first) = of(&routes, with("POST", "/api/v1/jobs", r#"{"prompt":"x","steps":1000}"#)).await;
    let (_, job) = of(&routes, with("POST", "/api/v1/jobs", r#"{"prompt":"x","steps":2,"model":"b"}"#)).await;
    let events = routes.clone().oneshot(get(job["links"]["events"].as_str().unwrap())).await.unwrap();
    of(&routes, with("DELETE", first["links"]["self"].as_str().unwrap(), "")).await;
    let told = String::from_utf8(bytes(events).await).unwrap();
    let names: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names[names.len() - 5..], ["started", "loading", "step", "step", "done"], "{told}");
    assert!(told.contains(r#"data: {"model":"b"}"#), "{told}");
    let again = finished(&routes, r#"{"prompt":"x","steps":2,"model":"b"}"#).await;
    assert_eq!((&again["state"], &again["loading"]), (&json!("done"), &json!(null)));
}

/// Lends after it was told to, and counts what is drawn with it.
struct Slow {
    go: Mutex<mpsc::Receiver<()>>,
    drawn: Arc<Counting>,
}

#[derive(Default)]
struct Counting(AtomicUsize);

impl Draw for Counting {
    fn facts(&self) -> Facts {
        Sleeper::default().facts()
    }

    fn draw(&self, plan: &Plan, on_step: &mut dyn FnMut(&Progress<'_>) -> limner::Result<()>) -> limner::Result<Drawn> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Sleeper::default().draw(plan, on_step)
    }
}

impl Lend for Slow {
    fn lend(&self, _: &str, on_wait: &mut dyn FnMut() -> limner::Result<()>) -> limner::Result<Arc<dyn Draw>> {
        on_wait()?;
        self.go.lock().unwrap().recv().unwrap();
        Ok(self.drawn.clone())
    }
}

fn jobs(folder: &TempDir, batch: usize) -> Jobs {
    Jobs::open(folder.path(), Limits { jobs: 99, upload_bytes: 1000, batch }).unwrap()
}

fn submit(jobs: &Jobs, model: &str) -> Id {
    let request: GenerateRequest = request(&[("steps", "2")]);
    let facts = Facts { name: model.to_owned(), ..Sleeper::default().facts() };
    jobs.submit(&request, &Plan::new(&request, &facts).unwrap(), None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_while_its_model_is_loaded_is_never_begun() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(&folder, 1);
    let (go, wait) = mpsc::channel();
    let drawn = Arc::new(Counting::default());
    let worker = Worker::start(jobs.clone(), Arc::new(Slow { go: Mutex::new(wait), drawn: drawn.clone() })).unwrap();
    let (first, second) = (submit(&jobs, "x"), submit(&jobs, "x"));
    let mut listener = jobs.listen(&first, None);
    while jobs.loading(&first).is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!((jobs.loading(&first).as_deref(), state(&jobs, &first)), (Some("x"), State::Running));
    assert!(jobs.cancel(&first).unwrap());
    assert_eq!(state(&jobs, &first), State::Running, "the load goes on");
    go.send(()).unwrap();
    assert_eq!(ended(&jobs, &first).await, State::Cancelled);
    while !matches!(listener.next().await.event, Event::Ended { state: State::Cancelled }) {}
    assert_eq!(drawn.0.load(Ordering::SeqCst), 0);
    go.send(()).unwrap();
    assert_eq!(ended(&jobs, &second).await, State::Done);
    assert_eq!(drawn.0.load(Ordering::SeqCst), 1);
    jobs.close();
    worker.join();
}

/// A worker that draws with the models of `library`, and the folder of its jobs.
fn at_work(library: &Arc<Library>) -> (TempDir, Jobs, Worker) {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::open(folder.path(), Limits { jobs: 99, upload_bytes: 1 << 20, batch: 2 }).unwrap();
    let worker = Worker::start(jobs.clone(), library.clone()).unwrap();
    (folder, jobs, worker)
}

/// How the job ends within ten seconds.
async fn ended_soon(jobs: &Jobs, id: &Id) -> State {
    tokio::time::timeout(Duration::from_secs(10), ended(jobs, id)).await.expect("it goes on waiting")
}

/// Somebody else draws with `a` all the time, and there is no room for `b` beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_room_for_its_model_can_be_cancelled() {
    let place = place();
    let open = |budget| library(&[place.path()], &place.path().join("a"), budget);
    let library = Arc::new(open(bytes_of(&open(u64::MAX), "a")));
    let lent = library.lend("a", &mut || Ok(())).unwrap();
    let (_folder, jobs, worker) = at_work(&library);
    let request = request(&[("steps", "2"), ("model", "b")]);
    let plan = Plan::new(&request, &library.facts("b").unwrap()).unwrap();
    let both = [(); 2].map(|()| jobs.submit(&request, &plan, None).unwrap());
    for id in &both {
        while jobs.loading(id).is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(jobs.cancel(id).unwrap());
        assert_eq!(ended_soon(&jobs, id).await, State::Cancelled);
    }
    assert_eq!(loaded(&library), ["a"]);

    jobs.load("b").unwrap();
    while library.get("b").unwrap().presence != Presence::Loading {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(jobs.forget_load("b"), "the wish is taken back");
    let request = crate::jobs::request(&[("steps", "2")]);
    let other = jobs.submit(&request, &Plan::new(&request, &lent.facts()).unwrap(), None).unwrap();
    assert_eq!(ended_soon(&jobs, &other).await, State::Done);

    jobs.load("b").unwrap();
    jobs.close();
    worker.join();
}

/// Somebody else draws with `b` all the time, and there is no room for a net beside `a`.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_room_for_a_net_can_be_cancelled() {
    let (place, [a, b, net]) = place_with_nets();
    let library = Arc::new(library(&[place.path()], &place.path().join("a"), a + b.max(net)));
    let _lent = library.lend("b", &mut || Ok(())).unwrap();
    let (_folder, jobs, worker) = at_work(&library);
    let plan = along("edges", &library.facts("a").unwrap());
    let id = jobs.submit(&along_request("edges"), &plan, None).unwrap();
    while !matches!(library.get("a").unwrap().presence, Presence::Loaded { in_use: true, .. }) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(state(&jobs, &id), State::Running, "it did not wait");
    assert!(jobs.cancel(&id).unwrap());
    assert_eq!(ended_soon(&jobs, &id).await, State::Cancelled);
    jobs.close();
    worker.join();
}

#[test]
fn only_neighbours_of_one_model_are_drawn_together() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(&folder, 3);
    let all: Vec<Id> = ["a", "a", "b", "a", "b", "b"].iter().map(|model| submit(&jobs, model)).collect();
    for expected in [&all[0..2], &all[2..3], &all[3..4], &all[4..6]] {
        let claims = crate::jobs::claims(&jobs);
        assert_eq!(claims.iter().map(|claim| &claim.id).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_wish_to_load_a_model_overtakes_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(&folder, 1);
    let before = [submit(&jobs, "a"), submit(&jobs, "a")];
    jobs.load("b").unwrap();
    jobs.load("c").unwrap();
    jobs.load("b").unwrap();
    assert_eq!(jobs.loads(), ["b", "c"], "twice is once");
    assert!(jobs.forget_load("c") && !jobs.forget_load("c"));
    let after = submit(&jobs, "a");
    let next = |jobs: &Jobs| match jobs.claim().unwrap() {
        Work::Draw(claims) => claims[0].id.to_string(),
        Work::Load(model) => {
            assert!(jobs.forget_load(&model));
            model
        }
    };
    let order: Vec<String> = (0..4).map(|_| next(&jobs)).collect();
    assert_eq!(order, [before[0].to_string(), before[1].to_string(), "b".to_owned(), after.to_string()]);
    jobs.close();
    assert!(matches!(jobs.load("b"), Err(Error::ShuttingDown)));
}

/// Panics when it is asked for anything but `x`.
struct Fragile;

impl Lend for Fragile {
    fn lend(&self, model: &str, on_wait: &mut dyn FnMut() -> limner::Result<()>) -> limner::Result<Arc<dyn Draw>> {
        assert_eq!(model, "x");
        One(Arc::new(Sleeper::default())).lend(model, on_wait)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_loading_costs_the_jobs_of_that_model() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(&folder, 2);
    let all = ["y", "y", "x"].map(|model| submit(&jobs, model));
    jobs.load("z").unwrap();
    let worker = Worker::start(jobs.clone(), Arc::new(Fragile)).unwrap();
    let ends = [ended(&jobs, &all[0]).await, ended(&jobs, &all[1]).await, ended(&jobs, &all[2]).await];
    assert_eq!(ends, [State::Failed, State::Failed, State::Done]);
    let last = submit(&jobs, "x");
    assert_eq!((ended(&jobs, &last).await, worker.is_alive()), (State::Done, true));
    jobs.close();
    worker.join();
}

/// Whoever hears that the last job is done may take the model out of memory: nobody holds it any more by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_put_back_before_its_last_job_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(&folder, 2);
    let (go, wait) = mpsc::channel();
    let drawn = Arc::new(Counting::default());
    let worker = Worker::start(jobs.clone(), Arc::new(Slow { go: Mutex::new(wait), drawn: drawn.clone() })).unwrap();
    for _ in 0..50 {
        let alone = submit(&jobs, "x");
        go.send(()).unwrap();
        ended(&jobs, &alone).await;
        // This test has one share, the lender the other.
        assert_eq!(Arc::strong_count(&drawn), 2);
    }
    jobs.close();
    worker.join();
}
