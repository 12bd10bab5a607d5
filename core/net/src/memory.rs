//! What received frames may hold of memory, until they are answered.
//!
//! A frame's *claim*, the length in its header, costs its sender nothing, so that it counts in its
//! own connection's account alone: who claims too much waits for itself. What has *arrived* is
//! counted in an account that all connections share, in steps that never go beyond twice what is
//! there. Calls and opens have accounts apart from batches, and short ones, which all the rest
//! depends on, need no shared account: their connection's own account bounds them.
//!
//! Nothing here deadlocks. A claim is granted whole, before the frame holds anything else. In a
//! shared account frames do wait for more while they hold some, and many could hold all of it with
//! none complete. Therefore each shared account keeps room for some whole frames apart: the
//! finishers. A frame that must wait, waits for its step or for a finisher, whichever comes
//! first, and a frame that has a finisher never waits for memory again. It ends when it
//! is answered, or when its peer does not send the rest in time; then the finisher passes on in the
//! order of waiting. So whenever frames wait, one is on its way to its end, and each has its turn.
//!
//! Frames that hold memory and stand still would make those turns long. While others wait, a frame
//! must therefore arrive faster than at other times: [`PATIENCE`] and [`PAUSE_MAX`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream_types::limits::{CONTROL_BODY_BYTES_MAX, FRAME_BODY_BYTES_MAX};
use millstream_wire::frame::FrameKind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::counters::{Counters, add, subtract};

/// While frames wait for memory, what holds some must have arrived so long after its first byte.
/// Enough for the longest batch at 4 MiB/s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);
/// And without a pause so long: many that stand still must not have [`PATIENCE`] each in turn.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The unit in which memory is accounted for.
pub(crate) const UNIT_BYTES: usize = 1024;
/// The longest step by which a frame's share grows.
const STEP_BYTES_MAX: usize = 256 * 1024;
/// Calls and opens up to this size need no shared account.
const SHORT_CONTROL_BYTES_MAX: usize = 64 * 1024;
/// What longer ones of all connections may hold.
const CONTROL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What those of one connection may claim, of whatever length.
const CONNECTION_CONTROL_BYTES_MAX: usize = 16 * 1024 * 1024;

const _: () = assert!(CONTROL_BODY_BYTES_MAX <= CONNECTION_CONTROL_BYTES_MAX);
const _: () = assert!(CONTROL_BODY_BYTES_MAX < CONTROL_BYTES_MAX);

/// Whole units: no frame is longer than a `u32` says.
pub(crate) fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

pub(crate) fn semaphore(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes / UNIT_BYTES).min(Semaphore::MAX_PERMITS)))
}

/// An account that all connections share.
#[derive(Debug)]
struct Account {
    units: Arc<Semaphore>,
    /// Each permit is room for one frame of any length, beside `units`.
    finisher: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// What a frame was granted.
enum Grant {
    Units(OwnedSemaphorePermit),
    Rest(OwnedSemaphorePermit),
}

/// Counts a waiter for as long as it waits.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(crate) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Account {
    /// Of `bytes` in all, which is at least `frame_bytes_max`; a quarter of it, but one frame at
    /// least, is for finishers.
    fn new(bytes: usize, frame_bytes_max: usize) -> Arc<Self> {
        let finishers = (bytes / 4 / frame_bytes_max).max(1);
        Arc::new(Self {
            units: semaphore(bytes.saturating_sub(finishers * frame_bytes_max)),
            finisher: Arc::new(Semaphore::new(finishers)),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Waits for `units`, or for the finisher. `None` never happens: accounts are never closed.
    ///
    /// Cancelled, it gives up its place. To keep it would let a stream that nobody reads on, as its
    /// peer takes no acknowledgements, stand at the head of all others.
    async fn take(&self, units: u32) -> Option<Grant> {
        // Never overtakes: what is given back goes to those who wait before it can be had here.
        if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            return Some(Grant::Units(permit));
        }
        let _waiting = Waiting::new(&self.waiting);
        tokio::select! {
            biased;
            permit = Arc::clone(&self.units).acquire_many_owned(units) => {
                permit.ok().map(Grant::Units)
            }
            permit = Arc::clone(&self.finisher).acquire_owned() => permit.ok().map(Grant::Rest),
        }
    }
}

/// The accounts that all connections share.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    control: Arc<Account>,
    batches: Arc<Account>,
    counters: Arc<Counters>,
}

impl SharedMemory {
    /// With `batch_bytes` for batches, raised to the longest frame.
    pub(crate) fn new(batch_bytes: usize, counters: Arc<Counters>) -> Arc<Self> {
        let batch_bytes = batch_bytes.max(FRAME_BODY_BYTES_MAX);
        Arc::new(Self {
            control: Account::new(CONTROL_BYTES_MAX, CONTROL_BODY_BYTES_MAX),
            batches: Account::new(batch_bytes, FRAME_BODY_BYTES_MAX),
            counters,
        })
    }
}

/// One connection's accounts, and those that it shares with all.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    control: Arc<Semaphore>,
    batches: Arc<Semaphore>,
    shared: Arc<SharedMemory>,
}

