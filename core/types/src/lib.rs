//! The vocabulary that every Millstream crate shares: identities, offsets, hard limits and the
//! closed set of error codes that cross the wire. Standard library only; nothing here does I/O.

pub mod digest;
pub mod error_code;
pub mod ids;
pub mod limits;
pub mod offset;

pub use digest::{Digest, ParseDigestError};
pub use error_code::ErrorCode;
pub use ids::{
    BrokerId, ClusterId, DirectoryId, LeaderEpoch, ParseIdError, PartitionIndex, ProducerEpoch,
    ProducerId, TopicId, TopicPartition,
};
pub use offset::{Offset, TimestampMs};
