//! Jobs and pictures as JSON.

use super::api::seed_of;
use crate::Result;
use crate::jobs::{Image, Job, Jobs, State};
use crate::request::{GenerateRequest, Kind};
use serde_json::{Number, Value, json};

/// A job with what is known of it now.
pub(super) fn job(jobs: &Jobs, job: &Job) -> Result<Value> {
    let place = if job.state == State::Queued { jobs.position(&job.id)? } else { None };
    let step = if job.state == State::Running { jobs.last_step(&job.id) } else { None };
    let eta = place.map(|(_, seconds)| seconds).or(step.as_ref().map(|step| step.eta_seconds));
    let steps = step.as_ref().map_or_else(|| all_steps(&job.request), |step| step.steps);
    let done = step.map_or(if job.state == State::Done { steps } else { 0 }, |step| step.step);
    let page = format!("/api/v1/jobs/{}", job.id);
    Ok(json!({
        "id": job.id,
        "state": job.state,
        "position": place.map(|(position, _)| position),
        "attempt": job.attempt,
        "created_at": time(Some(job.created_at)),
        "started_at": time(job.started_at),
        "ended_at": time(job.ended_at),
        "step": done,
        "steps": steps,
        "eta_seconds": eta,
        "request": request(&job.request),
        "has_image": job.has_image,
        "has_mask": job.has_mask,
        "images": job.images.iter().map(image).collect::<Vec<_>>(),
        "notices": job.notices,
        "error": job.error,
        "links": { "self": page, "events": format!("{page}/events"), "page": format!("/jobs/{}", job.id) },
    }))
}

/// A picture's description.
pub(super) fn image(image: &Image) -> Value {
    let mut receipt = image.receipt.clone();
    receipt["seed_text"] = seed_of(image).to_string().into();
    let url = format!("/api/v1/images/{}", image.id);
    json!({
        "id": image.id,
        "url": url,
        "thumbnail": format!("{url}/thumbnail"),
        "width": image.width,
        "height": image.height,
        "starred": image.starred,
        "receipt": receipt,
    })
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
