//! `/api/v1/models`: which models there are, and which of them are in memory.

use super::openapi::Problems;
use super::problem::Document;
use super::{App, Inner, Problem, blocking};
use crate::hub;
use crate::library::{Entry, Presence, Unloaded};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use std::path::PathBuf;
use utoipa::ToSchema;

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    pub(super) models: Vec<ModelView>,
    /// The one that is drawn with where a request names none.
    pub(super) default: String,
    pub(super) memory: MemoryView,
}

/// What the weights of models take.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryView {
    /// All that are in memory together.
    pub(super) used_bytes: u64,
    /// The most that they may take; the least recently used goes before another is loaded.
    pub(super) budget_bytes: u64,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelView {
    pub(super) name: String,
    /// Whether it is drawn with where a request names none.
    pub(super) default: bool,
    /// Its family, in words.
    pub(super) kind: Option<String>,
    /// Why it cannot be used; none where it can.
    pub(super) reason: Option<String>,
    /// on_disk, waiting (to be loaded), loading or loaded.
    pub(super) state: &'static str,
    pub(super) loaded: bool,
    /// Whether it is being drawn with; it then stays in memory.
    pub(super) in_use: bool,
    /// Whether its files can be removed here.
    pub(super) removable: bool,
    /// All its files together.
    pub(super) bytes_on_disk: u64,
    /// What its weights take in memory, or will take by their headers.
    pub(super) memory_bytes: Option<u64>,
    /// Width and height have to be multiples of this.
    pub(super) multiple_of: Option<usize>,
    pub(super) defaults: Option<DefaultsView>,
}

/// What is drawn where a request says nothing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DefaultsView {
    pub(super) steps: usize,
    pub(super) guidance: f64,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl ModelView {
    fn new(entry: Entry, waiting: &[String], folders: &[PathBuf]) -> Self {
        let waits = waiting.contains(&entry.name);
        let (state, loaded, taken) = match entry.presence {
            Presence::Loaded { bytes, .. } => ("loaded", true, Some(bytes)),
            Presence::Loading => ("loading", false, None),
            Presence::OnDisk if waits => ("waiting", false, None),
            Presence::OnDisk => ("on_disk", false, None),
        };
        let removable = !entry.first && entry.lies_in(folders);
        let (outline, reason) = match entry.outline {
            Ok(outline) => (Some(outline), None),
            Err(reason) => (None, Some(reason)),
        };
        let facts = outline.as_ref().map(|outline| &outline.facts);
        Self {
            default: entry.first,
            kind: outline.as_ref().map(|outline| outline.kind.clone()),
            reason,
            state,
            loaded,
            in_use: matches!(entry.presence, Presence::Loaded { in_use: true, .. }),
            removable,
            bytes_on_disk: entry.bytes_on_disk,
            memory_bytes: taken.or(outline.as_ref().map(|outline| outline.bytes)),
            multiple_of: facts.map(|facts| facts.multiple_of),
            defaults: facts.map(|facts| DefaultsView {
                steps: facts.steps,
                guidance: facts.guidance,
                width: facts.width,
                height: facts.height,
            }),
            name: entry.name,
        }
    }
}

impl Inner {
    /// All models. May block.
    pub(super) fn models(&self) -> Models {
        let waiting = self.jobs.loads();
        let view = |entry| ModelView::new(entry, &waiting, self.pulls.folders());
        let models = self.library.list().into_iter().map(view).collect();
        let used_bytes = self.library.loaded().iter().map(|(_, bytes)| bytes).sum();
        let memory = MemoryView { used_bytes, budget_bytes: self.library.budget() };
        Models { models, default: self.library.first().to_owned(), memory }
    }

    fn model(&self, name: &str) -> Result<ModelView, Problem> {
        let entry = self.library.get(name).ok_or_else(missing)?;
        Ok(ModelView::new(entry, &self.jobs.loads(), self.pulls.folders()))
    }

    /// Has a model loaded, even one that could not be when it was tried the last time. May block.
    fn load(&self, name: &str) -> Result<ModelView, Problem> {
        let name = self.model(name)?.name;
        self.library.retry(&name);
        self.library.facts(&name)?;
        self.jobs.load(&name)?;
        self.model(&name)
    }

