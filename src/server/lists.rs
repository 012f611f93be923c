//! What there is to choose from.

use super::openapi::Problems;
use super::{App, Problem, blocking};
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use crate::request::MAX_CONTROLS;
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

/// The ControlNets among the models, and why some do not fit the model that draws.
#[utoipa::path(get, path = "/api/v1/controlnets", tag = "choices",
    responses((status = 200, description = "Names, whether they fit, and if not, why", body = Object), Problems))]
pub(super) async fn controlnets(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let nets = app.facts().controlnets.clone();
    let listed = blocking(move || {
        let entry = |name: String| {
            let reason = nets.check("control", &name).err().map(|error| error.message);
            json!({ "name": name, "fits": reason.is_none(), "reason": reason })
        };
        Ok(nets.names().into_iter().map(entry).collect::<Vec<_>>())
    });
    Ok(Json(json!({ "controlnets": listed.await?, "preprocessors": ["none", "canny"], "most": MAX_CONTROLS })))
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
