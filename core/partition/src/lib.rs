//! One partition on one broker: the decisions of [`millstream_replica`] applied to a
//! [`millstream_log`] on a disk. Synchronous and without a clock, so that the broker and the
//! simulator run the same code; whoever owns a [`Partition`] brings the time, the disk's
//! completions and the waiting.

mod config;
mod partition;
mod range;

pub use config::{PartitionConfig, TimestampPolicy};
pub use partition::{AppendError, Partition, Placed, RecoverError};
pub use range::RangeState;
