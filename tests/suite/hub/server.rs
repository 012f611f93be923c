//! A hub on loopback, with the answers a real one gives, and every way in which they can go wrong.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};
use sha2::Digest as _;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a server does with one request, instead of what it should.
#[derive(Clone)]
pub(crate) enum Mischief {
    /// This status with these headers, and no content.
    Status(u16, Vec<(&'static str, String)>),
    /// A redirect to this address.
    Redirect(String),
    /// This content instead.
    Instead(Vec<u8>),
    /// The content breaks off after so many bytes, and the connection with it.
    CutAfter(usize),
    /// After so many bytes nothing comes any more.
    SilentAfter(usize),
    /// The content is followed by zeros without an end.
    Endless,
    /// All of it, whatever range was asked for.
    WithoutRange,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

#[derive(Default)]
struct Inside {
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
    listing: Option<Vec<u8>>,
    mischief: HashMap<String, VecDeque<Mischief>>,
    asked: Vec<Asked>,
}

/// A running server with the repository `someone/tiny`. It ends with the test's process.
#[derive(Clone)]
pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    inside: Arc<Mutex<Inside>>,
}

pub(crate) const ID: &str = "someone/tiny";

impl FakeHub {
    pub(crate) fn start(files: &[(&str, &[u8])]) -> Self {
        let inside = Arc::new(Mutex::new(Inside::default()));
        let routes = Router::new().fallback(answer).with_state(inside.clone());
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                axum::serve(listener, routes).await.unwrap();
            });
        });
        let hub = Self { endpoint: format!("http://{}", receive.recv().unwrap()), inside };
        for (path, content) in files {
            hub.put(path, content);
        }
        hub
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    /// A new commit, with this file in it.
    pub(crate) fn put(&self, path: &str, content: &[u8]) {
        let mut inside = self.inside();
        inside.files.insert(path.to_owned(), content.to_owned());
        inside.commit = commit(&inside.files);
    }

    pub(crate) fn commit(&self) -> String {
        self.inside().commit.clone()
    }

    /// The listing as it should be, to be changed and given to [`FakeHub::list`].
    pub(crate) fn listing(&self) -> Value {
        listing(&self.inside())
    }

    /// Answers with this for a listing.
    pub(crate) fn list(&self, listing: impl Into<Vec<u8>>) {
        self.inside().listing = Some(listing.into());
    }

    /// Does this at the next request for `what`: a file's path, or `listing`.
    pub(crate) fn next(&self, what: &str, mischief: Mischief) {
        self.inside().mischief.entry(what.to_owned()).or_default().push_back(mischief);
    }

    /// What was asked for since this was last called.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.inside().asked)
    }

    /// The files that were asked for since, by their paths in the repository.
    pub(crate) fn files_asked(&self) -> Vec<String> {
        let commit = self.commit();
        let name = |asked: Asked| asked.path.strip_prefix(&format!("/{ID}/resolve/{commit}/")).map(str::to_owned);
        self.asked().into_iter().filter_map(name).collect()
    }
}

