//! How fast replays out of the archive may be while records are being produced. An old record that
//! comes a little later hurts nobody; a producer that waits behind a burst of them is hurt at once.
//!
//! Replays come in small pieces, each in its turn, so that neither the network thread nor the
//! consumers' processes are busy with them for long at a stretch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use millstream_env::clock::{Clock, Monotonic};

/// Bytes of a piece; a batch that is larger is one by itself.
pub(crate) const PIECE_BYTES: usize = 128 * 1024;
/// Nothing was produced for so long: replays may have it all.
const CALM: Duration = Duration::from_millis(200);
/// What was not used counts for so long: timers are no finer than this.
const CREDIT: Duration = Duration::from_millis(2);

/// The share of all replays together.
#[derive(Debug)]
pub(crate) struct Pace {
    /// 0: as fast as they can.
    bytes_per_second: u64,
    /// Batches that were produced.
    produced: AtomicU64,
    turns: Mutex<Turns>,
}

#[derive(Debug)]
struct Turns {
    /// When the next piece may go, if nobody waits.
    next: Monotonic,
    /// What had been produced at the last look, and when that was.
    produced: u64,
    looked: Option<Monotonic>,
    /// When it was last found to have grown since a look just before.
    moved: Option<Monotonic>,
}

impl Pace {
    pub(crate) const fn new(bytes_per_second: u64) -> Self {
        let turns = Turns { next: Monotonic::ZERO, produced: 0, looked: None, moved: None };
        Self { bytes_per_second, produced: AtomicU64::new(0), turns: Mutex::new(turns) }
    }

    /// A batch was produced.
    pub(crate) fn note_produced(&self) {
        self.produced.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until a piece of `bytes` may go.
    pub(crate) async fn turn(&self, clock: &dyn Clock, bytes: usize) {
        let wait = self.wait(clock.monotonic(), bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long a piece has to wait. It counts as sent then, whether it will be or not.
    fn wait(&self, now: Monotonic, bytes: usize) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        // Every critical section leaves the turns right, so that poison says nothing here.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let produced = self.produced.load(Ordering::Relaxed);
        let is_recent = |at: Option<Monotonic>| at.is_some_and(|at| now.saturating_sub(at) < CALM);
        // Of what came since a look long ago nobody knows when.
        if produced != turns.produced && is_recent(turns.looked) {
            turns.moved = Some(now);
        }
        turns.produced = produced;
        turns.looked = Some(now);
        if !is_recent(turns.moved) {
            turns.next = now;
            return Duration::ZERO;
        }
        let begin = turns.next.max(now.saturating_sub(CREDIT));
        let takes = (bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second;
        turns.next = begin.saturating_add(Duration::from_nanos(takes));
        begin.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;
    const MS: Duration = Duration::from_millis(1);

    /// Sends pieces until so much time has passed; returns how many bytes went.
    fn replay(pace: &Pace, from: Duration, during: Duration, produces: bool) -> usize {
        let (mut now, mut sent) = (from, 0);
        while now < from + during && sent < 1000 * MIB {
            if produces {
                pace.note_produced();
            }
            now += pace.wait(now, PIECE_BYTES);
            sent += PIECE_BYTES;
        }
        sent
    }

    #[test]
    fn replays_keep_to_their_share_only_while_records_are_produced() {
        let pace = Pace::new(64 * MIB as u64);
        assert_eq!(replay(&pace, Duration::ZERO, 1000 * MS, false), 1000 * MIB, "nobody else");
        let sent = replay(&pace, 1000 * MS, 1000 * MS, true);
        assert!((64 * MIB..=65 * MIB).contains(&sent), "{sent}");
        assert_eq!(replay(&pace, 2000 * MS + CALM, 1000 * MS, false), 1000 * MIB, "calm again");
    }

    #[test]
    fn what_was_produced_long_ago_keeps_nobody_back() {
        let pace = Pace::new(64 * MIB as u64);
        pace.note_produced();
        assert_eq!(replay(&pace, 5000 * MS, MS, false), 1000 * MIB, "the first look");
        pace.note_produced();
        assert_eq!(replay(&pace, 9000 * MS, MS, false), 1000 * MIB, "one after a pause");
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let pace = Pace::new(64 * MIB as u64);
        replay(&pace, Duration::ZERO, 10 * MS, true);
        let sent = replay(&pace, 5000 * MS, 100 * MS, true);
        assert!(sent <= 7 * MIB, "{sent}");
    }

    #[test]
    fn zero_is_no_bound() {
        let pace = Pace::new(0);
        assert_eq!(replay(&pace, Duration::ZERO, MS, true), 1000 * MIB);
    }
}