impl Memory {
    /// With `batch_bytes` for batches, raised to the longest frame.
    pub(crate) fn new(batch_bytes: usize, shared: Arc<SharedMemory>) -> Self {
        let batches = semaphore(batch_bytes.max(FRAME_BODY_BYTES_MAX));
        Self { control: semaphore(CONNECTION_CONTROL_BYTES_MAX), batches, shared }
    }

    /// Waits until the connection may have a frame of `body_bytes`. `None` never happens: accounts
    /// are never closed.
    pub(crate) async fn claim(&self, kind: FrameKind, body_bytes: usize) -> Option<Held> {
        let batch = kind == FrameKind::Produce;
        let connection = if batch { &self.batches } else { &self.control };
        let claim = Arc::clone(connection).acquire_many_owned(units(body_bytes)).await.ok()?;
        let account = if batch {
            Some(Arc::clone(&self.shared.batches))
        } else if body_bytes > SHORT_CONTROL_BYTES_MAX {
            Some(Arc::clone(&self.shared.control))
        } else {
            None
        };
        Some(Held {
            _claim: claim,
            body_bytes,
            granted_bytes: if account.is_some() { 0 } else { body_bytes },
            account,
            units: None,
            finisher: None,
            counted_bytes: 0,
            counters: Arc::clone(&self.shared.counters),
        })
    }
}

/// A frame's share of memory, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _claim: OwnedSemaphorePermit,
    body_bytes: usize,
    /// So much of the body may be there.
    granted_bytes: usize,
    /// `None`: too short to need one.
    account: Option<Arc<Account>>,
    units: Option<OwnedSemaphorePermit>,
    finisher: Option<OwnedSemaphorePermit>,
    /// What of it the metric says.
    counted_bytes: usize,
    counters: Arc<Counters>,
}

impl Held {
    /// How much of the body may be there.
    pub(crate) const fn granted_bytes(&self) -> usize {
        self.granted_bytes
    }

    /// Whether others wait for what this frame holds a part of.
    pub(crate) fn keeps_others_waiting(&self) -> bool {
        let waiting = |account: &Arc<Account>| account.waiting.load(Ordering::Relaxed) > 0;
        self.counted_bytes > 0 && self.account.as_ref().is_some_and(waiting)
    }

