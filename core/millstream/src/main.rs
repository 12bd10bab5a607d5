//! The `millstream` binary: the command line of `millstream-cli`, with the broker of
//! `millstream-broker` behind `serve`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use millstream_broker::BrokerConfig;
use millstream_cli::Ready;
use millstream_cli::args::{Cli, Command, ServeArgs};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A client's warnings are its errors' details; a broker tells of its life, though not of each
    // step of its quorum.
    let is_broker = matches!(cli.command, Command::Serve(_));
    start_logging(if is_broker { "info,openraft=warn" } else { "error" });
    millstream_cli::run(cli, serve)
}

/// Logs go to standard error: `MILLSTREAM_LOG` says how much, `MILLSTREAM_LOG_FORMAT=json` how.
fn start_logging(default: &str) {
    let filter = EnvFilter::try_from_env("MILLSTREAM_LOG").unwrap_or_else(|_| default.into());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if std::env::var("MILLSTREAM_LOG_FORMAT").is_ok_and(|format| format == "json") {
        logs.json().init();
    } else {
        logs.init();
    }
}

fn serve(args: &ServeArgs) -> Result<()> {
    let config = BrokerConfig::load(args.config.as_deref(), std::env::vars(), &args.overrides())?;
    let ready = |broker: &millstream_broker::Ready| {
        let ready = Ready { quic: broker.quic, ca: broker.ca_file.clone() };
        if let Err(error) = ready.print(args) {
            // Whoever started it is no longer listening; its clients may be.
            tracing::warn!(%error, "cannot say on standard output that the broker is ready");
        }
    };
    millstream_broker::run(&config, args.repair, ready, async || {
        if let Err(error) = asked_to_stop().await {
            tracing::error!(%error, "stopping, since signals cannot be received");
        }
    })?;
    Ok(())
}

/// Returns on SIGTERM or Ctrl-C.
async fn asked_to_stop() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot receive SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupt = tokio::signal::ctrl_c() => interrupt.context("cannot receive Ctrl-C"),
    }
}
