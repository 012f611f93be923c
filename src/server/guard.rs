//! What stands before every route: who may ask, and what every answer carries.
//!
//! A page on another site can make a visitor's browser post to this server, and by pointing its own name at 127.0.0.1
//! (DNS rebinding) even read the answers. The first is refused by `Sec-Fetch-Site` and `Origin`, the second by `Host`.

use super::{App, Problem};
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};

/// Nothing is loaded from elsewhere or run inline; pictures may be data: URLs (results) and blob: URLs (previews).
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                              connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// `same-origin` and not `no-referrer`: under that, browsers send our own form with `Origin: null`.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let config = app.config();
    let mut response = match admit(&request, config.listen, &config.allow_host) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn admit(request: &Request, listen: SocketAddr, allowed: &[String]) -> Result<(), Problem> {
    let forbidden = |code, detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, code, detail));
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !host_is_ours(host, listen, allowed) {
        return forbidden("host_not_allowed", "This server does not answer to that host name; see --allow-host.");
    }
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    if !reads && is_cross_site(request.headers(), host) {
        return forbidden("cross_site", "Requests from other sites are not accepted.");
    }
    Ok(())
}

/// Loopback names and addresses, names given by `--allow-host`, and any literal address when the server listens beyond
/// loopback: rebinding needs a name.
fn host_is_ours(host: &str, listen: SocketAddr, allowed: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    match name.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || !listen.ip().is_loopback(),
        Err(_) => {
            name == "localhost" || name.ends_with(".localhost") || allowed.iter().any(|a| a.eq_ignore_ascii_case(&name))
        }
    }
}

/// Browsers say where a request comes from; other programs say nothing and are let through.
fn is_cross_site(headers: &HeaderMap, host: &str) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("null"));
    let foreign_fetch =
        text(HeaderName::from_static("sec-fetch-site")).is_some_and(|site| !["same-origin", "none"].contains(&site));
    let ours =
        |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    foreign_fetch || text(header::ORIGIN).is_some_and(|origin| !ours(origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let (home, open) = ("127.0.0.1:7860".parse().unwrap(), "0.0.0.0:7860".parse().unwrap());
        let allowed = ["Draw.example".to_owned()];
        for host in ["localhost:7860", "127.0.0.1", "[::1]:7860", "LOCALHOST.", "a.localhost", "draw.example:80"] {
            assert!(host_is_ours(host, home, &allowed), "{host}");
        }
        for host in ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.7", "user@@x", "a b"] {
            assert!(!host_is_ours(host, home, &allowed), "{host}");
        }
        assert!(host_is_ours("10.0.0.7:7860", open, &[]) && !host_is_ours("evil.example", open, &[]));
    }

    #[test]
    fn origins() {
        let cross = |name: &'static str, value: &'static str| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
            is_cross_site(&headers, "localhost:7860")
        };
        assert!(!is_cross_site(&HeaderMap::new(), "localhost:7860"));
        assert!(!cross("origin", "http://localhost:7860") && !cross("sec-fetch-site", "same-origin"));
        for (name, value) in [
            ("origin", "null"),
            ("origin", "https://evil.example"),
            ("origin", "http://localhost:7861"),
            ("origin", "http://localhost:7860.evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(cross(name, value), "{name}: {value}");
        }
    }
}
