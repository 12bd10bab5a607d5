//! What waits to be sent to one partition: batches that are full, and the one being filled.
//! Producers append under a short lock; the partition's sender takes batches from the front.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_types::TimestampMs;
use millstream_types::limits::{BATCH_BYTES_MAX, BATCH_HEADER_BYTES};
use millstream_wire::{BatchBuilder, Codec, Header};
use tokio::sync::Notify;

use super::delivery::{BatchState, Delivery};
use crate::record::ProducerRecord;

pub(super) use millstream_env::clock::Monotonic;

/// How a queue makes batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueSettings {
    pub(super) codec: Codec,
    /// A batch takes no record that would bring it beyond this, header included; one record may
    /// be larger and goes alone.
    pub(super) batch_bytes: usize,
    pub(super) batch_records: u32,
}

/// A batch that takes or took records and is not encoded yet.
#[derive(Debug)]
pub(super) struct QueuedBatch {
    pub(super) builder: BatchBuilder,
    pub(super) state: Arc<BatchState>,
    /// When its first record was queued.
    pub(super) opened_at: Monotonic,
    /// Bytes of the producer's buffer that its records took.
    pub(super) reserved: usize,
}

/// What a sender knows when it asks for a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    pub(super) now: Monotonic,
    /// Whether batches of this partition await acknowledgement.
    pub(super) in_flight: bool,
    /// Whether somebody waits for room in the buffer.
    pub(super) buffer_short: bool,
}

/// When a batch that is not full may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Linger {
    /// After this time.
    Fixed(Duration),
    /// At once while nothing is in flight, otherwise after this time.
    WhileInFlight(Duration),
}

/// What a sender gets.
#[derive(Debug)]
pub(super) enum Take {
    /// The next batch, in order.
    Batch(QueuedBatch),
    /// Nothing before this time, unless the queue wakes its sender.
    WaitUntil(Monotonic),
    /// Nothing is queued.
    Empty,
    /// Nothing is queued, and nothing will be.
    Closed,
}

/// A record was queued.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) delivery: Delivery,
    /// Whether this is the first record ever, so that a sender has to be started.
    pub(super) first: bool,
}

/// Why a record was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotQueued {
    /// The queue is closed.
    Closed,
    /// A new batch would have to be opened, and the caller wants to choose where.
    WouldOpen,
    /// The encoder refuses the record.
    Refused(millstream_wire::BuildError),
}

#[derive(Debug)]
struct State {
    full: VecDeque<QueuedBatch>,
    open: Option<QueuedBatch>,
    /// Every batch whose fate is open, oldest first. One that cannot be encoded is settled before
    /// those in flight ahead of it, so that the youngest does not speak for all.
    unsettled: VecDeque<Arc<BatchState>>,
    started: bool,
    closed: bool,
    /// The most that one batch may hold: as set, or less where the topic takes less.
    batch_bytes: usize,
    /// The size of the last batch, as a guess for the next.
    capacity: usize,
}

/// One partition's queue.
#[derive(Debug)]
pub(super) struct PartitionQueue {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    settings: QueueSettings,
    state: Mutex<State>,
    wake: Notify,
}

/// The most bytes that a record may add to a batch.
pub(super) fn record_bytes_bound(record: &ProducerRecord) -> usize {
    let bound =
        BatchBuilder::record_bytes_bound(record.key.as_deref(), record.value.as_deref(), &[]);
    // A header's two lengths are varints of at most five bytes.
    let header_bytes = |header: &Header| {
        10 + header.key.as_bytes().len() + header.value.as_ref().map_or(0, bytes::Bytes::len)
    };
    record.headers.iter().fold(bound, |sum, header| sum.saturating_add(header_bytes(header)))
}

/// The largest record, with its batch's header, that can be sent at all.
pub(super) const RECORD_BYTES_MAX: usize = BATCH_BYTES_MAX - BATCH_HEADER_BYTES;

