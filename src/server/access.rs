//! The token, where one is wanted: programs send it as a bearer token (RFC 6750), browsers are asked once and keep a cookie.

use super::page::{Login, redirect, render_login};
use super::{App, Problem, body};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::Duration;

/// The cookie's name.
const COOKIE: &str = "limner_access";
/// How long a browser stays let in.
const DAYS: u32 = 30;
/// What a wrong token costs.
const PENALTY: Duration = Duration::from_millis(500);

/// Lets nobody in without the token, but to probes, to the login page, and to what that page is made of.
pub(super) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(token) = &app.config().token else { return next.run(request).await };
    let path = request.uri().path();
    let open = ["/livez", "/readyz", "/login"].contains(&path) || path.starts_with("/static/");
    if open || is_let_in(request.headers(), token) {
        return next.run(request).await;
    }
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if request.method() == Method::GET && accept.contains("text/html") {
        let to: String = form_urlencoded::byte_serialize(request.uri().to_string().as_bytes()).collect();
        return redirect(&format!("/login?to={to}"));
    }
    let detail = "This server wants its token: Authorization: Bearer TOKEN.";
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, "token_required", detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"limner\""));
    response
}

fn is_let_in(headers: &HeaderMap, token: &str) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let bearer = text(header::AUTHORIZATION).split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    let cookies = text(header::COOKIE).split(';').filter_map(|pair| pair.trim().split_once('='));
    let cookie = cookies.into_iter().find(|(name, _)| *name == COOKIE).map(|(_, value)| value);
    bearer.is_some_and(|(_, sent)| same(sent.trim(), token)) || cookie.is_some_and(|sent| same(sent, &pass(token)))
}

/// Compares digests and all of them, so that the time says nothing of how much was right.
fn same(sent: &str, expected: &str) -> bool {
    let (sent, expected) = (Sha256::digest(sent), Sha256::digest(expected));
    sent.iter().zip(&expected).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// What the cookie holds: proof of the token, and not the token.
fn pass(token: &str) -> String {
    let digest = Sha256::new().chain_update("limner cookie 1 ").chain_update(token).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `GET /login?to=ADDRESS`.
pub(super) async fn ask(State(app): State<App>, Query(query): Query<HashMap<String, String>>) -> Response {
    let to = query.get("to").map(String::as_str).filter(|to| is_ours(to)).unwrap_or("/");
    render_login(&app, StatusCode::OK, Login { to, wrong: false })
}

/// `POST /login`: a cookie for the right token.
pub(super) async fn enter(State(app): State<App>, request: Request) -> Response {
    let fields = match body::fields(&app, request).await {
        Ok(fields) => fields,
        Err(problem) => return problem.into_response(),
    };
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let to = Some(field("to")).filter(|to| is_ours(to)).unwrap_or("/");
    match &app.config().token {
        Some(token) if same(field("token").trim(), token) => {
            let age = DAYS * 24 * 60 * 60;
            let cookie = format!("{COOKIE}={}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict", pass(token));
            let mut response = redirect(to);
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            response
        }
        Some(_) => {
            tokio::time::sleep(PENALTY).await;
            render_login(&app, StatusCode::UNAUTHORIZED, Login { to, wrong: true })
        }
        None => redirect(to),
    }
}

/// Whether an address stays on this server.
fn is_ours(address: &str) -> bool {
    let plain = address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    plain && address.starts_with('/') && !address.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn only_the_token_lets_in() {
        let token = "correct horse";
        for (name, value, expected) in [
            (header::AUTHORIZATION, "Bearer correct horse".to_owned(), true),
            (header::AUTHORIZATION, "bearer  correct horse".to_owned(), true),
            (header::AUTHORIZATION, "Basic correct horse".to_owned(), false),
            (header::AUTHORIZATION, "Bearer correct".to_owned(), false),
            (header::AUTHORIZATION, "Bearer ".to_owned(), false),
            (header::COOKIE, format!("a=b; {COOKIE}={}", pass(token)), true),
            (header::COOKIE, format!("{COOKIE}={}", pass("other")), false),
            (header::COOKIE, format!("{COOKIE}={token}"), false),
        ] {
            assert_eq!(is_let_in(&with(name, &value), token), expected, "{value}");
        }
    }

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert!(is_ours("/") && is_ours("/history?q=a"));
        assert!(!is_ours("//evil.example") && !is_ours("/\\evil.example") && !is_ours("https://evil") && !is_ours(""));
    }
}
