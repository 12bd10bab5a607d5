//! Memory for older data on its way to consumers: one account for all of the broker's
//! subscriptions, taken before a file is read and given back when the last byte is gone, wherever
//! it went, the transport's own buffers included.
//!
//! Who waits, waits in the order of coming. What is lent comes back in one of three ways: the
//! client takes it; or the front drops it, since the client takes nothing, and asks for it again
//! later; or, where the transport waits for acknowledgements that do not come, the front is told to
//! end the stream. So those who do not read never stop the others for long.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The unit in which memory is accounted for.
const UNIT_BYTES: usize = 1024;
/// While others wait, so long may any loan last, however small.
const LOAN_TIME: Duration = Duration::from_secs(10);
/// And so much longer for each mebibyte of it: half a megabyte a second is slow enough.
const LOAN_TIME_PER_MIB: Duration = Duration::from_secs(2);

/// The account.
#[derive(Debug)]
pub(crate) struct ReadMemory {
    units: Arc<Semaphore>,
    units_max: usize,
    waiting: AtomicUsize,
    loans: Mutex<Loans>,
}

/// What is lent and was loaded, by age.
#[derive(Debug, Default)]
struct Loans {
    next: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    borrower: Arc<Borrower>,
}

/// One subscription's side of the account.
#[derive(Debug, Default)]
pub(crate) struct Borrower {
    bytes: AtomicUsize,
    overstayed: Notify,
}

/// Memory for one load, given back when dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    permit: OwnedSemaphorePermit,
    /// Its place among the open ones, once it was used.
    number: Option<u64>,
    borrower: Arc<Borrower>,
    memory: Arc<ReadMemory>,
}