    /// Waits until the body may grow by `arrived_bytes`, at least one and within the body, beyond
    /// what was granted before. Cancel-safe.
    pub(crate) async fn grow(&mut self, arrived_bytes: usize) {
        let Some(account) = &self.account else { return };
        let left_bytes = self.body_bytes - self.granted_bytes;
        // In proportion to what is there, so that a byte cannot take much.
        let step_bytes = arrived_bytes.max(self.granted_bytes.min(STEP_BYTES_MAX)).min(left_bytes);
        let counted_bytes = match account.take(units(step_bytes)).await {
            Some(Grant::Units(permit)) => {
                let bytes = permit.num_permits() * UNIT_BYTES;
                match &mut self.units {
                    Some(units) => units.merge(permit),
                    none => *none = Some(permit),
                }
                self.granted_bytes += bytes.min(left_bytes);
                bytes
            }
            Some(Grant::Rest(permit)) => {
                self.finisher = Some(permit);
                self.granted_bytes = self.body_bytes;
                left_bytes
            }
            None => return,
        };
        self.counted_bytes += counted_bytes;
        add(&self.counters.received_held, counted_bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        subtract(&self.counters.received_held, self.counted_bytes);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;

    const MIB: usize = 1024 * 1024;
    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(10);

    fn memory(batch_bytes: usize) -> (Memory, Arc<Counters>) {
        let counters = Arc::<Counters>::default();
        let shared = SharedMemory::new(batch_bytes, Arc::clone(&counters));
        (Memory::new(1024 * MIB, shared), counters)
    }

    async fn fill(held: &mut Held, up_to: usize) {
        while held.granted_bytes() < up_to {
            held.grow(1).await;
        }
    }

    #[tokio::test]
    async fn a_claim_costs_others_nothing_and_a_byte_little() {
        let (memory, counters) = memory(FRAME_BODY_BYTES_MAX + 16 * MIB);
        let mut held = memory.claim(FrameKind::Produce, 16 * MIB).await.unwrap();
        assert_eq!(counters.get("quic_received_held_bytes"), Some(0));
        held.grow(1).await;
        assert_eq!(held.granted_bytes(), UNIT_BYTES);
        for _ in 0..20 {
            let before = held.granted_bytes();
            held.grow(1).await;
            assert!(held.granted_bytes() <= before + before.min(STEP_BYTES_MAX));
        }
        drop(held);
        assert_eq!(counters.get("quic_received_held_bytes"), Some(0));
    }

    #[tokio::test]
    async fn frames_that_each_hold_a_part_come_to_their_end() {
        let (memory, counters) = memory(FRAME_BODY_BYTES_MAX + MIB);
        let mut tasks = JoinSet::new();
        let together = Arc::new(tokio::sync::Barrier::new(32));
        for _ in 0..32 {
            let (memory, together) = (memory.clone(), Arc::clone(&together));
            tasks.spawn(async move {
                let mut held = memory.claim(FrameKind::Produce, 16 * MIB).await.unwrap();
                fill(&mut held, 32 * UNIT_BYTES).await;
                // All of the account is taken now, in equal parts.
                together.wait().await;
                fill(&mut held, 16 * MIB).await;
            });
        }
        timeout(LONG, tasks.join_all()).await.expect("a deadlock");
        assert_eq!(counters.get("quic_received_held_bytes"), Some(0));
    }

    #[tokio::test]
    async fn who_waits_is_seen_and_who_gives_up_leaves_nothing() {
        let (memory, _) = memory(FRAME_BODY_BYTES_MAX + MIB);
        let mut whole = memory.claim(FrameKind::Produce, MIB).await.unwrap();
        fill(&mut whole, MIB).await;
        let mut finisher = memory.claim(FrameKind::Produce, MIB).await.unwrap();
        finisher.grow(1).await;
        assert_eq!(finisher.granted_bytes(), MIB);
        assert!(!whole.keeps_others_waiting());

        let mut third = memory.claim(FrameKind::Produce, MIB).await.unwrap();
        {
            let grow = third.grow(1);
            tokio::pin!(grow);
            assert!(timeout(SOON, &mut grow).await.is_err());
            assert!(whole.keeps_others_waiting() && finisher.keeps_others_waiting());
        }
        assert!(!whole.keeps_others_waiting());
        assert_eq!(third.granted_bytes(), 0);
        drop(whole);
        timeout(LONG, fill(&mut third, MIB)).await.unwrap();
    }

    #[tokio::test]
    async fn batches_do_not_hold_up_calls() {
        let (memory, _) = memory(FRAME_BODY_BYTES_MAX);
        let mut batch = memory.claim(FrameKind::Produce, 16 * MIB).await.unwrap();
        fill(&mut batch, 16 * MIB).await;
        for bytes in [SHORT_CONTROL_BYTES_MAX, CONTROL_BODY_BYTES_MAX] {
            let mut call = memory.claim(FrameKind::Request, bytes).await.unwrap();
            timeout(LONG, fill(&mut call, bytes)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn long_calls_do_not_hold_up_short_ones() {
        let (memory, counters) = memory(0);
        let shared = Arc::clone(&memory.shared);
        let mut held = Vec::new();
        for _ in 0..CONTROL_BYTES_MAX / CONTROL_BODY_BYTES_MAX {
            let other = Memory::new(0, Arc::clone(&shared));
            let mut call = other.claim(FrameKind::Request, CONTROL_BODY_BYTES_MAX).await.unwrap();
            timeout(LONG, fill(&mut call, CONTROL_BODY_BYTES_MAX)).await.unwrap();
            held.push(call);
        }
        assert_eq!(counters.get("quic_received_held_bytes"), Some(CONTROL_BYTES_MAX as u64));
        let mut long = memory.claim(FrameKind::Request, CONTROL_BODY_BYTES_MAX).await.unwrap();
        assert!(timeout(SOON, long.grow(1)).await.is_err());
        let short = memory.claim(FrameKind::Request, SHORT_CONTROL_BYTES_MAX);
        assert_eq!(short.await.unwrap().granted_bytes(), SHORT_CONTROL_BYTES_MAX);
    }
}
