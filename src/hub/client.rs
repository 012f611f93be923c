//! What is asked of a hub, and its answers.
//!
//! The crate `hf-hub` knows the default endpoint, the addresses and where other programs keep their token, and is used
//! for that. It is not used to fetch: it joins a listing's paths to a folder unchecked, compares no hash, and keeps a
//! cache of links of its own. Its version 0.5 needs a dozen crates that were not here before; version 1 needs over a
//! hundred, for one more protocol of transfer, and checks no more. Requests go through `ureq` (which `hf-hub` 0.5 uses
//! too): blocking, on rustls with the roots that Mozilla trusts, or those in `SSL_CERT_FILE`.

mod address;
mod exchange;
mod patience;
mod refusal;
mod settings;

pub(super) use exchange::Answer;
pub use patience::Patience;
pub(super) use patience::Trouble;

use super::Fault;
use super::repository::{Listing, Repository};
use super::watcher::{Phase, Watcher};
use crate::{Error, Result};
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, RANGE};
use ureq::http::{HeaderValue, Request, Uri};

/// A hub answers with a redirect to another, to a file's store, and seldom more than that.
const MOST_REDIRECTS: usize = 8;

/// No listing is longer.
const LARGEST_LISTING: usize = 32 << 20;

/// A hub, and who asks.
#[derive(Debug)]
pub struct Hub {
    api: Api,
    agent: Agent,
    endpoint: Uri,
    token: Option<HeaderValue>,
    patience: Patience,
}

impl Hub {
    /// The hub that `HF_ENDPOINT` names, else the one everybody uses, with the token in `HF_TOKEN`, in the file
    /// `HF_TOKEN_PATH`, or where other programs keep it (`HF_HOME`).
    pub fn from_env() -> Result<Self> {
        Self::open(settings::endpoint().as_deref(), settings::token()?.as_deref(), Patience::default())
    }

    /// The hub at `endpoint`, such as `http://127.0.0.1:8000`.
    pub fn at(endpoint: &str, token: Option<&str>, patience: Patience) -> Result<Self> {
        Self::open(Some(endpoint), token, patience)
    }

    fn open(endpoint: Option<&str>, token: Option<&str>, patience: Patience) -> Result<Self> {
        // No folder: nothing is kept there, and a token is looked for in [`settings`].
        let nowhere = Cache::new(PathBuf::from("/dev/null/hub"));
        let mut builder = ApiBuilder::from_cache(nowhere).with_token(None).with_progress(false);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let api = builder.build().map_err(|e| Error::Hub(Fault::Unreachable(e.to_string())))?;
        let address = api.model(String::new()).url("");
        let endpoint = address::parse(&address).map_err(|wrong| {
            Error::Hub(Fault::Unsuitable(format!(
                "HF_ENDPOINT: {wrong}, such as https://host or http://127.0.0.1:8000"
            )))
        })?;
        let agent = settings::agent(&endpoint, &patience)?;
        Ok(Self { api, agent, endpoint, token: token.map(bearer).transpose()?, patience })
    }

    /// What the repository holds at its revision.
    pub(super) fn listing(&self, repository: &Repository, watcher: &mut Watcher<'_>) -> Result<Listing> {
        watcher.begin(Phase::Listing, 0);
        let request = self.repo(repository, &repository.revision).info_request();
        let address = request.uri_ref().map(ToString::to_string).unwrap_or_default() + "?blobs=true";
        let json = self.patience.retry(watcher, &Cell::default(), |watcher| {
            let answer = self.get(&address, 0, watcher.cancel())?;
            let answer = self.accept(answer, repository, None)?;
            self.read_whole(answer, watcher)
        })?;
        Listing::parse(&json, repository)
    }

    /// Asks for a file of the repository at `commit`, from byte `from` on. The answer may be all of it nevertheless.
    pub(super) fn file(
        &self,
        repository: &Repository,
        commit: &str,
        path: &str,
        from: u64,
        cancel: &AtomicBool,
    ) -> Result<Answer, Trouble> {
        let address = self.repo(repository, commit).url(&address::encode(path));
        self.accept(self.get(&address, from, cancel)?, repository, Some(path))
    }

    /// How often and how long is tried.
    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    fn repo(&self, repository: &Repository, revision: &str) -> hf_hub::api::sync::ApiRepo {
        self.api.repo(Repo::with_revision(repository.id.clone(), RepoType::Model, revision.to_owned()))
    }

    /// Follows redirects. The token is shown to the hub alone: whom it sends us to gets none.
    fn get(&self, address: &str, from: u64, cancel: &AtomicBool) -> Result<Answer, Trouble> {
        let broken = |message: String| Trouble::Final(Error::Hub(Fault::Broken(message)));
        let mut at = address::parse(address).map_err(broken)?;
        for _ in 0..MOST_REDIRECTS {
            let answer = exchange::exchange(&self.agent, self.request(&at, from), &at, cancel)?;
            let Some(location) = answer.redirect() else { return Ok(answer) };
            at = address::follow(&at, location).map_err(broken)?;
        }
        Err(broken(format!("{} redirects without an end", address::host(&at))))
    }

    fn request(&self, at: &Uri, from: u64) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = at.clone();
        if let Some(token) = self.token.as_ref().filter(|_| address::same_origin(at, &self.endpoint)) {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        if from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            request.headers_mut().insert(RANGE, range);
        }
        request
    }

    /// An answer with content, or the reason why there is none.
    fn accept(&self, answer: Answer, repository: &Repository, file: Option<&str>) -> Result<Answer, Trouble> {
        if answer.head.status.is_success() || answer.head.status == 416 {
            return Ok(answer);
        }
        let question = refusal::Question { repository, file, with_token: self.token.is_some() };
        Err(refusal::explain(&question, &answer, address::same_origin(&answer.from, &self.endpoint)))
    }

    fn read_whole(&self, mut answer: Answer, watcher: &Watcher<'_>) -> Result<Vec<u8>, Trouble> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.next(watcher.cancel())? {
            bytes.extend(chunk);
            if bytes.len() > LARGEST_LISTING {
                let message = format!("the listing has no end: it is longer than {} MiB", LARGEST_LISTING >> 20);
                return Err(Error::Hub(Fault::Broken(message)).into());
            }
        }
        Ok(bytes)
    }
}

/// What is sent for a token.
fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| {
        Error::Hub(Fault::Unsuitable("the hub's token (HF_TOKEN) has characters in it that no token has".to_owned()))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_setting_the_endpoint_is_hf_hubs_own_and_encrypted() {
        let hub = Hub::open(None, None, Patience::default()).unwrap();
        assert_eq!((hub.endpoint.scheme_str(), address::is_loopback(&hub.endpoint)), (Some("https"), false));
        assert!(hub.request(&hub.endpoint, 0).headers().is_empty());
    }

    #[test]
    fn a_token_is_for_the_hub_alone_and_never_printed() {
        let hub = Hub::at("http://127.0.0.1:7/", Some(" hf_secret\n"), Patience::default()).unwrap();
        let shown = |address: &str| hub.request(&address::parse(address).unwrap(), 5).headers().clone();
        assert_eq!(shown("http://127.0.0.1:7/x")[AUTHORIZATION], "Bearer hf_secret");
        assert_eq!(shown("http://127.0.0.1:7/x")[RANGE], "bytes=5-");
        assert!(!shown("http://127.0.0.1:8/x").contains_key(AUTHORIZATION));
        assert!(!format!("{hub:?}").contains("hf_secret"));
    }
}
