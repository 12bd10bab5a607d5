//! A batch's header and what it says. The layout is that of Kafka's `DefaultRecordBatch` (KIP-98),
//! all of it big-endian:
//!
//! | byte | field | byte | field |
//! |---|---|---|---|
//! | 0 | base offset, i64 | 27 | base timestamp, i64 |
//! | 8 | length after this field, i32 | 35 | largest timestamp, i64 |
//! | 12 | leader epoch, i32 | 43 | producer id, i64 |
//! | 16 | magic, i8 | 51 | producer epoch, i16 |
//! | 17 | CRC-32C from byte 21 on, u32 | 53 | base sequence, i32 |
//! | 21 | attributes, i16 | 57 | record count, i32 |
//! | 23 | last offset delta, i32 | 61 | records, compressed as one |

use bytes::Buf;
use millstream_types::limits::{BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BATCH_RECORDS_MAX};
use millstream_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

use super::BatchError;
use crate::compression::Codec;

/// The only magic that Millstream reads and writes.
pub const MAGIC: u8 = 2;
/// Bytes of the base offset and length fields, which the length does not count.
pub const LENGTH_PREFIX_BYTES: usize = 12;

pub(crate) const LENGTH_AT: usize = 8;
pub(crate) const LEADER_EPOCH_AT: usize = 12;
pub(crate) const MAGIC_AT: usize = 16;
pub(crate) const CRC_AT: usize = 17;
pub(crate) const ATTRIBUTES_AT: usize = 21;
pub(crate) const MAX_TIMESTAMP_AT: usize = 35;
/// Producer id, epoch and base sequence: from here to the record count.
pub(crate) const PRODUCER_AT: usize = 43;
pub(crate) const RECORD_COUNT_AT: usize = 57;

/// Whose clock a batch's timestamps are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimestampType {
    /// The producer's: each record has its own.
    CreateTime,
    /// The broker's: every record has the batch's largest timestamp.
    LogAppendTime,
}

/// A batch's attribute bits. The codec among them is always one that Kafka defines; bits that
/// Kafka has not assigned are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes(u16);

impl Attributes {
    const CODEC_MASK: u16 = 0b111;
    const LOG_APPEND_TIME: u16 = 1 << 3;
    const TRANSACTIONAL: u16 = 1 << 4;
    const CONTROL: u16 = 1 << 5;

    /// Of a batch of a plain producer: create time, not transactional, no control batch.
    #[must_use]
    pub const fn new(codec: Codec) -> Self {
        Self(codec as u16)
    }

    /// From the header's field; `None` when its codec is unknown.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & Self::CODEC_MASK > Codec::Zstd as u16 { None } else { Some(Self(bits)) }
    }

    /// The header's field.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// How the records are compressed.
    #[must_use]
    pub const fn codec(self) -> Codec {
        match self.0 & Self::CODEC_MASK {
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            _ => Codec::None,
        }
    }

    /// Whose clock the timestamps are of.
    #[must_use]
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub const fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch is the brokers' own and not for applications.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// The same, compressed otherwise.
    #[must_use]
    pub const fn with_codec(self, codec: Codec) -> Self {
        Self((self.0 & !Self::CODEC_MASK) | codec as u16)
    }

    /// The same, with the broker's timestamps.
    #[must_use]
    pub const fn with_log_append_time(self) -> Self {
        Self(self.0 | Self::LOG_APPEND_TIME)
    }
}

