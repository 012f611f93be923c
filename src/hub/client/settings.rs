//! What the environment says: the variables that other programs for hubs know too.

use super::Patience;
use super::address;
use crate::{Error, Result};
use hf_hub::Cache;
use std::path::PathBuf;
use std::time::Duration;
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(20);

/// A setting of the environment; empty counts as not set.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub(super) fn endpoint() -> Option<String> {
    set("HF_ENDPOINT")
}

/// From `HF_TOKEN`, from the file `HF_TOKEN_PATH`, or from where other programs keep it.
pub(super) fn token() -> Result<Option<String>> {
    if let Some(token) = set("HF_TOKEN") {
        return Ok(Some(token));
    }
    if let Some(path) = set("HF_TOKEN_PATH") {
        let text = std::fs::read_to_string(&path).map_err(Error::io(path))?;
        return Ok(Some(text).filter(|text| !text.trim().is_empty()));
    }
    // Without a home, hf-hub panics when it is asked for its default.
    let home = set("HF_HOME").map(|home| Cache::new(PathBuf::from(home).join("hub")));
    Ok(home.or_else(|| dirs::home_dir().map(|_| Cache::default())).and_then(|cache| cache.token()))
}

/// Limits of time and no cleverness: statuses are looked at here, redirects are followed here, and nothing is packed
/// on the way, since that would make another file of it.
pub(super) fn agent(endpoint: &Uri, patience: &Patience) -> Result<Agent> {
    let mut config = Agent::config_builder()
        .user_agent(concat!("limner/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(patience.stall))
        .timeout_per_read(Some(patience.stall));
    if let Some(roots) = roots()? {
        config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
    }
    if address::is_loopback(endpoint) {
        config = config.proxy(None);
    }
    Ok(config.build().into())
}

/// Whose signature a server's certificate needs, if not one that Mozilla trusts.
fn roots() -> Result<Option<RootCerts>> {
    let Some(path) = set("SSL_CERT_FILE") else { return Ok(None) };
    let pem = std::fs::read(&path).map_err(Error::io(&path))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(Some(certificates.into()))
}
