//! What there is to choose from.

use super::App;
use super::openapi::Problems;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

/// The models that can be drawn with.
#[utoipa::path(get, path = "/api/v1/models", tag = "choices",
    responses((status = 200, description = "All of them, and the default", body = Object), Problems))]
pub(super) async fn models(State(app): State<App>) -> Json<Value> {
    let facts = app.facts();
    let defaults =
        json!({ "steps": facts.steps, "guidance": facts.guidance, "width": facts.width, "height": facts.height });
    Json(json!({ "models": [{
        "name": facts.name, "loaded": true, "multiple_of": facts.multiple_of, "defaults": defaults,
    }] }))
}

/// The samplers.
#[utoipa::path(get, path = "/api/v1/samplers", tag = "choices",
    responses((status = 200, description = "All of them, and the default", body = Object), Problems))]
pub(super) async fn samplers() -> Json<Value> {
    Json(json!({ "samplers": Sampler::names(), "default": Sampler::default().to_string() }))
}

/// The sigma ladders.
#[utoipa::path(get, path = "/api/v1/schedules", tag = "choices",
    responses((status = 200, description = "All of them, and the default", body = Object), Problems))]
pub(super) async fn schedules() -> Json<Value> {
    Json(json!({ "schedules": Spacing::names(), "default": Spacing::default().name() }))
}
