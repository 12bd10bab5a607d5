//! The newest batches of a log, kept as the very bytes that were appended.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use millstream_types::Offset;

use crate::shared::LogShared;

/// One batch at the tail, and where it stands on disk.
#[derive(Debug, Clone)]
pub(crate) struct TailBatch {
    pub(crate) base: Offset,
    pub(crate) next: Offset,
    pub(crate) segment: Offset,
    pub(crate) position: u32,
    pub(crate) bytes: Bytes,
}

/// A run of batches without gaps up to the log's end; bounded by its own maximum and by the
/// budget that all logs share. Bytes are counted as batch bytes: a batch that shares a larger
/// receive buffer keeps that whole buffer.
#[derive(Debug)]
pub(crate) struct Tail {
    batches: VecDeque<TailBatch>,
    bytes: u64,
    bytes_max: u64,
    shared: Arc<LogShared>,
}

impl Tail {
    pub(crate) fn new(bytes_max: u64, shared: Arc<LogShared>) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, bytes_max, shared }
    }

    /// Adds the batch at the log's end, letting the oldest ones go to make room. A batch that
    /// finds none empties the tail, since a run has no gaps.
    pub(crate) fn push(&mut self, batch: TailBatch) {
        let bytes = batch.bytes.len() as u64;
        while self.bytes + bytes > self.bytes_max || !self.shared.tail.take(bytes) {
            if !self.drop_oldest() {
                return;
            }
        }
        self.bytes += bytes;
        self.batches.push_back(batch);
    }

    /// The batches from the one that holds `offset`: as many as end at or before `up_to` and fit
    /// `max_bytes`, and at least one. `None` when `offset` is older than the tail.
    pub(crate) fn read(
        &self,
        offset: Offset,
        up_to: Offset,
        max_bytes: usize,
    ) -> Option<Vec<&TailBatch>> {
        let first = self.batches.partition_point(|batch| batch.next <= offset);
        if self.batches.get(first)?.base > offset {
            return None;
        }
        let mut total = 0;
        let mut found = Vec::new();
        for batch in self.batches.range(first..) {
            total += batch.bytes.len();
            if batch.next > up_to || (total > max_bytes && !found.is_empty()) {
                break;
            }
            found.push(batch);
        }
        Some(found)
    }

    /// Lets all of it go, memory included.
    pub(crate) fn clear(&mut self) {
        self.shared.tail.give(self.bytes);
        self.bytes = 0;
        self.batches = VecDeque::new();
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.batches.pop_front() else { return false };
        let bytes = oldest.bytes.len() as u64;
        self.bytes -= bytes;
        self.shared.tail.give(bytes);
        true
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.shared.tail.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::SharedLimits;

    fn batch(base: i64, bytes: usize) -> TailBatch {
        TailBatch {
            base: Offset::new(base).unwrap(),
            next: Offset::new(base + 1).unwrap(),
            segment: Offset::ZERO,
            position: 4096,
            bytes: Bytes::from(vec![0; bytes]),
        }
    }

    fn bases(tail: &Tail) -> Vec<i64> {
        tail.batches.iter().map(|batch| batch.base.value()).collect()
    }

    #[test]
    fn a_tail_keeps_the_newest_within_its_own_bound() {
        let shared = LogShared::new(SharedLimits::default());
        let mut tail = Tail::new(100, Arc::clone(&shared));
        for base in 0..5 {
            tail.push(batch(base, 40));
        }
        assert_eq!(bases(&tail), [3, 4]);
        assert_eq!(shared.tail_bytes(), 80);
        tail.push(batch(5, 101));
        assert_eq!((bases(&tail), shared.tail_bytes()), (vec![], 0));
    }

    #[test]
    fn tails_together_stay_within_the_shared_budget() {
        let limits = SharedLimits { tail_bytes_max: 100, ..SharedLimits::default() };
        let shared = LogShared::new(limits);
        let mut one = Tail::new(1000, Arc::clone(&shared));
        let mut two = Tail::new(1000, Arc::clone(&shared));
        one.push(batch(0, 60));
        two.push(batch(0, 60));
        assert_eq!((bases(&one), bases(&two)), (vec![0], vec![]));
        drop(one);
        two.push(batch(1, 60));
        assert_eq!((bases(&two), shared.tail_bytes()), (vec![1], 60));
    }
}
