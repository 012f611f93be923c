//! The page in a real browser: Chromium, driven by chromedriver over the WebDriver protocol (W3C), which is JSON on HTTP.
//!
//! Without chromedriver this is passed over, unless `LIMNER_BROWSER=1` (as in `scripts/test`, which installs it). What
//! was seen lies in `target/screenshots/`.

use crate::tiny_model;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that is ended with the test, and the last word of the line in which it said that it listens.
struct Program(Child);

impl Program {
    fn start(mut command: Command, announces: &str) -> Option<(Self, String)> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let lines = BufReader::new(child.stdout.take()?).lines();
        let line = lines.map_while(Result::ok).find(|line| line.contains(announces))?;
        let rest = line.split(announces).nth(1)?.trim_start();
        let word = rest.split([' ', ')']).next()?.trim_end_matches('.').to_owned();
        Some((Self(child), word))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One browser window.
struct Window {
    port: String,
    session: String,
}

impl Window {
    fn open(port: &str, width: u32, height: u32) -> Self {
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        // Headless Chromium has a least window width; device metrics go below it, as a phone does.
        let metrics = json!({ "deviceMetrics": { "width": width, "height": height, "pixelRatio": 1.0 } });
        let options = json!({ "args": arguments, "mobileEmulation": metrics });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let mut window = Self { port: port.to_owned(), session: String::new() };
        window.session = window.call("POST", "/session", &wanted)["sessionId"].as_str().unwrap().to_owned();
        window
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, Box<dyn std::error::Error>> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let mut stream = TcpStream::connect(format!("127.0.0.1:{}", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json");
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        // chromedriver keeps the connection open, so what it announces is all there is to wait for.
        let mut reader = BufReader::new(stream);
        let head: Vec<String> =
            reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let length =
            head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(str::to_owned));
        let mut answer = vec![0; length.ok_or("no length")?.trim().parse()?];
        reader.read_exact(&mut answer)?;
        match head.first() {
            Some(status) if status.starts_with("HTTP/1.1 200") => {
                Ok(serde_json::from_slice::<Value>(&answer)?["value"].take())
            }
            _ => Err(String::from_utf8_lossy(&answer).into()),
        }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    fn type_into(&self, selector: &str, text: &str) {
        let element = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        let id = element.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        self.post(&format!("/element/{id}/value"), &json!({ "text": text }));
    }

    fn wait_for(&self, condition: &str) {
        let began = Instant::now();
        while self.run(&format!("return Boolean({condition})")) != true {
            assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for {condition}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn screenshot(&self, name: &str) {
        let picture = self.call("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), STANDARD.decode(picture.as_str().unwrap()).unwrap()).unwrap();
    }
}

impl Drop for Window {
    /// Without this, chromedriver's end would leave the browser behind.
    fn drop(&mut self) {
        let _ = self.try_call("DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}

fn programs() -> Option<((Program, String), (Program, String))> {
    let mut driver = Command::new("chromedriver");
    driver.arg("--port=0");
    let driver = Program::start(driver, "was started successfully on port");
    let Some(driver) = driver else {
        assert!(std::env::var_os("LIMNER_BROWSER").is_none(), "chromedriver could not be started");
        eprintln!("passed over: there is no chromedriver");
        return None;
    };
    let mut server = Command::new(env!("CARGO_BIN_EXE_limner"));
    server.args(["serve", "--listen", "127.0.0.1:0", "--model"]).arg(tiny_model::path());
    server.env("LIMNER_DATA", tempfile::tempdir().unwrap().keep());
    Some((driver, Program::start(server, "listening on").unwrap()))
}

#[test]
fn a_person_types_presses_enter_and_sees_a_picture() {
    let Some(((_driver, port), (_server, address))) = programs() else { return };
    for (width, height) in [(1280, 900), (390, 844)] {
        let window = Window::open(&port, width, height);
        window.post("/url", &json!({ "url": address }));
        // The script has run: its sliders are there, and the errors it would have met are none.
        window.wait_for("document.querySelectorAll('input[type=range]:not([hidden])').length === 2");
        window.screenshot(&format!("empty-{width}.png"));
        window.type_into("#prompt", "red zebra\u{e007}");
        window.wait_for("document.querySelector('#result figure img')?.naturalWidth === 32");
        assert_eq!(window.run("return document.querySelector('#prompt').value"), "red zebra");
        assert_eq!(window.run("return document.querySelector('#result .notice').innerText.includes('zebra')"), true);
        assert_eq!(
            window.run("return document.documentElement.scrollWidth <= innerWidth"),
            true,
            "{width} px scroll sideways"
        );
        window.run("document.querySelector('#result').scrollIntoView()");
        window.screenshot(&format!("drawn-{width}.png"));
        window.run("document.querySelector('#steps').closest('details').open = true; document.querySelector('form').noValidate = true");
        window.run("document.querySelector('#steps').value = '0'; document.querySelector('#draw').click()");
        window.wait_for("document.querySelector('#steps-error')");
        window.run("scrollTo(0, 0)");
        window.screenshot(&format!("wrong-{width}.png"));
        assert_eq!(window.run("return document.querySelector('#prompt').value"), "red zebra");
    }
}
