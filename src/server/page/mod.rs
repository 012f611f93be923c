//! The pages: forms and links that work without JavaScript; the scripts in `static/` make them quicker.

mod commands;
mod compare;
mod docs;
mod form;
mod grid;
mod history;
mod job;
mod make;
mod models;
mod picture;
mod words;

pub(super) use docs::docs;

use super::{App, Problem};
use askama::Template;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};

/// Everything under `/static`, compiled in: address, kind, content.
const ASSETS: [(&str, &str, &str); 11] = [
    ("/static/app.css", "text/css; charset=utf-8", include_str!("../../../static/app.css")),
    ("/static/icon.svg", "image/svg+xml", include_str!("../../../static/icon.svg")),
    ("/static/theme.js", SCRIPT, include_str!("../../../static/theme.js")),
    ("/static/common.js", SCRIPT, include_str!("../../../static/common.js")),
    ("/static/make.js", SCRIPT, include_str!("../../../static/make.js")),
    ("/static/watch.js", SCRIPT, include_str!("../../../static/watch.js")),
    ("/static/mask.js", SCRIPT, include_str!("../../../static/mask.js")),
    ("/static/files.js", SCRIPT, include_str!("../../../static/files.js")),
    ("/static/history.js", SCRIPT, include_str!("../../../static/history.js")),
    ("/static/models.js", SCRIPT, include_str!("../../../static/models.js")),
    ("/static/compare.js", SCRIPT, include_str!("../../../static/compare.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the frame around every page shows.
struct Chrome<'a> {
    /// The entry of the navigation that this page is.
    here: &'static str,
    /// The model that is drawn with where none is chosen.
    model: &'a str,
}

impl<'a> Chrome<'a> {
    fn new(app: &'a App, here: &'static str) -> Self {
        Self { here, model: app.library().first() }
    }
}

/// The pages' addresses.
pub(super) fn routes() -> Router<App> {
    let pages = Router::new()
        .route("/", get(make::show).post(make::submit))
        .route("/jobs/{id}", get(make::of_job))
        .route("/jobs/{id}/cancel", post(job::cancel))
        .route("/pictures/{id}/{change}", post(picture::change))
        .route("/history", get(history::show))
        .route("/compare", get(compare::show))
        .route("/models", get(models::show).post(models::pull))
        .route("/pulls/{id}/cancel", post(models::cancel))
        .route("/models/{name}/{change}", post(models::change))
        .route("/grid", get(grid::show).post(grid::start))
        .route("/grid/picture", get(grid::picture));
    ASSETS.into_iter().fold(pages, |pages, (address, kind, text)| {
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
        pages.route(address, get(async move || (headers, text)))
    })
}

/// A rendered page. It is never stored: it shows what is so now.
fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, [(header::CACHE_CONTROL, "no-store")], Html(html)).into_response(),
        Err(error) => {
            Problem::from(crate::Error::Server(format!("the page could not be made: {error}"))).into_response()
        }
    }
}

/// A page that only says something: that there is nothing here, or what went wrong.
#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    chrome: Chrome<'a>,
    title: &'a str,
    detail: &'a str,
}

/// What the login page needs to know.
pub(super) struct Login<'a> {
    /// Where to go then.
    pub(super) to: &'a str,
    /// Whether a wrong token was sent.
    pub(super) wrong: bool,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    chrome: Chrome<'a>,
    login: Login<'a>,
}

/// The page that asks for the token.
pub(super) fn render_login(app: &App, status: StatusCode, login: Login<'_>) -> Response {
    render(status, &LoginPage { chrome: Chrome::new(app, ""), login })
}

/// A problem as a page.
fn trouble(app: &App, problem: &Problem) -> Response {
    let title = if problem.status == StatusCode::NOT_FOUND { "There is nothing here" } else { "That did not work" };
    let numbered = format!("{} (number {} in the log)", problem.detail, problem.request_id());
    let detail = if problem.status.is_server_error() { &numbered } else { &problem.detail };
    render(problem.status, &Message { chrome: Chrome::new(app, ""), title, detail })
}

/// Goes on at another of our addresses, with GET.
pub(super) fn redirect(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(location) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
        Err(_) => Problem::new(StatusCode::BAD_REQUEST, "bad_address", "That is no address of ours.").into_response(),
    }
}

/// Where this server is reached, for commands that are to be copied.
fn origin(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1:7860");
    format!("http://{host}")
}
