//! The program from outside.

use crate::tiny_model;
use limner::image::{RgbImage, encode_png, read_png_text};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn limner(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_limner"));
    let data = tempfile::tempdir().unwrap().keep();
    command.args(arguments).env("LIMNER_MODEL", tiny_model::path()).env("LIMNER_DATA", data);
    command
}

fn generate(folder: &Path, arguments: &[&str]) -> Output {
    limner(&["generate"]).args(arguments).current_dir(folder).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_prompt_becomes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let output = generate(folder.path(), &["red apple", "--output", "apple.png", "--steps", "2", "--seed", "5"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "apple.png (seed 5)\n");
    let file = fs::read(folder.path().join("apple.png")).unwrap();
    assert!(read_png_text(&file, "parameters").unwrap().starts_with("red apple\nSteps: 2,"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_one_thread_and_on_two() {
    let folder = tempfile::tempdir().unwrap();
    for threads in ["1", "2"] {
        let arguments = ["generate", "red apple", "--seed", "5", "--steps", "5", "--output", threads];
        let output = limner(&arguments).env("RAYON_NUM_THREADS", threads).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let read = |name| fs::read(folder.path().join(name)).unwrap();
    assert!(read("1") == read("2"));
}

#[test]
fn diagnostics_are_numbered_as_the_pictures_are() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |count, file| {
        let count = ["--count", count, "--steps", "2", "--seed", "5", "--diagnostics", file];
        generate(folder.path(), &[&["red apple"], &count[..]].concat())
    };
    assert!(draw("2", "d.json").status.success() && draw("1", "alone.json").status.success());
    let read = |name| serde_json::from_slice::<Value>(&fs::read(folder.path().join(name)).unwrap()).unwrap();
    assert_eq!(read("alone.json")["steps"].as_array().unwrap().len(), 2);
    assert_eq!(read("d-1.json"), read("alone.json"));
    assert_ne!(read("d-2.json"), read("alone.json"));
    let refused = draw("1", "nowhere/d.json");
    assert!(refused.status.code() == Some(2) && stderr(&refused).contains("diagnostics"), "{}", stderr(&refused));
}

#[test]
fn json_names_files_and_receipts() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        generate(folder.path(), &["zebra", "--count", "2", "--steps", "1", "--seed", "-1", "--json", "-o", "z.png"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let files: Vec<_> =
        answer["pictures"].as_array().unwrap().iter().map(|p| p["file"].as_str().unwrap().to_owned()).collect();
    assert_eq!(files, ["z-1.png", "z-2.png"]);
    assert!(files.iter().all(|file| folder.path().join(file).is_file()));
    assert_eq!(answer["notices"][0]["code"], "unknown_words");
    assert_eq!(answer["pictures"][0]["receipt"]["steps"], 1);
}

#[test]
fn wrong_values_are_all_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let arguments =
        ["x", "--steps", "0", "--guidance", "NaN", "--width", "100000", "--sampler", "eular", "--seed", "1.5"];
    let output = generate(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    for line in [
        "--steps must be between 1 and 1000, was 0",
        "--guidance must be a finite number between 0 and 50, was NaN",
        "--width must be between 8 and 2048, was 100000",
        "--sampler must be one of dpmpp_2m, unipc, dpmpp_3m, deis, euler, heun, ",
        "ddim, ddpm, lcm, was \"eular\"",
        "--seed must be a whole number between 0 and 18446744073709551615, was \"1.5\"",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn unusable_files_and_names_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("not.png"), "no picture").unwrap();
    for (arguments, part) in [
        (&["x", "--model", "no/such"][..], "--model no model, folder or file \"no/such\""),
        (&["x", "--init-image", "absent.png"], "--init-image absent.png"),
        (&["x", "--init-image", "not.png"], "--init-image must be a PNG, JPEG or WebP picture"),
        (&["x", "--init-image", "."], "is not a regular file"),
        (&["x", "--output", "no/such/folder.png"], "--output there is no folder no/such"),
        (&["x", "--device", "abacus"], "abacus"),
        (&["x", "--strength", "0.5"], "--strength was given without a picture"),
        (&[], "<PROMPT>"),
    ] {
        let output = generate(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_picture_is_repainted_only_where_the_mask_is_white() {
    let folder = tempfile::tempdir().unwrap();
    let photograph = RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8, 7 * y as u8, 50]));
    let mask = RgbImage::from_fn(32, 32, |x, y| image::Rgb([if x + y < 20 { 255 } else { 0 }; 3]));
    for (name, picture) in [("in.png", &photograph), ("mask.png", &mask)] {
        fs::write(folder.path().join(name), encode_png(picture, &[]).unwrap()).unwrap();
    }
    let output = generate(
        folder.path(),
        &["red", "--init-image", "in.png", "--mask", "mask.png", "--steps", "2", "-o", "out.png"],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let drawn = limner::image::read("image", &fs::read(folder.path().join("out.png")).unwrap()).unwrap();
    let kept = drawn
        .enumerate_pixels()
        .filter(|(x, y, _)| x + y >= 20)
        .all(|(x, y, pixel)| pixel == photograph.get_pixel(x, y));
    assert!(kept && drawn != photograph);
}

#[test]
fn a_part_is_repainted_by_flags_and_wrong_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let photograph = RgbImage::from_fn(50, 40, |x, y| image::Rgb([x as u8, 5 * y as u8, 50]));
    fs::write(folder.path().join("in.png"), encode_png(&photograph, &[]).unwrap()).unwrap();
    let flags = ["red", "--init-image", "in.png", "--steps", "1", "--only-masked", "true", "--extend", "0,0,9,0"];
    let output =
        generate(folder.path(), &[&flags[..], &["--mask-feather", "2", "--only-masked-padding", "3"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let drawn = limner::image::read("image", &fs::read(folder.path().join("limner.png")).unwrap()).unwrap();
    assert_eq!(drawn.dimensions(), (59, 40));
    assert!(photograph.enumerate_pixels().all(|(x, y, pixel)| drawn.get_pixel(x, y) == pixel));
    let output =
        generate(folder.path(), &["red", "--mask-feather", "65", "--only-masked", "perhaps", "--extend", "-1"]);
    for line in [
        "--mask-feather must be between 0 and 64, was 65",
        "--only-masked must be true or false, was \"perhaps\"",
        "--extend must be left,top,right,bottom in pixels, was \"-1\"",
    ] {
        assert!(output.status.code() == Some(2) && stderr(&output).contains(line), "{}", stderr(&output));
    }
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let output = generate(folder.path(), &["x", "--sampler", "\u{1b}[31mred", "--output", "\u{1b}]0;title\u{7}/x.png"]);
    assert!(!output.stderr.contains(&0x1b) && output.status.code() == Some(2), "{}", stderr(&output));
}

#[test]
fn bench_gives_its_figures() {
    let output = limner(&["bench", "--steps", "3", "--runs", "1", "--json"]).output().unwrap();
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["unet_call_seconds", "step_seconds", "decode_seconds", "picture_seconds", "peak_rss_bytes"] {
        assert!(figures[key].as_f64().unwrap() > 0.0, "{key}: {figures}");
    }
}

/// Starts on a free port, says where, answers, and ends with 0 on SIGTERM; a second one on that port ends with 1.
#[cfg(unix)]
#[test]
fn a_server_starts_says_where_and_ends_on_a_signal() {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut server =
        limner(&["serve", "--listen", "127.0.0.1:0"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();

    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"model\":\"tiny\""), "{answer}");

    let second = limner(&["serve", "--listen", &address]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("is taken by another program"), "{}", stderr(&second));

    Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[test]
fn a_likelihood_is_json_with_the_keys_that_programs_read() {
    let folder = tempfile::tempdir().unwrap();
    let picture = RgbImage::from_fn(32, 32, |x, y| image::Rgb([(x * 8) as u8, (y * 8) as u8, 90]));
    fs::write(folder.path().join("a.png"), encode_png(&picture, &[]).unwrap()).unwrap();
    let ask = |arguments: &[&str]| {
        let usual = ["--seed", "1", "--tolerance", "0.01", "--levels", "5", "--draws", "2"];
        limner(&["likelihood", "a.png"]).args(usual).args(arguments).current_dir(folder.path()).output().unwrap()
    };
    let output = ask(&["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["bits_per_dim"].is_f64() && answer["standard_error"].is_f64() && answer["evaluations"].is_u64());
    let text = String::from_utf8(ask(&[]).stdout).unwrap();
    let bits = format!("{:.4}", answer["bits_per_dim"].as_f64().unwrap());
    assert!(
        text.starts_with(&bits) && text.contains("bits per dimension: the density of the picture's latents"),
        "{text}"
    );
    let refused = ask(&["--guidance", "4"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--guidance must be 1"), "{}", stderr(&refused));
    assert!(ask(&["--guidance", "4", "--guided-flow"]).status.success());
}

#[test]
fn a_picture_goes_to_noise_and_comes_back_and_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    for (name, shade) in [("a.png", 60), ("b.png", 220)] {
        let picture = RgbImage::from_fn(32, 32, |x, y| image::Rgb([(x * 8) as u8, (y * 8) as u8, shade]));
        fs::write(folder.path().join(name), encode_png(&picture, &[]).unwrap()).unwrap();
    }
    let run = |arguments: &[&str]| {
        let usual = ["--tolerance", "0.01", "--prompt", "red"];
        let output = limner(arguments).args(usual).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["encode", "a.png", "-o", "noise.png"]), "noise.png\n");
    assert_eq!(run(&["decode", "noise.png", "-o", "back.png"]), "back.png\n");
    assert_eq!(run(&["edit", "a.png", "--source-prompt", "blue", "-o", "c.png"]), "c.png\n");
    assert_eq!(run(&["interpolate", "a.png", "b.png", "--frames", "3", "-o", "w.png"]), "w-1.png\nw-2.png\n");
    let files = ["noise.png", "back.png", "c.png", "w-1.png", "w-2.png"];
    assert!(files.iter().all(|file| folder.path().join(file).is_file()));
    let ranked =
        limner(&["rank", "a.png", "red", "blue", "--levels", "5"]).current_dir(folder.path()).output().unwrap();
    let text = String::from_utf8(ranked.stdout).unwrap();
    assert!(text.lines().count() == 2 && text.contains("nats behind"), "{text}");
}
