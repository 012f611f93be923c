//! What can be done to a finished picture without JavaScript: one button each.

use super::super::{App, jobs};
use super::{redirect, trouble};
use crate::jobs::Id;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use std::collections::HashMap;

/// `POST /pictures/{id}/{change}?back=ADDRESS`: star, unstar, delete or restore.
pub(super) async fn change(
    State(app): State<App>,
    path: Result<Path<(String, String)>, PathRejection>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Response {
    let path = path.ok().and_then(|Path((id, change))| Some((Id::parse(&id)?, change)));
    let Some((id, change)) = path else { return trouble(&app, &jobs::missing()) };
    let picture = id.clone();
    let changed = match change.as_str() {
        "star" => app.ask(move |jobs| jobs.star(&picture, true)).await,
        "unstar" => app.ask(move |jobs| jobs.star(&picture, false)).await,
        "delete" => app.ask(move |jobs| jobs.delete(&picture, true)).await,
        "restore" => app.ask(move |jobs| jobs.delete(&picture, false)).await,
        _ => Ok(false),
    };
    let back = parameters.get("back").map(String::as_str).filter(|back| is_ours(back)).unwrap_or("/history");
    match changed {
        Ok(true) if change == "delete" => redirect(&with_deleted(back, id.as_str())),
        Ok(true) => redirect(back),
        Ok(false) => trouble(&app, &jobs::missing()),
        Err(error) => trouble(&app, &error.into()),
    }
}

/// Whether an address leads to one of the pages that have such buttons, and nowhere else.
fn is_ours(address: &str) -> bool {
    let plain = address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    plain && (address == "/history" || address.starts_with("/history?") || address.starts_with("/jobs/"))
}

/// The address with the picture that can be brought back.
fn with_deleted(address: &str, id: &str) -> String {
    let path = address.split('#').next().unwrap_or(address);
    let join = if path.contains('?') { '&' } else { '?' };
    format!("{path}{join}deleted={id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert!(is_ours("/history?q=red&starred=1") && is_ours("/jobs/abc#result") && is_ours("/history"));
        for elsewhere in ["//evil.example", "/\\evil", "https://evil.example", "/history evil", "/historyx", ""] {
            assert!(!is_ours(elsewhere), "{elsewhere}");
        }
        assert_eq!(with_deleted("/history?q=a", "7"), "/history?q=a&deleted=7");
        assert_eq!(with_deleted("/jobs/x#result", "7"), "/jobs/x?deleted=7");
    }
}
