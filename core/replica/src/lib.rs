//! The decisions of one partition's replica, sans-io: where a batch goes, whether it is a
//! duplicate, and how far the partition is committed.
//!
//! [`Replica::admit`] says where a batch goes; [`Replica::step`] takes the time and an [`Input`]
//! and says what to do as [`Action`]s. They see batch headers and never payload, own no clock, and
//! do no I/O, so that the broker and the simulator run the same code. The in-sync set has one
//! member until brokers replicate; the high watermark is already the minimum over the set.

mod producers;
mod replica;

pub use producers::{ProducerTable, SnapshotError};
pub use replica::{
    Action, Admission, Durability, Input, Positions, Refusal, Replica, ReplicaConfig,
};

#[cfg(test)]
mod testing {
    use millstream_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
    use millstream_wire::batch::{Attributes, BatchHeader};
    use millstream_wire::compression::Codec;

    /// The header of a batch of `records` records.
    pub(crate) fn header(
        base_offset: Offset,
        records: u32,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
    ) -> BatchHeader {
        BatchHeader {
            base_offset,
            batch_length: 49,
            leader_epoch: LeaderEpoch(0),
            crc: 0,
            attributes: Attributes::new(Codec::None),
            last_offset_delta: records - 1,
            base_timestamp: TimestampMs(0),
            max_timestamp: TimestampMs(0),
            producer_id: ProducerId(producer_id),
            producer_epoch: ProducerEpoch(producer_epoch),
            base_sequence,
            record_count: records,
        }
    }
}
