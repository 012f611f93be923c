//! One request and its answer, read on a thread of its own: whoever waits for it can be stopped at any time, also while
//! the other side says nothing.

use super::address;
use super::patience::Trouble;
use crate::Error;
use crate::hub::Fault;
use crate::hub::watcher::GLANCE;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use ureq::Agent;
use ureq::http::header::LOCATION;
use ureq::http::response::Parts;
use ureq::http::{Request, Uri};

/// How much is read at a time, and how many such pieces may wait to be used.
const CHUNK: usize = 1 << 17;
const AHEAD: usize = 8;

const CERTIFICATES: &str = "if that host's certificate is signed by an authority of your own, name it in SSL_CERT_FILE";

/// An answer whose body comes in pieces.
pub(in crate::hub) struct Answer {
    pub(in crate::hub) head: Parts,
    /// Who answered.
    pub(super) from: Uri,
    body: Receiver<io::Result<Vec<u8>>>,
}

/// Sends `request` to `at`. Trouble on the way is worth another attempt, unless that would go the same way.
pub(super) fn exchange(agent: &Agent, request: Request<()>, at: &Uri, cancel: &AtomicBool) -> Result<Answer, Trouble> {
    let (to_head, head) = sync_channel(1);
    let (to_body, body) = sync_channel(AHEAD);
    let agent = agent.clone();
    std::thread::spawn(move || match agent.run(request) {
        Err(error) => drop(to_head.send(Err(error))),
        Ok(response) => {
            let (head, body) = response.into_parts();
            if to_head.send(Ok(head)).is_ok() {
                pump(body.into_reader(), &to_body);
            }
        }
    });
    match receive(&head, cancel)? {
        Some(Ok(head)) => Ok(Answer { head, from: at.clone(), body }),
        Some(Err(error)) => Err(unreachable(at, &error)),
        None => Err(unreachable(at, &ureq::Error::ConnectionFailed)),
    }
}

/// Reads until the end, a fault, or nobody listens any more.
fn pump(mut body: impl Read, to: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut chunk = vec![0; CHUNK];
        let read = body.read(&mut chunk).map(|n| {
            chunk.truncate(n);
            chunk
        });
        let over = read.as_ref().map_or(true, Vec::is_empty);
        if read.as_ref().is_ok_and(Vec::is_empty) || to.send(read).is_err() || over {
            return;
        }
    }
}

/// The next message; none once the other side is gone.
fn receive<T>(from: &Receiver<T>, cancel: &AtomicBool) -> Result<Option<T>, Trouble> {
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled.into());
        }
        match from.recv_timeout(GLANCE) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Answer {
    /// The next piece of the body; none at its end.
    pub(in crate::hub) fn next(&mut self, cancel: &AtomicBool) -> Result<Option<Vec<u8>>, Trouble> {
        match receive(&self.body, cancel)? {
            None => Ok(None),
            Some(Ok(chunk)) => Ok(Some(chunk)),
            Some(Err(error)) => {
                let message = format!("the connection to {} broke off: {error}", address::host(&self.from));
                Err(Trouble::again(Error::Hub(Fault::Unreachable(message))))
            }
        }
    }

    /// A header, if it is text.
    pub(in crate::hub) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// Where this answer sends us.
    pub(super) fn redirect(&self) -> Option<&str> {
        let redirects = matches!(self.head.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        self.header(LOCATION.as_str()).filter(|_| redirects)
    }
}

/// No answer. A wrong name or certificate stays wrong; everything else may be better a second later.
fn unreachable(at: &Uri, error: &ureq::Error) -> Trouble {
    let host = address::host(at);
    let fault = |hint: &str| Error::Hub(Fault::Unreachable(format!("{host} cannot be reached: {error}; {hint}")));
    match error {
        ureq::Error::HostNotFound => fault("check the connection, and HF_ENDPOINT if it is set").into(),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => fault(CERTIFICATES).into(),
        // What rustls says of a certificate.
        ureq::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => fault(CERTIFICATES).into(),
        _ => Trouble::again(fault("check the connection, and HF_ENDPOINT if it is set")),
    }
}
