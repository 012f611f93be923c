//! The jobs behind their boundary: what is accepted is drawn once, whatever happens in between.

use limner::Error;
use limner::jobs::{Claim, Draw, Drawn, Event, Id, Jobs, Lend, Limits, Query, State, Uploads, Work, Worker};
use limner::pipeline::Progress;
use limner::request::{Facts, GenerateRequest, Plan};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Takes `plan.steps` steps without drawing anything. Panics at guidance 13.
#[derive(Default)]
pub(crate) struct Sleeper {
    steps: AtomicUsize,
}

impl Draw for Sleeper {
    fn facts(&self) -> Facts {
        Facts::plain("x", (8, 8), 8)
    }

    fn draw(&self, plan: &Plan, on_step: &mut dyn FnMut(&Progress<'_>) -> limner::Result<()>) -> limner::Result<Drawn> {
        assert!(plan.guidance != 13.0, "unlucky");
        for step in 1..=plan.steps {
            std::thread::sleep(std::time::Duration::from_millis(1));
            self.steps.fetch_add(1, Ordering::Relaxed);
            let steps = plan.steps;
            on_step(&Progress { picture: 0, pictures: 1, step, steps, sigma: 1.0, estimate: None })?;
        }
        Ok(Drawn::default())
    }
}

/// Lends itself, whatever model is asked for.
pub(crate) struct One<T>(pub(crate) Arc<T>);

impl<T: Draw + 'static> Lend for One<T> {
    fn lend(&self, _: &str, _: &mut dyn FnMut() -> limner::Result<()>) -> limner::Result<Arc<dyn Draw>> {
        Ok(self.0.clone())
    }
}

/// A worker that has only this to draw with.
pub(crate) fn worker<T: Draw + 'static>(jobs: &Jobs, artist: &Arc<T>) -> Worker {
    Worker::start(jobs.clone(), Arc::new(One(artist.clone()))).unwrap()
}

fn open(folder: &Path, jobs: usize) -> Jobs {
    Jobs::open(folder, Limits { jobs, upload_bytes: 1000, batch: 1 }).unwrap()
}

pub(crate) fn request(set: &[(&str, &str)]) -> GenerateRequest {
    let mut request = GenerateRequest { prompt: Some("red apple".into()), ..Default::default() };
    set.iter().for_each(|(field, value)| assert!(request.set_text(field, (*value).to_owned())));
    request
}

pub(crate) fn submit(jobs: &Jobs, set: &[(&str, &str)], key: Option<&str>) -> limner::Result<Id> {
    let request = request(set);
    jobs.submit(&request, &Plan::new(&request, &Sleeper::default().facts())?, key)
}

pub(crate) fn state(jobs: &Jobs, id: &Id) -> State {
    jobs.get(id).unwrap().unwrap().state
}

/// Waits for the end of a job.
pub(crate) async fn ended(jobs: &Jobs, id: &Id) -> State {
    let mut listener = jobs.listen(id, None);
    while !state(jobs, id).is_over() {
        while !matches!(listener.next().await.event, Event::Ended { .. }) {}
    }
    state(jobs, id)
}

fn claim(jobs: &Jobs) -> Claim {
    claims(jobs).remove(0)
}

pub(crate) fn claims(jobs: &Jobs) -> Vec<Claim> {
    match jobs.claim() {
        Some(Work::Draw(claims)) => claims,
        _ => panic!("no jobs"),
    }
}

#[tokio::test]
async fn jobs_are_drawn_in_order_and_a_full_queue_says_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path(), 2);
    let (first, second) = (submit(&jobs, &[], None).unwrap(), submit(&jobs, &[], None).unwrap());
    assert!(matches!(submit(&jobs, &[], None), Err(Error::Overloaded { retry_after_seconds: 1.. })));
    assert_eq!((jobs.position(&first).unwrap().unwrap().0, jobs.position(&second).unwrap().unwrap().0), (1, 2));
    let worker = worker(&jobs, &Arc::new(Sleeper::default()));
    assert_eq!((ended(&jobs, &first).await, ended(&jobs, &second).await), (State::Done, State::Done));
    let list = jobs.list(&Query { limit: 9, ..Query::default() }).unwrap();
    assert_eq!(list.iter().map(|job| &job.id).collect::<Vec<_>>(), [&second, &first]);
    jobs.close();
    worker.join();
    assert!(matches!(submit(&jobs, &[], None), Err(Error::ShuttingDown)));
}

