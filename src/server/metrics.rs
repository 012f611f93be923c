//! `GET /metrics`: what this server does, in the text format that Prometheus reads.

use super::openapi::Problems;
use super::{App, Problem};
use crate::jobs::Counts;
use crate::{Result, memory};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Upper bounds of the durations that are told apart, in seconds: a page takes milliseconds, a picture seconds.
const DURATIONS: [f64; 12] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    /// The pattern, so that ids do not make labels.
    route: String,
    method: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model: String,
}

/// What is looked up when it is asked for.
struct LookedUp {
    counts: Counts,
    seconds_per_step: f64,
    /// Those in memory, with what they take.
    models: Vec<(String, u64)>,
    model_budget: u64,
}

/// What is counted as it happens. Everything else is looked up when it is asked for.
pub(super) struct Metrics {
    requests: Family<Asked, Counter>,
    durations: Family<Route, Histogram>,
    /// Seconds since 1970.
    started: f64,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let durations = Family::new_with_constructor((|| Histogram::new(DURATIONS)) as fn() -> Histogram);
        Self { requests: Family::default(), durations, started }
    }

    /// All of it as text. Nothing is registered for longer than this, so nothing can be stale.
    fn text(&self, looked_up: &LookedUp) -> Result<String, std::fmt::Error> {
        let LookedUp { counts, seconds_per_step, models, model_budget } = looked_up;
        let mut registry = Registry::with_prefix("limner");
        registry.register("http_requests", "Requests answered", self.requests.clone());
        registry.register("http_request_duration_seconds", "Time until an answer began", self.durations.clone());
        let jobs = Family::<InState, Gauge>::default();
        for (state, count) in &counts.jobs {
            jobs.get_or_create(&InState { state: state.name() }).set(*count as i64);
        }
        registry.register("jobs", "Jobs in the database, by state", jobs);
        let whole = |value: u64| ConstGauge::new(value as i64);
        registry.register("queue_upload_bytes", "Uploads of open jobs", whole(counts.upload_bytes));
        registry.register("pictures", "Pictures kept", whole(counts.pictures));
        registry.register("step_seconds", "How long a sampler step took lately", ConstGauge::new(*seconds_per_step));
        let bytes = Family::<OfModel, Gauge>::default();
        for (model, of_model) in models {
            bytes.get_or_create(&OfModel { model: model.clone() }).set(*of_model as i64);
        }
        registry.register("model_bytes", "What the weights of a model in memory take", bytes);
        registry.register("models_loaded", "Models in memory", whole(models.len() as u64));
        registry.register("models_budget_bytes", "What all of them may take", whole(*model_budget));
        let mut process = Registry::default();
        process.register("process_start_time_seconds", "When this process began", ConstGauge::new(self.started));
        if let Some(bytes) = memory::resident_bytes() {
            process.register("process_resident_memory_bytes", "Memory in use", whole(bytes));
        }
        let (mut ours, mut all) = (String::new(), String::new());
        encode(&mut ours, &registry)?;
        encode(&mut all, &process)?;
        // Each ends with a line that says so; one is enough.
        Ok(ours.replace("# EOF\n", "") + &all)
    }
}

/// Counts a request and how long its answer took to begin.
pub(super) async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    // Clients may invent methods; labels may not be invented.
    let known =
        ["GET", "HEAD", "POST", "PATCH", "DELETE"].into_iter().find(|known| *known == request.method().as_str());
    let method = known.unwrap_or("other").to_owned();
    let began = Instant::now();
    let response = next.run(request).await;
    let metrics = &app.inner.metrics;
    let asked = Asked { route: route.clone(), method, status: response.status().as_u16() };
    metrics.requests.get_or_create(&asked).inc();
    metrics.durations.get_or_create(&Route { route }).observe(began.elapsed().as_secs_f64());
    response
}

/// What this server does, as Prometheus reads it.
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, description = "Metrics in OpenMetrics text", body = String, content_type = "application/openmetrics-text"), Problems))]
pub(super) async fn show(State(app): State<App>) -> Result<Response, Problem> {
    let counts = app.ask(crate::jobs::Jobs::counts).await?;
    let (models, model_budget) = (app.library().loaded(), app.library().budget());
    let looked_up = LookedUp { counts, seconds_per_step: app.jobs().seconds_per_step(), models, model_budget };
    let text = app.inner.metrics.text(&looked_up);
    let text = text.map_err(|_| crate::Error::Server("the metrics could not be written".into()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::State as JobState;

    #[test]
    fn every_state_is_there_and_the_end_is_said_once() {
        let counts = Counts { jobs: JobState::ALL.map(|state| (state, 2)).into(), pictures: 7, upload_bytes: 9 };
        let metrics = Metrics::new();
        let asked = Asked { route: "/jobs/{id}".into(), method: "GET".into(), status: 200 };
        metrics.requests.get_or_create(&asked).inc();
        let models = vec![("icons".to_owned(), 5)];
        let looked_up = LookedUp { counts, seconds_per_step: 0.25, models, model_budget: 8 };
        let text = metrics.text(&looked_up).unwrap();
        for line in [
            "limner_http_requests_total{route=\"/jobs/{id}\",method=\"GET\",status=\"200\"} 1",
            "limner_jobs{state=\"queued\"} 2",
            "limner_pictures 7",
            "limner_queue_upload_bytes 9",
            "limner_step_seconds 0.25",
            "limner_model_bytes{model=\"icons\"} 5",
            "limner_models_loaded 1",
            "limner_models_budget_bytes 8",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    }
}