/// A batch's header. What [`BatchHeader::parse`] returns is within the limits and consistent in
/// itself; whether the batch's bytes are those it was made for only the CRC tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The first record's offset. Of the producer's making until the broker assigns it.
    pub base_offset: Offset,
    /// Bytes of the batch after the first 12.
    pub batch_length: u32,
    /// The leadership in which the batch was appended. Of no meaning from a producer.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of the bytes from the attributes to the end.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// The last record's offset less the base offset. Compaction keeps it.
    pub last_offset_delta: u32,
    /// What the records' timestamp deltas are relative to.
    pub base_timestamp: TimestampMs,
    /// The largest record timestamp, by the producer's word; with
    /// [`TimestampType::LogAppendTime`] the timestamp of every record.
    pub max_timestamp: TimestampMs,
    /// The idempotent producer, or [`ProducerId::NONE`].
    pub producer_id: ProducerId,
    /// The producer's incarnation; -1 without a producer id.
    pub producer_epoch: ProducerEpoch,
    /// The producer's number for the first record; -1 without a producer id.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: u32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, of which the rest may be missing. The CRC is not
    /// looked at.
    ///
    /// # Errors
    /// [`BatchError::Truncated`] below 61 bytes, and whatever makes the header impossible: magic,
    /// length, codec, offsets, or a record count that does not fit the offsets. Fewer records than
    /// offsets are possible, as compaction leaves them.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let have = bytes.len();
        let Some(mut field) = bytes.get(..BATCH_HEADER_BYTES) else {
            return Err(BatchError::Truncated { needed: BATCH_HEADER_BYTES, have });
        };
        let base_offset = field.get_i64();
        let length = field.get_i32();
        let leader_epoch = LeaderEpoch(field.get_i32());
        let magic = field.get_u8();
        if magic != MAGIC {
            return Err(BatchError::Magic { magic });
        }
        let batch_length = check_length(length)?;
        let crc = field.get_u32();
        let bits = field.get_u16();
        let id = bits & Attributes::CODEC_MASK;
        let attributes = Attributes::from_bits(bits).ok_or(BatchError::Codec { id })?;
        let last_offset_delta = field.get_i32();
        let base_timestamp = TimestampMs(field.get_i64());
        let max_timestamp = TimestampMs(field.get_i64());
        let producer_id = ProducerId(field.get_i64());
        let producer_epoch = ProducerEpoch(field.get_i16());
        let base_sequence = field.get_i32();
        let record_count = field.get_i32();

        let bad_offsets = BatchError::Offsets { base_offset, last_offset_delta };
        let delta = u32::try_from(last_offset_delta).or(Err(bad_offsets))?;
        let base = Offset::new(base_offset).ok_or(bad_offsets)?;
        if base_offset.checked_add(i64::from(delta) + 1).is_none() {
            return Err(bad_offsets);
        }
        let bad_count = BatchError::RecordCount { record_count, last_offset_delta };
        let count = u32::try_from(record_count).or(Err(bad_count))?;
        if count > BATCH_RECORDS_MAX || u64::from(count) > u64::from(delta) + 1 {
            return Err(bad_count);
        }
        Ok(Self {
            base_offset: base,
            batch_length,
            leader_epoch,
            crc,
            attributes,
            last_offset_delta: delta,
            base_timestamp,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            record_count: count,
        })
    }

    /// Bytes of the whole batch, header included.
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        LENGTH_PREFIX_BYTES + self.batch_length as usize
    }

    /// The last record's offset.
    #[must_use]
    pub const fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta as u64)
    }

    /// The offset of the batch after this one.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta as u64 + 1)
    }

    /// The producer's number for the last record. After `i32::MAX` comes 0, as in Kafka; -1
    /// without a producer id.
    #[must_use]
    pub const fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        // Both are below 2^31, so the sum fits 32 bits; dropping its top bit takes it modulo 2^31.
        let sum = self.base_sequence.cast_unsigned() + self.last_offset_delta;
        (sum & i32::MAX.cast_unsigned()).cast_signed()
    }
}

/// Checks a batch's length field against what a batch can be.
fn check_length(length: i32) -> Result<u32, BatchError> {
    let unsigned = u32::try_from(length).or(Err(BatchError::Length { length }))?;
    let bytes = LENGTH_PREFIX_BYTES + unsigned as usize;
    if bytes < BATCH_HEADER_BYTES {
        return Err(BatchError::Length { length });
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(BatchError::TooLarge { bytes, max: BATCH_BYTES_MAX });
    }
    Ok(unsigned)
}

/// Bytes of the batch that starts with `prefix`: `None` when these are fewer than 12, or name a
/// length that no batch has.
#[must_use]
pub fn peek_total_bytes(prefix: &[u8]) -> Option<usize> {
    let field = prefix.get(LENGTH_AT..LENGTH_PREFIX_BYTES)?;
    let length = i32::from_be_bytes(field.try_into().ok()?);
    let unsigned = check_length(length).ok()?;
    Some(LENGTH_PREFIX_BYTES + unsigned as usize)
}