#[tokio::test]
async fn a_cancelled_job_stops_within_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let (jobs, sleeper) = (open(folder.path(), 9), Arc::new(Sleeper::default()));
    let (id, waiting) = (submit(&jobs, &[("steps", "1000")], None).unwrap(), submit(&jobs, &[], None).unwrap());
    assert!(jobs.cancel(&waiting).unwrap());
    assert_eq!(state(&jobs, &waiting), State::Cancelled);
    let _worker = worker(&jobs, &sleeper);
    while sleeper.steps.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    assert!(jobs.cancel(&id).unwrap());
    let at_cancel = sleeper.steps.load(Ordering::Relaxed);
    assert_eq!(ended(&jobs, &id).await, State::Cancelled);
    assert!(sleeper.steps.load(Ordering::Relaxed) <= at_cancel + 1);
    assert!(!jobs.cancel(&id).unwrap());
}

#[tokio::test]
async fn a_panic_costs_one_job() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path(), 9);
    let worker = worker(&jobs, &Arc::new(Sleeper::default()));
    let (unlucky, next) = (submit(&jobs, &[("guidance", "13")], None).unwrap(), submit(&jobs, &[], None).unwrap());
    assert_eq!((ended(&jobs, &unlucky).await, ended(&jobs, &next).await), (State::Failed, State::Done));
    assert_eq!(jobs.get(&unlucky).unwrap().unwrap().error.unwrap().code, "internal");
    assert!(worker.is_alive());
}

#[test]
fn a_key_brings_the_same_job_again_and_another_request_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = {
        let jobs = open(folder.path(), 9);
        submit(&jobs, &[], Some("k")).unwrap()
    };
    // Also after a restart, and although the seed was left to chance.
    let jobs = open(folder.path(), 9);
    assert_eq!(submit(&jobs, &[], Some("k")).unwrap(), first);
    assert!(matches!(submit(&jobs, &[("steps", "3")], Some("k")), Err(Error::Invalid(e)) if e[0].code == "key_reused"));
    assert_ne!(submit(&jobs, &[], Some("l")).unwrap(), first);
    assert_eq!(jobs.status().unwrap().waiting, 2);
}

#[test]
fn a_job_survives_its_server_three_times() {
    let folder = tempfile::tempdir().unwrap();
    let id = submit(&open(folder.path(), 9), &[("seed", "")], None).unwrap();
    let mut seeds = Vec::new();
    for attempt in 1..=3 {
        let jobs = open(folder.path(), 9);
        let claim = claim(&jobs);
        assert_eq!((&claim.id, claim.attempt), (&id, attempt));
        seeds.push(claim.request.text("seed").to_owned());
        // The server dies here: nothing is completed.
    }
    assert!(!seeds[0].is_empty() && seeds.iter().all(|seed| *seed == seeds[0]));
    let job = open(folder.path(), 9).get(&id).unwrap().unwrap();
    assert_eq!((job.state, job.error.unwrap().code.as_str()), (State::Failed, "crashed_repeatedly"));
}

#[test]
fn a_job_that_was_put_back_does_not_count_as_begun() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path(), 9);
    let id = submit(&jobs, &[], None).unwrap();
    let first = claim(&jobs);
    jobs.put_back_running();
    jobs.complete(first, Err(Error::Cancelled));
    assert_eq!(state(&jobs, &id), State::Queued);
    assert_eq!(claim(&jobs).attempt, 1);
}

#[test]
fn an_attempt_that_is_not_the_last_one_stores_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let id = submit(&open(folder.path(), 9), &[], None).unwrap();
    let late = claim(&open(folder.path(), 9));
    let jobs = open(folder.path(), 9);
    let now = claim(&jobs);
    jobs.complete(late, Ok(Drawn::default()));
    assert_eq!(state(&jobs, &id), State::Running);
    jobs.complete(now, Ok(Drawn::default()));
    assert_eq!(state(&jobs, &id), State::Done);
}

