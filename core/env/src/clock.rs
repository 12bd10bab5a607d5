//! Wall-clock and monotonic time, real or simulated.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_types::TimestampMs;

/// Monotonic time since the clock was made. Never goes back.
pub type Monotonic = Duration;

/// A source of time. Decisions never hold one: they take `now` as an argument.
pub trait Clock: Debug + Send + Sync {
    /// Wall-clock time. May jump; only timestamps and retention look at it.
    fn wall(&self) -> TimestampMs;

    /// Monotonic time, for deadlines and durations.
    fn monotonic(&self) -> Monotonic;
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the home of the real clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the home of the real clock")]
    fn wall(&self) -> TimestampMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Monotonic {
        self.start.elapsed()
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct SimClock {
    wall_ms: AtomicI64,
    monotonic_ns: AtomicU64,
}

impl SimClock {
    /// A clock that shows `wall` and has run for no time.
    #[must_use]
    pub fn new(wall: TimestampMs) -> Self {
        Self { wall_ms: AtomicI64::new(wall.0), monotonic_ns: AtomicU64::new(0) }
    }

    /// Lets `by` pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
        self.monotonic_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Makes the wall clock jump, as operators and time servers do.
    pub fn set_wall(&self, wall: TimestampMs) {
        self.wall_ms.store(wall.0, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn wall(&self) -> TimestampMs {
        TimestampMs(self.wall_ms.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Monotonic {
        Duration::from_nanos(self.monotonic_ns.load(Ordering::Relaxed))
    }
}
