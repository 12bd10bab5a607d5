//! Kafka's record batch v2 (magic 2): its header, and batches whose bytes have been checked.
//!
//! The bytes that a producer sends are the bytes at rest and the bytes to consumers. A broker
//! writes two fields of the header, base offset and leader epoch, and the batch's CRC covers
//! neither.

mod error;
mod header;

use bytes::{Bytes, BytesMut};
use millstream_types::limits::{BATCH_HEADER_BYTES, TIMESTAMP_MS_MAX};
use millstream_types::{LeaderEpoch, Offset, ProducerId, TimestampMs};

pub use self::error::BatchError;
pub(crate) use self::header::{ATTRIBUTES_AT, CRC_AT, PRODUCER_AT, RECORD_COUNT_AT};
pub use self::header::{
    Attributes, BatchHeader, LENGTH_PREFIX_BYTES, MAGIC, TimestampType, peek_total_bytes,
};
use self::header::{LEADER_EPOCH_AT, LENGTH_AT, MAGIC_AT, MAX_TIMESTAMP_AT};
use crate::crc::crc32c;
use crate::record::{self, RecordError, Records};

/// Checks that `bytes` are exactly the batch that `header`, parsed from them, describes.
fn check_whole(header: &BatchHeader, bytes: &[u8]) -> Result<(), BatchError> {
    let needed = header.total_bytes();
    let have = bytes.len();
    if have < needed {
        return Err(BatchError::Truncated { needed, have });
    }
    if have > needed {
        return Err(BatchError::TrailingBytes { extra: have - needed });
    }
    let computed = crc32c(&bytes[ATTRIBUTES_AT..]);
    if computed != header.crc {
        return Err(BatchError::Crc { stored: header.crc, computed });
    }
    Ok(())
}

/// One batch in contiguous memory, whose header and CRC have been checked. Cloning shares the
/// memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

impl Batch {
    /// Takes `bytes` as exactly one batch.
    ///
    /// # Errors
    /// Those of [`BatchHeader::parse`], and a length or CRC that does not fit the bytes. The
    /// records themselves are not looked at.
    pub fn validate(bytes: Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(&bytes)?;
        check_whole(&header, &bytes)?;
        Ok(Self { header, bytes })
    }