/// Bytes that keep their loan.
struct Lent {
    bytes: Bytes,
    _loan: Arc<Loan>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Counts a waiter for as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ReadMemory {
    /// Of `bytes_max` in all.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        let units_max = (bytes_max / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            units: Arc::new(Semaphore::new(units_max)),
            units_max,
            waiting: AtomicUsize::new(0),
            loans: Mutex::default(),
        })
    }

    /// Waits for `bytes`, or for all there is where that is less. `None` never happens: the account
    /// is never closed. Cancelled, it gives up its place.
    pub(crate) async fn take(
        self: &Arc<Self>,
        bytes: usize,
        borrower: &Arc<Borrower>,
    ) -> Option<Loan> {
        let units = self.units_of(bytes);
        // Never overtakes: what is given back goes to those who wait before it can be had here.
        if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            return Some(self.lend(permit, borrower));
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let acquire = Arc::clone(&self.units).acquire_many_owned(units);
        tokio::pin!(acquire);
        loop {
            match tokio::time::timeout(LOAN_TIME, &mut acquire).await {
                Ok(permit) => return permit.ok().map(|permit| self.lend(permit, borrower)),
                Err(_elapsed) => self.recall(),
            }
        }
    }

    /// Takes `bytes` where that leaves half of the account to those who need it now.
    pub(crate) fn take_spare(
        self: &Arc<Self>,
        bytes: usize,
        borrower: &Arc<Borrower>,
    ) -> Option<Loan> {
        let units = self.units_of(bytes);
        if self.units.available_permits() < self.units_max / 2 + units as usize {
            return None;
        }
        let permit = Arc::clone(&self.units).try_acquire_many_owned(units).ok()?;
        Some(self.lend(permit, borrower))
    }

    /// Values for operators.
    pub(crate) fn gauges(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("read_memory_held_bytes", self.held_bytes() as u64),
            ("read_memory_waiting", self.waiting.load(Ordering::Relaxed) as u64),
        ]
    }

    /// What is lent now, and what is being gathered for the one who waits first.
    fn held_bytes(&self) -> usize {
        (self.units_max - self.units.available_permits().min(self.units_max)) * UNIT_BYTES
    }

    /// Whether somebody waits.
    fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn units_of(&self, bytes: usize) -> u32 {
        let units = bytes.div_ceil(UNIT_BYTES).clamp(1, self.units_max.max(1));
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    fn lend(self: &Arc<Self>, permit: OwnedSemaphorePermit, borrower: &Arc<Borrower>) -> Loan {
        let bytes = permit.num_permits() * UNIT_BYTES;
        borrower.bytes.fetch_add(bytes, Ordering::Relaxed);
        Loan { permit, number: None, borrower: Arc::clone(borrower), memory: Arc::clone(self) }
    }

    /// Tells those who have held what they read for longer than they may.
    fn recall(&self) {
        let now = Instant::now();
        for loan in self.loans().open.values().filter(|loan| loan.until <= now) {
            loan.borrower.overstayed.notify_one();
        }
    }

    fn loans(&self) -> MutexGuard<'_, Loans> {
        // Each critical section is a single change.
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Borrower {
    /// Whether others wait for what this one has.
    pub(crate) fn keeps_others_waiting(&self, memory: &ReadMemory) -> bool {
        memory.is_short() && self.bytes.load(Ordering::Relaxed) > 0
    }

    /// Completes if it had a loan for too long while others waited.
    pub(crate) async fn overstayed(self: Arc<Self>) {
        self.overstayed.notified().await;
    }
}

impl Loan {
    /// How much may be loaded.
    pub(crate) fn bytes(&self) -> usize {
        self.permit.num_permits() * UNIT_BYTES
    }

    /// Ties what was loaded to the loan. Its time begins.
    pub(crate) fn tie(mut self, pieces: Vec<Bytes>) -> Vec<Bytes> {
        let mebibytes = u32::try_from(self.bytes() >> 20).unwrap_or(u32::MAX);
        let until = Instant::now() + LOAN_TIME + LOAN_TIME_PER_MIB.saturating_mul(mebibytes);
        let open = Open { until, borrower: Arc::clone(&self.borrower) };
        {
            let mut loans = self.memory.loans();
            let number = loans.next;
            loans.next += 1;
            loans.open.insert(number, open);
            self.number = Some(number);
        }
        let loan = Arc::new(self);
        let tie = |bytes| Bytes::from_owner(Lent { bytes, _loan: Arc::clone(&loan) });
        pieces.into_iter().map(tie).collect()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.memory.loans().open.remove(&number);
        }
        self.borrower.bytes.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;

    const MIB: usize = 1024 * 1024;
    const SOON: Duration = Duration::from_millis(20);

    fn held(memory: &ReadMemory) -> u64 {
        memory.gauges()[0].1
    }

    #[tokio::test]
    async fn a_loan_comes_back_with_the_last_byte() {
        let memory = ReadMemory::new(4 * MIB);
        let borrower = Arc::<Borrower>::default();
        let loan = memory.take(MIB, &borrower).await.unwrap();
        let mut pieces = loan.tie(vec![Bytes::from(vec![1; 1000]), Bytes::from(vec![2; 1000])]);
        let last = pieces.pop().unwrap().slice(10..11);
        drop(pieces);
        assert_eq!(held(&memory), MIB as u64);
        assert_eq!(memory.loans().open.len(), 1);
        drop(last);
        assert_eq!(held(&memory), 0);
        assert!(memory.loans().open.is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_served_in_order_and_the_bound_is_kept() {
        let memory = ReadMemory::new(4 * MIB);
        let borrower = Arc::<Borrower>::default();
        let first = memory.take(3 * MIB, &borrower).await.unwrap();
        assert!(!borrower.keeps_others_waiting(&memory));
        let (order, mut served) = tokio::sync::mpsc::channel(8);
        let mut tasks = JoinSet::new();
        // The second does not fit; the small ones behind it must not overtake.
        for (number, bytes) in [(0, 2 * MIB), (1, MIB), (2, MIB)] {
            let (account, order) = (Arc::clone(&memory), order.clone());
            tasks.spawn(async move {
                let other = Arc::<Borrower>::default();
                let loan = account.take(bytes, &other).await.unwrap();
                order.send((number, loan)).await.unwrap();
            });
            while memory.waiting.load(Ordering::Relaxed) <= number {
                tokio::task::yield_now().await;
            }
        }
        assert!(borrower.keeps_others_waiting(&memory));
        assert!(timeout(SOON, served.recv()).await.is_err());
        drop(first);
        let mut loans = Vec::new();
        for expected in 0..3 {
            let (number, loan) = served.recv().await.unwrap();
            assert_eq!(number, expected);
            loans.push(loan);
        }
        assert_eq!(held(&memory), 4 * MIB as u64);
        assert!(!memory.is_short());
    }

    #[tokio::test]
    async fn more_than_there_is_is_all_there_is() {
        let memory = ReadMemory::new(2 * MIB);
        let borrower = Arc::<Borrower>::default();
        let loan = memory.take(usize::MAX, &borrower).await.unwrap();
        assert_eq!(loan.bytes(), 2 * MIB);
    }

    #[tokio::test]
    async fn reading_ahead_leaves_half_to_others() {
        let memory = ReadMemory::new(4 * MIB);
        let borrower = Arc::<Borrower>::default();
        let first = memory.take_spare(MIB, &borrower).unwrap();
        let second = memory.take_spare(MIB, &borrower).unwrap();
        assert!(memory.take_spare(MIB, &borrower).is_none());
        drop((first, second));
        assert!(memory.take_spare(MIB, &borrower).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_what_it_read_for_too_long_is_told() {
        let memory = ReadMemory::new(2 * MIB);
        let (holder, reader) = (Arc::<Borrower>::default(), Arc::<Borrower>::default());
        let pinned = memory.take(MIB, &holder).await.unwrap().tie(vec![Bytes::from_static(b"x")]);
        // Still being read: a slow disk is nobody's fault.
        let loading = memory.take(MIB, &reader).await.unwrap();
        let overstayed = Arc::clone(&holder).overstayed();
        tokio::pin!(overstayed);
        assert!(timeout(Duration::from_secs(60), &mut overstayed).await.is_err(), "nobody waits");
        let other = Arc::<Borrower>::default();
        let waiter = Arc::clone(&memory);
        let waiter = tokio::spawn(async move { waiter.take(MIB, &other).await });
        overstayed.await;
        drop(pinned);
        assert_eq!(waiter.await.unwrap().unwrap().bytes(), MIB);
        assert!(timeout(SOON, Arc::clone(&reader).overstayed()).await.is_err());
        drop(loading);
    }
}
