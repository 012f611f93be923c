//! Connections: accepted, served, and at the end drained.
//!
//! axum's own `serve` sets no time limit for request heads, so that clients which send one byte a minute hold
//! connections for ever; hence this loop.

use super::{App, router};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a client may take to send a request's head, and an idle connection may stay.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// How many connections are open at once; more wait in the system's backlog.
const MAX_CONNECTIONS: usize = 512;

/// Serves until `shutdown` ends, then gives the job that runs `drain_seconds`, and returns. Jobs that wait stay in the database.
pub async fn serve(listener: TcpListener, app: App, shutdown: impl Future<Output = ()>) {
    let (routes, places, graceful) =
        (router(app.clone()), Arc::new(Semaphore::new(MAX_CONNECTIONS)), GracefulShutdown::new());
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            (stream, place) = accept(&listener, &places) => {
                tokio::spawn(connection(stream, routes.clone(), graceful.watcher(), place));
            }
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    drain(&app, graceful).await;
}

/// The next connection, once there is a place for it. None when the semaphore was closed, which nobody does.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    let place = places.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                // Out of file descriptors, most likely: others must close first.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, routes: Router, watcher: Watcher, place: Option<OwnedSemaphorePermit>) {
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
    drop(place);
}

/// Streams end at once; the job that runs may finish until the deadline, and is put back for the next server after it.
async fn drain(app: &App, graceful: GracefulShutdown) {
    app.jobs().close();
    app.stopping().cancel();
    let pulls = app.pulls().clone();
    let ended = tokio::task::spawn_blocking(move || pulls.close());
    let idle = async {
        app.idle().await;
        let _ = ended.await;
        graceful.shutdown().await;
    };
    tokio::pin!(idle);
    if timeout(Duration::from_secs(app.config().drain_seconds), &mut idle).await.is_err() {
        app.jobs().put_back_running();
        // One more step, and the time to say so.
        let _ = timeout(Duration::from_secs(3), idle).await;
    }
}
