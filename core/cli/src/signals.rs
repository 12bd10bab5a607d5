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
    const ALL: [Self; 3] = [Self::Interrupt, Self::Terminate, Self::Hangup];

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
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Endings {
    /// A signal that whoever started this process has it ignore, as nohup does, stays ignored.
    pub(crate) fn receive() -> Result<Self> {
        let ignored = ignored_signals();
        let [interrupt, terminate, hangup] = Ending::ALL.map(|ending| {
            let number = ending.kind().as_raw_value();
            let is_ignored = ignored >> number.saturating_sub(1) & 1 == 1;
            (!is_ignored).then(|| signal(ending.kind())).transpose()
        });
        let refused = "cannot receive signals";
        Ok(Self {
            interrupt: interrupt.context(refused)?,
            terminate: terminate.context(refused)?,
            hangup: hangup.context(refused)?,
        })
    }

    /// The first to come.
    pub(crate) async fn next(&mut self) -> Ending {
        tokio::select! {
            () = came(&mut self.interrupt) => Ending::Interrupt,
            () = came(&mut self.terminate) => Ending::Terminate,
            () = came(&mut self.hangup) => Ending::Hangup,
        }
    }
}

async fn came(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}

/// The signals that this process ignores, a bit each from the lowest on; none where the operating
/// system does not say.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    mask(&status, "SigIgn:").unwrap_or(0)
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
        for ending in Ending::ALL {
            assert_eq!(i32::from(ending.exit_code()), 128 + ending.kind().as_raw_value());
        }
    }

    #[test]
    fn ignored_signals_are_read_as_bits() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(mask(status, "SigIgn:"), Some(0x1001));
        assert_eq!(mask("Name:\tx\n", "SigIgn:"), None);
    }
}
