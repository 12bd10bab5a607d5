//! What each operation of a log can fail with.

use std::path::PathBuf;

use millstream_env::disk::DiskError;
use millstream_types::{LeaderEpoch, Offset, TopicPartition};

/// Stored bytes that were durable are not what was written. The log is left as it is: nothing is
/// cut, so that the data can be healed from a replica or repaired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: corrupt at byte {position}: expected {expected}, found {actual}", path.display())]
pub struct Corruption {
    /// The segment file, relative to the disk's root.
    pub path: PathBuf,
    /// Where in the file.
    pub position: u64,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub actual: String,
}

/// Why a log cannot be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// Reading, removing or submitting failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Durable data is damaged.
    #[error(transparent)]
    Corrupt(#[from] Box<Corruption>),
    /// A file belongs to another log or offset than its place says.
    #[error("{}: the file is of {actual}, not of {expected}", path.display())]
    WrongIdentity {
        /// The file.
        path: PathBuf,
        /// Whose file it should be.
        expected: TopicPartition,
        /// Whose file it says it is.
        actual: TopicPartition,
    },
    /// A file was written by a newer build.
    #[error("{}: format version {version} is newer than this build reads", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// Why a batch was not appended. The log is as it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The batch's base offset is not the log's end.
    #[error("the batch starts at offset {actual}, the log ends at {expected}")]
    OffsetMismatch {
        /// The log's end.
        expected: Offset,
        /// The batch's base offset.
        actual: Offset,
    },
    /// The batch's leader epoch is older than the newest one in the log.
    #[error("the batch is of leader epoch {actual}, the log has reached {newest}")]
    OlderEpoch {
        /// The log's newest epoch.
        newest: LeaderEpoch,
        /// The batch's.
        actual: LeaderEpoch,
    },
    /// The segment has no room for the batch: roll first.
    #[error("the segment is full")]
    SegmentFull,
    /// The disk is full. The append may be tried again when there is room.
    #[error("no space left on the disk")]
    NoSpace,
    /// A write or sync failed, now or earlier; the log takes no more.
    #[error(transparent)]
    Failed(#[from] LogError),
}

/// A write or sync failed: what the file holds is unknown until the log is opened anew, and, after
/// a failed sync, until the disk was repaired. Latched: every later operation returns it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log of {log} has failed: {source}")]
pub struct LogError {
    /// Whose log.
    pub log: TopicPartition,
    /// The first failure.
    pub source: DiskError,
}

/// Why nothing can be read from an offset.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The offset lies outside what the log holds.
    #[error("offset {offset} is outside of {start}..{end}")]
    OutOfRange {
        /// What was asked for.
        offset: Offset,
        /// The log's first offset.
        start: Offset,
        /// The log's end.
        end: Offset,
    },
    /// Stored data is damaged.
    #[error(transparent)]
    Corrupt(#[from] Box<Corruption>),
    /// Reading failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
