//! Addresses: which is the hub's own, and where a redirect leads.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::Uri;

/// What needs no encoding in a segment of a path: RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A file's path for use in an address.
pub(super) fn encode(path: &str) -> String {
    path.split('/').map(|part| utf8_percent_encode(part, RESERVED).to_string()).collect::<Vec<_>>().join("/")
}

/// An `http` or `https` address with a host. Says what is wrong otherwise.
pub(super) fn parse(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| format!("{text:?} is not an address"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(uri),
        _ => Err(format!("{text:?} is not an address of http or https")),
    }
}

/// Where `location`, given in an answer from `from`, leads. Never from https to http: what is read there could be
/// anybody's.
pub(super) fn follow(from: &Uri, location: &str) -> Result<Uri, String> {
    let scheme = from.scheme_str().unwrap_or_default();
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let absolute = match location {
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => location.to_owned(),
    };
    let to = parse(&absolute).map_err(|wrong| format!("{} redirects to a place that {wrong}", host(from)))?;
    if scheme == "https" && to.scheme_str() != Some("https") {
        return Err(format!("{} redirects from https to http, which is not followed", host(from)));
    }
    Ok(to)
}

/// Whether two addresses are of one server: scheme, host and port.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        (uri.scheme_str().map(str::to_owned), uri.host().map(str::to_ascii_lowercase), port)
    };
    origin(a) == origin(b)
}

/// The host, for messages: the rest of an address may be a secret.
pub(super) fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or("the hub")
}

/// Whether a server is on this machine, where no proxy can reach it.
pub(super) fn is_loopback(uri: &Uri) -> bool {
    let host = host(uri).trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        parse(text).unwrap()
    }

    #[test]
    fn paths_are_encoded_by_segment() {
        assert_eq!(encode("unet/a b#1?.safetensors"), "unet/a%20b%231%3F.safetensors");
        assert_eq!(encode("ü/%2e%2e"), "%C3%BC/%252e%252e");
    }

    #[test]
    fn only_web_addresses_are_addresses() {
        for wrong in ["", "host", "ftp://host/x", "file:///etc/passwd", "http://", "/path", "https:///x", "a b"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (a, b, same) in [
            ("https://a.b/x", "https://A.B:443/y?z", true),
            ("http://a.b", "http://a.b:80", true),
            ("http://a.b", "https://a.b", false),
            ("https://a.b", "https://a.b:8443", false),
            ("https://a.b", "https://a.b.c", false),
        ] {
            assert_eq!(same_origin(&uri(a), &uri(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn redirects_lead_anywhere_but_from_https_to_http() {
        let from = uri("https://a.b:8443/x/y");
        let to = |location| follow(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/z?q=1").unwrap(), "https://a.b:8443/z?q=1");
        assert_eq!(to("//c.d/z").unwrap(), "https://c.d/z");
        assert_eq!(to("https://c.d/z").unwrap(), "https://c.d/z");
        assert_eq!(to("http://a.b:8443/z").unwrap_err(), "a.b redirects from https to http, which is not followed");
        assert!(to("file:///etc/passwd").is_err() && to("z").is_err());
        assert_eq!(follow(&uri("http://a.b/"), "http://c.d/").unwrap(), uri("http://c.d/"));
    }

    #[test]
    fn loopback_is_known_in_all_its_forms() {
        assert!(["http://127.0.0.1:1/", "http://localhost", "http://[::1]:7"].iter().all(|a| is_loopback(&uri(a))));
        assert!(!is_loopback(&uri("http://127.0.0.1.example")));
    }
}
