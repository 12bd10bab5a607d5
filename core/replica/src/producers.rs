//! What a partition remembers of its idempotent producers (KIP-98), so that a batch sent twice is
//! stored once and a batch that skips its predecessors is refused.
//!
//! A producer that is not known must begin at sequence 0: Kafka accepts any sequence there, which
//! lets a forgotten producer leave a gap or a duplicate behind unseen; we refuse, and the producer
//! starts over under a new epoch.

use std::collections::{BTreeMap, VecDeque};

use millstream_types::limits::{PARTITION_PRODUCERS_MAX, PRODUCER_BATCHES_KEPT};
use millstream_types::{Offset, ProducerEpoch, ProducerId, TimestampMs};
use millstream_wire::batch::BatchHeader;

use crate::replica::Refusal;

const SNAPSHOT_MAGIC: [u8; 4] = *b"MSPS";
const SNAPSHOT_VERSION: u16 = 1;
const PRODUCER_BYTES: usize = 8 + 2 + 8 + 1;
const BATCH_BYTES: usize = 4 + 4 + 8 + 8;

/// A batch that a producer may send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KnownBatch {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    next_offset: Offset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    last_append: TimestampMs,
    /// Oldest first, at most [`PRODUCER_BATCHES_KEPT`], never empty.
    batches: VecDeque<KnownBatch>,
}

/// What the table says of a batch that is about to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recognised {
    /// It is the next one, or its producer is not idempotent.
    New,
    /// It was stored before, from `base_offset` up to `next_offset`.
    Before { base_offset: Offset, next_offset: Offset },
}

/// Why bytes are no producer snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Not a snapshot, or of a later version than this build reads.
    #[error("no producer snapshot of version {SNAPSHOT_VERSION}")]
    Version,
    /// The bytes end early, go on too long, or hold an impossible value.
    #[error("the producer snapshot is malformed")]
    Malformed,
}

/// The idempotent producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: BTreeMap<ProducerId, Producer>,
}

impl ProducerTable {
    /// How many producers are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Says whether the batch is new, a duplicate, or to be refused. Changes nothing.
    pub(crate) fn admit(&self, header: &BatchHeader) -> Result<Recognised, Refusal> {
        if !header.producer_id.is_some() {
            return Ok(Recognised::New);
        }
        let Some(known) = self.producers.get(&header.producer_id) else {
            return match header.base_sequence {
                0 => Ok(Recognised::New),
                _ => Err(Refusal::UnknownProducer { producer: header.producer_id }),
            };
        };
        if header.producer_epoch < known.epoch {
            return Err(Refusal::FencedProducer {
                producer: header.producer_id,
                epoch: header.producer_epoch,
                current: known.epoch,
            });
        }
        let out_of_order = |expected| Refusal::OutOfOrderSequence {
            producer: header.producer_id,
            expected,
            found: header.base_sequence,
        };
        if header.producer_epoch > known.epoch {
            return if header.base_sequence == 0 {
                Ok(Recognised::New)
            } else {
                Err(out_of_order(0))
            };
        }
        let again = known.batches.iter().find(|batch| {
            batch.first_sequence == header.base_sequence
                && batch.last_sequence == header.last_sequence()
        });
        if let Some(batch) = again {
            let KnownBatch { base_offset, next_offset, .. } = *batch;
            return Ok(Recognised::Before { base_offset, next_offset });
        }
        let expected = known.batches.back().map_or(0, |last| sequence_after(last.last_sequence));
        if header.base_sequence == expected {
            Ok(Recognised::New)
        } else {
            Err(out_of_order(expected))
        }
    }

