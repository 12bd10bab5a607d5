//! When records are due, and waiting for that moment more exactly than a runtime's timers do.

use std::time::Duration;

/// Above one record a tick, those of one tick are due together: to wait for each alone would take
/// the load a wake-up, and so more of a processor than the broker takes to store it.
const TICK_NS: f64 = 100_000.0;

/// When the records of one producer are due.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Schedule {
    /// As soon as the broker takes them.
    Maximum,
    /// At a fixed distance, whether the broker keeps up or not.
    Every {
        /// When the first is due, since the clock began.
        first: Duration,
        /// The distance in nanoseconds.
        interval_ns: f64,
    },
}

impl Schedule {
    /// The schedule of producer `index` of `producers` that together send `rate` records a second
    /// from `start` on; they take turns.
    #[must_use]
    pub fn new(rate: Option<u64>, start: Duration, index: u32, producers: u32) -> Self {
        let Some(rate) = rate else { return Self::Maximum };
        let between_ns = 1e9 / crate::values::as_f64(rate.max(1));
        Self::Every {
            first: start + Duration::from_nanos(1).mul_f64(between_ns * f64::from(index)),
            interval_ns: between_ns * f64::from(producers),
        }
    }

    /// When record `number`, from 0, is due; `now` where it is due as soon as possible.
    #[must_use]
    pub fn due(&self, number: u64, now: Duration) -> Duration {
        match self {
            Self::Maximum => now,
            Self::Every { first, interval_ns } => {
                let after_ns = crate::values::as_f64(number) * interval_ns;
                let after_ns = if *interval_ns < TICK_NS {
                    (after_ns / TICK_NS).floor() * TICK_NS
                } else {
                    after_ns
                };
                *first + Duration::from_nanos(1).mul_f64(after_ns)
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod timer {
    use std::io;
    use std::time::Duration;

    use anyhow::{Context as _, Result};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe;

    /// A timer of the kernel's, exact to microseconds where a runtime's own rounds to
    /// milliseconds: at 100,000 records a second that would be 100 at a time.
    #[derive(Debug)]
    pub struct Timer {
        // A timerfd is waited for and read as a pipe is, so that it needs no registration of its
        // own with the runtime.
        fd: pipe::Receiver,
    }

    impl Timer {
        /// A timer that waits for nothing yet.
        ///
        /// # Errors
        /// The system has none left.
        pub fn new() -> Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let fd = timerfd_create(TimerfdClockId::Monotonic, flags).context("timerfd_create")?;
            let fd = pipe::Receiver::from_owned_fd_unchecked(fd);
            Ok(Self { fd: fd.context("cannot wait for a timer")? })
        }

        /// Returns after `wait`, or at once where it is zero.
        ///
        /// # Errors
        /// The timer cannot be set or read.
        pub async fn wait(&mut self, wait: Duration) -> Result<()> {
            if wait.is_zero() {
                return Ok(());
            }
            let it_value = Timespec::try_from(wait).context("a wait that is too long")?;
            let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            let once = Itimerspec { it_interval, it_value };
            // Setting it also forgets that it fired before.
            timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)
                .context("timerfd_settime")?;
            loop {
                self.fd.readable().await.context("cannot wait for a timer")?;
                let mut expirations = [0; 8];
                match self.fd.try_read(&mut expirations) {
                    Ok(_) => return Ok(()),
                    // It was ready from an earlier time: wait for this one.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("cannot read a timer"),
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod timer {
    use std::time::Duration;

    use anyhow::Result;

    /// The runtime's timer, exact to a millisecond.
    #[derive(Debug)]
    pub struct Timer {}

    impl Timer {
        /// A timer that waits for nothing yet.
        ///
        /// # Errors
        /// The system has none left.
        pub fn new() -> Result<Self> {
            Ok(Self {})
        }

        /// Returns after `wait`.
        ///
        /// # Errors
        /// None here.
        pub async fn wait(&mut self, wait: Duration) -> Result<()> {
            tokio::time::sleep(wait).await;
            Ok(())
        }
    }
}

pub use timer::Timer;

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_env::clock::{Clock as _, SystemClock};

    #[test]
    fn producers_take_turns() {
        let start = Duration::from_secs(1);
        let due = |index, number| Schedule::new(Some(1000), start, index, 2).due(number, start);
        assert_eq!(due(0, 0), Duration::from_micros(1_000_000));
        assert_eq!(due(1, 0), Duration::from_micros(1_001_000));
        assert_eq!(due(0, 1), Duration::from_micros(1_002_000));
        assert_eq!(due(1, 500), Duration::from_micros(2_001_000));
    }

    #[test]
    fn fast_records_come_due_in_ticks() {
        let start = Duration::from_secs(1);
        let schedule = Schedule::new(Some(80_000), start, 0, 1);
        let due: Vec<_> = (0..17).map(|number| schedule.due(number, start) - start).collect();
        let tick = Duration::from_micros(100);
        assert_eq!(due[..8], [Duration::ZERO; 8]);
        assert_eq!(due[8..16], [tick; 8]);
        assert_eq!(due[16], 2 * tick);
    }

    #[test]
    fn without_a_rate_everything_is_due_now() {
        let now = Duration::from_secs(7);
        assert_eq!(Schedule::new(None, Duration::ZERO, 0, 1).due(99, now), now);
    }

    #[test]
    fn the_timer_never_fires_early_and_can_be_set_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut timer = Timer::new().unwrap();
            for wait in [300, 50, 2000, 0, 700].map(Duration::from_micros) {
                let clock = SystemClock::new();
                timer.wait(wait).await.unwrap();
                assert!(clock.monotonic() >= wait, "{wait:?}");
            }
        });
    }
}
