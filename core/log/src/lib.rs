//! One partition's log on one disk: record batches, exactly as they came, in segment files.
//!
//! [`PartitionLog`] is synchronous and has one owner. It starts no thread, has no clock and never
//! waits for a write or a sync: those are submitted to the [`Disk`](millstream_env::disk::Disk),
//! and the owner hands their completions to [`PartitionLog::complete`]. What can block on file
//! contents, reading old data and looking up timestamps, is returned as a detached value
//! ([`FileRead`], [`TimestampLookup`]) that the caller loads wherever it may block.
//!
//! The file format is specified in `docs/segment-format.md`; its parsers are in [`mod@format`].

mod config;
mod epoch;
mod error;
mod file;
pub mod format;
mod index;
mod log;
mod proof;
mod read;
mod recovery;
mod retention;
mod scan;
mod shared;
mod tail;
mod timestamp;
mod unsealed;

#[cfg(fuzzing)]
pub use scan::fuzz::scan as fuzz_scan;

pub use config::{ConfigError, LogConfig};
pub use epoch::{EpochHistory, EpochStart};
pub use error::{AppendError, Corruption, LogError, OpenError, ReadError};
pub use log::{Beginning, Begins, Context, PartitionLog, Progress};
pub use read::{Cursor, FileRead, Load, Loaded, ReadPlan};
pub use recovery::Replay;
pub use retention::Removed;
pub use shared::{LogShared, SharedLimits};
pub use timestamp::{TimestampHit, TimestampLookup};
