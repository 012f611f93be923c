//! What a page shows of a job: where it stands, or what came of it.

use super::super::api::seed_of;
use super::super::jobs::Known;
use super::super::{App, Problem, jobs};
use super::found::Found;
use super::words::{about, ordinal, slug};
use super::{commands, redirect, trouble};
use crate::jobs::{Failure, Id, Image, Job, Jobs, State};
use crate::pipeline::Receipt;
use axum::extract::State as From;
use axum::response::Response;
use serde_json::Value;

/// A job, ready for the page.
pub(super) struct Panel {
    pub(super) id: Id,
    pub(super) state: &'static str,
    pub(super) over: bool,
    /// The address that shows it again, for browsers without scripts. It differs each time: an address that differs
    /// from the page's own by nothing leads to its "#result" without loading anything.
    pub(super) refresh: String,
    pub(super) prompt: String,
    /// One line on where it stands.
    pub(super) status: String,
    pub(super) step: usize,
    pub(super) steps: usize,
    pub(super) pictures: Vec<Shown>,
    pub(super) notices: Vec<String>,
    pub(super) error: Option<Failure>,
    /// Settings by name, as in the receipt of the first picture.
    pub(super) settings: Vec<(String, String)>,
    /// What it found out.
    pub(super) found: Option<Found>,
    /// A picture that was deleted just now.
    pub(super) deleted: Option<Id>,
}

/// A finished picture.
pub(super) struct Shown {
    pub(super) id: Id,
    pub(super) seed: u64,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) starred: bool,
    /// Whether it is known what each of its steps did.
    pub(super) has_steps: bool,
    /// What the file is called when it is saved.
    pub(super) file_name: String,
    pub(super) command: String,
    pub(super) curl: String,
}

impl Panel {
    /// Looks a job up. `origin` is where this server is reached; `deleted` a picture that can be brought back.
    pub(super) fn new(jobs: &Jobs, job: Job, origin: &str, deleted: Option<Id>) -> crate::Result<Self> {
        let step = if job.state == State::Running { jobs.last_step(&job.id) } else { None };
        let number = |field| job.request.text(field).parse::<usize>().unwrap_or(1);
        let (done, steps) = step.as_ref().map_or((0, number("steps") * number("count")), |s| (s.step, s.steps));
        let status = match job.state {
            State::Queued => queued(jobs.position(&job.id)?),
            State::Running if let Some(model) = jobs.loading(&job.id) => format!("loading model {model}"),
            State::Running => {
                let left = step.map(|step| format!(", {} left", about(step.eta_seconds))).unwrap_or_default();
                format!("step {done} of {steps}{left}")
            }
            State::Done if job.report.is_some() => {
                format!("found in {:.1} s", job.ended_at.zip(job.started_at).map_or(0.0, seconds))
            }
            State::Done => format!("drawn in {:.1} s", job.ended_at.zip(job.started_at).map_or(0.0, seconds)),
            State::Failed => "failed".to_owned(),
            State::Cancelled => "stopped".to_owned(),
        };
        Ok(Self {
            state: job.state.name(),
            over: job.state.is_over(),
            refresh: format!("/jobs/{}?at={}#result", job.id, jiff::Timestamp::now().as_millisecond()),
            prompt: job.request.text("prompt").to_owned(),
            status,
            step: done,
            steps,
            pictures: job.images.iter().map(|image| shown(&job, image, origin)).collect(),
            notices: notices(&job.notices),
            settings: job.images.first().map(|image| settings(&image.receipt)).unwrap_or_default(),
            found: job.report.as_ref().and_then(Found::new),
            error: job.error,
            deleted,
            id: job.id,
        })
    }
}

fn queued(place: Option<(usize, f64)>) -> String {
    match place {
        Some((1, eta)) => format!("next in the queue, {}", about(eta)),
        Some((position, eta)) => format!("{} in the queue, {}", ordinal(position), about(eta)),
        None => "about to begin".to_owned(),
    }
}

fn seconds((end, start): (i64, i64)) -> f64 {
    (end - start) as f64 / 1000.0
}

fn notices(stored: &Value) -> Vec<String> {
    stored.as_array().into_iter().flatten().filter_map(|n| Some(n["message"].as_str()?.to_owned())).collect()
}

fn shown(job: &Job, image: &Image, origin: &str) -> Shown {
    let (seed, prompt) = (seed_of(image), job.request.text("prompt"));
    let file_name = format!("{}-{seed}.png", slug(prompt));
    let receipt = serde_json::from_value::<Receipt>(image.receipt.clone());
    let request = receipt.map_or_else(|_| job.request.clone(), |receipt| receipt.request());
    Shown {
        id: image.id.clone(),
        seed,
        width: image.width,
        height: image.height,
        starred: image.starred,
        has_steps: image.has_steps,
        command: commands::limner(&request, &job.uploads),
        curl: commands::curl(&request, origin, &file_name, &job.uploads),
        file_name,
    }
}

/// A receipt's fields in words, but for the long ones that are shown elsewhere.
pub(super) fn settings(receipt: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields = receipt.as_object().into_iter().flatten();
    let told = fields.filter(|(name, value)| *name != "prompt" && value.as_str() != Some("") && !value.is_null());
    told.map(|(name, value)| (name.replace('_', " "), text(value))).collect()
}

/// `POST /jobs/{id}/cancel`. What is over already stays as it is.
pub(super) async fn cancel(From(app): From<App>, id: Result<Known, Problem>) -> Response {
    let Ok(Known(id)) = id else { return trouble(&app, &jobs::missing()) };
    let wanted = id.clone();
    match app.ask(move |jobs| jobs.cancel(&wanted)).await {
        Ok(_) => redirect(&format!("/jobs/{id}#result")),
        Err(error) => trouble(&app, &error.into()),
    }
}
