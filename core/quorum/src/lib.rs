//! The metadata quorum: makes the commands of [`millstream_meta`] durable, puts them in one order,
//! and applies them. The only home of openraft, whose types stay inside.
//!
//! Vote, log, commit point and purge point go into one write-ahead log, so that they reach the disk
//! in the order in which Raft issued them; the state machine is rebuilt from a snapshot and the log
//! after it. Everything on disk is written and synced by one thread of this crate's, never by the
//! async runtime.
//!
//! ```text
//! meta/wal-00000000000000000007.log        the write-ahead log, see `wal::format`
//! meta/snapshot-00000000000000005000.snap  the state after so many entries, see `snapshot_file`
//! ```

mod blocking;
mod error;
mod form;
mod machine;
mod network;
mod quorum;
mod snapshot_file;
mod store;
#[cfg(test)]
mod tests;
mod types;
mod wal;

#[cfg(fuzzing)]
pub use snapshot_file::fuzz as fuzz_snapshot;
#[cfg(fuzzing)]
pub use wal::format::fuzz as fuzz_wal;

pub use error::{ProposeError, QuorumError, StorageFault};
pub use quorum::{COMMAND_BYTES_MAX, Quorum, QuorumConfig, check_size};
