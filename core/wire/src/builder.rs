//! Builds record batches: each record is encoded once, into the buffer that leaves as the batch.

use bytes::{BufMut, Bytes, BytesMut};
use millstream_types::limits::{
    BATCH_BYTES_MAX, BATCH_DECOMPRESSED_BYTES_MAX, BATCH_HEADER_BYTES, BATCH_RECORDS_MAX,
    RECORD_HEADERS_MAX, TIMESTAMP_MS_MAX,
};
use millstream_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

use crate::batch::{
    ATTRIBUTES_AT, Attributes, BatchError, BatchHeader, CRC_AT, LENGTH_PREFIX_BYTES, MAGIC,
    PRODUCER_AT, RECORD_COUNT_AT,
};
use crate::compression::{Codec, CompressionError};
use crate::crc::crc32c;
use crate::record::HeaderRef;
use crate::varint::{VARINT_BYTES_MAX, VARLONG_BYTES_MAX, put_varlong, varlong_bytes};

/// The leader epoch of a batch that no leader has appended.
const NO_LEADER_EPOCH: LeaderEpoch = LeaderEpoch(-1);

/// Why a record cannot be added, or a batch not be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The batch would pass its limit.
    #[error("the batch would have {bytes} bytes; at most {max} are possible")]
    TooLarge {
        /// Bytes of the batch with the record, compressed if it already is.
        bytes: usize,
        /// The limit: of a batch, or of what one may decompress to.
        max: usize,
    },
    /// The batch is full by count.
    #[error("a batch holds at most {BATCH_RECORDS_MAX} records")]
    TooManyRecords,
    /// The record has too many headers.
    #[error("{count} headers; a record has at most {RECORD_HEADERS_MAX}")]
    TooManyHeaders {
        /// The record's headers.
        count: usize,
    },
    /// The timestamp cannot be kept in microseconds.
    #[error("timestamp {timestamp_ms} ms cannot be kept in microseconds")]
    Timestamp {
        /// The timestamp.
        timestamp_ms: i64,
    },
    /// The record is not at or after the next offset of its batch, or after the batch's last.
    #[error("offset {offset} is not one of the batch's, or out of order")]
    Offset {
        /// The record's offset.
        offset: Offset,
    },
    /// There is no record to build a batch of.
    #[error("a batch needs a record")]
    Empty,
    /// The codec failed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// Who a batch is from, by which a broker tells a repeated batch from a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerStamp {
    /// The producer.
    pub id: ProducerId,
    /// Its incarnation.
    pub epoch: ProducerEpoch,
    /// Its number for the batch's first record; the others' follow.
    pub base_sequence: i32,
}

impl ProducerStamp {
    /// Of a producer that is not idempotent.
    pub const NONE: Self =
        Self { id: ProducerId::NONE, epoch: ProducerEpoch(-1), base_sequence: -1 };

    fn put(self, mut field: &mut [u8]) {
        field.put_i64(self.id.0);
        field.put_i16(self.epoch.0);
        field.put_i32(self.base_sequence);
    }
}

/// A record of a batch that is made again, without its headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordFields<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// Its time.
    pub timestamp: TimestampMs,
    /// What it is about.
    pub key: Option<&'a [u8]>,
    /// What it says.
    pub value: Option<&'a [u8]>,
}

/// Everything about a stored batch that its records do not tell: with them it can be made again,
/// though not its compressed bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchFrame {
    /// The offset that the records' deltas count from.
    pub base_offset: Offset,
    /// The leadership in which the batch was appended.
    pub leader_epoch: LeaderEpoch,
    /// Flags; the codec among them is ignored.
    pub attributes: Attributes,
    /// The last offset that the batch takes, less the base offset.
    pub last_offset_delta: u32,
    /// What the records' timestamp deltas count from.
    pub base_timestamp: TimestampMs,
    /// The header's largest timestamp; with the broker's timestamps every record's.
    pub max_timestamp: TimestampMs,
    /// Who the batch is from.
    pub producer: ProducerStamp,
}

/// Gathers records and turns them into one batch. The buffer starts with room for the header, so
/// that an uncompressed batch is built where its records were written.
#[derive(Debug)]
pub struct BatchBuilder {
    codec: Codec,
    buffer: BytesMut,
    base_timestamp: TimestampMs,
    max_timestamp: TimestampMs,
    record_count: u32,
    /// The least that the next record's offset delta may be.
    delta_min: u32,
}

impl BatchBuilder {
    /// With room for `capacity` bytes of encoded records before memory has to grow.
    #[must_use]
    pub fn new(codec: Codec, capacity: usize) -> Self {
        let capacity = capacity.min(Self::bytes_max(codec) - BATCH_HEADER_BYTES);
        let mut buffer = BytesMut::with_capacity(BATCH_HEADER_BYTES + capacity);
        buffer.put_bytes(0, BATCH_HEADER_BYTES);
        Self {
            codec,
            buffer,
            base_timestamp: TimestampMs::NONE,
            max_timestamp: TimestampMs::NONE,
            record_count: 0,
            delta_min: 0,
        }
    }

