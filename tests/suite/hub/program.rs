//! `limner pull`, `list`, `show` and `rm` from outside.

use super::*;
use crate::tiny_model;
use serde_json::Value;
use std::process::{Command, Output, Stdio};

/// A machine's folders, and a hub with the tiny model that the other tests draw with.
struct World {
    hub: FakeHub,
    home: tempfile::TempDir,
}

impl World {
    fn new(hub: FakeHub) -> Self {
        Self { hub, home: tempfile::tempdir().unwrap() }
    }

    fn models(&self) -> PathBuf {
        self.home.path().join("models")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_limner"));
        command.args(arguments).current_dir(&self.home).env("HF_ENDPOINT", &self.hub.endpoint);
        command.env("LIMNER_MODELS", self.models()).env("XDG_DATA_HOME", self.home.path().join("data"));
        command.env("HOME", self.home.path()).env("HF_HOME", self.home.path().join("hf"));
        command.env_remove("HF_TOKEN").env_remove("HF_TOKEN_PATH").env_remove("LIMNER_MODEL");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn tiny() -> FakeHub {
    let model = tiny_model::path();
    let files: Vec<_> =
        files_in(&model).into_iter().map(|path| (path.clone(), fs::read(model.join(path)).unwrap())).collect();
    FakeHub::start(&files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect::<Vec<_>>())
}

#[test]
fn a_model_is_pulled_listed_shown_drawn_with_and_removed() {
    let world = World::new(tiny());
    let pulled = world.json(&["pull", ID, "--name", "pulled", "--json"]);
    assert_eq!((&pulled["name"], &pulled["commit"]), (&json!("pulled"), &json!(world.hub.commit())));

    let list = world.json(&["list", "--json"]);
    let listed = list["models"].as_array().unwrap().iter().find(|model| model["name"] == "pulled").unwrap();
    assert_eq!(
        (&listed["repository"], &listed["licence"], &listed["bundled"]),
        (&json!(ID), &json!("mit"), &json!(false))
    );
    assert!(
        list["models"].as_array().unwrap().iter().any(|model| model["name"] == "icons" && model["bundled"] == true)
    );
    assert_eq!(list["unfinished"], json!([]));

    let shown = world.json(&["show", "pulled", "--json"]);
    assert_eq!((&shown["record"]["commit"], &shown["faults"]), (&pulled["commit"], &json!([])));
    let text = String::from_utf8(world.run(&["show", "pulled"]).stdout).unwrap();
    assert!(text.contains("unet/diffusion_pytorch_model.safetensors") && text.contains("licence    mit"), "{text}");

    let drawn = world.run(&["generate", "red", "--model", "pulled", "--steps", "1", "-o", "x.png"]);
    assert!(drawn.status.success() && world.home.path().join("x.png").is_file(), "{}", stderr(&drawn));

    let removed = world.json(&["rm", "pulled", "--json"]);
    assert_eq!(removed["removed"], json!(world.models().join("pulled")));
    assert_eq!(files_in(&world.models()), Vec::<String>::new());
    let gone = world.run(&["show", "pulled"]);
    assert_eq!(gone.status.code(), Some(2));
    assert!(stderr(&gone).contains("there is no model \"pulled\"; there are: icons"), "{}", stderr(&gone));
}

#[test]
fn without_a_terminal_there_is_no_bar_and_messages_are_sentences() {
    let world = World::new(tiny());
    let output = world.run(&["pull", ID]);
    let (out, err) = (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output));
    assert!(output.status.success() && !out.contains('\x1b') && !err.contains('\x1b') && !err.contains('\r'), "{err}");
    assert!(out.contains("limner generate --model tiny"), "{out}");
    assert!(err.lines().all(|line| line.ends_with('.')), "{err}");
    let again = String::from_utf8(world.run(&["pull", ID]).stdout).unwrap();
    assert!(again.starts_with("tiny was here already, and is whole"), "{again}");

    for (arguments, code, says) in [
        (vec!["pull", "tiny"], 2, "limner: \"tiny\" is not OWNER/NAME or OWNER/NAME@REVISION\n"),
        (vec!["pull", "no/where"], 2, "limner: there is no no/where\n"),
        (vec!["pull", ID, "--file", "x.ckpt"], 2, "limner: someone/tiny: x.ckpt: a pickle file can run code"),
    ] {
        let output = world.run(&arguments);
        assert_eq!(output.status.code(), Some(code));
        assert!(stderr(&output).starts_with(says), "{}", stderr(&output));
    }
}

#[test]
fn tokens_are_found_where_other_programs_keep_them() {
    let world = World::new(tiny());
    let home = world.home.path();
    fs::create_dir(home.join("hf")).unwrap();
    fs::write(home.join("hf/token"), "hf_from_home\n").unwrap();
    fs::write(home.join("my token"), "hf_from_path\n").unwrap();
    let token = |command: &mut Command| {
        assert!(command.output().unwrap().status.success());
        world.hub.asked().remove(0).token
    };
    let pull = || world.command(&["pull", ID]);
    assert_eq!(token(&mut pull()).as_deref(), Some("Bearer hf_from_home"));
    assert_eq!(token(pull().env("HF_TOKEN_PATH", home.join("my token"))).as_deref(), Some("Bearer hf_from_path"));
    assert_eq!(token(pull().env("HF_TOKEN", "hf_plain")).as_deref(), Some("Bearer hf_plain"));
    fs::remove_file(home.join("hf/token")).unwrap();
    assert_eq!(token(&mut pull()), None);
    let wrong = pull().env("HF_TOKEN", "two\nlines").output().unwrap();
    assert!(wrong.status.code() == Some(2) && stderr(&wrong).contains("HF_TOKEN"), "{}", stderr(&wrong));
    let wrong = pull().env("HF_ENDPOINT", "no address").output().unwrap();
    assert!(wrong.status.code() == Some(2) && stderr(&wrong).contains("HF_ENDPOINT"), "{}", stderr(&wrong));
}

#[test]
fn models_go_to_the_first_folder_that_can_be_written_to() {
    let world = World::new(tiny());
    let users = world.home.path().join("data/limner/models");
    let output = world.command(&["pull", ID, "--json"]).env("LIMNER_MODELS", "/proc/models").output().unwrap();
    let pulled: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(pulled["path"], json!(users.join("tiny")));
    // It is found there without any setting.
    let shown = world.command(&["show", "tiny", "--json"]).env_remove("LIMNER_MODELS").output().unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["path"], pulled["path"]);
}

