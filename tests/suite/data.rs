//! `limner data` from outside: what it makes, what it refuses, and what it leaves behind.

use flate2::{Compression, write::GzEncoder};
use image::{Rgb, RgbImage, Rgba, RgbaImage};
use limner::train::data::{Dataset, Dice, Split};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn limner(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_limner")).arg("data").args(arguments).env("PATH", "").output();
    output.expect("the binary starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

/// Runs and expects a refusal that names `what`, with nothing left at `out`.
fn refused(arguments: &[&str], what: &str, out: &Path) {
    let output = limner(arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(what), "{message:?} should name {what}");
    let beside = out.parent().expect("out has a parent");
    let left: Vec<_> = std::fs::read_dir(beside).expect("readable").flatten().map(|e| e.file_name()).collect();
    assert!(!out.exists() && left.iter().all(|name| !name.to_string_lossy().contains("partial")), "{left:?}");
}

/// A folder with a red PNG that is transparent on its left half, and a wide blue JPEG.
fn own_pictures() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let half = |x: u32, _| if x < 8 { Rgba([255, 0, 0, 0]) } else { Rgba([255, 0, 0, 255]) };
    RgbaImage::from_fn(16, 16, half).save(folder.path().join("red.png")).expect("saved");
    let stripe = |x: u32, _| if (12..36).contains(&x) { Rgb([0, 0, 255]) } else { Rgb([0, 255, 0]) };
    RgbImage::from_fn(48, 24, stripe).save(folder.path().join("blue.JPG")).expect("saved");
    std::fs::write(folder.path().join("red.txt"), "Half a red square\n\n red \n").expect("written");
    std::fs::write(folder.path().join("blue.txt"), "a blue square").expect("written");
    std::fs::write(folder.path().join("README.md"), "not a picture").expect("written");
    folder
}

#[test]
fn a_folder_of_captioned_pictures_becomes_a_data_set() {
    let (source, work) = (own_pictures(), tempfile::tempdir().expect("a temporary folder"));
    let out = work.path().join("set");
    let output = limner(&["folder", text(source.path()), "--out", text(&out), "--size", "16"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let data = Dataset::open(&out).expect("opens");
    let concepts: Vec<&str> = data.records.iter().map(|r| r.concept.as_str()).collect();
    assert_eq!(concepts, ["a blue square", "half a red square"]);
    assert_eq!(data.records[1].captions, ["half a red square", "red"]);
    assert!(data.records.iter().all(|r| r.split == Split::Train));
    let pixels = data.load_pixels().expect("pixels");
    let (blue, red) = pixels.split_at(data.picture_bytes());
    assert!(blue.chunks(3).all(|p| p[0] < 40 && p[2] > 200), "the middle of the wide picture is blue");
    assert_eq!((&red[..3], &red[15 * 3..16 * 3]), (&[255u8, 255, 255][..], &[255u8, 0, 0][..]), "transparent is white");
    assert!(data.words().contains("half"));
    refused_without_force(source.path(), &out);
}

fn refused_without_force(source: &Path, out: &Path) {
    let arguments = ["folder", text(source), "--out", text(out), "--size", "8"];
    let output = limner(&arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--force"));
    assert_eq!(Dataset::open(out).expect("untouched").size, 16);
    assert!(limner(&[&arguments[..], &["--force"]].concat()).status.success());
    assert_eq!(Dataset::open(out).expect("replaced").size, 8);
}

#[test]
fn a_faulty_folder_is_refused_by_the_files_name() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let out = work.path().join("set");
    let check = |spoil: &dyn Fn(&Path), what: &str| {
        let source = own_pictures();
        spoil(source.path());
        refused(&["folder", text(source.path()), "--out", text(&out)], what, &out);
    };
    check(&|f| std::fs::remove_file(f.join("red.txt")).expect("removed"), "red.png: its captions cannot be read");
    check(&|f| std::fs::write(f.join("red.txt"), " \n").expect("written"), "red.txt: holds no caption");
    check(&|f| std::fs::write(f.join("red.png"), "no picture").expect("written"), "red.png");
    check(&|f| std::fs::write(f.join("red.webp"), "two").expect("written"), "shares its captions with");
    let cut = |f: &Path| {
        let bytes = std::fs::read(f.join("red.png")).expect("read");
        std::fs::write(f.join("red.png"), &bytes[..bytes.len() / 2]).expect("written");
    };
    check(&cut, "red.png");
    let nothing = tempfile::tempdir().expect("a temporary folder");
    refused(&["folder", text(nothing.path()), "--out", text(&out)], "holds no pictures", &out);
}

const LABELS: &str = r#"[
  {"label": "red apple", "hexcode": "1F34E", "tags": ["fruit", "apple"], "group": 4},
  {"label": "waving hand", "hexcode": "1F44B", "tags": ["hello"], "group": 1, "skins": [{"label": "waving hand: dark", "hexcode": "1F44B-1F3FF"}]},
  {"label": "flag: France", "hexcode": "1F1EB-1F1F7", "group": 9},
  {"label": "regional indicator A", "hexcode": "1F1E6"}
]"#;
const MESSAGES: &str = r#"{"groups": [{"key": "people-body", "message": "people & body", "order": 1},
  {"key": "food-drink", "message": "food & drink", "order": 4}, {"key": "flags", "message": "flags", "order": 9}]}"#;

