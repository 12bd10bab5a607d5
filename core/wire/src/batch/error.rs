//! What can be wrong with a batch.

use millstream_types::ErrorCode;

/// Why bytes are no record batch, or not one that may be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("a batch of {needed} bytes is cut off after {have}")]
    Truncated {
        /// Bytes that a whole batch takes, as far as can be told.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// Bytes follow the batch where exactly one was expected.
    #[error("{extra} bytes follow the batch")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The length field is negative or smaller than a header.
    #[error("the length field says {length}, which no batch has")]
    Length {
        /// The length field.
        length: i32,
    },
    /// The batch is larger than is taken here.
    #[error("a batch of {bytes} bytes; at most {max} are taken")]
    TooLarge {
        /// Bytes of the batch, header included.
        bytes: usize,
        /// The most that are taken.
        max: usize,
    },
    /// A message format other than v2.
    #[error("magic {magic}; only record batches of magic 2 are supported")]
    Magic {
        /// The magic byte.
        magic: u8,
    },
    /// A codec that Kafka does not define.
    #[error("unknown codec {id}")]
    Codec {
        /// The codec's number.
        id: u16,
    },
    /// The base offset is negative, or the offsets after it cannot be represented.
    #[error("base offset {base_offset} with last offset delta {last_offset_delta}")]
    Offsets {
        /// The base offset field.
        base_offset: i64,
        /// The last offset delta field.
        last_offset_delta: i32,
    },
    /// The record count is negative, beyond the limit, or does not fit the last offset delta.
    #[error("{record_count} records with last offset delta {last_offset_delta}")]
    RecordCount {
        /// The record count field.
        record_count: i32,
        /// The last offset delta field.
        last_offset_delta: i32,
    },
    /// The bytes are not those that the CRC was taken of.
    #[error("the CRC field says {stored:08x}, the bytes {computed:08x}")]
    Crc {
        /// The CRC field.
        stored: u32,
        /// The CRC-32C of the bytes.
        computed: u32,
    },
    /// A producer id without an epoch or sequence, or one that no broker assigns.
    #[error("producer id {id} with epoch {epoch} and sequence {sequence}")]
    Producer {
        /// The producer id field.
        id: i64,
        /// The producer epoch field.
        epoch: i16,
        /// The base sequence field.
        sequence: i32,
    },
    /// A timestamp that cannot be kept in microseconds.
    #[error("timestamp {timestamp_ms} ms cannot be kept in microseconds")]
    Timestamp {
        /// The timestamp.
        timestamp_ms: i64,
    },
}

impl BatchError {
    /// The code by which a producer learns of it.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::BatchTooLarge,
            Self::Magic { .. } | Self::Codec { .. } => ErrorCode::UnsupportedBatch,
            Self::Timestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::Truncated { .. }
            | Self::TrailingBytes { .. }
            | Self::Length { .. }
            | Self::Offsets { .. }
            | Self::RecordCount { .. }
            | Self::Crc { .. }
            | Self::Producer { .. } => ErrorCode::CorruptBatch,
        }
    }
}
