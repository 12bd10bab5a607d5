//! One batch as the reader gets it, and its records.

use std::sync::Arc;

use millstream_types::Offset;
use millstream_wire::{Batch, RecordError, RecordRef};

use crate::error::ConsumerError;
use crate::record::ConsumerRecord;

/// One batch as consumed, its checksum verified. Cloning shares its memory.
#[derive(Clone, Debug)]
pub struct RecordBatch {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) batch: Batch,
    pub(super) high_watermark: Offset,
    /// Records before this offset were not asked for; batches come whole.
    pub(super) start: Offset,
}

impl RecordBatch {
    /// The topic it is from.
    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition it is from.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The offset of its first record, which in a subscription's first batch may lie before the
    /// start that was asked for; [`records`](Self::records) begins at the start.
    #[must_use]
    pub fn base_offset(&self) -> i64 {
        self.batch.header().base_offset.value()
    }

    /// The offset after its last record.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.batch.header().next_offset().value()
    }

    /// How many records it holds, those before the start that was asked for included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.batch.header().record_count as usize
    }

    /// The partition's high watermark when the batch was sent: the offset after the last
    /// committed record.
    #[must_use]
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark.value()
    }

    /// Its size as received, in bytes, header included.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.batch.bytes().len()
    }

    /// Its records, in order. [`Records::next_ref`] costs no allocation per record.
    ///
    /// # Errors
    /// [`ConsumerError::CorruptBatch`] when the batch does not decompress.
    pub fn records(&self) -> Result<Records, ConsumerError> {
        let place = Place { topic: Arc::clone(&self.topic), partition: self.partition };
        let base_offset = self.batch.header().base_offset;
        let mut inner =
            self.batch.records().map_err(|error| place.corrupt(base_offset.value(), &error))?;
        if base_offset < self.start {
            let mut ahead = inner.clone();
            while let Some(Ok(record)) = ahead.next_ref() {
                if record.offset >= self.start {
                    break;
                }
                let passed = inner.next_ref().is_some();
                debug_assert!(passed, "what one decoder reads, its twin reads too");
            }
        }
        Ok(Records { inner, place, base_offset: base_offset.value() })
    }
}

#[derive(Clone, Debug)]
struct Place {
    topic: Arc<str>,
    partition: u32,
}

impl Place {
    fn corrupt(&self, offset: i64, error: &RecordError) -> ConsumerError {
        let reason = error.to_string();
        ConsumerError::CorruptBatch { partition: self.partition, offset, reason }
    }
}

/// The records of a [`RecordBatch`], from the start that was asked for. As an `Iterator` it
/// gives owned records that share the batch's memory.
#[derive(Clone, Debug)]
pub struct Records {
    inner: millstream_wire::Records,
    place: Place,
    base_offset: i64,
}

impl Records {
    /// The next record, borrowed. After an error there are no more.
    ///
    /// # Errors
    /// [`ConsumerError::CorruptBatch`]: a record is malformed.
    pub fn next_ref(&mut self) -> Option<Result<RecordRef<'_>, ConsumerError>> {
        let Self { inner, place, base_offset } = self;
        let next = inner.next_ref()?;
        Some(next.map_err(|error| place.corrupt(*base_offset, &error)))
    }
}

impl Iterator for Records {
    type Item = Result<ConsumerRecord, ConsumerError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = match self.inner.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(self.place.corrupt(self.base_offset, &error))),
        };
        Some(Ok(ConsumerRecord {
            topic: Arc::clone(&self.place.topic),
            partition: self.place.partition,
            offset: record.offset.value(),
            timestamp: record.timestamp.0,
            key: record.key,
            value: record.value,
            headers: record.headers,
        }))
    }
}