/// Any name will do, as long as it is another for other content.
fn commit(files: &BTreeMap<String, Vec<u8>>) -> String {
    let all: Vec<u8> = files.iter().flat_map(|(path, content)| [path.as_bytes(), content].concat()).collect();
    hex(&sha1::Sha1::digest(&all))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// As hubs answer to `?blobs=true`: large files have a hash of their own, small ones only git's.
fn listing(inside: &Inside) -> Value {
    let sibling = |(path, content): (&String, &Vec<u8>)| {
        let blob = sha1::Sha1::digest([format!("blob {}\0", content.len()).as_bytes(), content].concat());
        let mut file = json!({ "rfilename": path, "size": content.len(), "blobId": hex(&blob) });
        if path.ends_with(".safetensors") {
            let sha256 = hex(&sha2::Sha256::digest(content));
            file["lfs"] = json!({ "sha256": sha256, "size": content.len(), "pointerSize": 130 });
            file["blobId"] = json!("0".repeat(40));
        }
        file
    };
    let siblings: Vec<_> = inside.files.iter().map(sibling).collect();
    json!({ "id": ID, "sha": inside.commit, "tags": ["license:mit"], "siblings": siblings, "private": false })
}

async fn answer(State(inside): State<Arc<Mutex<Inside>>>, request: Request) -> Response<Body> {
    let path = percent_encoding::percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let mut inside = inside.lock().unwrap();
    inside.asked.push(Asked {
        path: path.clone(),
        range: text(request.headers(), "range"),
        token: text(request.headers(), "authorization"),
    });
    let file = path.strip_prefix(&format!("/{ID}/resolve/{}/", inside.commit)).map(str::to_owned);
    let is_listing =
        path.strip_prefix(&format!("/api/models/{ID}/revision/")).is_some_and(|r| r == "main" || r == inside.commit);
    let what = if is_listing { "listing" } else { file.as_deref().unwrap_or(&path) };
    let mischief = inside.mischief.get_mut(what).and_then(VecDeque::pop_front);
    let content = match (&file, is_listing && query == "blobs=true") {
        (_, true) => Some(inside.listing.clone().unwrap_or_else(|| listing(&inside).to_string().into_bytes())),
        (Some(file), _) => inside.files.get(file).cloned(),
        // What a hub's redirects lead to.
        (None, _) => path.strip_prefix("/store/").and_then(|file| inside.files.get(file).cloned()),
    };
    let from = text(request.headers(), "range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match (mischief, content) {
        (Some(mischief), content) => mischief.answer(&content.unwrap_or_default(), from.unwrap_or(0)),
        (None, Some(content)) => ranged(&content, from),
        (None, None) => Mischief::Status(404, vec![("x-error-code", "EntryNotFound".into())]).answer(&[], 0),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().unwrap().to_owned())
}

fn ranged(content: &[u8], from: Option<usize>) -> Response<Body> {
    let Some(from) = from else { return Response::new(Body::from(content.to_owned())) };
    let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
    let response = Response::builder().status(StatusCode::PARTIAL_CONTENT).header("content-range", range);
    response.body(Body::from(content[from..].to_owned())).unwrap()
}

impl Mischief {
    fn answer(self, content: &[u8], from: usize) -> Response<Body> {
        let builder = Response::builder();
        match self {
            Self::Status(status, headers) => headers
                .into_iter()
                .fold(builder.status(status), |b, (k, v)| b.header(k, v))
                .body(Body::empty())
                .unwrap(),
            Self::Redirect(to) => builder.status(302).header("location", to).body(Body::empty()).unwrap(),
            Self::Instead(other) => Response::new(Body::from(other)),
            Self::WithoutRange => Response::new(Body::from(content.to_owned())),
            Self::CutAfter(n) => {
                // Not before the first bytes are on their way.
                let cut = async {
                    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                    Err(std::io::Error::other("cut"))
                };
                partly(content, from, n, stream::once(cut))
            }
            Self::SilentAfter(n) => partly(content, from, n, stream::pending()),
            Self::Endless => {
                let zeros = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 16])));
                let first = stream::iter([Ok(Bytes::from(content.to_owned()))]);
                Response::new(Body::from_stream(first.chain(zeros)))
            }
        }
    }
}

/// `n` bytes from byte `from` on, then what `end` does, under a head that promises the rest.
fn partly(
    content: &[u8],
    from: usize,
    n: usize,
    end: impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Response<Body> {
    let rest = &content[from..];
    let first = stream::iter([Ok(Bytes::from(rest[..n.min(rest.len())].to_owned()))]);
    let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
    let status = if from > 0 { 206 } else { 200 };
    let response =
        Response::builder().status(status).header("content-length", rest.len()).header("content-range", range);
    response.body(Body::from_stream(first.chain(end))).unwrap()
}
