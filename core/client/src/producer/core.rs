//! What a producer's handles and its senders share: settings, the buffer, and the count of
//! failures that `flush` reports.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_wire::api::Acks;

use super::buffer::Buffer;
use super::delivery::{BatchState, Outcome};
use super::queue::{Linger, Monotonic, QueueSettings, QueuedBatch};
use super::session::SessionSettings;
use crate::client::Client;
use crate::error::{DeliveryError, FlushError};
use crate::random::Backoff;

/// Shared by one producer's handles and senders.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) client: Client,
    pub(super) queue: QueueSettings,
    pub(super) linger: Linger,
    pub(super) acks: Acks,
    pub(super) idempotent: bool,
    pub(super) max_in_flight: usize,
    pub(super) delivery_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) buffer: Buffer,
    /// The most that one record may take.
    pub(super) record_bytes_max: usize,
    pub(super) failures: Failures,
}

impl Core {
    pub(super) fn session(&self, partition: u32) -> SessionSettings {
        SessionSettings {
            partition,
            idempotent: self.idempotent,
            max_in_flight: self.max_in_flight,
            delivery_timeout: self.delivery_timeout,
            backoff: self.backoff,
        }
    }

    pub(super) fn now(&self) -> Monotonic {
        self.client.clock.monotonic()
    }

    /// Tells a batch's fate and frees its bytes.
    pub(super) fn settle(&self, state: &BatchState, records: u32, reserved: usize, end: Outcome) {
        // Counted before anyone is woken: a flush that was waiting must see it.
        if let Err(error) = &end {
            tracing::debug!(%error, records, "a batch failed");
            self.failures.count(records, error);
        }
        state.complete(end);
        self.buffer.release(reserved);
    }

    /// Fails a batch that was not encoded yet.
    pub(super) fn fail(&self, batch: QueuedBatch, error: DeliveryError) {
        let records = batch.builder.record_count();
        self.settle(&batch.state, records, batch.reserved, Err(error));
    }
}

/// Records that failed since somebody asked.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Option<FlushError>>);

impl Failures {
    fn count(&self, records: u32, error: &DeliveryError) {
        // A counter is whole at every step.
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *failures {
            Some(failures) => failures.failed += u64::from(records),
            None => {
                *failures = Some(FlushError { failed: records.into(), first: error.clone() });
            }
        }
    }

    pub(super) fn take(&self) -> Result<(), FlushError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

/// A counted reference, as tasks hold it.
pub(super) type SharedCore = Arc<Core>;
