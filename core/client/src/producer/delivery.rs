//! A batch's fate, shared by the deliveries of all its records: one allocation a batch, none a
//! record, and no wake but of those who wait.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use millstream_types::{Offset, TimestampMs};

use crate::error::DeliveryError;
use crate::record::RecordMetadata;

/// Where a batch was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Appended {
    pub(super) base_offset: Offset,
    /// Replaces the records' timestamps; none where the broker keeps them.
    pub(super) append_time: Option<TimestampMs>,
}

pub(super) type Outcome = Result<Appended, DeliveryError>;

/// The fate of one batch, written once.
#[derive(Debug)]
pub(super) struct BatchState {
    partition: u32,
    outcome: OnceLock<Outcome>,
    /// One slot for each delivery that waited; bounded by the batch's records.
    wakers: Mutex<Vec<Option<Waker>>>,
}

impl BatchState {
    pub(super) fn new(partition: u32) -> Arc<Self> {
        Arc::new(Self { partition, outcome: OnceLock::new(), wakers: Mutex::default() })
    }

    /// Settles the batch and wakes who waits for it. Only the first outcome counts.
    pub(super) fn complete(&self, outcome: Outcome) {
        if self.outcome.set(outcome).is_err() {
            return;
        }
        let wakers = std::mem::take(&mut *self.lock());
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.outcome.get().is_some()
    }

    #[cfg(test)]
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<Waker>>> {
        // A panic between two pushes leaves a usable list.
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome, or a place in the list of those to be woken.
    fn poll(&self, slot: &mut Option<usize>, waker: &Waker) -> Poll<&Outcome> {
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        let mut wakers = self.lock();
        // Settled in between: its waker list was already taken.
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        match slot.and_then(|slot| wakers.get_mut(slot)) {
            Some(place) => *place = Some(waker.clone()),
            None => {
                *slot = Some(wakers.len());
                wakers.push(Some(waker.clone()));
            }
        }
        Poll::Pending
    }
}

/// The future of one record's fate. Dropping it is fine: the record is sent all the same.
#[derive(Debug)]
pub struct Delivery {
    pub(super) batch: Arc<BatchState>,
    index: u32,
    timestamp: TimestampMs,
    slot: Option<usize>,
}

impl Delivery {
    pub(super) fn new(batch: Arc<BatchState>, index: u32, timestamp: TimestampMs) -> Self {
        Self { batch, index, timestamp, slot: None }
    }

    /// The partition that the record was put into.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.batch.partition
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, DeliveryError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Poll::Ready(outcome) = this.batch.poll(&mut this.slot, context.waker()) else {
            return Poll::Pending;
        };
        Poll::Ready(match outcome {
            Ok(appended) => Ok(RecordMetadata {
                partition: this.batch.partition,
                offset: appended.base_offset.plus(u64::from(this.index)).value(),
                timestamp: appended.append_time.unwrap_or(this.timestamp).0,
            }),
            Err(error) => Err(error.clone()),
        })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(slot) = self.slot
            && let Some(place) = self.batch.lock().get_mut(slot)
        {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(offset: i64) -> Outcome {
        Ok(Appended { base_offset: Offset::new(offset).unwrap(), append_time: None })
    }

    #[tokio::test]
    async fn every_record_of_a_batch_learns_its_own_offset() {
        let batch = BatchState::new(3);
        let deliveries: Vec<_> =
            (0..3).map(|index| Delivery::new(Arc::clone(&batch), index, TimestampMs(7))).collect();
        let waiting: Vec<_> = deliveries.into_iter().map(tokio::spawn).collect();
        tokio::task::yield_now().await;
        batch.complete(appended(40));
        for (offset, waiting) in (40..).zip(waiting) {
            let metadata = waiting.await.unwrap().unwrap();
            assert_eq!(metadata, RecordMetadata { partition: 3, offset, timestamp: 7 });
        }
    }

    #[tokio::test]
    async fn the_first_outcome_stays() {
        let batch = BatchState::new(0);
        batch.complete(Err(DeliveryError::Fenced));
        batch.complete(appended(1));
        let delivery = Delivery::new(batch, 0, TimestampMs(0));
        assert_eq!(delivery.await, Err(DeliveryError::Fenced));
    }

    #[test]
    fn a_dropped_delivery_is_not_woken_and_one_polled_twice_keeps_one_place() {
        let batch = BatchState::new(0);
        let mut context = Context::from_waker(Waker::noop());
        let mut delivery = Delivery::new(Arc::clone(&batch), 0, TimestampMs(0));
        assert!(Pin::new(&mut delivery).poll(&mut context).is_pending());
        assert!(Pin::new(&mut delivery).poll(&mut context).is_pending());
        assert_eq!(batch.lock().len(), 1);
        drop(delivery);
        assert!(batch.lock()[0].is_none());
    }
}
