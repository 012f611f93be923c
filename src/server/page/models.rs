//! `/models`: which models there are, which of them are in memory, and which are on their way. And the choice among them
//! that other pages offer.

use super::super::models::{ModelView, Models, missing};
use super::super::pulls::{Numbered, PullView, Wanted, known};
use super::super::{App, Inner, Problem, blocking, body};
use super::{Chrome, redirect, render, trouble};
use crate::error::{Error, FieldError};
use crate::hub::Variant;
use crate::memory::size;
use crate::request::Facts;
use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use clap::ValueEnum;
use std::collections::HashMap;

#[derive(Template)]
#[template(path = "models.html")]
struct Page<'a> {
    chrome: Chrome<'a>,
    models: Vec<ModelView>,
    used: String,
    budget: String,
    pulls: Vec<PullView>,
    may_pull: bool,
    typed: Typed,
    /// What was wrong with it.
    error: Option<String>,
}

/// What was typed of a model to fetch.
#[derive(Default)]
struct Typed(HashMap<String, String>);

impl Typed {
    fn text(&self, field: &str) -> &str {
        self.0.get(field).map_or("", |text| text.trim())
    }

    fn wanted(&self) -> Result<Wanted, Problem> {
        let variant = match self.text("variant") {
            "" => None,
            name => Some(Variant::from_str(name, true).map_err(|message| {
                Problem::from(Error::invalid(FieldError::new("variant", "unknown_value", message)))
            })?),
        };
        let given = |field: &str| Some(self.text(field).to_owned());
        Ok(Wanted { repository: self.text("repository").to_owned(), file: given("file"), name: given("name"), variant })
    }
}

impl Page<'_> {
    /// Whether the page will look otherwise soon, and should be looked at again.
    fn changes(&self) -> bool {
        let loads = self.models.iter().any(|model| model.state == "loading" || model.state == "waiting");
        loads || self.pulls.iter().any(|pull| !pull.over)
    }

    fn size(&self, bytes: &u64) -> String {
        size(*bytes)
    }

    fn standing(&self, pull: &PullView) -> String {
        let of = || format!("{} of {}", size(pull.done_bytes), size(pull.total_bytes));
        match pull.state {
            "waiting" => "waits for the one before it".to_owned(),
            "listing" => "asking what there is".to_owned(),
            "checking" => format!("checking what is here already: {}", of()),
            "fetching" => format!("{}, {} a second", of(), size(pull.bytes_per_second as u64)),
            "patient" => format!("{}; the hub does not answer well, trying again soon", of()),
            "done" => format!("is here: {}", pull.name.as_deref().unwrap_or_default()),
            "failed" => "did not come".to_owned(),
            _ => "was cancelled; what had come is kept".to_owned(),
        }
    }
}

/// `GET /models`.
pub(super) async fn show(State(app): State<App>) -> Response {
    page(&app, StatusCode::OK, Typed::default(), None).await
}

/// The page, with what was typed and what was wrong with it.
async fn page(app: &App, status: StatusCode, typed: Typed, error: Option<String>) -> Response {
    let Models { models, memory, .. } = match app.models().await {
        Ok(models) => models,
        Err(problem) => return trouble(app, &problem),
    };
    let page = Page {
        chrome: Chrome::new(app, "models"),
        models,
        used: size(memory.used_bytes),
        budget: size(memory.budget_bytes),
        pulls: app.pulls().list().into_iter().map(PullView::from).collect(),
        may_pull: app.config().may_pull(),
        typed,
        error,
    };
    render(status, &page)
}

/// `POST /models/{name}/{change}`: load, unload or remove.
pub(super) async fn change(State(app): State<App>, place: Result<Path<(String, String)>, PathRejection>) -> Response {
    let changed = match place {
        Ok(Path((name, change))) => match change.as_str() {
            "load" | "unload" => app.change_model(name, change == "load").await.map(drop),
            "remove" => app.remove_model(name).await,
            _ => Err(missing()),
        },
        Err(_) => Err(missing()),
    };
    match changed {
        Ok(()) => redirect("/models"),
        Err(problem) => trouble(&app, &problem),
    }
}

/// `POST /models`: fetch one.
pub(super) async fn pull(State(app): State<App>, request: Request) -> Response {
    let typed = match body::fields(&app, request).await {
        Ok(fields) => Typed(fields),
        Err(problem) => return trouble(&app, &problem),
    };
    let pulled = match typed.wanted() {
        Ok(wanted) => app.pull(wanted).await,
        Err(problem) => Err(problem),
    };
    match pulled {
        Ok(_) => redirect("/models#pulls"),
        Err(problem) => page(&app, problem.status, typed, Some(said(&problem))).await,
    }
}

