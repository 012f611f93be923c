//! Models from a hub, against a server on loopback.

mod failures;
mod program;
pub(crate) mod server;

use limner::hub::{Fault, Hub, Order, Patience, Progress, Pulled, Repository, Variant, pull};
use limner::{Error, Result};
use serde_json::json;
use server::{FakeHub, ID, Mischief};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Enough to be cut, resumed and come in more than one piece.
pub(crate) const LARGE: usize = 700_000;

fn weights(seed: u8) -> Vec<u8> {
    (0..LARGE).map(|i| (i % 251) as u8 ^ seed).collect()
}

pub(crate) const UNET: &str = "unet/diffusion_pytorch_model.fp16.safetensors";

/// What a pull of [`small_model`] fetches, in this order.
const WANTED: [&str; 9] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "text_encoder/config.json",
    "vae/config.json",
    "unet/config.json",
    "text_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    UNET,
];

/// A hub with a repository that looks like Stable Diffusion's, with all the ballast that those have.
pub(crate) fn small_model() -> FakeHub {
    let index = json!({ "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0" }).to_string();
    FakeHub::start(&[
        ("README.md", b"---\nlicense: mit\n---\n"),
        ("model_index.json", index.as_bytes()),
        ("pruned.safetensors", &weights(9)),
        ("safety_checker/config.json", b"{}"),
        ("safety_checker/model.safetensors", b"none of this"),
        ("scheduler/scheduler_config.json", b"{}"),
        ("text_encoder/config.json", b"{}"),
        ("text_encoder/model.safetensors", b"text"),
        ("text_encoder/pytorch_model.bin", b"pickle"),
        ("tokenizer/merges.txt", b"#version: 0.2\n"),
        ("unet/config.json", b"{\"a\": 1}"),
        ("unet/diffusion_pytorch_model.bin", b"pickle"),
        (UNET, &weights(1)),
        ("unet/diffusion_pytorch_model.safetensors", &weights(2)),
        ("vae/config.json", b"{}"),
        ("vae/diffusion_pytorch_model.safetensors", b"vae"),
    ])
}

fn order() -> Order {
    Order { repository: Repository::parse(ID).unwrap(), file: None, name: None, variant: None }
}

/// Gives up late, but tries again soon.
pub(crate) fn patience() -> Patience {
    Patience {
        attempts: 3,
        pause: Duration::from_millis(5),
        longest: Duration::from_secs(5),
        stall: Duration::from_secs(20),
    }
}

fn client(hub: &FakeHub) -> Hub {
    Hub::at(&hub.endpoint, Some("hf_secret"), patience()).unwrap()
}

fn fetch(hub: &FakeHub, order: &Order, models: &Path) -> Result<Pulled> {
    pull(&client(hub), order, models, &mut |_| (), &AtomicBool::new(false))
}

