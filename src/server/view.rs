//! Jobs and pictures as JSON.

use super::api::seed_of;
use crate::Result;
use crate::jobs::{Failure, Id, Image, Job, Jobs, State};
use crate::request::{GenerateRequest, Kind};
use serde::Serialize;
use serde_json::{Number, Value};
use std::sync::Arc;
use utoipa::ToSchema;

/// A job and what is known of it now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobView {
    #[schema(value_type = String)]
    id: Id,
    /// queued, running, done, failed or cancelled.
    #[schema(value_type = String)]
    state: State,
    /// The place in the queue, from 1; none unless it waits.
    position: Option<usize>,
    /// How often it was begun.
    attempt: u32,
    /// RFC 3339, as all times here.
    created_at: Option<String>,
    started_at: Option<String>,
    ended_at: Option<String>,
    /// Steps done, over all its pictures.
    step: usize,
    /// Steps in all.
    steps: usize,
    /// The model that is being loaded for it; none unless it waits for that.
    #[schema(value_type = Option<String>)]
    loading: Option<Arc<str>>,
    /// Until it begins, or while it runs until it ends.
    eta_seconds: Option<f64>,
    /// What was asked for, every field explicit, without the files; `seed_text` is the seed again, as text.
    #[schema(value_type = Object)]
    request: Value,
    has_image: bool,
    has_mask: bool,
    /// The fields of all files that were sent with it and are still kept.
    files: Vec<String>,
    images: Vec<ImageView>,
    /// What a person should know about the pictures: a code and a message each.
    #[schema(value_type = Vec<Object>)]
    notices: Value,
    /// Why it failed: a code and a message.
    #[schema(value_type = Option<Object>)]
    error: Option<Failure>,
    /// What it found out, where its task asks something of a picture.
    #[schema(value_type = Option<Object>)]
    report: Option<Value>,
    links: Links,
}

impl JobView {
    /// Where it stands, in a word.
    pub(super) fn state(&self) -> &'static str {
        self.state.name()
    }
}

/// Where there is more of a job.
#[derive(Debug, Serialize, ToSchema)]
struct Links {
    #[serde(rename = "self")]
    own: String,
    events: String,
    page: String,
}

/// A finished picture.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ImageView {
    #[schema(value_type = String)]
    id: Id,
    url: String,
    thumbnail: String,
    width: u32,
    height: u32,
    starred: bool,
    /// Where it is told what each of its steps did; none of pictures that no sampler drew, and of old ones.
    steps: Option<String>,
    /// Everything it was drawn with; `seed_text` is the seed again, as text.
    #[schema(value_type = Object)]
    receipt: Value,
}

/// A job with what is known of it now.
pub(super) fn job(jobs: &Jobs, job: &Job) -> Result<JobView> {
    let place = if job.state == State::Queued { jobs.position(&job.id)? } else { None };
    let step = if job.state == State::Running { jobs.last_step(&job.id) } else { None };
    let eta = place.map(|(_, seconds)| seconds).or(step.as_ref().map(|step| step.eta_seconds));
    let steps = step.as_ref().map_or_else(|| all_steps(&job.request), |step| step.steps);
    let own = format!("/api/v1/jobs/{}", job.id);
    Ok(JobView {
        id: job.id.clone(),
        state: job.state,
        position: place.map(|(position, _)| position),
        attempt: job.attempt,
        created_at: time(Some(job.created_at)),
        started_at: time(job.started_at),
        ended_at: time(job.ended_at),
        step: step.map_or(if job.state == State::Done { steps } else { 0 }, |step| step.step),
        steps,
        loading: if job.state == State::Running { jobs.loading(&job.id) } else { None },
        eta_seconds: eta,
        request: request(&job.request),
        has_image: job.has("image"),
        has_mask: job.has("mask"),
        files: job.uploads.clone(),
        images: job.images.iter().map(image).collect(),
        notices: job.notices.clone(),
        error: job.error.clone(),
        report: job.report.clone(),
        links: Links { events: format!("{own}/events"), page: format!("/jobs/{}", job.id), own },
    })
}

/// A picture's description.
pub(super) fn image(image: &Image) -> ImageView {
    let mut receipt = image.receipt.clone();
    receipt["seed_text"] = seed_of(image).to_string().into();
    let url = format!("/api/v1/images/{}", image.id);
    ImageView {
        id: image.id.clone(),
        thumbnail: format!("{url}/thumbnail"),
        steps: image.has_steps.then(|| format!("{url}/steps")),
        url,
        width: image.width,
        height: image.height,
        starred: image.starred,
        receipt,
    }
}

/// A stored request, with numbers as numbers.
pub(super) fn request(request: &GenerateRequest) -> Value {
    let typed: Value = serde_json::from_str(&request.to_json()).unwrap_or_default();
    let mut fields = typed.as_object().cloned().unwrap_or_default();
    for (field, value) in &mut fields {
        let Some(text) = value.as_str() else { continue };
        let read = match GenerateRequest::kind(field) {
            Some(Kind::Number) => text.parse::<Number>().ok().map(Value::from),
            Some(Kind::Switch) => text.parse::<bool>().ok().map(Value::from),
            _ => None,
        };
        *value = read.unwrap_or_else(|| text.into());
    }
    if !request.text("seed").is_empty() {
        fields.insert("seed_text".into(), request.text("seed").into());
    }
    Value::Object(fields)
}

fn all_steps(request: &GenerateRequest) -> usize {
    let number = |field| request.text(field).parse::<usize>().unwrap_or(1);
    number("steps") * number("count")
}

/// Milliseconds since 1970 as RFC 3339.
fn time(milliseconds: Option<i64>) -> Option<String> {
    jiff::Timestamp::from_millisecond(milliseconds?).ok().map(|time| time.to_string())
}
