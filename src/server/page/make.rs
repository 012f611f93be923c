//! `/` and `/jobs/{id}`: asking for pictures, and seeing them appear.

use super::super::body::{self, Extras};
use super::super::jobs::Known;
use super::super::{App, Problem, jobs};
use super::form::Make;
use super::job::Panel;
use super::{Chrome, origin, redirect, render, trouble};
use crate::jobs::{Id, Job, Uploads};
use crate::pipeline::Receipt;
use crate::request::GenerateRequest;
use crate::{Error, Result};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use std::collections::HashMap;

/// What the form starts with.
#[derive(Default)]
struct Filled {
    form: GenerateRequest,
    start: Option<Id>,
    uploads_of: Option<Id>,
}

/// The form, empty or filled from the address: `/?prompt=red+apple&steps=30`, `/?settings=PICTURE`, with `vary` for
/// another seed, or `/?start=PICTURE` to draw over a picture.
pub(super) async fn show(State(app): State<App>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let mut filled = match picture_of(&query, "settings") {
        Some(id) => match settings_of(&app, id, query.iter().any(|(name, _)| name == "vary")).await {
            Ok(Some(filled)) => filled,
            Ok(None) => return trouble(&app, &jobs::missing()),
            Err(error) => return trouble(&app, &error.into()),
        },
        None => Filled { start: picture_of(&query, "start"), ..Filled::default() },
    };
    for (field, value) in query {
        filled.form.set_text(&field, value);
    }
    page(&app, StatusCode::OK, filled, None, None).await
}

fn picture_of(query: &[(String, String)], name: &str) -> Option<Id> {
    query.iter().find(|(field, _)| field == name).and_then(|(_, id)| Id::parse(id))
}

/// The settings that a picture was drawn with.
async fn settings_of(app: &App, id: Id, vary: bool) -> Result<Option<Filled>> {
    let look = move |jobs: &crate::jobs::Jobs| {
        let Some(image) = jobs.image(&id)? else { return Ok(None) };
        Ok(jobs.get(&image.job)?.map(|job| (image, job)))
    };
    let Some((image, job)) = app.ask(look).await? else { return Ok(None) };
    let uploads_of = Some(job.id).filter(|_| !job.uploads.is_empty());
    let mut form = serde_json::from_value::<Receipt>(image.receipt).map_or(job.request, |receipt| receipt.request());
    if vary {
        form.set_text("seed", String::new());
    }
    Ok(Some(Filled { form, start: None, uploads_of }))
}

/// The page of one job: its settings in the form, and where it stands.
pub(super) async fn of_job(
    State(app): State<App>,
    id: Result<Known, Problem>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let deleted = query.get("deleted").and_then(|id| Id::parse(id));
    let Ok(Known(id)) = id else { return trouble(&app, &jobs::missing()) };
    let origin = origin(&headers);
    let look = move |jobs: &crate::jobs::Jobs| {
        let Some(job) = jobs.get(&id)? else { return Ok(None) };
        let filled = again(&job);
        Ok(Some((filled, Panel::new(jobs, job, &origin, deleted)?)))
    };
    match app.ask(look).await {
        Ok(Some((filled, panel))) => page(&app, StatusCode::OK, filled, Some(panel), None).await,
        Ok(None) => trouble(&app, &jobs::missing()),
        Err(error) => trouble(&app, &error.into()),
    }
}

/// A job's settings, to draw once more; the seed is left open, or nothing new would come of it.
fn again(job: &Job) -> Filled {
    let mut form = job.request.clone();
    form.set_text("seed", String::new());
    Filled { form, start: None, uploads_of: Some(job.id.clone()).filter(|_| !job.uploads.is_empty()) }
}