    /// Remembers a batch that was stored. `header` carries its final base offset.
    pub fn stored(&mut self, header: &BatchHeader, now: TimestampMs) {
        if !header.producer_id.is_some() || header.attributes.is_control() {
            return;
        }
        let batch = KnownBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
        };
        let producer = self.producers.entry(header.producer_id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            last_append: now,
            batches: VecDeque::with_capacity(1),
        });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == PRODUCER_BATCHES_KEPT {
            producer.batches.pop_front();
        }
        producer.batches.push_back(batch);
        producer.last_append = now;
        if self.producers.len() > PARTITION_PRODUCERS_MAX {
            self.forget_longest_idle();
        }
    }

    /// The ids that are known, in order.
    pub fn ids(&self) -> impl Iterator<Item = ProducerId> {
        self.producers.keys().copied()
    }

    /// Forgets producers that have appended nothing since `before`.
    pub fn expire(&mut self, before: TimestampMs) {
        self.producers.retain(|_, producer| producer.last_append >= before);
    }

    /// The table as bytes: magic, version, count, then each producer with its batches, all
    /// integers big-endian. Read back by [`ProducerTable::from_snapshot`].
    #[must_use]
    pub fn to_snapshot(&self) -> Vec<u8> {
        let batches: usize = self.producers.values().map(|p| p.batches.len()).sum();
        let size = 10 + self.producers.len() * PRODUCER_BYTES + batches * BATCH_BYTES;
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(&SNAPSHOT_MAGIC);
        out.extend_from_slice(&SNAPSHOT_VERSION.to_be_bytes());
        let count = u32::try_from(self.producers.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for (id, producer) in &self.producers {
            out.extend_from_slice(&id.0.to_be_bytes());
            out.extend_from_slice(&producer.epoch.0.to_be_bytes());
            out.extend_from_slice(&producer.last_append.0.to_be_bytes());
            out.push(u8::try_from(producer.batches.len()).unwrap_or(u8::MAX));
            for batch in &producer.batches {
                out.extend_from_slice(&batch.first_sequence.to_be_bytes());
                out.extend_from_slice(&batch.last_sequence.to_be_bytes());
                out.extend_from_slice(&batch.base_offset.value().to_be_bytes());
                out.extend_from_slice(&batch.next_offset.value().to_be_bytes());
            }
        }
        out
    }

    /// Reads what [`ProducerTable::to_snapshot`] wrote.
    ///
    /// # Errors
    /// [`SnapshotError`] for any other bytes.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut input = Input(bytes);
        if input.take()? != SNAPSHOT_MAGIC || input.take()? != SNAPSHOT_VERSION.to_be_bytes() {
            return Err(SnapshotError::Version);
        }
        let count = u32::from_be_bytes(input.take()?);
        let mut table = Self::default();
        for _ in 0..count {
            let id = ProducerId(i64::from_be_bytes(input.take()?));
            let producer = input.producer()?;
            table.producers.insert(id, producer);
        }
        if input.0.is_empty() { Ok(table) } else { Err(SnapshotError::Malformed) }
    }

    fn forget_longest_idle(&mut self) {
        let idle = self.producers.iter().min_by_key(|(_, p)| p.last_append).map(|(id, _)| *id);
        if let Some(id) = idle {
            self.producers.remove(&id);
        }
    }
}

/// The sequence that follows; Kafka's wrap from the largest to 0.
const fn sequence_after(last: i32) -> i32 {
    if last == i32::MAX { 0 } else { last + 1 }
}

