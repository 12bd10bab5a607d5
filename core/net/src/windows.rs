//! What QUIC may keep for each connection: bytes that were received and not yet read, and bytes
//! that were sent and not yet acknowledged. One budget for all connections, so that many of them
//! cannot hold more together than a few may singly.
//!
//! A connection gets its share once its Hello was answered. The first half of the budget goes to
//! the usual few: all that one can use to each. Of the other half the next one gets a small part
//! of what is left, so that a crowd always leaves something. Credit that a peer was given cannot be
//! taken back, so that shares never shrink; they grow as room is given back. The least share is
//! granted beyond the budget: that much every admitted connection costs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream_types::limits::{CONNECTION_WINDOW_BYTES_MAX, CONNECTION_WINDOW_BYTES_MIN};
use quinn::{Connection, VarInt};

/// The part of what is left that the next connection gets, once half is taken.
const PART: u64 = 32;
/// A share grows when it would double: each change costs a lock and a packet.
const GROWTH_MIN: u64 = 2;
/// Send windows are so much smaller than receive windows: peers acknowledge sooner than we read.
const SEND_PART: u64 = 4;

/// The budget of all connections.
#[derive(Debug)]
pub(crate) struct Windows {
    bytes_max: u64,
    left_bytes: Mutex<u64>,
}

/// One connection's share of it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    taken_bytes: u64,
    windows: Arc<Windows>,
}

impl Windows {
    /// Of `bytes_max` for receive windows, and a quarter more for send windows.
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, left_bytes: Mutex::new(bytes_max) })
    }

    /// A share for one more connection.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        let mut share = Share { taken_bytes: 0, windows: Arc::clone(self) };
        share.grow();
        share
    }

    fn left(&self) -> MutexGuard<'_, u64> {
        // Every critical section leaves the number right, so that poison says nothing here.
        self.left_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes more if there is much more now; says whether it did.
    pub(crate) fn grow(&mut self) -> bool {
        if self.taken_bytes == CONNECTION_WINDOW_BYTES_MAX {
            return false;
        }
        let mut left = self.windows.left();
        let room = *left + self.taken_bytes;
        let fair = (room / PART).max(room.saturating_sub(self.windows.bytes_max / 2));
        let fair = fair.min(CONNECTION_WINDOW_BYTES_MAX);
        if fair < (GROWTH_MIN * self.taken_bytes).max(CONNECTION_WINDOW_BYTES_MIN) {
            return false;
        }
        *left -= fair - self.taken_bytes;
        self.taken_bytes = fair;
        true
    }

    /// Lets the connection have it.
    pub(crate) fn apply(&self, connection: &Connection) {
        let receive = VarInt::from_u64(self.receive_bytes()).unwrap_or(VarInt::MAX);
        connection.set_receive_window(receive);
        connection.set_send_window(self.send_bytes());
    }

    fn receive_bytes(&self) -> u64 {
        self.taken_bytes.max(CONNECTION_WINDOW_BYTES_MIN)
    }

    fn send_bytes(&self) -> u64 {
        (self.taken_bytes / SEND_PART).max(CONNECTION_WINDOW_BYTES_MIN)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.windows.left() += self.taken_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_few_connections_have_all_that_one_can_use() {
        let windows = Windows::new(GIB);
        let shares: Vec<Share> = (0..8).map(|_| windows.share()).collect();
        for share in &shares {
            assert_eq!(share.receive_bytes(), CONNECTION_WINDOW_BYTES_MAX);
            assert_eq!(share.send_bytes(), 16 << 20);
        }
    }

    #[test]
    fn a_hundred_connections_have_enough_for_a_fast_network() {
        let windows = Windows::new(GIB);
        let shares: Vec<Share> = (0..100).map(|_| windows.share()).collect();
        assert!(shares.iter().all(|share| share.receive_bytes() > 768 << 10));
    }

    #[test]
    fn a_crowd_stays_within_the_budget_and_the_least_share_of_each() {
        let windows = Windows::new(GIB);
        let shares: Vec<Share> = (0..10_000).map(|_| windows.share()).collect();
        let receive: u64 = shares.iter().map(Share::receive_bytes).sum();
        assert!(receive <= GIB + 10_000 * CONNECTION_WINDOW_BYTES_MIN, "{receive}");
        let least = shares.iter().map(Share::receive_bytes).min();
        assert_eq!(least, Some(CONNECTION_WINDOW_BYTES_MIN));
    }

    #[test]
    fn what_is_given_back_is_there_for_those_who_stay() {
        let windows = Windows::new(GIB);
        let crowd: Vec<Share> = (0..1000).map(|_| windows.share()).collect();
        let mut last = windows.share();
        assert!(!last.grow());
        drop(crowd);
        assert!(last.grow());
        assert_eq!(last.receive_bytes(), CONNECTION_WINDOW_BYTES_MAX);
        assert!(!last.grow(), "no more than one can use");
        drop(last);
        assert_eq!(*windows.left(), GIB);
    }
}