/// Accepts what the form asks for, and goes on at the job's page.
pub(super) async fn submit(State(app): State<App>, request: Request) -> Response {
    let (mut form, extras) = match body::form(&app, request).await {
        Ok(read) => read,
        Err(problem) => return page(&app, problem.status, Filled::default(), None, Some(&problem)).await,
    };
    let id_of = |name: &str| extras.get(name).and_then(|id| Id::parse(id));
    let (start, uploads_of) = (id_of("start"), id_of("uploads_of"));
    let typed = form.without_files();
    let outcome = match take_files(&app, &mut form, start.clone(), uploads_of.clone()).await {
        Ok(()) => accept(&app, &form, &extras).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(id) => redirect(&format!("/jobs/{id}#result")),
        Err(error) => {
            let lost = uploads_of.is_none() && start.is_none();
            let form = if lost { form } else { typed };
            page(&app, problem_status(&error), Filled { form, start, uploads_of }, None, Some(&error.into())).await
        }
    }
}

pub(super) fn problem_status(error: &Error) -> StatusCode {
    match error {
        Error::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Error::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Puts in the files that the form names and does not carry: a finished picture, or those of an earlier job.
pub(super) async fn take_files(
    app: &App,
    form: &mut GenerateRequest,
    start: Option<Id>,
    job: Option<Id>,
) -> Result<()> {
    if start.is_none() && job.is_none() {
        return Ok(());
    }
    let look = move |jobs: &crate::jobs::Jobs| {
        let mut taken = job.map(|job| jobs.uploads(&job)).transpose()?.unwrap_or_default();
        if let Some(start) = start {
            taken.remove("mask");
            taken.extend(
                jobs.image(&start)?.map(|_| jobs.picture(&start)).transpose()?.map(|image| ("image".into(), image)),
            );
        }
        Ok(taken)
    };
    put_in(form, app.ask(look).await?);
    Ok(())
}

/// Puts in the files that the form has use for: a mask belongs to its picture, and pictures of nets to nets.
fn put_in(form: &mut GenerateRequest, taken: Uploads) {
    let is_empty = |field| form.text(field).trim().is_empty();
    let (has_picture, has_nets, has_adapter) = (form.image.is_some(), !is_empty("control"), !is_empty("ip_adapter"));
    let sent: Vec<&str> = form.files().map(|(field, _)| field).collect();
    let wanted = |field: &str| match field {
        "image" | "mask" => !has_picture,
        "ip_adapter_image" => has_adapter,
        _ => has_nets,
    };
    let taken: Vec<_> =
        taken.into_iter().filter(|(field, _)| wanted(field) && !sent.contains(&field.as_str())).collect();
    for (field, bytes) in taken {
        form.set_file(&field, bytes);
    }
}

/// A form that is sent twice is one job. Sent again with other settings (after "back"), it is another.
pub(super) async fn accept(app: &App, form: &GenerateRequest, extras: &Extras) -> Result<Id> {
    let key = extras.get("form_id").and_then(|id| Id::parse(id)).map(|id| format!("form-{id}"));
    match app.submit(form.clone(), key).await {
        Err(Error::Invalid(errors)) if errors.iter().any(|error| error.code == "key_reused") => {
            app.submit(form.clone(), None).await
        }
        outcome => outcome,
    }
}

/// The page, with messages beside the fields where something is wrong.
async fn page(
    app: &App,
    status: StatusCode,
    filled: Filled,
    panel: Option<Panel>,
    problem: Option<&Problem>,
) -> Response {
    let form_id = match Id::random() {
        Ok(id) => id,
        Err(error) => return trouble(app, &error.into()),
    };
    let banner = problem.map(whole);
    let make = Make {
        chrome: Chrome::new(app, "draw"),
        choice: app.choice(filled.form.text("model")).await,
        form: &filled.form,
        form_id,
        start: filled.start,
        uploads_of: filled.uploads_of,
        errors: problem.map_or(&[], |problem| &problem.errors),
        banner: banner.as_deref(),
        panel,
    };
    let mut response = render(status, &make);
    if let Some(seconds) = problem.and_then(|problem| problem.retry_after) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What is wrong with a request as a whole.
fn whole(problem: &Problem) -> String {
    match problem.status {
        StatusCode::UNPROCESSABLE_ENTITY => "Nothing was drawn: please look at the marked fields.".to_owned(),
        StatusCode::TOO_MANY_REQUESTS => format!("This machine is busy drawing for others. {}", problem.detail),
        status if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => {
            format!("{} (number {} in the log)", problem.detail, problem.request_id())
        }
        _ => problem.detail.clone(),
    }
}
