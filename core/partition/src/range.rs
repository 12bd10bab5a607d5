//! What a partition knows where an archived range ends, carried from range to range.

use bytes::Bytes;
use millstream_log::{Beginning, EpochHistory, EpochStart};
use millstream_replica::{ProducerTable, SnapshotError};
use millstream_types::{LeaderEpoch, Offset, TimestampMs};
use millstream_wire::batch::BatchHeader;

/// Leader epochs and producers' state at the end of a range: those of the range before and of the
/// batches since, so that nothing depends on what the log still has.
#[derive(Debug, Clone, Default)]
pub struct RangeState {
    epochs: Vec<(LeaderEpoch, Offset)>,
    producers: ProducerTable,
}

impl RangeState {
    /// The state where the range before ended: its epochs and its snapshot of the producers, both
    /// empty where there is none.
    ///
    /// # Errors
    /// [`SnapshotError`] for producers that cannot be read.
    pub fn resume(
        epochs: &[(LeaderEpoch, Offset)],
        producers: &[u8],
    ) -> Result<Self, SnapshotError> {
        let producers = if producers.is_empty() {
            ProducerTable::default()
        } else {
            ProducerTable::from_snapshot(producers)?
        };
        Ok(Self { epochs: epochs.to_vec(), producers })
    }

    /// Forgets the producers that stored nothing since `before`.
    pub fn expire_producers(&mut self, before: TimestampMs) {
        self.producers.expire(before);
    }

    /// Takes up the range's next batch.
    pub fn stored(&mut self, header: &BatchHeader, now: TimestampMs) {
        self.producers.stored(header, now);
        let newest = self.epochs.last().map(|(epoch, _)| *epoch);
        if newest.is_none_or(|newest| header.leader_epoch > newest) {
            self.epochs.push((header.leader_epoch, header.base_offset));
        }
    }

    /// The leader epochs up to here and the offsets at which they began, oldest first.
    #[must_use]
    pub fn epochs(&self) -> &[(LeaderEpoch, Offset)] {
        &self.epochs
    }

    /// The producers' state here, as [`RangeState::resume`] takes it.
    #[must_use]
    pub fn producers(&self) -> Bytes {
        self.producers.to_snapshot().into()
    }

    /// A log's beginning at `offset`, where this is the state; `None` for epochs that no log has.
    #[must_use]
    pub fn beginning(&self, offset: Offset) -> Option<Beginning> {
        let starts =
            self.epochs.iter().map(|(epoch, start)| EpochStart { epoch: *epoch, start: *start });
        let epochs = EpochHistory::from_starts(starts.collect())?;
        Some(Beginning { offset, epochs, producer_snapshot: self.producers() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use millstream_types::{ProducerEpoch, ProducerId};
    use millstream_wire::{BatchBuilder, Codec, IncomingBatch, ProducerStamp};

    use super::*;

    const NOW: TimestampMs = TimestampMs(1_000_000);

    fn header(producer: i64, sequence: i32, base: i64, epoch: i32) -> BatchHeader {
        let mut builder = BatchBuilder::new(Codec::None, 0);
        builder.append(NOW, None, Some(b"v"), &[]).unwrap();
        let stamp = ProducerStamp {
            id: ProducerId(producer),
            epoch: ProducerEpoch(0),
            base_sequence: sequence,
        };
        let bytes = builder.build(stamp).unwrap();
        let batch = IncomingBatch::validate(BytesMut::from(&bytes[..]), 1 << 20).unwrap();
        *batch.assign(Offset::new(base).unwrap(), LeaderEpoch(epoch)).header()
    }

    #[test]
    fn a_range_carries_what_the_one_before_knew() {
        let at = |value| Offset::new(value).unwrap();
        let mut first = RangeState::default();
        first.stored(&header(1, 0, 0, 1), NOW);
        first.stored(&header(2, 0, 1, 3), NOW);

        let mut second = RangeState::resume(first.epochs(), &first.producers()).unwrap();
        second.stored(&header(2, 1, 2, 3), NOW);
        second.stored(&header(2, 2, 3, 7), NOW);

        let expected = [(LeaderEpoch(1), at(0)), (LeaderEpoch(3), at(1)), (LeaderEpoch(7), at(3))];
        assert_eq!(second.epochs(), expected);
        let table = ProducerTable::from_snapshot(&second.producers()).unwrap();
        assert_eq!(table.len(), 2);
        let beginning = second.beginning(at(4)).unwrap();
        assert_eq!(beginning.offset, at(4));
        assert_eq!(beginning.epochs.latest(), Some(LeaderEpoch(7)));
        assert_eq!(beginning.producer_snapshot, second.producers());
    }

    #[test]
    fn producers_that_paused_too_long_are_forgotten() {
        let mut state = RangeState::default();
        state.stored(&header(1, 0, 0, 1), NOW);
        state.expire_producers(TimestampMs(NOW.0 + 1));
        assert!(ProducerTable::from_snapshot(&state.producers()).unwrap().is_empty());
    }

    #[test]
    fn damaged_producers_are_an_error() {
        assert!(RangeState::resume(&[], b"no snapshot").is_err());
    }
}
