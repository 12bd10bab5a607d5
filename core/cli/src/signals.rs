//! Signals that ask a command to end. What it started ends with it, and what it made for a while
//! is removed, since its futures are dropped instead of the process ending on the spot.

use std::future::pending;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that asks a command to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Ctrl-C.
    Interrupt,
    Terminate,
    /// The terminal is gone.
    Hangup,
}

impl Ending {
    const fn kind(self) -> SignalKind {
        match self {
            Self::Interrupt => SignalKind::interrupt(),
            Self::Terminate => SignalKind::terminate(),
            Self::Hangup => SignalKind::hangup(),
        }
    }

    /// What shells report of a process that ended by this signal: 128 and its number.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupted",
            Self::Terminate => "terminated",
            Self::Hangup => "the terminal hung up",
        }
    }
}

/// The failure of a command that was asked to end before it was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ended(pub(crate) Ending);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.words())
    }
}

impl std::error::Error for Ended {}

/// Receives the signals, from when it is made.
#[derive(Debug)]
pub(crate) struct Endings {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Endings {
    /// A hangup that whoever started this process has it ignore, as nohup does, stays ignored.
    pub(crate) fn receive() -> Result<Self> {
        let receive = |ending: Ending| signal(ending.kind()).context("cannot receive signals");
        let hangup = (!ignores(Ending::Hangup)).then(|| receive(Ending::Hangup)).transpose()?;
        Ok(Self {
            interrupt: receive(Ending::Interrupt)?,
            terminate: receive(Ending::Terminate)?,
            hangup,
        })
    }

    /// The first to come.
    pub(crate) async fn next(&mut self) -> Ending {
        let Self { interrupt, terminate, hangup } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => Ending::Interrupt,
            _ = terminate.recv() => Ending::Terminate,
            () = hangup => Ending::Hangup,
        }
    }
}

/// Whether this process ignores a signal; not where the operating system does not say.
fn ignores(ending: Ending) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = mask(&status, "SigIgn:").unwrap_or(0);
    let bit = ending.kind().as_raw_value().saturating_sub(1);
    ignored >> bit & 1 == 1
}

fn mask(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_that_shells_report() {
        for ending in [Ending::Interrupt, Ending::Terminate, Ending::Hangup] {
            assert_eq!(i32::from(ending.exit_code()), 128 + ending.kind().as_raw_value());
        }
    }

    #[test]
    fn a_mask_of_signals_is_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(mask(status, "SigIgn:"), Some(0x1001));
        assert_eq!(mask("Name:\tx\n", "SigIgn:"), None);
    }
}