/// What is left of a snapshot.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(SnapshotError::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn offset(&mut self) -> Result<Offset, SnapshotError> {
        Offset::new(i64::from_be_bytes(self.take()?)).ok_or(SnapshotError::Malformed)
    }

    fn producer(&mut self) -> Result<Producer, SnapshotError> {
        let epoch = ProducerEpoch(i16::from_be_bytes(self.take()?));
        let last_append = TimestampMs(i64::from_be_bytes(self.take()?));
        let [count] = self.take()?;
        if count == 0 || usize::from(count) > PRODUCER_BATCHES_KEPT {
            return Err(SnapshotError::Malformed);
        }
        let mut batches = VecDeque::with_capacity(usize::from(count));
        for _ in 0..count {
            batches.push_back(KnownBatch {
                first_sequence: i32::from_be_bytes(self.take()?),
                last_sequence: i32::from_be_bytes(self.take()?),
                base_offset: self.offset()?,
                next_offset: self.offset()?,
            });
        }
        Ok(Producer { epoch, last_append, batches })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::header;

    fn table(batches: &[(i64, i16, i32, u32)]) -> ProducerTable {
        let mut table = ProducerTable::default();
        let mut next = Offset::ZERO;
        for (id, epoch, sequence, count) in batches {
            let stored = header(next, *count, *id, *epoch, *sequence);
            table.stored(&stored, TimestampMs(1_000));
            next = stored.next_offset();
        }
        table
    }

    fn admit(table: &ProducerTable, id: i64, epoch: i16, seq: i32) -> Result<Recognised, Refusal> {
        table.admit(&header(Offset::ZERO, 10, id, epoch, seq))
    }

    #[test]
    fn the_next_batch_is_new_and_the_last_five_are_duplicates() {
        let known = table(&[
            (7, 0, 0, 10),
            (7, 0, 10, 10),
            (7, 0, 20, 10),
            (7, 0, 30, 10),
            (7, 0, 40, 10),
            (7, 0, 50, 10),
        ]);
        assert_eq!(admit(&known, 7, 0, 60), Ok(Recognised::New));
        let duplicate = Recognised::Before {
            base_offset: Offset::ZERO.plus(10),
            next_offset: Offset::ZERO.plus(20),
        };
        assert_eq!(admit(&known, 7, 0, 10), Ok(duplicate));
        let refusal =
            Refusal::OutOfOrderSequence { producer: ProducerId(7), expected: 60, found: 0 };
        assert_eq!(admit(&known, 7, 0, 0), Err(refusal), "older than the five kept");
    }

    #[test]
    fn a_gap_an_old_epoch_and_a_stranger_are_refused() {
        let known = table(&[(7, 3, 0, 10)]);
        assert!(matches!(admit(&known, 7, 3, 20), Err(Refusal::OutOfOrderSequence { .. })));
        assert!(matches!(admit(&known, 7, 2, 10), Err(Refusal::FencedProducer { .. })));
        assert!(matches!(admit(&known, 7, 4, 10), Err(Refusal::OutOfOrderSequence { .. })));
        assert!(matches!(admit(&known, 8, 0, 10), Err(Refusal::UnknownProducer { .. })));
        assert_eq!(admit(&known, 7, 4, 0), Ok(Recognised::New));
        assert_eq!(admit(&known, 8, 0, 0), Ok(Recognised::New));
        assert_eq!(admit(&known, -1, -1, -1), Ok(Recognised::New));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let known = table(&[(7, 0, 0, 1), (7, 0, i32::MAX - 9, 10)]);
        assert_eq!(admit(&known, 7, 0, 0), Ok(Recognised::New));
    }

    #[test]
    fn a_snapshot_reads_back_and_damage_is_an_error() {
        let known = table(&[(7, 0, 0, 10), (7, 0, 10, 3), (9, 2, 0, 1)]);
        let bytes = known.to_snapshot();
        assert_eq!(ProducerTable::from_snapshot(&bytes), Ok(known));
        for end in 0..bytes.len() {
            assert!(ProducerTable::from_snapshot(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn the_snapshot_format_is_version_one() {
        let bytes = table(&[(7, 2, 0, 10)]).to_snapshot();
        let golden = b"MSPS\0\x01\0\0\0\x01\
            \0\0\0\0\0\0\0\x07\0\x02\0\0\0\0\0\0\x03\xe8\x01\
            \0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a";
        assert_eq!(bytes, golden);
    }

    /// Everything that was ever stored, and the rules read off it one by one.
    #[derive(Default)]
    struct Model(Vec<BatchHeader>);

    impl Model {
        fn admit(&self, header: &BatchHeader) -> Result<Recognised, Refusal> {
            let producer = header.producer_id;
            let all: Vec<_> = self.0.iter().filter(|old| old.producer_id == producer).collect();
            let Some(newest) = all.last() else {
                let first = header.base_sequence == 0;
                let refusal = Refusal::UnknownProducer { producer };
                return if first { Ok(Recognised::New) } else { Err(refusal) };
            };
            let (epoch, current) = (header.producer_epoch, newest.producer_epoch);
            if epoch < current {
                return Err(Refusal::FencedProducer { producer, epoch, current });
            }
            let same: Vec<_> = all.iter().filter(|old| old.producer_epoch == epoch).collect();
            let again = same.iter().rev().take(PRODUCER_BATCHES_KEPT).find(|old| {
                (old.base_sequence, old.record_count) == (header.base_sequence, header.record_count)
            });
            if let Some(old) = again {
                let (base_offset, next_offset) = (old.base_offset, old.next_offset());
                return Ok(Recognised::Before { base_offset, next_offset });
            }
            let expected = same.last().map_or(0, |last| sequence_after(last.last_sequence()));
            let found = header.base_sequence;
            let refusal = Refusal::OutOfOrderSequence { producer, expected, found };
            if found == expected { Ok(Recognised::New) } else { Err(refusal) }
        }
    }

    /// A batch as some producer might send it: the next one, one sent before, or any.
    fn sent() -> impl Strategy<Value = (i64, i16, u32, Option<usize>, i32)> {
        (0..3i64, 0..3i16, 1..4u32, proptest::option::of(0..8usize), -1..12i32)
    }

    proptest! {
        #[test]
        fn the_table_does_as_the_model(batches in proptest::collection::vec(sent(), 1..200)) {
            let (mut table, mut model) = (ProducerTable::default(), Model::default());
            let mut next = Offset::ZERO;
            for (id, epoch, count, back, sequence) in batches {
                let own = |old: &&BatchHeader| old.producer_id.0 == id;
                let earlier = back.and_then(|back| model.0.iter().rev().filter(own).nth(back));
                let newest = model.0.iter().rev().find(own);
                let header = match (earlier, newest) {
                    (Some(old), _) => BatchHeader { base_offset: next, ..*old },
                    (None, Some(old)) if sequence < 0 => {
                        let sequence = sequence_after(old.last_sequence());
                        header(next, count, id, old.producer_epoch.0, sequence)
                    }
                    _ => header(next, count, id, epoch, sequence.max(0)),
                };
                let said = table.admit(&header);
                prop_assert_eq!(said, model.admit(&header));
                if said == Ok(Recognised::New) {
                    table.stored(&header, TimestampMs(1));
                    next = header.next_offset();
                    model.0.push(header);
                }
                let read = ProducerTable::from_snapshot(&table.to_snapshot());
                prop_assert_eq!(read.as_ref(), Ok(&table));
            }
        }

        #[test]
        fn any_bytes_are_a_snapshot_or_an_error(bytes: Vec<u8>, cut in 0..200usize) {
            let _neither_panics = ProducerTable::from_snapshot(&bytes);
            let whole = table(&[(7, 0, 0, 10), (8, 1, 0, 3), (7, 0, 10, 2)]).to_snapshot();
            let cut = cut.min(whole.len() - 1);
            prop_assert!(ProducerTable::from_snapshot(&whole[..cut]).is_err());
        }
    }
}
