//! What a partition is told by its topic's config.

use millstream_log::LogConfig;
use millstream_replica::ReplicaConfig;
use millstream_types::TimestampMs;
use millstream_types::limits::TIMESTAMP_MS_MAX;
use millstream_wire::IncomingBatch;

/// Whose clock stamps records, and how far a producer's may be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampPolicy {
    /// The producer's, within these distances of the broker's.
    CreateTime {
        /// How far behind a record may be, in milliseconds.
        before_max_ms: u64,
        /// How far ahead a record may be, in milliseconds.
        after_max_ms: u64,
    },
    /// The broker's, written into the batch as it is appended.
    LogAppendTime,
}

impl TimestampPolicy {
    /// A timestamp of the batch that may not stand at `now`, if there is one: its records lie
    /// between the least and the largest. Records without a timestamp may always stand.
    pub(crate) fn refused(self, batch: &IncomingBatch, now: TimestampMs) -> Option<TimestampMs> {
        let Self::CreateTime { before_max_ms, after_max_ms } = self else {
            return None;
        };
        let (least, largest) = (batch.min_timestamp(), batch.header().max_timestamp);
        if largest.0 > TIMESTAMP_MS_MAX || largest.since_ms(now) > after_max_ms {
            return Some(largest);
        }
        (least != TimestampMs::NONE && now.since_ms(least) > before_max_ms).then_some(least)
    }
}

/// A partition's settings.
#[derive(Debug, Clone, Copy)]
pub struct PartitionConfig {
    /// Segments, index and retention.
    pub log: LogConfig,
    /// Durability and the in-sync set.
    pub replica: ReplicaConfig,
    /// Whether the partition is archived: then its log keeps what is not in the archive yet, and
    /// `log`'s retention is that of the local copies.
    pub archived: bool,
    /// Timestamps.
    pub timestamps: TimestampPolicy,
    /// The largest batch taken, header included, in bytes (`max.message.bytes`).
    pub batch_bytes_max: usize,
    /// An idempotent producer that appends nothing for so long is forgotten, in milliseconds
    /// (Kafka's `producer.id.expiration.ms`).
    pub producer_expiration_ms: u64,
}
