//! The page in a real browser: Chromium, driven by chromedriver over the WebDriver protocol (W3C), which is JSON on HTTP.
//!
//! Without chromedriver this is passed over, unless `LIMNER_BROWSER=1` (as in `scripts/test`, which installs it). What
//! was seen lies in `target/screenshots/`.

use crate::hub::server::{ID, Mischief};
use crate::hub::{LARGE, UNET, small_model};
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
        Self::open_with(port, width, height, &json!({}))
    }

    fn open_with(port: &str, width: u32, height: u32, preferences: &Value) -> Self {
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        // Headless Chromium has a least window width; device metrics go below it, as a phone does.
        let metrics = json!({ "deviceMetrics": { "width": width, "height": height, "pixelRatio": 1.0 } });
        let options = json!({ "args": arguments, "mobileEmulation": metrics, "prefs": preferences });
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
    programs_with(&[])
}

/// The same with variables in the server's environment.
fn programs_with(variables: &[(&str, &str)]) -> Option<((Program, String), (Program, String))> {
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
    server.envs(variables.iter().copied());
    Some((driver, Program::start(server, "listening on").unwrap()))
}

#[test]
fn a_person_types_presses_enter_and_sees_a_picture() {
    let Some(((_driver, port), (_server, address))) = programs() else { return };
    for (width, height) in [(1280, 900), (390, 844)] {
        let window = Window::open(&port, width, height);
        window.post("/url", &json!({ "url": address }));
        // The script has run: its sliders are there, and the errors it would have met are none.
        window.wait_for("document.querySelectorAll('input[type=range][data-for]:not([hidden])').length === 2");
        window.screenshot(&format!("empty-{width}.png"));
        window.type_into("#prompt", "red zebra\u{e007}");
        window.wait_for("document.querySelector('#result figure img')?.naturalWidth === 32");
        assert_eq!(window.run("return document.querySelector('#prompt').value"), "red zebra");
        assert_eq!(window.run("return location.pathname.startsWith('/jobs/')"), true);
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

/// Gives the form a picture with a different colour in each pixel, as a drop does, and waits for the mask editor.
const GIVE_PICTURE: &str = "
    const canvas = new OffscreenCanvas(32, 32), context = canvas.getContext('2d');
    for (let k = 0; k < 1024; k++) {
        context.fillStyle = `rgb(${k % 32 * 8} ${(k >> 5) * 8} 90)`;
        context.fillRect(k % 32, k >> 5, 1, 1);
    }
    return canvas.convertToBlob({ type: 'image/png' }).then((blob) => {
        const files = new DataTransfer();
        files.items.add(new File([blob], 'picture.png', { type: 'image/png' }));
        document.getElementById('pictures').open = true;
        document.getElementById('image').files = files.files;
        document.getElementById('image').dispatchEvent(new Event('change'));
    });";

/// What the mask file holds at a place of the upper left and at one of the lower right quarter.
const READ_MASK: &str = "
    return createImageBitmap(document.getElementById('mask').files[0]).then((mask) => {
        const context = new OffscreenCanvas(32, 32).getContext('2d');
        context.drawImage(mask, 0, 0);
        return [context.getImageData(8, 8, 1, 1).data[0], context.getImageData(26, 26, 1, 1).data[0]];
    });";

/// How many pixels of the lower right quarter differ between the drawn picture and the given one.
const COUNT_CHANGES: &str = "
    const context = new OffscreenCanvas(32, 32).getContext('2d');
    context.drawImage(document.querySelector('figure img'), 0, 0);
    const changed = (x, y) => {
        const [red, green, blue] = context.getImageData(x, y, 1, 1).data;
        return red !== x * 8 || green !== y * 8 || blue !== 90;
    };
    let count = 0;
    for (let k = 0; k < 256; k++) count += changed(16 + k % 16, 16 + (k >> 4));
    return count;";

#[test]
fn a_person_paints_a_mask_and_only_that_part_is_drawn_anew() {
    let Some(((_driver, port), (_server, address))) = programs() else { return };
    let window = Window::open(&port, 390, 844);
    window.post("/url", &json!({ "url": address }));
    window.run(GIVE_PICTURE);
    window.wait_for("!document.getElementById('editor').hidden");
    window.run("document.querySelector('[data-mask=size]').value = 8");
    let canvas = window.post("/element", &json!({ "using": "css selector", "value": "#editor canvas" }));
    window.run("document.querySelector('#editor canvas').scrollIntoView({ block: 'center' })");
    // From the element's middle, in pixels of the window: a stroke within the upper left quarter.
    let to = |x, y| json!({ "type": "pointerMove", "duration": 50, "origin": canvas, "x": x, "y": y });
    let touch = json!({ "type": "pointer", "id": "finger", "parameters": { "pointerType": "touch" }, "actions": [
        to(-80, -80), { "type": "pointerDown", "button": 0 }, to(-70, -70), to(-90, -75), { "type": "pointerUp", "button": 0 }
    ] });
    window.post("/actions", &json!({ "actions": [touch] }));
    window.wait_for("document.getElementById('mask').files.length === 1");
    assert_eq!(window.run("return innerWidth"), 390, "something is wider than the window");
    assert_eq!(window.run(READ_MASK), json!([255, 0]));
    window.screenshot("mask-390.png");
    for (button, mask) in [("invert", json!([0, 255])), ("undo", json!([255, 0]))] {
        window.run(&format!("document.querySelector('[data-mask={button}]').click()"));
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(window.run(READ_MASK), mask, "{button}");
    }
    window.type_into("#prompt", "red apple\u{e007}");
    window.wait_for("document.querySelector('figure img')?.complete");
    assert_eq!(window.run(COUNT_CHANGES), 0);
}

#[test]
fn a_person_reloads_in_the_middle_and_stops() {
    let Some(((_driver, port), (_server, address))) = programs() else { return };
    let window = Window::open(&port, 1280, 900);
    window.post("/url", &json!({ "url": address }));
    window.run("document.querySelector('#steps').value = 1000; document.querySelector('#count').value = 60");
    window.type_into("#prompt", "red apple\u{e007}");
    window.wait_for("/^(picture \\d+ of 60, )?step [1-9]/.test(document.querySelector('#status')?.textContent)");
    window.wait_for("document.querySelector('.live img:not([hidden])')?.naturalWidth > 0");
    window.post("/refresh", &json!({}));
    let began = "Number(document.querySelector('progress')?.value)";
    window.wait_for(&format!("{began} > 0"));
    let before = window.run(&format!("return {began}")).as_f64().unwrap();
    window.wait_for(&format!("{began} > {before}"));
    window.screenshot("running-1280.png");
    window.run("document.querySelector('#stop').click()");
    window.wait_for("document.querySelector('#result').dataset.state === 'cancelled'");
    assert_eq!(window.run("return document.querySelector('#status').textContent"), "stopped");
}

/// Draws what `request` says and drops it on the page, as from a file manager.
const DRAW_AND_DROP: &str = "
    const headers = { 'Content-Type': 'application/json', Accept: 'image/png' };
    const body = JSON.stringify(request);
    return fetch('/api/v1/generate', { method: 'POST', headers, body }).then((answer) => answer.blob()).then((blob) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([blob], 'heart.png', { type: 'image/png' }));
        const options = { dataTransfer, bubbles: true, cancelable: true };
        document.querySelector('#prompt').dispatchEvent(new DragEvent('drop', options));
    });";
