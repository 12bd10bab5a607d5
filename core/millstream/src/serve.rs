//! `millstream serve`: config from its layers, a log on standard error, and the signals that end
//! the broker.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use millstream_broker::BrokerConfig;
use millstream_cli::Ready;
use millstream_cli::args::ServeArgs;
use tracing_subscriber::EnvFilter;

/// What is logged unless `MILLSTREAM_LOG` says otherwise; it takes tracing's filters.
const DEFAULT_FILTER: &str = "info,openraft=warn";

/// Runs a broker until SIGTERM or Ctrl-C.
pub(crate) fn serve(args: &ServeArgs) -> Result<()> {
    let filter =
        EnvFilter::try_from_env("MILLSTREAM_LOG").unwrap_or_else(|_| DEFAULT_FILTER.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let config =
        BrokerConfig::load(args.config.as_deref(), std::env::vars(), &args.overrides())?;
    let ready = |ready: &millstream_broker::Ready| {
        let ready = Ready { quic: ready.quic, ca: ready.ca_file.clone() };
        // Whoever started the broker may have closed its output; the broker runs on.
        if let Err(error) = ready.print(args) {
            tracing::warn!(%error, "the ready line could not be printed");
        }
    };
    millstream_broker::run(&config, args.repair, ready, ended).context("the broker stopped")
}

/// Completes on SIGTERM or Ctrl-C.
async fn ended() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                result = tokio::signal::ctrl_c() => return report(result),
            }
        }
    }
    report(tokio::signal::ctrl_c().await);
}

fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "signals cannot be waited for; stopping");
    }
}
