//! `/models`: which models there are, and which of them are in memory. And the choice among them that other pages offer.

use super::super::models::{ModelView, Models, missing};
use super::super::{App, Inner, blocking};
use super::{Chrome, redirect, render, trouble};
use crate::memory::size;
use crate::request::Facts;
use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

#[derive(Template)]
#[template(path = "models.html")]
struct Page<'a> {
    chrome: Chrome<'a>,
    models: Vec<ModelView>,
    used: String,
    budget: String,
}

impl Page<'_> {
    /// Whether the page will look otherwise soon, and should be looked at again.
    fn changes(&self) -> bool {
        self.models.iter().any(|model| model.state == "loading" || model.state == "waiting")
    }

    fn size(&self, bytes: &u64) -> String {
        size(*bytes)
    }
}

/// `GET /models`.
pub(super) async fn show(State(app): State<App>) -> Response {
    match app.models().await {
        Ok(Models { models, memory, .. }) => {
            let (used, budget) = (size(memory.used_bytes), size(memory.budget_bytes));
            render(StatusCode::OK, &Page { chrome: Chrome::new(&app, "models"), models, used, budget })
        }
        Err(problem) => trouble(&app, &problem),
    }
}

/// `POST /models/{name}/{change}`: load or unload.
pub(super) async fn change(State(app): State<App>, path: Result<Path<(String, String)>, PathRejection>) -> Response {
    let changed = match path {
        Ok(Path((name, change))) if change == "load" => app.change_model(name, true).await,
        Ok(Path((name, change))) if change == "unload" => app.change_model(name, false).await,
        _ => Err(missing()),
    };
    match changed {
        Ok(_) => redirect("/models"),
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
            Err(crate::Error::Invalid(errors)) => errors.first().map(|error| error.message.clone()),
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
