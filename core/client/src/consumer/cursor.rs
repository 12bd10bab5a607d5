//! What becomes of a subscription's bytes: verified batches in offset order, each once. No I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use millstream_types::Offset;
use millstream_wire::Batch;

use super::batch::RecordBatch;
use crate::error::ConsumerError;

/// Something for the reader.
#[derive(Debug)]
pub(super) enum Item {
    /// A batch with records that were asked for.
    Batch(RecordBatch),
    /// Records are missing before the next item.
    Gap(ConsumerError),
    /// Offsets without records for applications.
    Skipped { partition: u32, next_offset: i64 },
}

/// The bytes are no batches. What came before them is good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Damaged {
    /// Where the next batch should start.
    pub(super) offset: i64,
    pub(super) reason: String,
}

/// Where one partition's reading stands.
#[derive(Debug)]
pub(super) struct Cursor {
    topic: Arc<str>,
    partition: u32,
    /// The offset of the next record; none before the first subscription is open.
    next: Option<Offset>,
}

impl Cursor {
    pub(super) fn new(topic: Arc<str>, partition: u32) -> Self {
        Self { topic, partition, next: None }
    }

    /// The offset of the next record.
    pub(super) fn next(&self) -> Option<Offset> {
        self.next
    }

    /// Forgets where it stands: the next subscription says.
    pub(super) fn reset(&mut self) {
        self.next = None;
    }

    /// A subscription is open that starts at `start`.
    pub(super) fn on_opened(&mut self, start: Offset) {
        self.next.get_or_insert(start);
    }

    /// Takes whole batches back to back. The items come with an error only after them.
    pub(super) fn accept(
        &mut self,
        mut bytes: Bytes,
        high_watermark: Offset,
    ) -> (VecDeque<Item>, Option<Damaged>) {
        let mut items = VecDeque::new();
        let mut next = self.next.unwrap_or(Offset::ZERO);
        let mut damage = None;
        while !bytes.is_empty() {
            let (batch, rest) = match Batch::split_first(&bytes) {
                Ok(split) => split,
                Err(error) => {
                    let reason = error.to_string();
                    damage = Some(Damaged { offset: next.value(), reason });
                    break;
                }
            };
            bytes = rest;
            let header = *batch.header();
            let (base, after) = (header.base_offset, header.next_offset());
            if after <= next {
                // Read before the subscription was opened anew.
                continue;
            }
            if base > next {
                items.push_back(Item::Gap(ConsumerError::OffsetGap {
                    partition: self.partition,
                    expected: next.value(),
                    found: base.value(),
                }));
            }
            if header.attributes.is_control() || header.record_count == 0 {
                let (partition, next_offset) = (self.partition, after.value());
                items.push_back(Item::Skipped { partition, next_offset });
            } else {
                items.push_back(Item::Batch(RecordBatch {
                    topic: Arc::clone(&self.topic),
                    partition: self.partition,
                    batch,
                    high_watermark,
                    start: next,
                }));
            }
            next = after;
        }
        self.next = Some(next);
        (items, damage)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use millstream_types::{LeaderEpoch, TimestampMs};
    use millstream_wire::{BatchBuilder, Codec, IncomingBatch, ProducerStamp};

    use super::*;

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    /// A batch of `count` records at `base`; each value is its offset.
    fn batch(base: i64, count: i64) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::Lz4, 64);
        for record in base..base + count {
            builder.append(TimestampMs(5), None, Some(&record.to_be_bytes()), &[]).unwrap();
        }
        let built = BytesMut::from(&builder.build(ProducerStamp::NONE).unwrap()[..]);
        let incoming = IncomingBatch::validate(built, 1 << 20).unwrap();
        incoming.assign(offset(base), LeaderEpoch(0)).into_bytes()
    }

    /// The same batch as a control batch.
    fn control(base: i64) -> Bytes {
        let mut bytes = BytesMut::from(&batch(base, 1)[..]);
        bytes[22] |= 1 << 5;
        let crc = millstream_wire::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.freeze()
    }

    fn join(batches: &[Bytes]) -> Bytes {
        Bytes::from(batches.concat())
    }

    fn cursor(start: i64) -> Cursor {
        let mut cursor = Cursor::new("t".into(), 4);
        cursor.on_opened(offset(start));
        cursor
    }

    /// Every record's offset, with gaps as negative numbers of what was found.
    fn offsets(items: VecDeque<Item>) -> Vec<i64> {
        let mut offsets = Vec::new();
        for item in items {
            match item {
                Item::Batch(batch) => {
                    for record in batch.records().unwrap() {
                        let record = record.unwrap();
                        assert_eq!(record.value.unwrap()[..], record.offset.to_be_bytes());
                        offsets.push(record.offset);
                    }
                }
                Item::Gap(ConsumerError::OffsetGap { found, .. }) => offsets.push(-found),
                Item::Gap(other) => panic!("{other}"),
                Item::Skipped { .. } => {}
            }
        }
        offsets
    }

    #[test]
    fn records_before_the_start_are_left_out_of_the_first_batch() {
        let mut cursor = cursor(12);
        let bytes = join(&[batch(10, 5), batch(15, 2)]);
        let (items, damage) = cursor.accept(bytes, offset(17));
        assert_eq!(damage, None);
        assert_eq!(offsets(items), [12, 13, 14, 15, 16]);
        assert_eq!(cursor.next(), Some(offset(17)));
    }

    #[test]
    fn what_a_new_subscription_repeats_is_dropped() {
        let mut cursor = cursor(0);
        assert_eq!(offsets(cursor.accept(batch(0, 3), offset(9)).0), [0, 1, 2]);
        cursor.on_opened(offset(2));
        let bytes = join(&[batch(0, 3), batch(3, 1)]);
        assert_eq!(offsets(cursor.accept(bytes, offset(9)).0), [3]);
    }

    #[test]
    fn control_batches_are_skipped_and_leave_no_gap() {
        let mut cursor = cursor(0);
        let bytes = join(&[batch(0, 1), control(1), batch(2, 1)]);
        assert_eq!(offsets(cursor.accept(bytes, offset(3)).0), [0, 2]);
        assert_eq!(cursor.next(), Some(offset(3)));
    }

    #[test]
    fn a_gap_is_told_once_and_reading_goes_on_after_it() {
        let mut cursor = cursor(0);
        let bytes = join(&[batch(0, 1), batch(5, 1), batch(6, 1)]);
        assert_eq!(offsets(cursor.accept(bytes, offset(7)).0), [0, -5, 5, 6]);
    }

    #[test]
    fn a_damaged_batch_ends_the_reading_where_it_stands() {
        let mut damaged = BytesMut::from(&batch(1, 2)[..]);
        *damaged.last_mut().unwrap() ^= 1;
        let mut cursor = cursor(0);
        let bytes = join(&[batch(0, 1), damaged.freeze(), batch(3, 1)]);
        let (items, damage) = cursor.accept(bytes, offset(4));
        assert_eq!(offsets(items), [0]);
        assert_eq!(damage.unwrap().offset, 1);
        assert_eq!(cursor.next(), Some(offset(1)));
    }
}
