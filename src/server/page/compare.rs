//! `/compare?picture=A&picture=B`: two pictures, one over the other, and in what they differ.

use super::super::{App, Problem, jobs};
use super::{Chrome, render, trouble};
use crate::jobs::{Id, Image};
use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use std::collections::BTreeSet;

#[derive(Template)]
#[template(path = "compare.html")]
struct Compare<'a> {
    chrome: Chrome<'a>,
    left: Image,
    right: Image,
    rows: Vec<Row>,
}

/// One field of both receipts.
struct Row {
    name: String,
    left: String,
    right: String,
    differs: bool,
}

pub(super) async fn show(State(app): State<App>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let ids: Vec<Id> = query.iter().filter(|(name, _)| name == "picture").filter_map(|(_, id)| Id::parse(id)).collect();
    let [left, right] = ids.as_slice() else {
        let detail = "Choose exactly two pictures of the history to compare them.";
        return trouble(&app, &Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "two_pictures", detail));
    };
    let (left, right) = (left.clone(), right.clone());
    match app.ask(move |jobs| Ok(jobs.image(&left)?.zip(jobs.image(&right)?))).await {
        Ok(Some((left, right))) => {
            let (chrome, rows) = (Chrome::new(&app, "history"), rows(&left.receipt, &right.receipt));
            render(StatusCode::OK, &Compare { chrome, left, right, rows })
        }
        Ok(None) => trouble(&app, &jobs::missing()),
        Err(error) => trouble(&app, &error.into()),
    }
}

/// All fields of both, those that differ first.
fn rows(left: &Value, right: &Value) -> Vec<Row> {
    let names: BTreeSet<&String> = [left, right].iter().flat_map(|r| r.as_object()).flat_map(|r| r.keys()).collect();
    let text = |value: &Value| match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row = |name: &String| {
        let (a, b) = (&left[name.as_str()], &right[name.as_str()]);
        Row { name: name.replace('_', " "), left: text(a), right: text(b), differs: a != b }
    };
    let mut rows: Vec<Row> = names.into_iter().map(row).collect();
    rows.sort_by_key(|row| !row.differs);
    rows
}