#[test]
fn uploads_count_against_the_limit_and_come_back_with_the_claim() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path(), 9);
    let picture = limner::image::RgbImage::from_pixel(8, 8, image::Rgb([9; 3]));
    let file = limner::image::encode_png(&picture, &[]).unwrap();
    let request = GenerateRequest { image: Some(file.clone()), ..request(&[]) };
    let plan = Plan::new(&request, &Sleeper::default().facts()).unwrap();
    let accepted = (0..50).take_while(|_| jobs.submit(&request, &plan, None).is_ok()).count();
    assert!(accepted > 0 && accepted <= 1000 / file.len(), "{accepted} of {} bytes", file.len());
    assert_eq!(claim(&jobs).request.image.unwrap(), file);
    assert_eq!(std::fs::read_dir(folder.path().join("uploads")).unwrap().count(), accepted);
}

/// A cancel hits the job before, while or after it is claimed: it must be stopped each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_never_falls_between_waiting_and_running() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path(), 2);
    let worker = worker(&jobs, &Arc::new(Sleeper::default()));
    for round in 0..40 {
        let id = submit(&jobs, &[("steps", "1000")], None).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(100 * round));
        assert!(jobs.cancel(&id).unwrap(), "round {round}");
        assert_eq!(ended(&jobs, &id).await, State::Cancelled, "round {round}");
    }
    jobs.close();
    worker.join();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_stored_is_stored_later() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path(), 2);
    let other = rusqlite::Connection::open(folder.path().join("limner.db")).unwrap();
    let fault =
        "CREATE TRIGGER fault BEFORE UPDATE ON jobs WHEN NEW.state = 'done' BEGIN SELECT RAISE(ABORT, 'full'); END";
    other.execute_batch(fault).unwrap();
    let id = submit(&jobs, &[("steps", "1")], None).unwrap();
    let worker = worker(&jobs, &Arc::new(Sleeper::default()));
    let waiting = tokio::spawn({
        let (jobs, id) = (jobs.clone(), id.clone());
        async move { ended(&jobs, &id).await }
    });
    while state(&jobs, &id) == State::Queued {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(state(&jobs, &id), State::Running);
    other.execute_batch("DROP TRIGGER fault").unwrap();
    assert_eq!(waiting.await.unwrap(), State::Done);
    jobs.close();
    worker.join();
}

#[tokio::test]
async fn waiting_takes_as_long_as_the_steps_before() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path(), 9);
    let ids: Vec<Id> =
        ["10", "30", "20"].map(|steps| submit(&jobs, &[("steps", steps), ("count", "2")], None).unwrap()).into();
    let pace = jobs.seconds_per_step();
    let etas: Vec<f64> = ids.iter().map(|id| jobs.position(id).unwrap().unwrap().1 / pace).collect();
    assert_eq!(etas.iter().map(|eta| eta.round()).collect::<Vec<_>>(), [0.0, 20.0, 80.0]);
}

#[tokio::test]
async fn uploads_are_kept_as_long_as_somebody_can_use_them() {
    let folder = tempfile::tempdir().unwrap();
    let id = {
        let jobs = open(folder.path(), 9);
        let request = GenerateRequest { image: Some(picture()), ..request(&[]) };
        let id = jobs.submit(&request, &Plan::new(&request, &Sleeper::default().facts()).unwrap(), None).unwrap();
        assert_eq!(jobs.uploads(&id).unwrap().get("image"), request.image.as_ref());
        id
    };
    let jobs = open(folder.path(), 9);
    assert!(jobs.uploads(&id).unwrap().contains_key("image"), "it still waits");
    jobs.cancel(&id).unwrap();
    drop(jobs);
    let jobs = open(folder.path(), 9);
    assert_eq!(jobs.uploads(&id).unwrap(), Uploads::default());
    assert_eq!(std::fs::read_dir(folder.path().join("uploads")).unwrap().count(), 0);
}

/// A picture file of eight pixels by eight.
fn picture() -> Vec<u8> {
    limner::image::encode_png(&limner::image::RgbImage::new(8, 8), &[]).unwrap()
}