    /// Adds a record after those that are there. An error leaves the builder as it was.
    ///
    /// # Errors
    /// [`BuildError::TooLarge`], [`BuildError::TooManyRecords`], [`BuildError::TooManyHeaders`] and
    /// [`BuildError::Timestamp`].
    pub fn append(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[HeaderRef<'_>],
    ) -> Result<(), BuildError> {
        self.append_iter(timestamp, key, value, headers.iter().copied())
    }

    /// [`BatchBuilder::append`] with headers from anywhere, such as another batch's
    /// [`Headers`](crate::record::Headers). They are gone through twice.
    ///
    /// # Errors
    /// Those of [`BatchBuilder::append`].
    pub fn append_iter<'a>(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = HeaderRef<'a>> + Clone,
    ) -> Result<(), BuildError> {
        let base_timestamp = if self.is_empty() { timestamp } else { self.base_timestamp };
        self.append_after(base_timestamp, self.record_count, timestamp, key, value, headers)
    }

    /// [`BatchBuilder::append_iter`] for a batch that is made again, as [`BatchFrame`] describes
    /// it: with the record's own distance from the base offset, which may leave a gap.
    ///
    /// # Errors
    /// Those of [`BatchBuilder::append`], and [`BuildError::Offset`].
    pub fn append_framed<'a>(
        &mut self,
        frame: &BatchFrame,
        record: RecordFields<'_>,
        headers: impl ExactSizeIterator<Item = HeaderRef<'a>> + Clone,
    ) -> Result<(), BuildError> {
        let RecordFields { offset, timestamp, key, value } = record;
        let delta = offset.value().checked_sub(frame.base_offset.value());
        let delta = delta.and_then(|delta| u32::try_from(delta).ok());
        let in_order = |delta: &u32| {
            (self.delta_min..=frame.last_offset_delta).contains(delta)
                && *delta <= i32::MAX.cast_unsigned()
        };
        let Some(delta) = delta.filter(in_order) else {
            return Err(BuildError::Offset { offset });
        };
        self.append_after(frame.base_timestamp, delta, timestamp, key, value, headers)
    }

    fn append_after<'a>(
        &mut self,
        base_timestamp: TimestampMs,
        offset_delta: u32,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = HeaderRef<'a>> + Clone,
    ) -> Result<(), BuildError> {
        for timestamp in [base_timestamp, timestamp] {
            if timestamp.0.unsigned_abs() > TIMESTAMP_MS_MAX.unsigned_abs() {
                return Err(BuildError::Timestamp { timestamp_ms: timestamp.0 });
            }
        }
        if self.record_count == BATCH_RECORDS_MAX {
            return Err(BuildError::TooManyRecords);
        }
        let header_count = headers.len();
        if header_count > RECORD_HEADERS_MAX {
            return Err(BuildError::TooManyHeaders { count: header_count });
        }
        // Neither is beyond ±i64::MAX / 1000.
        let timestamp_delta = timestamp.0 - base_timestamp.0;
        let (delta_min, offset_delta) = (offset_delta + 1, i64::from(offset_delta));

        let mut body_bytes = 1 + varlong_bytes(timestamp_delta) + varlong_bytes(offset_delta);
        body_bytes += nullable_bytes(key) + nullable_bytes(value);
        body_bytes += varlong_bytes(as_varlong(header_count));
        for header in headers.clone() {
            body_bytes += nullable_bytes(Some(header.key)) + nullable_bytes(header.value);
        }
        let record_bytes = varlong_bytes(as_varlong(body_bytes)) + body_bytes;
        let (bytes, max) = (self.buffer.len() + record_bytes, Self::bytes_max(self.codec));
        if bytes > max {
            return Err(BuildError::TooLarge { bytes, max });
        }

        let buffer = &mut self.buffer;
        buffer.reserve(record_bytes);
        put_varlong(buffer, as_varlong(body_bytes));
        buffer.put_u8(0);
        put_varlong(buffer, timestamp_delta);
        put_varlong(buffer, offset_delta);
        put_nullable(buffer, key);
        put_nullable(buffer, value);
        put_varlong(buffer, as_varlong(header_count));
        for header in headers {
            put_nullable(buffer, Some(header.key));
            put_nullable(buffer, header.value);
        }
        debug_assert_eq!(buffer.len(), bytes, "a record has the length it was measured to have");
        self.base_timestamp = base_timestamp;
        self.max_timestamp =
            if self.is_empty() { timestamp } else { self.max_timestamp.max(timestamp) };
        self.record_count += 1;
        self.delta_min = delta_min;
        Ok(())
    }

    /// At least the bytes that [`BatchBuilder::append`] adds for such a record; at most 20 more.
    #[must_use]
    pub fn record_bytes_bound(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[HeaderRef<'_>],
    ) -> usize {
        let mut bytes = 1 + 2 * VARINT_BYTES_MAX + VARLONG_BYTES_MAX;
        bytes += nullable_bytes(key) + nullable_bytes(value);
        bytes += varlong_bytes(as_varlong(headers.len()));
        for header in headers {
            bytes += nullable_bytes(Some(header.key)) + nullable_bytes(header.value);
        }
        bytes
    }

    /// Bytes of the batch so far, header included, as they are before compression.
    #[must_use]
    pub fn estimated_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Records added.
    #[must_use]
    pub const fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Whether no record was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// The batch, with base offset 0 and no leader epoch, ready to be sent.
    ///
    /// # Errors
    /// [`BuildError::Empty`], [`BuildError::Compression`], and [`BuildError::TooLarge`] when the
    /// records do not compress to a batch within the limit.
    pub fn build(self, producer: ProducerStamp) -> Result<Bytes, BuildError> {
        let Some(last_offset_delta) = self.record_count.checked_sub(1) else {
            return Err(BuildError::Empty);
        };
        let frame = BatchFrame {
            base_offset: Offset::ZERO,
            leader_epoch: NO_LEADER_EPOCH,
            attributes: Attributes::new(self.codec),
            last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer,
        };
        self.build_framed(&frame)
    }

    /// The batch as `frame` describes it, which the records were added for by
    /// [`BatchBuilder::append_framed`]; its compression is the builder's. Without records it is
    /// the empty batch that compaction can leave.
    ///
    /// # Errors
    /// [`BuildError::Compression`], and [`BuildError::TooLarge`] when the records do not compress
    /// to a batch within the limit.
    pub fn build_framed(self, frame: &BatchFrame) -> Result<Bytes, BuildError> {
        let mut batch = match self.codec {
            Codec::None => self.buffer,
            codec => {
                let records = &self.buffer[BATCH_HEADER_BYTES..];
                let mut batch = BytesMut::with_capacity(BATCH_HEADER_BYTES + records.len() / 2);
                batch.put_bytes(0, BATCH_HEADER_BYTES);
                codec.compress(records, &mut batch)?;
                batch
            }
        };
        let too_large = BuildError::TooLarge { bytes: batch.len(), max: BATCH_BYTES_MAX };
        if batch.len() > BATCH_BYTES_MAX {
            return Err(too_large);
        }
        let batch_length = u32::try_from(batch.len() - LENGTH_PREFIX_BYTES).or(Err(too_large))?;
        let mut field = &mut batch[..BATCH_HEADER_BYTES];
        field.put_i64(frame.base_offset.value());
        field.put_u32(batch_length);
        field.put_i32(frame.leader_epoch.0);
        field.put_u8(MAGIC);
        field.put_u32(0);
        field.put_u16(frame.attributes.with_codec(self.codec).bits());
        field.put_u32(frame.last_offset_delta);
        field.put_i64(frame.base_timestamp.0);
        field.put_i64(frame.max_timestamp.0);
        frame.producer.put(&mut batch[PRODUCER_AT..RECORD_COUNT_AT]);
        batch[RECORD_COUNT_AT..BATCH_HEADER_BYTES]
            .copy_from_slice(&self.record_count.to_be_bytes());
        write_crc(&mut batch);
        Ok(batch.freeze())
    }

    /// The most that the buffer may hold, header included.
    const fn bytes_max(codec: Codec) -> usize {
        match codec {
            Codec::None => BATCH_BYTES_MAX,
            _ => BATCH_HEADER_BYTES + BATCH_DECOMPRESSED_BYTES_MAX,
        }
    }
}