    /// Takes a model out of memory, or takes back the wish to have it there. May block.
    fn unload(&self, name: &str) -> Result<ModelView, Problem> {
        let before = self.model(name)?;
        let busy = |why| Err(Problem::new(StatusCode::CONFLICT, "in_use", format!("{} is {why} now.", before.name)));
        if before.state == "loading" {
            return busy("being loaded");
        }
        self.jobs.forget_load(&before.name);
        match self.library.unload(&before.name) {
            Unloaded::Done | Unloaded::NotLoaded => self.model(&before.name),
            Unloaded::InUse => busy("being drawn with"),
        }
    }
}

impl Inner {
    /// Takes a model out of memory and removes its files. May block.
    fn remove(&self, name: &str) -> Result<(), Problem> {
        let model = self.model(name)?;
        if !model.removable {
            let why = if model.default { "is the default" } else { "was not put where this server keeps models" };
            let detail = format!("{} {why}, and stays.", model.name);
            return Err(Problem::new(StatusCode::CONFLICT, "not_removable", detail));
        }
        self.unload(&model.name)?;
        let removed = hub::remove(&model.name, self.pulls.folders())?;
        tracing::info!(model = model.name, path = %removed.display(), "removed");
        Ok(())
    }
}

impl App {
    /// Removes a model.
    pub(super) async fn remove_model(&self, name: String) -> Result<(), Problem> {
        self.check_may_pull()?;
        let inner = self.inner.clone();
        blocking(move || Ok(inner.remove(&name))).await?
    }

    /// All models.
    pub(super) async fn models(&self) -> Result<Models, Problem> {
        let inner = self.inner.clone();
        Ok(blocking(move || Ok(inner.models())).await?)
    }

    /// Loads a model or takes it out of memory.
    pub(super) async fn change_model(&self, name: String, load: bool) -> Result<ModelView, Problem> {
        let inner = self.inner.clone();
        blocking(move || Ok(if load { inner.load(&name) } else { inner.unload(&name) })).await?
    }
}

/// The models there are, those that cannot be used with the reason.
#[utoipa::path(get, path = "/api/v1/models", tag = "models",
    responses((status = 200, description = "All of them, and the default", body = Models), Problems))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Models>, Problem> {
    Ok(Json(app.models().await?))
}

/// Brings a model into memory, when the jobs are drawn that wait now. Jobs bring theirs by themselves.
#[utoipa::path(post, path = "/api/v1/models/{name}/load", tag = "models",
    params(("name" = String, Path, description = "As in the list")),
    responses((status = 202, description = "It will be loaded, if it is not", body = ModelView), Problems))]
pub(super) async fn load(State(app): State<App>, name: Named) -> Result<(StatusCode, Json<ModelView>), Problem> {
    Ok((StatusCode::ACCEPTED, Json(app.change_model(known(name)?, true).await?)))
}

/// Takes a model out of memory and gives the memory back to the system.
#[utoipa::path(post, path = "/api/v1/models/{name}/unload", tag = "models",
    params(("name" = String, Path, description = "As in the list")), responses(
    (status = 200, description = "It is not in memory (any more)", body = ModelView),
    (status = 409, description = "It is being drawn with", body = Document, content_type = "application/problem+json"), Problems))]
pub(super) async fn unload(State(app): State<App>, name: Named) -> Result<Json<ModelView>, Problem> {
    Ok(Json(app.change_model(known(name)?, false).await?))
}

/// Removes a model's files.
#[utoipa::path(delete, path = "/api/v1/models/{name}", tag = "models",
    params(("name" = String, Path, description = "As in the list")), responses(
    (status = 204, description = "They are gone"),
    (status = 409, description = "It is being drawn with, or is not one that can be removed", body = Document,
     content_type = "application/problem+json"), Problems))]
pub(super) async fn remove(State(app): State<App>, name: Named) -> Result<StatusCode, Problem> {
    app.remove_model(known(name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A model's name in an address.
type Named = Result<Path<String>, PathRejection>;

fn known(name: Named) -> Result<String, Problem> {
    name.map(|Path(name)| name).map_err(|_| missing())
}

pub(super) fn missing() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "There is no model of this name.")
}
