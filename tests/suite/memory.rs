//! Memory that models took comes back to the system. Only the program itself has the allocator that this is about.
#![cfg(target_os = "linux")]

use crate::crash::Server;
use crate::tiny_model;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Numbers of a model's largest tensor, and the bytes that they take.
const ROWS: usize = 500_000;
const BYTES: u64 = ROWS as u64 * 32 * 4;

/// The tests' model with a table of far more words than it has.
fn heavy(path: &Path) {
    let text = path.join("text_encoder");
    crate::library::copy(&tiny_model::path(), path);
    let mut config: Value = serde_json::from_slice(&fs::read(text.join("config.json")).unwrap()).unwrap();
    config["vocab_size"] = json!(ROWS);
    fs::write(text.join("config.json"), config.to_string()).unwrap();
    let mut tensors = candle_core::safetensors::load(text.join("model.safetensors"), &Device::Cpu).unwrap();
    let table = Tensor::ones((ROWS, 32), DType::F32, &Device::Cpu).unwrap();
    tensors.insert("text_model.embeddings.token_embedding.weight".into(), table);
    candle_core::safetensors::save(&tensors, text.join("model.safetensors")).unwrap();
}

fn resident(server: &Server) -> u64 {
    let (_, text) = server.ask("GET", "/metrics", "").unwrap();
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
    line.parse::<f64>().unwrap() as u64
}

/// Does something to a model and waits for what comes of it.
fn change(server: &Server, model: &str, change: &str, state: &str) {
    let ask = || server.ask("POST", &format!("/api/v1/models/{model}/{change}"), "").unwrap();
    let (mut status, mut answer) = ask();
    // A job is over a moment before its model is put back.
    let mut tries = 0;
    while status == 409 && tries < 1000 {
        std::thread::sleep(Duration::from_millis(10));
        (status, answer) = ask();
        tries += 1;
    }
    assert!([200, 202].contains(&status), "{}", String::from_utf8_lossy(&answer));
    let now =
        || server.json("/api/v1/models")["models"].as_array().unwrap().iter().find(|m| m["name"] == model).cloned();
    for _ in 0..6000 {
        if now().unwrap()["state"] == state {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{:?}", now());
}

#[test]
fn memory_of_models_that_go_is_given_back_at_once() {
    let (place, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    heavy(&place.path().join("one"));
    heavy(&place.path().join("two"));
    // Room for one of them and the tests' model.
    let mib = ((BYTES >> 20) + 40).to_string();
    let settings = [("LIMNER_MODELS", place.path().to_str().unwrap()), ("LIMNER_MEMORY_MIB", &mib)];
    let server = Server::start_with(data.path(), &settings);
    let (_, drawn) = server.ask("POST", "/api/v1/generate", r#"{"prompt":"x","steps":1}"#).unwrap();
    assert!(drawn.starts_with(b"{\"pictures\""));
    let before = resident(&server);
    // What threads keep and what the allocator has not given back yet comes to up to 20 MB more or less.
    let slack = BYTES / 2;

    change(&server, "one", "load", "loaded");
    let one = resident(&server);
    assert!(one > before + BYTES - slack && one < before + BYTES + slack, "{before} to {one} with {BYTES} more");
    // A job brings the other one, for which the first goes.
    let (status, _) = server.ask("POST", "/api/v1/generate", r#"{"prompt":"x","steps":1,"model":"two"}"#).unwrap();
    let two = resident(&server);
    let loaded = |name: &str| {
        server.json("/api/v1/models")["models"]
            .as_array()
            .unwrap()
            .iter()
            .any(|m| m["name"] == name && m["loaded"] == true)
    };
    assert!(status == 200 && loaded("two") && !loaded("one"));
    assert!(two < one + slack, "{one} to {two} although one model went for the other");

    change(&server, "two", "unload", "on_disk");
    let after = resident(&server);
    assert!(after < before + slack, "{before} at first, {two} with a model, {after} without");
    println!("MiB: {} at first, {} and {} with a model, {} without", before >> 20, one >> 20, two >> 20, after >> 20);
    server.kill();
}