/// The same batch from another producer, or with another sequence: for a producer that had to take
/// a new id or epoch. In place when nothing else shares the memory, otherwise of a copy.
///
/// # Errors
/// Those of [`BatchHeader::parse`], and [`BatchError::Truncated`] or
/// [`BatchError::TrailingBytes`] when `batch` is not exactly one.
pub fn restamp(batch: Bytes, producer: ProducerStamp) -> Result<Bytes, BatchError> {
    let needed = BatchHeader::parse(&batch)?.total_bytes();
    let have = batch.len();
    if have < needed {
        return Err(BatchError::Truncated { needed, have });
    }
    if have > needed {
        return Err(BatchError::TrailingBytes { extra: have - needed });
    }
    let mut batch = batch.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    producer.put(&mut batch[PRODUCER_AT..RECORD_COUNT_AT]);
    write_crc(&mut batch);
    Ok(batch.freeze())
}

fn write_crc(batch: &mut [u8]) {
    let crc = crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
}

/// A length or count for the wire. What is in memory is far below `i64::MAX`.
fn as_varlong(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn nullable_bytes(part: Option<&[u8]>) -> usize {
    match part {
        None => varlong_bytes(-1),
        Some(part) => varlong_bytes(as_varlong(part.len())) + part.len(),
    }
}

fn put_nullable(buffer: &mut BytesMut, part: Option<&[u8]>) {
    match part {
        None => put_varlong(buffer, -1),
        Some(part) => {
            put_varlong(buffer, as_varlong(part.len()));
            buffer.put_slice(part);
        }
    }
}
