//! The `millstream` binary: the command line of `millstream-cli`, with the broker of
//! `millstream-broker` behind `serve`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use millstream_broker::{BrokerConfig, DirectoryError, RunError};
use millstream_cli::Ready;
use millstream_cli::args::{Cli, Command, ServeArgs};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
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
    let stdin_ended = args.end_with_stdin.then(end_of_stdin);
    millstream_broker::run(&config, args.repair, ready, async || {
        if let Err(error) = asked_to_stop(stdin_ended).await {
            tracing::error!(%error, "stopping, since signals cannot be received");
        }
    })
    .map_err(with_advice)
}

/// What to do where the broker's own words do not say it.
fn with_advice(error: RunError) -> anyhow::Error {
    let advice = match &error {
        RunError::Directory { source: DirectoryError::Open(_), .. } => {
            "stop the broker that uses it and see that it may be written, or choose another \
             directory with --dir"
        }
        RunError::Directory { source: DirectoryError::NotOurs { .. }, .. } => {
            "choose another directory with --dir"
        }
        _ => return error.into(),
    };
    millstream_cli::advised(error.to_string(), advice)
}

/// Returns on SIGTERM or Ctrl-C, or when standard input has ended, if that is looked at.
async fn asked_to_stop(stdin_ended: Option<oneshot::Receiver<()>>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot receive SIGTERM")?;
    let ended = async {
        match stdin_ended {
            Some(ended) => drop(ended.await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupt = tokio::signal::ctrl_c() => interrupt.context("cannot receive Ctrl-C"),
        () = ended => Ok(()),
    }
}

/// Completes when standard input ends. A thread of its own waits for that, which no runtime waits
/// for: it ends with the process at the latest.
fn end_of_stdin() -> oneshot::Receiver<()> {
    let (ended, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        // An input that cannot be read has ended as well.
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        ended.send(())
    });
    receiver
}
