//! What can be wrong with an object's bytes, and with what is to become one.

use millstream_types::Offset;
use millstream_wire::{BatchError, BuildError, RecordError};

/// Why a range cannot be encoded. Nothing of it is in the store then.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The batch does not follow the one before.
    #[error("a batch at offset {actual} came where {expected} was due")]
    OutOfOrder {
        /// The offset that the range ended at.
        expected: Offset,
        /// The batch's base offset.
        actual: Offset,
    },
    /// A record of the batch cannot be read.
    #[error("the batch at offset {base_offset}: {source}")]
    Record {
        /// Of the batch.
        base_offset: Offset,
        /// What is wrong.
        source: RecordError,
    },
    /// A range without a batch is no range.
    #[error("there is no batch to archive")]
    Empty,
    /// The partition's index cannot be a column's value.
    #[error("partition {0} is beyond what the archive can name")]
    Partition(u32),
    /// The Parquet writer failed.
    #[error("writing Parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The columns do not fit together.
    #[error("building columns: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// The footer's facts cannot be written.
    #[error("writing the footer: {0}")]
    Footer(#[from] serde_json::Error),
}

/// Why bytes from the store are not what the archive wrote.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The object ends too early, or is no Parquet.
    #[error("not a Parquet object, or not a whole one")]
    Truncated,
    /// It is Parquet, but of something else.
    #[error("a Parquet object that no Millstream archive wrote")]
    NotArchive,
    /// A later build wrote it.
    #[error(
        "archive format {version}; this build reads up to {}: use a newer one",
        crate::FORMAT_VERSION
    )]
    Version {
        /// The object's version.
        version: u32,
    },
    /// The footer contradicts itself.
    #[error("the footer does not hold together: {0}")]
    Inconsistent(&'static str),
    /// A column is missing or of another type.
    #[error("column `{0}` is missing or of another type")]
    Column(&'static str),
    /// Bytes are not those that were written.
    #[error("{what}: CRC-32C {actual:08x} instead of {expected:08x}")]
    Crc {
        /// Which bytes.
        what: &'static str,
        /// What was written down.
        expected: u32,
        /// What the bytes have.
        actual: u32,
    },
    /// There are more rows or bytes than any archive of ours holds.
    #[error("{what}: {actual}; at most {max} are possible")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// As the object says.
        actual: u64,
        /// The limit.
        max: u64,
    },
    /// A batch cannot be made again from its rows.
    #[error("the batch at offset {base_offset}: {source}")]
    Rebuild {
        /// Of the batch.
        base_offset: i64,
        /// Why.
        source: BuildError,
    },
    /// A batch in the footer is none.
    #[error("a batch in the footer: {0}")]
    Batch(#[from] BatchError),
    /// A record of a batch that was made again cannot be read.
    #[error("a record: {0}")]
    Record(#[from] RecordError),
    /// The footer's facts are not the JSON that they should be.
    #[error("the footer's facts: {0}")]
    Facts(#[from] serde_json::Error),
    /// Parquet cannot be read.
    #[error("reading Parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Parquet's reader gave up in a way that it does not tell of: a panic.
    #[error("reading Parquet: its reader panicked: {0}")]
    Panicked(String),
    /// Columns cannot be read.
    #[error("reading columns: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
}
