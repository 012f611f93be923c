//! What there is to choose from.

use super::openapi::Problems;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use axum::Json;
use serde_json::{Value, json};

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
