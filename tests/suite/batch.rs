//! Jobs that are drawn side by side.

use crate::jobs::{Sleeper, claims, ended, request, state, submit, worker};
use crate::{pipeline, tiny_model};
use candle_core::Device;
use limner::jobs::{Claim, Draw, Drawn, Id, Jobs, Limits, State};
use limner::pipeline::{Pipeline, Progress};
use limner::request::{Facts, Plan};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

fn open(folder: &Path) -> Jobs {
    Jobs::open(folder, Limits { jobs: 99, upload_bytes: 1000, batch: 3 }).unwrap()
}

fn ids(claims: &[Claim]) -> Vec<&Id> {
    claims.iter().map(|claim| &claim.id).collect()
}

#[test]
fn neighbours_of_one_size_go_together_and_nobody_is_overtaken() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path());
    let large = &[("width", "512"), ("height", "512")][..];
    let sizes = [&[][..], &[], &[("width", "16")], &[("height", "16")], &[], &[], &[], &[], large, large];
    let all: Vec<Id> = sizes.iter().map(|set| submit(&jobs, set, None).unwrap()).collect();
    for expected in [&all[0..2], &all[2..3], &all[3..4], &all[4..7], &all[7..8], &all[8..9], &all[9..10]] {
        assert_eq!(ids(&claims(&jobs)), expected.iter().collect::<Vec<_>>());
    }
    assert_eq!(jobs.status().unwrap().running, 10);
}

/// One of them may be what brings the server down.
#[test]
fn jobs_that_were_begun_before_are_drawn_alone() {
    let folder = tempfile::tempdir().unwrap();
    {
        let jobs = open(folder.path());
        (0..3).for_each(|_| drop(submit(&jobs, &[], None).unwrap()));
        assert_eq!(claims(&jobs).len(), 3);
        // The server dies here.
    }
    let jobs = open(folder.path());
    (0..2).for_each(|_| drop(submit(&jobs, &[], None).unwrap()));
    assert_eq!([(); 4].map(|()| claims(&jobs).len()), [1, 1, 1, 2]);
}

/// Draws nothing before three are at it.
struct Three(Barrier);

impl Draw for Three {
    fn facts(&self) -> Facts {
        Sleeper::default().facts()
    }

    fn draw(&self, plan: &Plan, on_step: &mut dyn FnMut(&Progress<'_>) -> limner::Result<()>) -> limner::Result<Drawn> {
        self.0.wait();
        Sleeper::default().draw(plan, on_step)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_them_ends_in_its_own_way() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path());
    let long = submit(&jobs, &[("steps", "1000")], None).unwrap();
    let unlucky = submit(&jobs, &[("guidance", "13")], None).unwrap();
    let short = submit(&jobs, &[("steps", "5")], None).unwrap();
    let worker = worker(&jobs, &Arc::new(Three(Barrier::new(3))));
    assert_eq!(ended(&jobs, &unlucky).await, State::Failed);
    assert_eq!(ended(&jobs, &short).await, State::Done);
    // What is done is on disk a moment before it is off the list of those that are drawn.
    while jobs.status().unwrap().running > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((state(&jobs, &long), jobs.status().unwrap().running), (State::Running, 1));
    assert!(jobs.cancel(&long).unwrap());
    assert_eq!(ended(&jobs, &long).await, State::Cancelled);
    assert!(worker.is_alive());
    jobs.close();
    worker.join();
}

/// A pipeline that counts how many draw at a time.
struct Counted {
    pipeline: Pipeline,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Draw for Counted {
    fn facts(&self) -> Facts {
        self.pipeline.facts()
    }

    fn draw(&self, plan: &Plan, on_step: &mut dyn FnMut(&Progress<'_>) -> limner::Result<()>) -> limner::Result<Drawn> {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let drawn = self.pipeline.draw(plan, on_step);
        self.now.fetch_sub(1, Ordering::SeqCst);
        drawn
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_the_same_files_as_alone() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path());
    let pipeline = Pipeline::load(&tiny_model::path(), &Device::Cpu).unwrap();
    let artist = Arc::new(Counted { pipeline, now: AtomicUsize::new(0), most: AtomicUsize::new(0) });
    let requests = ["1", "2", "3"].map(|seed| {
        let set = [("seed", seed), ("steps", seed), ("count", "2")];
        request(&set)
    });
    let submit = |request| jobs.submit(request, &Plan::new(request, &artist.facts()).unwrap(), None).unwrap();
    let ids = requests.each_ref().map(submit);
    let worker = worker(&jobs, &artist);
    for (id, request) in ids.iter().zip(&requests) {
        assert_eq!(ended(&jobs, id).await, State::Done);
        let found = jobs.get(id).unwrap().unwrap().images;
        for (image, alone) in found.iter().zip(pipeline::draw(request)) {
            assert!(jobs.picture(&image.id).unwrap() == alone.to_png().unwrap(), "{request:?}");
        }
        assert_eq!(found.len(), 2);
    }
    jobs.close();
    worker.join();
    assert!(artist.most.load(Ordering::SeqCst) > 1, "they were drawn one after another");
}
