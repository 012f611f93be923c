//! `kill -9` at any moment: nothing that was accepted is lost, drawn twice, torn, or drawn otherwise.

use crate::tiny_model;
use limner::image::read_png_text;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often the server is killed; `LIMNER_KILLS` says otherwise.
const KILLS: u64 = 20;

/// A server in a process of its own.
pub(crate) struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// With more settings, by the names of their variables.
    pub(crate) fn start_with(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_limner"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--queue", "1000", "--data"]).arg(data);
        command.env("LIMNER_MODEL", tiny_model::path()).env("RUST_LOG", "off").stdout(Stdio::piped());
        command.envs(settings.iter().copied());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        Self { process, address }
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Status and body of a request; none when the server did not answer.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json"
        );
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let status = std::str::from_utf8(&answer[9..12]).ok()?.parse().ok()?;
        Some((status, answer[end + 4..].to_vec()))
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, "").unwrap();
        assert_eq!(status, 200, "{path}");
        serde_json::from_slice(&body).unwrap()
    }
}

/// Milliseconds that look random and are the same every time.
fn moment(kill: u64) -> Duration {
    Duration::from_millis(kill.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57)
}

#[test]
fn no_job_is_lost_doubled_or_torn_however_often_the_server_is_killed() {
    let data = tempfile::tempdir().unwrap();
    let kills = std::env::var("LIMNER_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mut accepted: Vec<(String, u64)> = Vec::new();
    for kill in 0..kills {
        let server = Server::start(data.path());
        for job in 0..2 {
            let seed = 100 * kill + job;
            let body = json!({ "prompt": "red apple", "steps": 4, "seed": seed }).to_string();
            if let Some((202, answer)) = server.ask("POST", "/api/v1/jobs", &body) {
                let job: Value = serde_json::from_slice(&answer).unwrap();
                accepted.push((job["id"].as_str().unwrap().to_owned(), seed));
            }
        }
        std::thread::sleep(moment(kill));
        server.kill();
    }
    assert!(accepted.len() as u64 >= kills, "{} accepted", accepted.len());
    let server = Server::start(data.path());
    let mut pixels: HashMap<u64, Vec<u8>> = HashMap::new();
    for (id, seed) in &accepted {
        let job = loop {
            let job = server.json(&format!("/api/v1/jobs/{id}"));
            if !["queued", "running"].contains(&job["state"].as_str().unwrap()) {
                break job;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // Three kills in a row while it was drawn end a job for good, and it says so.
        if job["state"] == "failed" {
            assert_eq!(job["error"]["code"], "crashed_repeatedly");
            continue;
        }
        assert_eq!((&job["state"], job["images"].as_array().unwrap().len()), (&json!("done"), 1), "{job}");
        let (status, file) = server.ask("GET", job["images"][0]["url"].as_str().unwrap(), "").unwrap();
        let picture = limner::image::read("image", &file).expect("a whole picture");
        assert!(status == 200 && read_png_text(&file, "parameters").unwrap().contains(&format!("Seed: {seed},")));
        pixels.insert(*seed, picture.into_raw());
    }
    // What was drawn after a crash is what is drawn without one.
    for (seed, expected) in pixels.iter().take(5) {
        let body = json!({ "prompt": "red apple", "steps": 4, "seed": seed }).to_string();
        let (_, answer) = server.ask("POST", "/api/v1/generate", &body).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let file = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            answer["pictures"][0]["png"].as_str().unwrap(),
        );
        assert!(limner::image::read("image", &file.unwrap()).unwrap().as_raw() == expected, "seed {seed}");
    }
    println!("{kills} kills, {} accepted, {} drawn", accepted.len(), pixels.len());
    server.kill();
    let stored = std::fs::read_dir(data.path().join("pictures")).unwrap().count();
    assert_eq!(stored, pixels.len() + pixels.len().min(5), "one file for each picture");
}