/// An npm tarball called `package.tgz` with these files in it.
fn tarball(folder: &Path, package: &str, files: &[(&str, &str)]) -> PathBuf {
    let path = folder.join(format!("{}.tgz", package.replace(['@', '/'], "")));
    let file = std::fs::File::create(&path).expect("created");
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    let manifest = format!(r#"{{"name": "{package}", "version": "1.0.0", "license": "MIT"}}"#);
    for (name, content) in files.iter().chain(&[("package.json", manifest.as_str())]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("package/{name}"), content.as_bytes()).expect("appended");
    }
    archive.into_inner().and_then(GzEncoder::finish).expect("finished");
    path
}

/// The five packages in miniature. `body` is the apple's drawing in the first set.
fn packages(folder: &Path, body: &str) -> Vec<PathBuf> {
    let icons = |apple: &str| {
        let square = r##"<path fill='#0000ff' d='M0 0h32v32h-32z'/>"##;
        format!(
            r#"{{"width": 32, "height": 32, "icons": {{"red-apple": {{"body": "{apple}"}}, "wave": {{"body": "{square}"}}}}}}"#
        )
    };
    let red = "<circle fill='#ff0000' cx='16' cy='16' r='12'/>";
    let chars = r#"{"1f44b": "wave"}"#;
    let set = |name: &str, apple: &str, chars: &str| {
        tarball(folder, name, &[("icons.json", &icons(apple)), ("chars.json", chars)])
    };
    vec![
        tarball(folder, "emojibase-data", &[("en/data.json", LABELS), ("en/messages.json", MESSAGES)]),
        set("@iconify-json/fluent-emoji", body, "{}"),
        set("@iconify-json/fluent-emoji-flat", red, chars),
        set("@iconify-json/noto", red, "{}"),
        set("@iconify-json/noto-v1", red, "{}"),
    ]
}

fn icons(out: &Path, tarballs: &[PathBuf]) -> Vec<String> {
    let given = tarballs.iter().map(|t| text(t).to_owned());
    ["icons", "--out", text(out), "--size", "16", "--tarball"].map(str::to_owned).into_iter().chain(given).collect()
}

fn run(arguments: &[String]) -> Output {
    limner(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn icon_sets_become_the_same_data_set_every_time() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let tarballs = packages(work.path(), "<circle fill='#ff0000' cx='16' cy='16' r='16'/>");
    let (first, second) = (work.path().join("one"), work.path().join("two"));
    for out in [&first, &second] {
        let output = run(&icons(out, &tarballs));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let data = Dataset::open(&first).expect("opens");
    assert_eq!(data.records.len(), 8, "two concepts in four styles; no flags, no skin tones");
    assert_eq!(
        (data.records[0].concept.as_str(), data.records[0].keywords.join(" ")),
        ("red apple", "apple fruit".into())
    );
    assert_eq!(data.sources.len(), 5);
    let same = |name: &str| std::fs::read(first.join(name)).ok() == std::fs::read(second.join(name)).ok();
    assert!(same("index.json") && data.records.iter().all(|r| same(&r.file)));
    let pixels = data.load_pixels().expect("pixels");
    assert_eq!(pixels[..3], [255, 255, 255], "a corner beside the apple is white");
    assert_eq!(pixels[(8 * 16 + 8) * 3..][..3], [255, 0, 0], "its middle is red");
    let caption = data.records[0].caption(&mut Dice::new(1));
    assert!(!caption.is_empty() && caption == caption.to_lowercase());
}

#[test]
fn faulty_or_missing_packages_are_refused_by_name() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let out = work.path().join("set");
    let check = |tarballs: &[PathBuf], what: &str| {
        let arguments = icons(&out, tarballs);
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), what, &out);
    };
    let good = packages(work.path(), "<circle r='9'/>");
    check(&good[..4], "cannot run npm to fetch @iconify-json/noto-v1");
    check(&[tarball(work.path(), "left-pad", &[])], "left-pad");
    std::fs::write(work.path().join("text.tgz"), "no archive").expect("written");
    check(&[work.path().join("text.tgz")], "text.tgz: not an npm package");
    check(&packages(work.path(), "<g>"), "@iconify-json/fluent-emoji: icon red-apple");
}