/// What is wrong, without the field's name where there is one sentence.
fn said(problem: &Problem) -> String {
    problem.errors.first().map_or_else(|| problem.detail.clone(), |error| error.message.clone())
}

/// `POST /pulls/{id}/cancel`.
pub(super) async fn cancel(State(app): State<App>, id: Numbered) -> Response {
    match known(id).and_then(|id| app.cancel_pull(id)) {
        Ok(_) => redirect("/models#pulls"),
        Err(problem) => trouble(&app, &problem),
    }
}

/// The models that a form offers, and the one that is chosen.
pub(super) struct Choice {
    models: Vec<ModelView>,
    /// Of the chosen one, or of the first where that cannot be used.
    pub(super) facts: Facts,
    chosen: String,
    /// Why the chosen one cannot be used.
    pub(super) error: Option<String>,
}

/// One of them.
pub(super) struct Choosable<'a> {
    pub(super) name: &'a str,
    pub(super) chosen: bool,
    pub(super) usable: bool,
    /// What is said of it besides its name.
    pub(super) about: String,
}

impl Choice {
    /// All that can be chosen, and the one that was even if it cannot.
    pub(super) fn all(&self) -> Vec<Choosable<'_>> {
        let mut all: Vec<_> = self.models.iter().map(|model| self.choosable(model)).collect();
        if all.iter().all(|model| !model.chosen) {
            let about = " (not here)".to_owned();
            all.push(Choosable { name: &self.chosen, chosen: true, usable: true, about });
        }
        all
    }

    fn choosable<'a>(&self, model: &'a ModelView) -> Choosable<'a> {
        let about = match &model.defaults {
            None => " (cannot be used)".to_owned(),
            Some(defaults) => format!(", {} × {}", defaults.width, defaults.height),
        };
        let chosen = model.name == self.chosen;
        Choosable { name: &model.name, chosen, usable: chosen || model.reason.is_none(), about }
    }
}

impl Inner {
    fn choice(&self, name: &str) -> Choice {
        let found = self.library.facts(name);
        let error = match &found {
            Err(Error::Invalid(errors)) => errors.first().map(|error| error.message.clone()),
            _ => None,
        };
        let facts = found.or_else(|_| self.library.facts("")).unwrap_or_else(|_| self.first_facts.clone());
        let chosen = match name {
            "" => self.library.first().to_owned(),
            name if error.is_some() => name.to_owned(),
            _ => facts.name.clone(),
        };
        Choice { models: self.models().models, facts, chosen, error }
    }
}

impl App {
    /// The models to choose from, when `name` was typed.
    pub(super) async fn choice(&self, name: &str) -> Choice {
        let (inner, name) = (self.inner.clone(), name.trim().to_owned());
        let choose = move || Ok(inner.choice(&name));
        blocking(choose).await.unwrap_or_else(|_| Choice {
            models: Vec::new(),
            facts: self.inner.first_facts.clone(),
            chosen: self.library().first().to_owned(),
            error: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, reason: Option<&str>) -> ModelView {
        ModelView {
            name: name.to_owned(),
            default: false,
            kind: None,
            reason: reason.map(str::to_owned),
            state: "on_disk",
            loaded: false,
            in_use: false,
            removable: false,
            bytes_on_disk: 1,
            memory_bytes: None,
            multiple_of: None,
            defaults: None,
        }
    }

    #[test]
    fn what_was_chosen_stays_chosen_even_if_it_is_gone() {
        let models = || vec![model("a", None), model("broken", Some("x"))];
        let facts = Facts::plain("a", (8, 8), 8);
        let shown = |chosen: &str| {
            let choice = Choice { models: models(), facts: facts.clone(), chosen: chosen.to_owned(), error: None };
            let all = choice.all();
            all.iter().map(|m| (m.name.to_owned(), m.chosen, m.usable)).collect::<Vec<_>>()
        };
        let row = |name: &str, chosen, usable| (name.to_owned(), chosen, usable);
        assert_eq!(shown("a"), [row("a", true, true), row("broken", false, false)]);
        assert_eq!(shown("broken"), [row("a", false, true), row("broken", true, true)]);
        assert_eq!(shown("gone")[2], row("gone", true, true));
    }
}
