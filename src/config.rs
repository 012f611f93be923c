//! Server settings (command line and environment); nothing about pictures.

use crate::jobs::Limits;
use crate::{Error, Result, memory};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where and for whom the server listens, and how much it takes at once.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerConfig {
    /// Address and port to listen on
    #[arg(long, env = "LIMNER_LISTEN", default_value = "127.0.0.1:7860", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Folder of jobs and pictures [default: limner's folder among the user's data]
    #[arg(long, env = "LIMNER_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Another host name under which browsers reach this server (repeatable)
    #[arg(long, env = "LIMNER_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    pub allow_host: Vec<String>,
    /// What programs and browsers have to know to be let in; wanted when --listen is not a loopback address
    #[arg(long, env = "LIMNER_TOKEN", hide_env_values = true, value_name = "TEXT",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub token: Option<String>,
    /// Let everybody in who can reach a --listen address beyond loopback
    #[arg(long, conflicts_with = "token")]
    pub no_token: bool,
    /// How many jobs may wait besides the one that is drawn
    #[arg(long, env = "LIMNER_QUEUE", default_value_t = 64, value_name = "N")]
    pub queue: usize,
    /// How much the uploads of open jobs may take together
    #[arg(long, env = "LIMNER_QUEUE_MIB", default_value_t = 512, value_name = "MIB")]
    pub queue_mib: u32,
    /// Largest request body
    #[arg(long, env = "LIMNER_MAX_BODY_MIB", default_value_t = 32, value_name = "MIB",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_body_mib: u32,
    /// How much the weights of all models in memory may take together [default: 60 % of the machine's memory]
    #[arg(long, env = "LIMNER_MEMORY_MIB", value_name = "MIB")]
    pub memory_mib: Option<u64>,
    /// Do not let models be fetched or removed from the page and by programs; so it is anyway where a --listen address
    /// beyond loopback has no token
    #[arg(long, env = "LIMNER_NO_PULL")]
    pub no_pull: bool,
    /// How long a picture in the making may go on after Ctrl+C
    #[arg(long, env = "LIMNER_DRAIN_SECONDS", default_value_t = 10, value_name = "SECONDS")]
    pub drain_seconds: u64,
}

impl ServerConfig {
    /// The folder of jobs and pictures. Fails when none was named and the system has no place for a user's data.
    pub fn data_folder(&self) -> Result<PathBuf> {
        let named = self.data.clone().or_else(|| Some(dirs::data_dir()?.join("limner")));
        named.ok_or_else(|| {
            Error::Server("there is no home folder to keep pictures in; name a folder with --data".into())
        })
    }

    /// Refuses to let a whole network in by accident.
    pub fn check(&self) -> Result<()> {
        if self.listen.ip().is_loopback() || self.token.is_some() || self.no_token {
            return Ok(());
        }
        let listen = self.listen;
        Err(Error::Server(format!(
            "{listen} can be reached from other machines: choose a token with --token (or LIMNER_TOKEN), or let \
             everybody in with --no-token"
        )))
    }

    /// Whether those who are let in may fetch and remove models. Nobody is asked who they are where there is no token.
    pub fn may_pull(&self) -> bool {
        !self.no_pull && (self.listen.ip().is_loopback() || self.token.is_some())
    }

    /// How much may be open at once.
    pub fn limits(&self) -> Limits {
        Limits {
            jobs: self.queue + 1,
            upload_bytes: u64::from(self.queue_mib) << 20,
            batch: rayon::current_num_threads(),
        }
    }

    /// Bytes that models in memory may take together. Where nothing is known of the machine's memory, 8 GiB.
    pub fn memory(&self) -> u64 {
        let by_itself = || memory::total_bytes().map_or(8 << 30, |total| total / 10 * 6);
        self.memory_mib.map_or_else(by_itself, |mib| mib.saturating_mul(1 << 20))
    }

    /// The largest request body in bytes.
    pub fn max_body(&self) -> usize {
        self.max_body_mib as usize * (1 << 20)
    }
}