    /// Takes the first of the batches that stand in `bytes` one after another, and returns the
    /// bytes after it. Both share the memory of `bytes`.
    ///
    /// # Errors
    /// Those of [`Batch::validate`]; [`BatchError::Truncated`] when the first batch is not whole.
    pub fn split_first(bytes: &Bytes) -> Result<(Self, Bytes), BatchError> {
        let header = BatchHeader::parse(bytes)?;
        let needed = header.total_bytes();
        if bytes.len() < needed {
            return Err(BatchError::Truncated { needed, have: bytes.len() });
        }
        let first = bytes.slice(..needed);
        check_whole(&header, &first)?;
        Ok((Self { header, bytes: first }, bytes.slice(needed..)))
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch as it stands on the wire and on disk.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, decompressed now and decoded as they are taken.
    ///
    /// # Errors
    /// [`RecordError::Compression`]; what is wrong with a single record comes in its place.
    pub fn records(&self) -> Result<Records, RecordError> {
        Records::new(&self.header, self.bytes.slice(BATCH_HEADER_BYTES..))
    }

    /// The whole batch as it stands on the wire and on disk.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// A batch from a producer: checked, and not yet given its place in a partition.
#[derive(Debug)]
pub struct IncomingBatch {
    header: BatchHeader,
    bytes: BytesMut,
    min_timestamp: Option<TimestampMs>,
}

impl IncomingBatch {
    /// Takes `bytes` as exactly one batch that may be appended, of at most `max_bytes`.
    ///
    /// # Errors
    /// Those of [`Batch::validate`]. Beyond them a new batch has at least one record and as many
    /// as it has offsets, a producer id comes with epoch and sequence, and its timestamps can be
    /// kept in microseconds. Whether it may be a control batch is the caller's to decide.
    pub fn validate(bytes: BytesMut, max_bytes: usize) -> Result<Self, BatchError> {
        if bytes.len() > max_bytes {
            return Err(BatchError::TooLarge { bytes: bytes.len(), max: max_bytes });
        }
        let header = BatchHeader::parse(&bytes)?;
        check_whole(&header, &bytes)?;
        check_new(&header)?;
        Ok(Self { header, bytes, min_timestamp: None })
    }

    /// The header as the producer wrote it; its base offset and leader epoch mean nothing yet.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Decodes every record: lengths, offsets that are the base offset, the next and so on without
    /// a gap, and timestamps that can be kept in microseconds and are not above the header's
    /// largest. That some record has that one is not checked. The least timestamp is noted, see
    /// [`IncomingBatch::min_timestamp`].
    ///
    /// # Errors
    /// Of the first record that is wrong.
    pub fn check_records(&mut self) -> Result<(), RecordError> {
        // As many records as offsets, each offset above the one before and none above the last:
        // there is no room for a gap.
        let records = &self.bytes[BATCH_HEADER_BYTES..];
        self.min_timestamp = Some(record::check_records(&self.header, records)?);
        Ok(())
    }

    /// The least timestamp of the records that have one, [`TimestampMs::NONE`] where none has; as
    /// the records say after [`IncomingBatch::check_records`], before it the header's largest.
    #[must_use]
    pub const fn min_timestamp(&self) -> TimestampMs {
        match self.min_timestamp {
            Some(timestamp) => timestamp,
            None => self.header.max_timestamp,
        }
    }

    /// Gives every record the broker's time and takes the CRC anew. The records' own timestamps
    /// stay in the bytes; readers ignore them.
    pub fn set_log_append_time(&mut self, now: TimestampMs) {
        self.header.attributes = self.header.attributes.with_log_append_time();
        self.header.max_timestamp = now;
        let attributes = self.header.attributes.bits().to_be_bytes();
        self.bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes);
        self.bytes[MAX_TIMESTAMP_AT..PRODUCER_AT].copy_from_slice(&now.0.to_be_bytes());
        self.header.crc = crc32c(&self.bytes[ATTRIBUTES_AT..]);
        self.bytes[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&self.header.crc.to_be_bytes());
    }

    /// Gives the batch its place: writes base offset and leader epoch where they stand. Nothing
    /// is copied, and the CRC covers neither.
    #[must_use]
    pub fn assign(mut self, base_offset: Offset, epoch: LeaderEpoch) -> Batch {
        self.header.base_offset = base_offset;
        self.header.leader_epoch = epoch;
        self.bytes[..LENGTH_AT].copy_from_slice(&base_offset.value().to_be_bytes());
        self.bytes[LEADER_EPOCH_AT..MAGIC_AT].copy_from_slice(&epoch.0.to_be_bytes());
        Batch { header: self.header, bytes: self.bytes.freeze() }
    }
}

/// Checks what holds of a producer's batch but need not of one that compaction rewrote.
fn check_new(header: &BatchHeader) -> Result<(), BatchError> {
    if u64::from(header.record_count) != u64::from(header.last_offset_delta) + 1 {
        return Err(BatchError::RecordCount {
            record_count: header.record_count.cast_signed(),
            last_offset_delta: header.last_offset_delta.cast_signed(),
        });
    }
    let (id, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
    let stamped = id.is_some() && epoch.0 >= 0 && sequence >= 0;
    if !stamped && id != ProducerId::NONE {
        return Err(BatchError::Producer { id: id.0, epoch: epoch.0, sequence });
    }
    for timestamp in [header.base_timestamp, header.max_timestamp] {
        if timestamp.0.unsigned_abs() > TIMESTAMP_MS_MAX.unsigned_abs() {
            return Err(BatchError::Timestamp { timestamp_ms: timestamp.0 });
        }
    }
    Ok(())
}
