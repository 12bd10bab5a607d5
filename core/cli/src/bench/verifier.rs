//! What a consumer of a benchmark checks of every record: none missing, none twice, in order,
//! unchanged.

use millstream_client::PartitionOffset;

use super::payload::{self, Stamp};

/// The first thing that was wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error("partition {partition}, offset {offset}: the record is not as it was sent")]
    Damaged { partition: u32, offset: i64 },
    #[error("partition {partition}, offset {offset}: the record was sent to partition {sent_to}")]
    Misplaced { partition: u32, offset: i64, sent_to: u32 },
    #[error("partition {partition}: offset {offset} came where {expected} was next")]
    Offset { partition: u32, offset: i64, expected: i64 },
    #[error(
        "partition {partition}, offset {offset}: record {sequence} of producer {producer} came \
         where {expected} was next"
    )]
    Sequence { partition: u32, offset: i64, producer: u32, sequence: u64, expected: u64 },
    #[error("partition {partition}: {received} records were received, {sent} were sent")]
    Count { partition: u32, received: u64, sent: u64 },
    #[error("partition {partition}: the log ends at offset {end}, {sent} records were sent to it")]
    End { partition: u32, end: i64, sent: u64 },
}

/// Whether each partition of a new topic ends behind what was sent to it: a reader that has all of
/// that does not see a duplicate at the very end.
///
/// # Errors
/// [`Mismatch::End`] of the first that does not.
pub(crate) fn check_ends(ends: &[PartitionOffset], sent: &[u64]) -> Result<(), Mismatch> {
    for (partition, sent) in (0..).zip(sent.iter().copied()) {
        let end = ends.iter().find(|end| end.partition == partition).and_then(|end| end.offset);
        let end = end.unwrap_or(-1);
        if u64::try_from(end) != Ok(sent) {
            return Err(Mismatch::End { partition, end, sent });
        }
    }
    Ok(())
}

/// One partition as it was read so far.
#[derive(Clone, Debug, Default)]
struct Partition {
    next_offset: i64,
    received: u64,
    /// The next sequence of each producer.
    next_sequence: Vec<u64>,
}

/// Follows the records of a topic that a run made for itself, each partition from offset 0.
#[derive(Clone, Debug)]
pub(crate) struct Verifier {
    partitions: Vec<Partition>,
    checksum: u64,
}

impl Verifier {
    pub(crate) fn new(producers: u32, partitions: u32) -> Self {
        let partition =
            Partition { next_sequence: vec![0; producers as usize], ..Partition::default() };
        Self { partitions: vec![partition; partitions as usize], checksum: 0 }
    }

    /// Checks the next record of a partition.
    ///
    /// # Errors
    /// [`Mismatch`] for the first record that is not the next one, or has changed.
    pub(crate) fn add(
        &mut self,
        partition: u32,
        offset: i64,
        value: &[u8],
    ) -> Result<Stamp, Mismatch> {
        let damaged = Mismatch::Damaged { partition, offset };
        let stamp = payload::read(value).ok_or(damaged.clone())?;
        if stamp.partition != partition {
            return Err(Mismatch::Misplaced { partition, offset, sent_to: stamp.partition });
        }
        let state = self.partitions.get_mut(partition as usize).ok_or(damaged.clone())?;
        if offset != state.next_offset {
            return Err(Mismatch::Offset { partition, offset, expected: state.next_offset });
        }
        let next = state.next_sequence.get_mut(stamp.producer as usize).ok_or(damaged)?;
        if stamp.sequence != *next {
            let Stamp { producer, sequence, .. } = stamp;
            let expected = *next;
            return Err(Mismatch::Sequence { partition, offset, producer, sequence, expected });
        }
        *next += 1;
        state.next_offset += 1;
        state.received += 1;
        self.checksum = self.checksum.wrapping_add(checksum(&stamp));
        Ok(stamp)
    }

