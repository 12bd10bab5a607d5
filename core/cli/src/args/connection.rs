//! How a command finds and trusts a broker.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

/// The bootstrap address of commands that are given none.
pub(crate) const DEFAULT_BOOTSTRAP: &str = "localhost:9092";
/// Where `millstream serve` leaves its certificate authority by default.
pub(crate) const DEFAULT_CA: &str = "./millstream-data/tls/ca.pem";

/// How a command finds and trusts a broker; on every command that is a client of one.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// Brokers to ask first, as HOST:PORT; several with commas [default: localhost:9092]
    #[arg(
        short,
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "MILLSTREAM_BOOTSTRAP",
        hide_env_values = true
    )]
    pub bootstrap: Vec<String>,
    /// The certificate authority to trust, as PEM [default: ./millstream-data/tls/ca.pem, if there]
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_CA", hide_env_values = true)]
    pub ca: Option<PathBuf>,
    /// This client's certificate chain, as PEM, for brokers that ask for one
    #[arg(
        long,
        value_name = "FILE",
        env = "MILLSTREAM_CERT",
        hide_env_values = true,
        requires = "cert_key"
    )]
    pub cert: Option<PathBuf>,
    /// The private key of --cert, as PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "MILLSTREAM_CERT_KEY",
        hide_env_values = true,
        requires = "cert"
    )]
    pub cert_key: Option<PathBuf>,
    /// How long to try to connect, and to wait for each answer
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        env = "MILLSTREAM_TIMEOUT", hide_env_values = true,
        value_parser = humantime::parse_duration
    )]
    pub timeout: Duration,
}

impl ConnectionArgs {
    /// The addresses to ask, the default one where none is given.
    #[must_use]
    pub fn bootstrap_or_default(&self) -> Vec<String> {
        if self.bootstrap.is_empty() {
            vec![DEFAULT_BOOTSTRAP.to_owned()]
        } else {
            self.bootstrap.clone()
        }
    }

    /// The certificate authority to trust: the one named, else the local broker's if there is one.
    #[must_use]
    pub fn ca_or_default(&self) -> Option<PathBuf> {
        let local = || Path::new(DEFAULT_CA).is_file().then(|| PathBuf::from(DEFAULT_CA));
        self.ca.clone().or_else(local)
    }

    /// The connection to a broker that this process started.
    #[must_use]
    pub fn to_own_broker(&self, address: String, ca: PathBuf) -> Self {
        Self { bootstrap: vec![address], ca: Some(ca), ..self.clone() }
    }
}
