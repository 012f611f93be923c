//! `limner serve`: the page and the API.

use super::model::ModelArgs;
use crate::config::ServerConfig;
use crate::hub::{self, Hub, Pulls};
use crate::library::{Library, Settings};
use crate::model::checkpoint;
use crate::server::{self, App};
use crate::{Error, Result};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `limner serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ServerConfig,
    #[command(flatten)]
    model: ModelArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime
        .map_err(|error| Error::Server(format!("the server's threads could not be started: {error}")))?
        .block_on(serve(args))
}

/// Binds first, so that a taken port is known before a large model is read; clients that come early wait in the backlog.
async fn serve(args: Args) -> Result<()> {
    let began = Instant::now();
    args.config.check()?;
    let listener = bind(args.config.listen).await?;
    let address = listener.local_addr().map_err(|error| cannot_listen(args.config.listen, &error))?;
    let device = args.model.device()?;
    let library = Arc::new(Library::new(Settings {
        places: checkpoint::places(),
        first: args.model.folder()?,
        precision: args.model.precision(&device),
        device,
        budget: args.config.memory(),
    }));
    let first = library.clone();
    let load = tokio::task::spawn_blocking(move || first.lend("", &mut || Ok(())).map(drop)).await;
    load.map_err(|error| Error::Server(error.to_string()))??;
    let folder = args.config.data_folder()?;
    let app = App::start(args.config, &folder, library, Pulls::new(Hub::from_env, hub::folders()))?;
    say(&format!(
        "Limner is listening on http://{address} (model {}, ready in {:.2} s). Ctrl+C ends it.",
        app.library().first(),
        began.elapsed().as_secs_f64()
    ));
    say(&format!("Jobs and pictures are kept in {}.", folder.display()));
    server::serve(listener, app, shutdown()).await;
    say("Limner has stopped.");
    Ok(())
}

/// A line on standard output, flushed; a reader that has gone away is no reason to panic, as `println!` would.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Error {
    Error::Server(match error.kind() {
        ErrorKind::AddrInUse => {
            format!("{address} is taken by another program (another limner?); choose another with --listen")
        }
        ErrorKind::PermissionDenied => {
            format!("not allowed to listen on {address}; ports below 1024 need privileges, see --listen")
        }
        _ => format!("cannot listen on {address}: {error}"),
    })
}

/// Ends with the first Ctrl+C or SIGTERM. The second one ends the program at once.
async fn shutdown() {
    interrupted().await;
    say("Stopping; the picture in the making may be finished. Ctrl+C again ends at once.");
    tokio::spawn(async {
        interrupted().await;
        std::process::exit(130);
    });
}

async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => (),
            _ = terminate.recv() => (),
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
