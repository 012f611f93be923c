//! `/history`: everything that was drawn here, newest first.

use super::super::App;
use super::{Chrome, render, trouble};
use crate::jobs::{Id, Job, Query, State as JobState};
use askama::Template;
use axum::extract::{Query as Parameters, State};
use axum::http::StatusCode;
use axum::response::Response;
use std::collections::HashMap;

/// Jobs on one page.
const PAGE: usize = 24;

#[derive(Template)]
#[template(path = "history.html")]
struct History<'a> {
    chrome: Chrome<'a>,
    text: &'a str,
    starred: bool,
    cards: Vec<Card>,
    next: Option<Id>,
    /// This page's own address, percent-encoded, for buttons that lead back.
    back: String,
    /// A picture that was deleted just now.
    deleted: Option<Id>,
    /// Whether a search or the beginning of everything is shown.
    searched: bool,
}

/// A picture, or a job that has none.
struct Card {
    job: Id,
    prompt: String,
    picture: Option<(Id, bool)>,
    /// The job's state, where there is no picture.
    state: &'static str,
    /// RFC 3339.
    at: String,
}

/// `GET /history?q=TEXT&starred=1&cursor=ID`.
pub(super) async fn show(
    State(app): State<App>,
    Parameters(parameters): Parameters<HashMap<String, String>>,
) -> Response {
    let text = parameters.get("q").map(|text| text.trim()).unwrap_or_default();
    let starred = parameters.get("starred").is_some_and(|value| value == "1");
    let id = |name: &str| parameters.get(name).and_then(|id| Id::parse(id));
    let query = Query {
        before: id("cursor"),
        limit: PAGE + 1,
        text: Some(text.to_owned()).filter(|text| !text.is_empty()),
        starred,
        state: None,
    };
    let mut found = match app.ask(move |jobs| jobs.list(&query)).await {
        Ok(found) => found,
        Err(error) => return trouble(&app, &error.into()),
    };
    let more = found.len() > PAGE;
    found.truncate(PAGE);
    let next = found.last().filter(|_| more).map(|job| job.id.clone());
    render(
        StatusCode::OK,
        &History {
            chrome: Chrome::new(&app, "history"),
            text,
            starred,
            cards: found.iter().flat_map(|job| cards(job, starred)).collect(),
            next,
            back: back(text, starred, parameters.get("cursor").filter(|cursor| Id::parse(cursor).is_some())),
            deleted: id("deleted"),
            searched: !text.is_empty() || starred || parameters.contains_key("cursor"),
        },
    )
}

/// A card for each picture of a job. A finished job whose pictures were all deleted has none.
fn cards(job: &Job, starred: bool) -> Vec<Card> {
    let at = jiff::Timestamp::from_millisecond(job.created_at).map(|time| time.to_string()).unwrap_or_default();
    let card = |picture| Card {
        job: job.id.clone(),
        prompt: job.request.text("prompt").to_owned(),
        picture,
        state: job.state.name(),
        at: at.clone(),
    };
    match job.state {
        JobState::Done => {
            let shown = job.images.iter().filter(|image| image.starred || !starred);
            shown.map(|image| card(Some((image.id.clone(), image.starred)))).collect()
        }
        _ => vec![card(None)],
    }
}

/// The address of what is shown, ready to stand inside another address.
fn back(text: &str, starred: bool, cursor: Option<&String>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if !text.is_empty() {
        query.append_pair("q", text);
    }
    if starred {
        query.append_pair("starred", "1");
    }
    if let Some(cursor) = cursor {
        query.append_pair("cursor", cursor);
    }
    let query = query.finish();
    let address = if query.is_empty() { "/history".to_owned() } else { format!("/history?{query}") };
    form_urlencoded::byte_serialize(address.as_bytes()).collect()
}
