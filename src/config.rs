//! Server settings (command line and environment); nothing about pictures.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where and for whom the server listens, and how much it takes at once.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerConfig {
    /// Address and port to listen on
    #[arg(long, env = "LIMNER_LISTEN", default_value = "127.0.0.1:7860", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Keep a copy of every picture in this folder
    #[arg(long, env = "LIMNER_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Another host name under which browsers reach this server (repeatable)
    #[arg(long, env = "LIMNER_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    pub allow_host: Vec<String>,
    /// How many requests may wait besides the one that is drawn
    #[arg(long, env = "LIMNER_QUEUE", default_value_t = 8, value_name = "N")]
    pub queue: usize,
    /// Largest request body
    #[arg(long, env = "LIMNER_MAX_BODY_MIB", default_value_t = 32, value_name = "MIB",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_body_mib: u32,
    /// How long a picture in the making may go on after Ctrl+C
    #[arg(long, env = "LIMNER_DRAIN_SECONDS", default_value_t = 10, value_name = "SECONDS")]
    pub drain_seconds: u64,
}

impl ServerConfig {
    /// The largest request body in bytes.
    pub fn max_body(&self) -> usize {
        self.max_body_mib as usize * (1 << 20)
    }
}