    /// Whether every partition of `partitions` has all that was sent to it.
    ///
    /// # Errors
    /// [`Mismatch::Count`] where one has more.
    pub(crate) fn is_complete(&self, partitions: &[u32], sent: &[u64]) -> Result<bool, Mismatch> {
        for partition in partitions {
            let received = self.received(*partition);
            let sent = sent.get(*partition as usize).copied().unwrap_or(0);
            if received > sent {
                return Err(Mismatch::Count { partition: *partition, received, sent });
            }
            if received < sent {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first partition that lacks records, for a message.
    pub(crate) fn missing(&self, partitions: &[u32], sent: &[u64]) -> Option<Mismatch> {
        partitions.iter().find_map(|partition| {
            let received = self.received(*partition);
            let sent = sent.get(*partition as usize).copied().unwrap_or(0);
            (received < sent).then_some(Mismatch::Count { partition: *partition, received, sent })
        })
    }

    fn received(&self, partition: u32) -> u64 {
        self.partitions.get(partition as usize).map_or(0, |state| state.received)
    }

    /// One number for everything received; equal to [`checksum`] summed over everything sent.
    pub(crate) const fn checksum(&self) -> u64 {
        self.checksum
    }
}

/// What one record adds to a run's checksum: a mix of all that its stamp says.
pub(crate) fn checksum(stamp: &Stamp) -> u64 {
    let place = u64::from(stamp.producer) << 32 | u64::from(stamp.partition);
    let mixed = (place ^ stamp.sequence.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29) ^ stamp.due_ns).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::PayloadKind;
    use crate::bench::payload::Maker;

    fn record(producer: u32, partition: u32, sequence: u64) -> bytes::Bytes {
        Maker::new(PayloadKind::Random, 64, producer).make(partition, sequence, 5)
    }

    #[test]
    fn what_was_sent_passes() {
        let mut verifier = Verifier::new(2, 2);
        let mut sum = 0_u64;
        for (producer, partition, offset, sequence) in
            [(0, 0, 0, 0), (1, 0, 1, 0), (0, 1, 0, 0), (0, 0, 2, 1)]
        {
            let value = record(producer, partition, sequence);
            let stamp = verifier.add(partition, offset, &value).unwrap();
            sum = sum.wrapping_add(checksum(&stamp));
        }
        assert_eq!(verifier.checksum(), sum);
        assert_eq!(verifier.is_complete(&[0, 1], &[3, 1]), Ok(true));
        assert_eq!(verifier.is_complete(&[0], &[4, 1]), Ok(false));
        let missing = Mismatch::Count { partition: 1, received: 1, sent: 2 };
        assert_eq!(verifier.missing(&[0, 1], &[3, 2]), Some(missing));
    }

    #[test]
    fn a_log_ends_where_sending_ended() {
        let end = |partition, offset| PartitionOffset { partition, offset, timestamp: None };
        let ends = [end(1, Some(2)), end(0, Some(3))];
        assert_eq!(check_ends(&ends, &[3, 2]), Ok(()));
        let duplicate = Mismatch::End { partition: 1, end: 2, sent: 1 };
        assert_eq!(check_ends(&ends, &[3, 1]), Err(duplicate));
        let lost = Mismatch::End { partition: 0, end: 3, sent: 4 };
        assert_eq!(check_ends(&ends, &[4, 2]), Err(lost));
        let unknown = Mismatch::End { partition: 2, end: -1, sent: 0 };
        assert_eq!(check_ends(&ends, &[3, 2, 0]), Err(unknown));
    }

    #[test]
    fn anything_else_does_not() {
        let fresh = || {
            let mut verifier = Verifier::new(1, 2);
            verifier.add(0, 0, &record(0, 0, 0)).unwrap();
            verifier
        };
        let twice = fresh().add(0, 1, &record(0, 0, 0)).unwrap_err();
        assert!(matches!(twice, Mismatch::Sequence { sequence: 0, expected: 1, .. }), "{twice}");
        let lost = fresh().add(0, 1, &record(0, 0, 2)).unwrap_err();
        assert!(matches!(lost, Mismatch::Sequence { sequence: 2, expected: 1, .. }), "{lost}");
        let gap = fresh().add(0, 2, &record(0, 0, 1)).unwrap_err();
        assert!(matches!(gap, Mismatch::Offset { offset: 2, expected: 1, .. }), "{gap}");
        let elsewhere = fresh().add(1, 0, &record(0, 0, 1)).unwrap_err();
        assert!(matches!(elsewhere, Mismatch::Misplaced { sent_to: 0, .. }), "{elsewhere}");
        let stranger = fresh().add(0, 1, &record(9, 0, 0)).unwrap_err();
        assert!(matches!(stranger, Mismatch::Damaged { .. }), "{stranger}");
        let more = fresh().is_complete(&[0], &[0, 0]).unwrap_err();
        assert!(matches!(more, Mismatch::Count { received: 1, sent: 0, .. }), "{more}");
    }
}
