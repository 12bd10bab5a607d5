//! What can be wrong with a batch's records.

use millstream_types::ErrorCode;
use millstream_types::limits::RECORD_HEADERS_MAX;

use crate::compression::CompressionError;

/// Why a batch's records cannot be read. `index` counts the batch's records from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The records do not decompress, or to more than the limit.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// The bytes end before the record does.
    #[error("record {index} is cut off")]
    Truncated {
        /// The record.
        index: u32,
    },
    /// A record's fields end before or after its length says, or a length or count among them is
    /// negative.
    #[error("record {index} has fields that do not fit its length")]
    Malformed {
        /// The record.
        index: u32,
    },
    /// More headers than a record may have.
    #[error("record {index} has {count} headers; at most {RECORD_HEADERS_MAX} are taken")]
    HeaderCount {
        /// The record.
        index: u32,
        /// The header count field.
        count: usize,
    },
    /// Offsets do not rise from record to record up to the batch's last.
    #[error("record {index} has offset delta {delta} out of order")]
    OffsetDelta {
        /// The record.
        index: u32,
        /// The offset delta field.
        delta: i32,
    },
    /// The timestamp does not fit 64 bits or, for a new record, cannot be kept in microseconds.
    #[error("record {index} has timestamp delta {delta} ms, out of range")]
    Timestamp {
        /// The record.
        index: u32,
        /// The timestamp delta field.
        delta: i64,
    },
    /// A record is later than the header's largest timestamp: a search by time would miss it.
    #[error("record {index} has timestamp {timestamp_ms}, above the batch's largest")]
    MaxTimestamp {
        /// The record.
        index: u32,
        /// Its timestamp.
        timestamp_ms: i64,
    },
    /// Bytes follow the last record.
    #[error("{extra} bytes follow the last record")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
}

impl RecordError {
    /// The code by which a producer learns of it.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Compression(CompressionError::TooLarge { .. }) => ErrorCode::BatchTooLarge,
            Self::Timestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::HeaderCount { .. } => ErrorCode::LimitExceeded,
            Self::Compression(_)
            | Self::Truncated { .. }
            | Self::Malformed { .. }
            | Self::OffsetDelta { .. }
            | Self::MaxTimestamp { .. }
            | Self::TrailingBytes { .. } => ErrorCode::CorruptBatch,
        }
    }
}