const A_HEART: &str = "const request = { prompt: 'blue heart', seed: '18446744073709551615', steps: 3, guidance: 2.5, sampler: 'euler' };";
/// What the form holds.
const SETTINGS: &str =
    "return ['prompt', 'seed', 'steps', 'guidance', 'sampler'].map((name) => form.elements[name].value)";

#[test]
fn a_person_drops_a_picture_and_is_asked_before_its_settings_are_taken() {
    let Some(((_driver, port), (_server, address))) = programs() else { return };
    let window = Window::open(&port, 1280, 900);
    window.post("/url", &json!({ "url": address }));
    let dialog = "document.querySelector('#found').open";
    let before = window.run(SETTINGS);

    window.run(&[A_HEART, DRAW_AND_DROP].concat());
    window.wait_for(dialog);
    let rows = window.run("return [...document.querySelectorAll('#found tbody tr')].map((row) => row.innerText)");
    let rows: Vec<_> = rows.as_array().unwrap().iter().map(|row| row.as_str().unwrap().to_owned()).collect();
    for expected in ["seed\t\u{2013}\t18446744073709551615", "steps\t20\t3", "sampler\tdpmpp_2m\teuler"] {
        assert!(rows.iter().any(|row| row == expected), "{expected:?} in {rows:?}");
    }
    window.screenshot("dropped-1280.png");
    assert_eq!(window.run(SETTINGS), before);
    window.run("document.querySelector('#found button[value=\"\"]').click()");
    window.wait_for(&format!("!{dialog}"));
    assert_eq!(window.run(SETTINGS), before);

    window.run(&[A_HEART, DRAW_AND_DROP].concat());
    window.wait_for(dialog);
    window.run("document.querySelector('#found button[value=settings]').click()");
    window.wait_for(&format!("!{dialog}"));
    assert_eq!(window.run(SETTINGS), json!(["blue heart", "18446744073709551615", "3", "2.5", "euler"]));
    assert_eq!(window.run("return document.querySelector('#image').files.length"), 0);

    window.run(&[A_HEART, DRAW_AND_DROP].concat());
    window.wait_for(dialog);
    window.run("document.querySelector('#found button[value=start]').click()");
    window.wait_for("document.querySelector('#image').files.length === 1 && document.querySelector('#pictures').open");
}

