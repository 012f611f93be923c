//! `/questions`: what can be asked about a picture: how likely it is, and which caption fits it.

use super::super::{App, Problem, body};
use super::make::{accept, problem_status, take_files};
use super::models::Choice;
use super::{Chrome, redirect, render, trouble};
use crate::error::FieldError;
use crate::jobs::Id;
use crate::request::GenerateRequest;
use askama::Template;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;

#[derive(Template)]
#[template(path = "questions.html")]
struct Questions<'a> {
    chrome: Chrome<'a>,
    choice: Choice,
    form: &'a GenerateRequest,
    form_id: Id,
    /// A finished picture to ask about.
    start: Option<Id>,
    errors: &'a [FieldError],
    /// What is wrong with the request as a whole.
    banner: Option<String>,
}

impl Questions<'_> {
    fn typed(&self, field: &str) -> &str {
        self.form.text(field)
    }

    fn asks(&self, task: &str) -> bool {
        self.form.text("task") == task
    }
}

/// The forms, for a picture of one's own or a finished one: `/questions?start=PICTURE&prompt=red+apple`.
pub(super) async fn show(State(app): State<App>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let mut form = GenerateRequest::default();
    let start = query.iter().find(|(field, _)| field == "start").and_then(|(_, id)| Id::parse(id));
    for (field, value) in query {
        form.set_text(&field, value);
    }
    page(&app, StatusCode::OK, &form, start, None).await
}

/// Accepts a question, and goes on at its job's page.
pub(super) async fn submit(State(app): State<App>, request: Request) -> Response {
    let (mut form, extras) = match body::form(&app, request).await {
        Ok(read) => read,
        Err(problem) => return page(&app, problem.status, &GenerateRequest::default(), None, Some(problem)).await,
    };
    let start = extras.get("start").and_then(|id| Id::parse(id));
    let typed = form.without_files();
    // A picture of one's own goes before the finished one.
    let taken = start.clone().filter(|_| form.image.is_none());
    let outcome = match take_files(&app, &mut form, taken, None).await {
        Ok(()) => accept(&app, &form, &extras).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(id) => redirect(&format!("/jobs/{id}#result")),
        Err(error) => page(&app, problem_status(&error), &typed, start, Some(error.into())).await,
    }
}

async fn page(
    app: &App,
    status: StatusCode,
    form: &GenerateRequest,
    start: Option<Id>,
    problem: Option<Problem>,
) -> Response {
    let form_id = match Id::random() {
        Ok(id) => id,
        Err(error) => return trouble(app, &error.into()),
    };
    let errors = problem.as_ref().map_or(&[][..], |problem| &problem.errors);
    let banner = problem.as_ref().filter(|_| errors.is_empty()).map(|problem| problem.detail.clone());
    let choice = app.choice(form.text("model")).await;
    let chrome = Chrome::new(app, "questions");
    render(status, &Questions { chrome, choice, form, form_id, start, errors, banner })
}