fn fault(result: Result<Pulled>) -> Fault {
    match result {
        Err(Error::Hub(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// All files below `folder`, but for locks.
fn files_in(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, into);
            } else {
                into.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut files = Vec::new();
    walk(folder, folder, &mut files);
    files.retain(|file| !file.ends_with(".lock"));
    files.sort();
    files
}

fn sorted(paths: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut paths: Vec<_> = paths.into_iter().collect();
    paths.sort();
    paths
}

/// The files of a whole [`small_model`], and nothing else.
fn whole() -> Vec<String> {
    sorted(WANTED.iter().chain(&["limner.json"]).map(|path| format!("tiny/{path}")))
}

/// The one part file among the models.
fn part(models: &Path) -> PathBuf {
    let files = files_in(models);
    let parts: Vec<_> = files.iter().filter(|file| file.ends_with(".part")).collect();
    assert_eq!(parts.len(), 1, "{files:?}");
    models.join(parts[0])
}

/// Whether half of the large file is there, which is where [`Mischief::SilentAfter`] falls silent in these tests.
fn half_is_there(models: &Path) -> bool {
    let is_half = |file: &String| fs::metadata(models.join(file)).is_ok_and(|part| part.len() == LARGE as u64 / 2);
    files_in(models).iter().any(|file| file.ends_with(".part") && is_half(file))
}

#[test]
fn a_model_folder_is_fetched_by_its_commit_without_ballast() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let mut seen = Vec::new();
    let mut on_progress = |progress: &Progress<'_>| seen.push((progress.done, progress.total));
    let pulled = pull(&client(&hub), &order(), models.path(), &mut on_progress, &AtomicBool::new(false)).unwrap();
    let asked = hub.asked();
    assert_eq!(asked[0].path, format!("/api/models/{ID}/revision/main"));
    let paths: Vec<_> = asked[1..].iter().map(|asked| asked.path.clone()).collect();
    assert_eq!(paths, WANTED.map(|path| format!("/{ID}/resolve/{}/{path}", hub.commit())));
    assert!(asked.iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_secret") && asked.range.is_none()));

    assert_eq!((pulled.name.as_str(), pulled.path.clone()), ("tiny", models.path().join("tiny")));
    assert_eq!((pulled.record.commit.clone(), pulled.record.licence.as_deref()), (hub.commit(), Some("mit")));
    assert_eq!((pulled.fetched_files, pulled.record.files.len()), (9, 9));
    assert_eq!(files_in(models.path()), whole());
    assert_eq!(fs::read(pulled.path.join(UNET)).unwrap(), weights(1));
    assert!(seen.iter().all(|(done, total)| done <= total));
    assert_eq!(seen.last().unwrap(), &(pulled.fetched_bytes, pulled.fetched_bytes));
}

#[test]
fn a_second_pull_fetches_only_what_is_missing_or_damaged() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let pulled = fetch(&hub, &order(), models.path()).unwrap();
    hub.files_asked();
    assert_eq!(fetch(&hub, &order(), models.path()).unwrap().fetched_files, 0);
    assert_eq!(hub.files_asked(), Vec::<String>::new());

    fs::remove_file(pulled.path.join("vae/config.json")).unwrap();
    let mut damaged = weights(1);
    damaged[LARGE / 2] ^= 1;
    fs::write(pulled.path.join(UNET), damaged).unwrap();
    fs::write(pulled.path.join("my notes.txt"), "mine").unwrap();
    let again = fetch(&hub, &order(), models.path()).unwrap();
    assert_eq!(hub.files_asked(), ["vae/config.json", UNET]);
    assert_eq!((again.fetched_files, again.fetched_bytes), (2, LARGE as u64 + 2));
    assert_eq!(fs::read(pulled.path.join(UNET)).unwrap(), weights(1));
    // What a user has put there stays.
    assert_eq!(files_in(models.path()), sorted(whole().into_iter().chain(["tiny/my notes.txt".into()])));
}

#[test]
fn a_branch_that_has_moved_on_replaces_the_model_and_fetches_only_what_is_new() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let first = fetch(&hub, &order(), models.path()).unwrap();
    hub.put("unet/config.json", b"{\"a\": 2}");
    hub.asked();
    let second = fetch(&hub, &order(), models.path()).unwrap();
    assert_eq!(hub.files_asked(), ["unet/config.json"]);
    assert_ne!(first.record.commit, second.record.commit);
    assert_eq!(fs::read(second.path.join("unet/config.json")).unwrap(), b"{\"a\": 2}");
    assert_eq!(files_in(models.path()), whole());
}

#[test]
fn the_other_variant_takes_the_place_of_the_first_and_is_kept_from_then_on() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    fetch(&hub, &order(), models.path()).unwrap();
    let full = fetch(&hub, &Order { variant: Some(Variant::Full), ..order() }, models.path()).unwrap();
    assert_eq!(fs::read(full.path.join("unet/diffusion_pytorch_model.safetensors")).unwrap(), weights(2));
    assert!(!full.path.join(UNET).exists());
    assert_eq!(fetch(&hub, &order(), models.path()).unwrap().fetched_files, 0);
}