/// The masked part of a picture, alone or not.
const REPAINTED: &str = "
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 32;
    const context = canvas.getContext('2d');
    const filled = (style) => { context.fillStyle = style; context.fillRect(0, 0, 32, 32); return canvas.toDataURL(); };
    const request = { prompt: 'heart', steps: 1, image: filled('red'), mask: filled('white'), only_masked: ALONE };";

/// A box that is ticked must not send "false", as it did when its value was set instead of its tick.
#[test]
fn settings_of_a_dropped_picture_tick_boxes_and_leave_what_they_send() {
    let Some(((_driver, port), (_server, address))) = programs() else { return };
    let window = Window::open(&port, 1280, 900);
    window.post("/url", &json!({ "url": address }));
    let sent = "new FormData(form).get('only_masked')";
    for (alone, row, sends) in [
        ("false", None, json!(null)),
        ("true", Some("false\ttrue"), json!("true")),
        ("true", None, json!("true")),
        ("false", Some("true\tfalse"), json!(null)),
    ] {
        window.run(&[&REPAINTED.replace("ALONE", alone), DRAW_AND_DROP].concat());
        window.wait_for("document.querySelector('#found').open");
        let rows = window.run("return document.querySelector('#found tbody').innerText");
        let found = rows.as_str().unwrap().lines().find_map(|line| line.strip_prefix("only masked\t"));
        assert_eq!(found, row, "{rows}");
        window.run("document.querySelector('#found button[value=settings]').click()");
        window.wait_for("!document.querySelector('#found').open");
        // What is done when the dialog closes comes a moment after it has closed.
        window.wait_for(&format!("{sent} === {sends}"));
        assert_eq!(window.run("return document.querySelector('#only_masked').value"), "true");
    }
}