impl PartitionQueue {
    pub(super) fn new(topic: Arc<str>, partition: u32, settings: QueueSettings) -> Self {
        let state = State {
            full: VecDeque::new(),
            open: None,
            unsettled: VecDeque::new(),
            started: false,
            closed: false,
            batch_bytes: settings.batch_bytes,
            capacity: 0,
        };
        Self { topic, partition, settings, state: Mutex::new(state), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a record of at most `bound` bytes, which the caller has reserved in the buffer.
    /// With `may_open` false a record that would open a batch is not queued.
    pub(super) fn append(
        &self,
        record: &ProducerRecord,
        bound: usize,
        timestamp: TimestampMs,
        may_open: bool,
        now: impl FnOnce() -> Monotonic,
    ) -> Result<Queued, NotQueued> {
        let mut state = self.lock();
        if state.closed {
            return Err(NotQueued::Closed);
        }
        let fits = state.open.as_ref().is_some_and(|open| {
            open.builder.estimated_bytes() + bound <= state.batch_bytes
                && open.builder.record_count() < self.settings.batch_records
        });
        if !fits {
            state.seal();
            if !may_open {
                drop(state);
                self.wake.notify_one();
                return Err(NotQueued::WouldOpen);
            }
            let capacity = state.capacity.max(bound).min(state.batch_bytes.max(bound));
            let batch = QueuedBatch {
                builder: BatchBuilder::new(self.settings.codec, capacity),
                state: BatchState::new(self.partition),
                opened_at: now(),
                reserved: 0,
            };
            state.open = Some(batch);
        }
        let Some(open) = &mut state.open else { return Err(NotQueued::Closed) };
        let index = open.builder.record_count();
        let headers = record.headers.iter().map(Header::as_ref);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        if let Err(error) = open.builder.append_iter(timestamp, key, value, headers) {
            if open.builder.is_empty() {
                state.open = None;
            }
            return Err(NotQueued::Refused(error));
        }
        open.reserved += bound;
        let delivery = Delivery::new(Arc::clone(&open.state), index, timestamp);
        if !fits {
            while state.unsettled.pop_front_if(|oldest| oldest.is_settled()).is_some() {}
            state.unsettled.push_back(Arc::clone(&delivery.batch));
        }
        let first = !std::mem::replace(&mut state.started, true);
        drop(state);
        if !fits {
            self.wake.notify_one();
        }
        Ok(Queued { delivery, first })
    }

    /// The next batch to be sent.
    pub(super) fn take(&self, linger: Linger, demand: Demand) -> Take {
        let mut state = self.lock();
        if let Some(batch) = state.full.pop_front() {
            return Take::Batch(batch);
        }
        let Some(open) = &state.open else {
            return if state.closed { Take::Closed } else { Take::Empty };
        };
        let wait = match linger {
            Linger::WhileInFlight(_) if !demand.in_flight => Duration::ZERO,
            Linger::Fixed(wait) | Linger::WhileInFlight(wait) => wait,
        };
        let due = open.opened_at.saturating_add(wait);
        if due > demand.now && !demand.buffer_short {
            return Take::WaitUntil(due);
        }
        state.capacity = open.builder.estimated_bytes();
        state.open.take().map_or(Take::Empty, Take::Batch)
    }

    /// The next batch whose first record was queued at or before `since`.
    pub(super) fn take_expired(&self, since: Monotonic) -> Option<QueuedBatch> {
        let mut state = self.lock();
        if let Some(batch) = state.full.front() {
            return if batch.opened_at <= since { state.full.pop_front() } else { None };
        }
        state.open.take_if(|open| open.opened_at <= since)
    }

    /// The next batch, whether full or not.
    pub(super) fn take_any(&self) -> Option<QueuedBatch> {
        let mut state = self.lock();
        state.full.pop_front().or_else(|| state.open.take())
    }

    /// When the first record still queued was queued.
    pub(super) fn oldest(&self) -> Option<Monotonic> {
        let state = self.lock();
        state.full.front().or(state.open.as_ref()).map(|batch| batch.opened_at)
    }

    /// Whether nothing is queued and nothing will be.
    pub(super) fn is_done(&self) -> bool {
        let state = self.lock();
        state.closed && state.full.is_empty() && state.open.is_none()
    }

    /// Lets what is queued go without lingering. Returns the fates to await for a flush.
    pub(super) fn flush(&self) -> Vec<Delivery> {
        let unsettled = {
            let mut state = self.lock();
            state.seal();
            state.unsettled.retain(|batch| !batch.is_settled());
            state.unsettled.clone()
        };
        self.wake.notify_one();
        let fate = |batch| Delivery::new(batch, 0, TimestampMs::NONE);
        unsettled.into_iter().map(fate).collect()
    }

    /// Takes no more records; what is queued goes without lingering.
    pub(super) fn close(&self) {
        {
            let mut state = self.lock();
            state.closed = true;
            state.seal();
        }
        self.wake.notify_one();
    }

    /// Bounds the batches opened from here on by what the topic takes.
    pub(super) fn limit_batch_bytes(&self, bytes: usize) {
        self.lock().batch_bytes = self.settings.batch_bytes.min(bytes);
    }

    /// Wakes the sender, so that it looks again.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves when a batch was opened or filled since the last look, or the queue was flushed
    /// or closed. May be dropped and made anew without losing a wake.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl State {
    /// Ends the open batch, if there is one.
    fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            self.capacity = open.builder.estimated_bytes();
            self.full.push_back(open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn queue(batch_bytes: usize, batch_records: u32) -> PartitionQueue {
        let settings = QueueSettings { codec: Codec::None, batch_bytes, batch_records };
        PartitionQueue::new("t".into(), 0, settings)
    }

    fn append(queue: &PartitionQueue, bytes: usize, now: Monotonic) -> Result<Queued, NotQueued> {
        let record = ProducerRecord::new("t", vec![7; bytes]);
        let bound = record_bytes_bound(&record);
        queue.append(&record, bound, TimestampMs(1), true, || now)
    }

    fn idle(now: Monotonic) -> Demand {
        Demand { now, in_flight: false, buffer_short: false }
    }

    fn records(take: Take) -> u32 {
        match take {
            Take::Batch(batch) => batch.builder.record_count(),
            other => panic!("expected a batch, got {other:?}"),
        }
    }

    #[test]
    fn batches_are_cut_by_bytes_and_by_records_and_leave_in_order() {
        let by_bytes = queue(1000, 100);
        for _ in 0..5 {
            append(&by_bytes, 300, MS).unwrap();
        }
        let none = Linger::Fixed(Duration::ZERO);
        let sizes: Vec<_> = (0..3).map(|_| records(by_bytes.take(none, idle(MS)))).collect();
        assert_eq!(sizes, [2, 2, 1]);
        assert!(matches!(by_bytes.take(none, idle(MS)), Take::Empty));

        let by_records = queue(1_000_000, 3);
        for _ in 0..7 {
            append(&by_records, 1, MS).unwrap();
        }
        let sizes: Vec<_> = (0..3).map(|_| records(by_records.take(none, idle(MS)))).collect();
        assert_eq!(sizes, [3, 3, 1]);
    }

    #[test]
    fn a_record_larger_than_a_batch_goes_alone() {
        let queue = queue(100, 100);
        append(&queue, 10, MS).unwrap();
        append(&queue, 5000, MS).unwrap();
        append(&queue, 10, MS).unwrap();
        let none = Linger::Fixed(Duration::ZERO);
        let sizes: Vec<_> = (0..3).map(|_| records(queue.take(none, idle(MS)))).collect();
        assert_eq!(sizes, [1, 1, 1]);
    }

    #[test]
    fn a_fixed_linger_is_waited_for_unless_full_flushed_or_the_buffer_is_short() {
        let linger = Linger::Fixed(5 * MS);
        let queue = queue(1000, 2);
        append(&queue, 1, 10 * MS).unwrap();
        assert!(
            matches!(queue.take(linger, idle(12 * MS)), Take::WaitUntil(due) if due == 15 * MS)
        );
        assert_eq!(records(queue.take(linger, idle(15 * MS))), 1);

        append(&queue, 1, 20 * MS).unwrap();
        append(&queue, 1, 20 * MS).unwrap();
        append(&queue, 1, 20 * MS).unwrap();
        assert_eq!(records(queue.take(linger, idle(20 * MS))), 2, "full");
        assert!(matches!(queue.take(linger, idle(20 * MS)), Take::WaitUntil(_)));
        let short = Demand { buffer_short: true, ..idle(20 * MS) };
        assert_eq!(records(queue.take(linger, short)), 1);

        append(&queue, 1, 30 * MS).unwrap();
        // One for each batch of which nothing is known yet.
        assert_eq!(queue.flush().len(), 4);
        assert_eq!(records(queue.take(linger, idle(30 * MS))), 1);
    }

    #[test]
    fn the_adaptive_linger_waits_only_while_a_batch_is_in_flight() {
        let linger = Linger::WhileInFlight(5 * MS);
        let queue = queue(1000, 100);
        append(&queue, 1, 10 * MS).unwrap();
        let busy = Demand { in_flight: true, ..idle(11 * MS) };
        assert!(matches!(queue.take(linger, busy), Take::WaitUntil(due) if due == 15 * MS));
        assert_eq!(records(queue.take(linger, idle(11 * MS))), 1);
    }

    #[test]
    fn a_closed_queue_refuses_and_drains_without_lingering() {
        let linger = Linger::Fixed(Duration::from_secs(60));
        let queue = queue(1000, 100);
        append(&queue, 1, MS).unwrap();
        queue.close();
        assert!(matches!(append(&queue, 1, MS), Err(NotQueued::Closed)));
        assert_eq!(records(queue.take(linger, idle(MS))), 1);
        assert!(matches!(queue.take(linger, idle(MS)), Take::Closed));
    }

    #[test]
    fn a_keyless_record_may_refuse_to_open_a_batch() {
        let queue = queue(1000, 1);
        let record = ProducerRecord::new("t", "v");
        let offer = |may_open| {
            let bound = record_bytes_bound(&record);
            queue.append(&record, bound, TimestampMs(1), may_open, || MS)
        };
        assert_eq!(offer(false).unwrap_err(), NotQueued::WouldOpen);
        assert!(offer(true).unwrap().first);
        assert_eq!(offer(false).unwrap_err(), NotQueued::WouldOpen, "the batch is full");
        assert!(!offer(true).unwrap().first);
    }

    #[test]
    fn what_waited_too_long_is_taken_oldest_first() {
        let queue = queue(1000, 1);
        append(&queue, 1, MS).unwrap();
        append(&queue, 1, 3 * MS).unwrap();
        assert_eq!(queue.oldest(), Some(MS));
        assert_eq!(queue.take_expired(2 * MS).unwrap().opened_at, MS);
        assert!(queue.take_expired(2 * MS).is_none());
        assert_eq!(queue.take_any().unwrap().opened_at, 3 * MS);
    }

    #[test]
    fn the_bound_covers_what_a_record_takes() {
        let mut record = ProducerRecord::new("t", vec![1; 300]).with_key(vec![2; 200]);
        for length in [0, 1, 200, 20_000] {
            record = record.with_header("h".repeat(length), vec![3; length]);
        }
        let mut builder = BatchBuilder::new(Codec::None, 0);
        let before = builder.estimated_bytes();
        let headers = record.headers.iter().map(Header::as_ref);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder.append_iter(TimestampMs(i64::MAX / 1000), key, value, headers).unwrap();
        assert!(builder.estimated_bytes() - before <= record_bytes_bound(&record));
    }
}