#[test]
fn one_file_can_be_a_model() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let order = Order { file: Some("pruned.safetensors".into()), ..order() };
    let pulled = fetch(&hub, &order, models.path()).unwrap();
    assert_eq!((pulled.name.as_str(), &pulled.path), ("pruned", &models.path().join("pruned.safetensors")));
    assert_eq!(files_in(models.path()), ["pruned.limner.json", "pruned.safetensors"]);
    assert_eq!(fs::read(&pulled.path).unwrap(), weights(9));
    fs::write(&pulled.path, "damaged").unwrap();
    hub.asked();
    assert_eq!(fetch(&hub, &order, models.path()).unwrap().fetched_files, 1);
    assert_eq!(hub.files_asked(), ["pruned.safetensors"]);
    assert_eq!(fs::read(&pulled.path).unwrap(), weights(9));
}

#[test]
fn a_name_that_is_taken_is_not_touched() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    fs::create_dir(models.path().join("tiny")).unwrap();
    fs::write(models.path().join("tiny/model_index.json"), "mine").unwrap();
    let says = fault(fetch(&hub, &order(), models.path()));
    assert!(matches!(&says, Fault::Taken(says) if says.contains("is not from someone/tiny")), "{says}");
    assert_eq!(fs::read_to_string(models.path().join("tiny/model_index.json")).unwrap(), "mine");
    let elsewhere = fetch(&hub, &Order { name: Some("other".into()), ..order() }, models.path()).unwrap();
    assert_eq!(elsewhere.path, models.path().join("other"));
    for name in ["..", "a/b", "/tmp/x", ".hidden", "a\\b", ""] {
        let refused = fault(fetch(&hub, &Order { name: Some(name.into()), ..order() }, models.path()));
        assert!(matches!(refused, Fault::Unsuitable(_)), "{name:?}: {refused}");
    }
    let bundled = fault(fetch(&hub, &Order { name: Some("icons".into()), ..order() }, models.path()));
    assert!(matches!(bundled, Fault::Taken(_)));
}

#[test]
fn two_pulls_at_once_do_not_get_into_each_others_way() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    hub.next(UNET, Mischief::SilentAfter(LARGE / 2));
    let cancel = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| pull(&client(&hub), &order(), models.path(), &mut |_| (), &cancel));
        wait_until(|| half_is_there(models.path()));
        let says = fault(fetch(&hub, &order(), models.path()));
        assert!(matches!(&says, Fault::Taken(says) if says.contains("by another limner")), "{says}");
        cancel.store(true, Ordering::Relaxed);
        assert!(matches!(first.join().unwrap(), Err(Error::Cancelled)));
    });
    fetch(&hub, &order(), models.path()).unwrap();
    assert_eq!(files_in(models.path()), whole());
}

fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "nothing happens");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn cancelling_takes_a_moment_while_nothing_comes_and_keeps_what_came() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    hub.next(UNET, Mischief::SilentAfter(LARGE / 2));
    let cancel = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pulled = scope.spawn(|| pull(&client(&hub), &order(), models.path(), &mut |_| (), &cancel));
        wait_until(|| half_is_there(models.path()));
        let began = Instant::now();
        cancel.store(true, Ordering::Relaxed);
        assert!(matches!(pulled.join().unwrap(), Err(Error::Cancelled)));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    });
    assert!(!models.path().join("tiny").exists());
    hub.asked();
    let pulled = fetch(&hub, &order(), models.path()).unwrap();
    let asked = hub.asked();
    // The listing, and the half that was missing.
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[1].range.as_deref(), Some("bytes=350000-"));
    assert_eq!((pulled.fetched_files, pulled.fetched_bytes), (1, LARGE as u64 / 2));
    assert_eq!(fs::read(pulled.path.join(UNET)).unwrap(), weights(1));
    assert_eq!(files_in(models.path()), whole());
}