#[test]
fn a_person_chooses_another_model() {
    let place = crate::library::place();
    let broken = place.path().join("broken-model");
    crate::library::copy(&tiny_model::path(), &broken);
    std::fs::write(broken.join("unet/config.json"), r#"{"cross_attention_dim": 7}"#).unwrap();
    let editor = crate::checkpoint::Tiny::with_unet(&json!({ "in_channels": 8 }));
    crate::library::copy(editor.path(), &place.path().join("editor"));
    let Some(((_driver, port), (_server, address))) =
        programs_with(&[("LIMNER_MODELS", place.path().to_str().unwrap())])
    else {
        return;
    };
    let window = Window::open(&port, 1280, 900);
    window.post("/url", &json!({ "url": address }));
    window.wait_for(
        "document.querySelector('#width').step === '8' && document.querySelector('#width').placeholder === '32'",
    );
    assert_eq!(window.run("return document.querySelector('#model').value"), "tiny");
    assert_eq!(window.run("return document.querySelector('option[value=broken-model]').disabled"), true);
    let choose = |name: &str| {
        window.run(&format!("model.value = '{name}'; model.dispatchEvent(new Event('input'))"));
    };
    // What a model has no use for is out of sight, and not sent.
    window.run("document.querySelector('#steps').closest('details').open = true");
    assert_eq!(window.run("return edits.hidden && decoders.hidden"), true);
    choose("editor");
    window.wait_for("!edits.hidden && decoders.hidden");
    window.type_into("#image_guidance", "2.5");
    choose("b");
    window.wait_for("edits.hidden && document.querySelector('#image_guidance').value === ''");
    window.wait_for(
        "document.querySelector('#width').placeholder === '16' && document.querySelector('#width').step === '2'",
    );
    assert_eq!(window.run("return document.querySelector('#shapes button').dataset.width"), "16");
    window.screenshot("model-1280.png");
    window.type_into("#prompt", "red apple\u{e007}");
    window.wait_for("document.querySelector('#result figure img')?.naturalWidth === 16");
    assert_eq!(window.run("return document.querySelector('#model').value"), "b");
    for (width, height) in [(1280, 900), (390, 844)] {
        let window = Window::open(&port, width, height);
        window.post("/url", &json!({ "url": format!("{address}/models") }));
        assert_eq!(window.run("return document.querySelectorAll('.model .tag.on').length"), 2);
        assert_eq!(window.run("return document.documentElement.scrollWidth <= innerWidth"), true, "{width} px");
        window.screenshot(&format!("models-{width}.png"));
        window.post("/url", &json!({ "url": format!("{address}/?model=b") }));
        window.screenshot(&format!("choice-{width}.png"));
    }
    window.post("/url", &json!({ "url": format!("{address}/models") }));
    window.run("document.querySelector('form[action=\"/models/b/unload\"] button').click()");
    window.wait_for("document.querySelector('form[action=\"/models/b/load\"]')");
    window.run("document.querySelector('form[action=\"/models/b/load\"] button').click()");
    window.wait_for("document.querySelector('form[action=\"/models/b/unload\"]')");
}

#[test]
fn a_person_gets_a_model_and_may_change_their_mind() {
    let (hub, place) = (small_model(), tempfile::tempdir().unwrap());
    hub.next(UNET, Mischief::SilentAfter(LARGE / 2));
    let variables = [("LIMNER_MODELS", place.path().to_str().unwrap()), ("HF_ENDPOINT", &hub.endpoint)];
    let Some(((_driver, port), (_server, address))) = programs_with(&variables) else { return };
    let window = Window::open(&port, 1280, 900);
    window.post("/url", &json!({ "url": format!("{address}/models") }));
    window.type_into("#repository", &format!("{ID}\u{e007}"));
    window.wait_for("document.querySelector('#pulls progress')?.value > 300000");
    for (width, height) in [(1280, 900), (390, 844)] {
        let window = Window::open(&port, width, height);
        window.post("/url", &json!({ "url": format!("{address}/models") }));
        window.run("document.querySelector('#pulls').scrollIntoView()");
        assert_eq!(window.run("return document.documentElement.scrollWidth <= innerWidth"), true, "{width} px");
        window.screenshot(&format!("pull-{width}.png"));
    }
    // What is being typed survives the lists' being asked for anew.
    window.type_into("#repository", "someone/el");
    window.run("document.querySelector('#pulls form button').click()");
    window.wait_for("document.querySelector('#pulls').innerText.includes('was cancelled')");
    window.run("document.querySelector('#repository').value = ''");
    window.type_into("#repository", &format!("{ID}\u{e007}"));
    window.wait_for("document.querySelector('#pulls').innerText.includes('is here: tiny')");
    window.screenshot("pulled-1280.png");
    window.type_into("#repository", "nothing\u{e007}");
    window.wait_for("document.querySelector('#get-error')?.innerText.includes('OWNER/NAME')");
}

#[test]
fn a_person_watches_points_walk() {
    let Some(((_driver, port), (_server, address))) = programs() else { return };
    for (width, height) in [(1280, 1100), (390, 844)] {
        let window = Window::open(&port, width, height);
        for data in ["two", "ring"] {
            window.post("/url", &json!({ "url": format!("{address}/lab?data={data}&points=200&steps=40&field=1") }));
            window.wait_for("[...document.querySelectorAll('.walk img')].every((image) => image.naturalWidth > 0)");
            assert_eq!(window.run("return document.querySelectorAll('.walk').length"), 2);
            assert_eq!(window.run("return innerWidth"), width, "{data}");
            window.screenshot(&format!("lab-{data}-{width}.png"));
        }
        window.run("const range = document.querySelector('.scrub input'); range.value = 3; range.dispatchEvent(new Event('input'))");
        window.wait_for("document.querySelector('.walk img').src.endsWith('frame=3')");
        window.wait_for("document.querySelectorAll('.walk img')[1].src.endsWith('frame=6')");
        window.run("document.querySelector('#errors').scrollIntoView()");
        window.wait_for("document.querySelector('.plot')?.naturalWidth > 0");
        window.screenshot(&format!("lab-errors-{width}.png"));
    }
}

#[test]
fn a_person_without_scripts_gets_the_picture_too() {
    let Some(((_driver, port), (_server, address))) = programs() else { return };
    let off = json!({ "profile.managed_default_content_settings.javascript": 2 });
    let window = Window::open_with(&port, 390, 844, &off);
    window.post("/url", &json!({ "url": address }));
    window.type_into("#prompt", "red apple\u{e007}");
    // WebDriver's own scripts run all the same; the page's do not.
    window.wait_for("document.querySelector('figure img')?.naturalWidth === 32");
    assert_eq!(window.run("return document.querySelector('#dice').hidden"), true);
    window.run("document.querySelector('a[href^=\"/?settings=\"]').click()");
    window.wait_for("location.search.startsWith('?settings=') && document.querySelector('#seed').value !== ''");
    window.post("/url", &json!({ "url": format!("{address}/history") }));
    window.wait_for("document.querySelector('.card img')?.naturalWidth > 0");
    window.screenshot("history-390.png");
    window.run("document.querySelector('[data-act=delete]').click()");
    window.wait_for("document.querySelector('.undo button')");
    window.run("document.querySelector('.undo button').click()");
    window.wait_for("document.querySelector('.card img') && !document.querySelector('.undo')");
}

/// Runs axe-core, which `LIMNER_AXE` names the file of (`scripts/test` fetches it), on every page.
#[test]
fn pages_have_no_serious_accessibility_fault() {
    let Some(axe) = std::env::var_os("LIMNER_AXE") else {
        eprintln!("passed over: LIMNER_AXE names no axe-core");
        return;
    };
    let axe = std::fs::read_to_string(axe).unwrap();
    let Some(((_driver, port), (_server, address))) = programs() else { return };
    let window = Window::open(&port, 1280, 900);
    window.post("/url", &json!({ "url": address }));
    window.type_into("#prompt", "red apple\u{e007}");
    window.wait_for("document.querySelector('figure img')?.naturalWidth === 32");
    let drawn = window.run("return location.pathname");
    let picture = window.run("return document.querySelector('#result figure a').pathname.split('/').pop()");
    let (drawn, picture) = (drawn.as_str().unwrap(), picture.as_str().unwrap());
    let compared = format!("/compare?picture={picture}&picture={picture}");
    let grid = "/grid?prompt=a&x=steps&x_values=1,2".to_owned();
    let pages = [
        "/".to_owned(),
        drawn.to_owned(),
        "/history".to_owned(),
        compared,
        "/grid".to_owned(),
        "/questions".to_owned(),
        "/models".to_owned(),
        "/lab?data=ring&field=1".to_owned(),
        grid,
        "/?steps=0".into(),
    ];
    for (theme, page) in ["light", "dark"].into_iter().flat_map(|theme| pages.iter().map(move |page| (theme, page))) {
        window.run(&format!("localStorage.setItem('theme', '{theme}')"));
        window.post("/url", &json!({ "url": format!("{address}{page}") }));
        window.run("for (const part of document.querySelectorAll('details')) part.open = true");
        window.run(&axe);
        let faults = window.run(
            "return axe.run().then(({ violations }) => violations
                .filter(({ impact }) => ['serious', 'critical'].includes(impact))
                .map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' ')}`))",
        );
        assert_eq!(faults, json!([]), "{page} ({theme})");
        if !page.contains("compare") {
            continue;
        }
        window.screenshot(&format!("compare-{theme}-1280.png"));
    }
}
