//! What replies to calls may hold of memory, from before they are built until the transport has
//! taken their last byte. From there on the connection's send window bounds what is kept.
//!
//! A reply may be a thousand times as long as its request, and stays for as long as its client
//! takes nothing. So its memory is taken first: of the connection's own share, where a connection
//! waits for itself, then of an account that all connections share. One call of a connection at a
//! time waits for a shared account, so that those who ask for much have one turn among the others'
//! turns. Short replies have an account apart from the long ones, and the shortest, which all the
//! rest depends on, need none: the connection's streams bound them.
//!
//! While others wait, a client must take its reply faster than at other times: [`PATIENCE`] and
//! [`PAUSE_MAX`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream_types::limits::{CONTROL_BODY_BYTES_MAX, FRAME_HEADER_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::counters::{Counters, Gauge, add, subtract};
use crate::memory::{UNIT_BYTES, Waiting, semaphore, units};

/// While calls wait for memory, a client must have taken a reply that has some in so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);
/// And so much longer for each mebibyte of it: half a megabyte a second is slow enough.
pub(crate) const PATIENCE_PER_MIB: Duration = Duration::from_secs(2);
/// And without a pause so long: many that stand still must not have [`PATIENCE`] each in turn.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Replies up to this size need no account.
pub(crate) const FREE_BYTES_MAX: usize = 4 * 1024;
/// The longest that are short.
const SHORT_BYTES_MAX: usize = 64 * 1024;
/// What the short ones of all connections may hold.
const SHORT_REPLIES_BYTES: usize = 32 * 1024 * 1024;
/// What the longer ones may.
const LONG_REPLIES_BYTES: usize = 96 * 1024 * 1024;
/// What the replies of one connection may come to, of whatever length.
const CONNECTION_REPLIES_BYTES: usize = 8 * 1024 * 1024;
/// While a reply is built, its parts lie around singly, each with its vectors and strings: so many
/// times the bytes of its frame. A topic's partition takes 25 bytes of a frame, and 128 before.
const PARTS_FACTOR: usize = 5;
const REPLY_BYTES_MAX: usize = CONTROL_BODY_BYTES_MAX + FRAME_HEADER_BYTES;

const _: () = assert!(FREE_BYTES_MAX < SHORT_BYTES_MAX);
const _: () = assert!((1 + PARTS_FACTOR) * SHORT_BYTES_MAX < SHORT_REPLIES_BYTES);
const _: () = assert!((1 + PARTS_FACTOR) * (REPLY_BYTES_MAX + UNIT_BYTES) < LONG_REPLIES_BYTES);
const _: () = assert!(REPLY_BYTES_MAX <= CONNECTION_REPLIES_BYTES);

/// An account that all connections share.
#[derive(Debug)]
struct Account {
    units: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Account {
    fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { units: semaphore(bytes), waiting: AtomicUsize::new(0) })
    }
}

/// The accounts that all connections share.
#[derive(Debug)]
pub(crate) struct SharedReplies {
    short: Arc<Account>,
    long: Arc<Account>,
    counters: Arc<Counters>,
}

impl SharedReplies {
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            short: Account::new(SHORT_REPLIES_BYTES),
            long: Account::new(LONG_REPLIES_BYTES),
            counters,
        })
    }
}

/// One connection's share, and the accounts that it shares with all.
#[derive(Debug)]
pub(crate) struct Replies {
    share: Arc<Semaphore>,
    /// Who may wait for a shared account.
    turn: Semaphore,
    shared: Arc<SharedReplies>,
}

/// Memory for one reply, given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    reply_bytes: usize,
    share: OwnedSemaphorePermit,
    units: OwnedSemaphorePermit,
    account: Arc<Account>,
    counters: Arc<Counters>,
}

impl Replies {
    pub(crate) fn new(shared: Arc<SharedReplies>) -> Self {
        Self { share: semaphore(CONNECTION_REPLIES_BYTES), turn: Semaphore::new(1), shared }
    }

    /// Waits for memory to build a reply of `bytes`, or of the longest that there can be. `None`:
    /// it needs none. Cancelled, it gives up its place.
    pub(crate) async fn to_build(&self, bytes: usize) -> Option<Room> {
        let bytes = bytes.min(REPLY_BYTES_MAX);
        self.take(bytes, (1 + PARTS_FACTOR) * bytes).await
    }

    /// The same for one that is built already.
    pub(crate) async fn to_keep(&self, bytes: usize) -> Option<Room> {
        self.take(bytes, bytes).await
    }

    async fn take(&self, reply_bytes: usize, bytes: usize) -> Option<Room> {
        if reply_bytes <= FREE_BYTES_MAX {
            return None;
        }
        // Neither semaphore is ever closed.
        let share = Arc::clone(&self.share).acquire_many_owned(units(reply_bytes)).await.ok()?;
        let short = reply_bytes <= SHORT_BYTES_MAX;
        let account = Arc::clone(if short { &self.shared.short } else { &self.shared.long });
        let _turn = self.turn.acquire().await.ok()?;
        // Never overtakes: what is given back goes to those who wait before it can be had here.
        let units = match Arc::clone(&account.units).try_acquire_many_owned(units(bytes)) {
            Ok(units) => units,
            Err(_short) => {
                let waits = &self.shared.counters;
                let _waits = Gauge::new(&**waits, |counters| &counters.replies_waiting);
                let _waiting = Waiting::new(&account.waiting);
                Arc::clone(&account.units).acquire_many_owned(units(bytes)).await.ok()?
            }
        };
        let counters = Arc::clone(&self.shared.counters);
        add(&counters.replies_held, units.num_permits() * UNIT_BYTES);
        Some(Room { reply_bytes, share, units, account, counters })
    }
}

impl Room {
    /// How long a reply it was taken for.
    pub(crate) const fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// Gives back what a reply that is built, and of which only `frame_bytes` are left, needs no
    /// more.
    pub(crate) fn shrink(&mut self, frame_bytes: usize) {
        let kept = units(frame_bytes) as usize;
        drop(self.share.split(self.share.num_permits().saturating_sub(kept)));
        let given = self.units.split(self.units.num_permits().saturating_sub(kept));
        let given_units = given.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        subtract(&self.counters.replies_held, given_units * UNIT_BYTES);
    }

    /// Whether others wait for what this reply has a part of.
    pub(crate) fn keeps_others_waiting(&self) -> bool {
        self.account.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        subtract(&self.counters.replies_held, self.units.num_permits() * UNIT_BYTES);
    }
}
