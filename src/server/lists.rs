//! What there is to choose from.

use super::openapi::Problems;
use super::{App, Problem, blocking};
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use crate::error::FieldError;
use crate::library::Library;
use crate::request::MAX_CONTROLS;
use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// The ControlNets among the models, and why some do not fit a model.
#[utoipa::path(get, path = "/api/v1/controlnets", tag = "choices",
    params(("model" = Option<String>, Query, description = "The model to fit; without it, the one that comes first")),
    responses((status = 200, description = "Names, whether they fit, and if not, why", body = Object), Problems))]
pub(super) async fn controlnets(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Problem> {
    let listed = blocking(move || {
        let nets = app.library().facts(query.get("model").map_or("", String::as_str))?.controlnets;
        Ok(nets.names().iter().map(|name| entry(name, nets.check("control", name))).collect::<Vec<_>>())
    });
    Ok(Json(json!({ "controlnets": listed.await?, "preprocessors": ["none", "canny"], "most": MAX_CONTROLS })))
}

/// The IP-Adapters among the models, and why some cannot be used with a model.
#[utoipa::path(get, path = "/api/v1/ip-adapters", tag = "choices",
    params(("model" = Option<String>, Query, description = "The model to fit; without it, the one that comes first")),
    responses((status = 200, description = "Names, whether they fit, and if not, why", body = Object), Problems))]
pub(super) async fn ip_adapters(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Problem> {
    let listed = blocking(move || {
        let adapters = app.library().facts(query.get("model").map_or("", String::as_str))?.ip_adapters;
        Ok(adapters.names().iter().map(|name| entry(name, adapters.check("ip_adapter", name))).collect::<Vec<_>>())
    });
    Ok(Json(json!({ "ip_adapters": listed.await? })))
}

/// What is said of a part that may not fit.
fn entry(name: &str, checked: Result<(), FieldError>) -> Value {
    let reason = checked.err().map(|error| error.message);
    json!({ "name": name, "fits": reason.is_none(), "reason": reason })
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

/// The LoRAs that a prompt or the field `loras` can name. Whether one fits a model is told when it is asked for.
#[utoipa::path(get, path = "/api/v1/loras", tag = "choices",
    responses((status = 200, description = "The names of all of them", body = Object), Problems))]
pub(super) async fn loras(State(app): State<App>) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "loras": names(app, |library| library.adapters().loras()).await? })))
}

/// The embeddings (textual inversions) that a prompt can name.
#[utoipa::path(get, path = "/api/v1/embeddings", tag = "choices",
    responses((status = 200, description = "The names of all of them", body = Object), Problems))]
pub(super) async fn embeddings(State(app): State<App>) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "embeddings": names(app, |library| library.adapters().embeddings()).await? })))
}

async fn names(app: App, of: fn(&Library) -> BTreeMap<String, PathBuf>) -> Result<Vec<String>, Problem> {
    let inner = app.inner.clone();
    Ok(blocking(move || Ok(of(&inner.library).into_keys().collect())).await?)
}