#[test]
fn ctrl_c_ends_a_pull_with_130_and_the_next_one_goes_on() {
    let world = World::new(small_model());
    world.hub.next(UNET, Mischief::SilentAfter(LARGE / 2));
    let child = world.command(&["pull", ID]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(|| half_is_there(&world.models()));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).contains("the same command goes on from there"), "{}", stderr(&output));

    let list = world.json(&["list", "--json"]);
    let begun = &list["unfinished"][0];
    assert_eq!((&begun["name"], &begun["repository"]), (&json!("tiny"), &json!(ID)));
    assert!(begun["bytes"].as_u64().unwrap() < begun["total"].as_u64().unwrap());
    let text = String::from_utf8(world.run(&["list"]).stdout).unwrap();
    assert!(text.contains("limner pull someone/tiny@main --name tiny goes on"), "{text}");
    world.hub.asked();
    assert!(world.run(&["pull", ID]).status.success());
    assert_eq!(world.hub.asked()[1].range.as_deref(), Some("bytes=350000-"));
    assert_eq!(files_in(&world.models()), whole());
}

#[test]
fn rm_removes_what_was_pulled_and_nothing_else() {
    let world = World::new(small_model());
    let models = world.models();
    fs::create_dir_all(models.join("mine")).unwrap();
    fs::write(models.join("mine/model_index.json"), "{}").unwrap();
    let outside = world.home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("model_index.json"), "{}").unwrap();
    std::os::unix::fs::symlink(&outside, models.join("link")).unwrap();

    for name in ["../outside", outside.to_str().unwrap(), ".", "..", "models/mine", ".pull", ""] {
        let output = world.run(&["rm", name]);
        assert_eq!(output.status.code(), Some(2), "{name:?}");
        assert!(stderr(&output).contains("is not a model's name"), "{}", stderr(&output));
    }
    let bundled = world.run(&["rm", "icons"]);
    assert!(stderr(&bundled).contains("comes with and stays"), "{}", stderr(&bundled));

    assert!(world.run(&["rm", "link"]).status.success());
    assert!(outside.join("model_index.json").is_file() && !models.join("link").exists());
    assert!(world.run(&["rm", "mine"]).status.success());
    assert_eq!(world.run(&["rm", "mine"]).status.code(), Some(2));

    // A model elsewhere is found, but not ours to remove.
    let elsewhere = world.home.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    assert!(world.run(&["pull", ID]).status.success());
    fs::rename(models.join("tiny"), elsewhere.join("tiny")).unwrap();
    fs::rename(&elsewhere, world.home.path().join("cwd")).unwrap();
    fs::create_dir(world.home.path().join("cwd/models")).unwrap();
    fs::rename(world.home.path().join("cwd/tiny"), world.home.path().join("cwd/models/tiny")).unwrap();
    let kept = world.command(&["rm", "tiny"]).current_dir(world.home.path().join("cwd")).output().unwrap();
    assert!(stderr(&kept).contains("remove it by hand") && kept.status.code() == Some(2), "{}", stderr(&kept));

    // What is on its way can be removed too, and a single file goes with its record.
    world.hub.next(UNET, Mischief::Status(418, vec![]));
    assert!(!world.run(&["pull", ID]).status.success());
    assert!(world.run(&["rm", "tiny"]).status.success());
    assert!(world.run(&["pull", ID, "--file", "pruned.safetensors"]).status.success());
    assert!(world.run(&["rm", "pruned"]).status.success());
    assert_eq!(files_in(&models), Vec::<String>::new());
}

#[test]
fn show_says_what_has_gone_wrong_since() {
    let world = World::new(small_model());
    assert!(world.run(&["pull", ID]).status.success());
    fs::remove_file(world.models().join("tiny/vae/config.json")).unwrap();
    fs::write(world.models().join("tiny").join(UNET), "short").unwrap();
    let shown = world.json(&["show", "tiny", "--json"]);
    let expected = ["vae/config.json is missing".to_owned(), format!("{UNET} has 5 bytes instead of 700000")];
    assert_eq!(shown["faults"], json!(expected));
}
