//! Batches of every kind, from small plans.

use bytes::{Bytes, BytesMut};
use millstream_tiered::{Identity, RangeEnd};
use millstream_types::{
    ClusterId, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, TimestampMs, TopicId,
};
use millstream_wire::{
    Attributes, Batch, BatchBuilder, BatchFrame, Codec, HeaderRef, ProducerStamp, RecordFields,
};
use proptest::prelude::*;

pub(crate) const TIME: i64 = 1_700_000_000_000;

pub(crate) fn identity() -> Identity {
    Identity {
        cluster: ClusterId::from_bytes([0xc1; 16]),
        topic: "flights".to_owned(),
        topic_id: TopicId::from_bytes([0x70; 16]),
        partition: PartitionIndex(3),
    }
}

/// How to make a batch.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) codec: Codec,
    pub(crate) flags: u16,
    pub(crate) records: u32,
    /// Offsets left out after each record, as compaction does.
    pub(crate) gap: u32,
    pub(crate) value_bytes: usize,
    /// What varies: which parts are null, how many headers there are.
    pub(crate) seed: u64,
    pub(crate) base_timestamp: i64,
    /// What the header says beyond the records' largest.
    pub(crate) max_timestamp_more: i64,
    pub(crate) stamp: ProducerStamp,
    pub(crate) epoch: i32,
}

const LOG_APPEND_TIME: u16 = 1 << 3;
const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;

impl Plan {
    pub(crate) fn plain(records: u32) -> Self {
        Self {
            codec: Codec::None,
            flags: 0,
            records,
            gap: 0,
            value_bytes: 10,
            seed: 1,
            base_timestamp: TIME,
            max_timestamp_more: 0,
            stamp: ProducerStamp::NONE,
            epoch: 1,
        }
    }

    pub(crate) fn control() -> Self {
        Self { flags: CONTROL | TRANSACTIONAL, ..Self::plain(1) }
    }

    /// A batch that takes offsets and has no records left.
    pub(crate) fn empty(offsets: u32) -> Self {
        Self { gap: offsets - 1, ..Self::plain(0) }
    }

    fn last_offset_delta(&self) -> u32 {
        match self.records {
            0 => self.gap,
            records => records * (self.gap + 1) - 1,
        }
    }
}

/// A part of a record: null, empty, or some bytes.
fn part(seed: u64, bytes: usize) -> Option<Vec<u8>> {
    match seed % 5 {
        0 => None,
        1 => Some(Vec::new()),
        _ => Some(
            (0..bytes)
                .map(|at| seed.to_le_bytes()[0].wrapping_add((at / 7).to_le_bytes()[0]))
                .collect(),
        ),
    }
}

pub(crate) fn batch(base: i64, plan: &Plan) -> Batch {
    let mut frame = BatchFrame {
        base_offset: Offset::new(base).unwrap(),
        leader_epoch: LeaderEpoch(plan.epoch),
        attributes: Attributes::from_bits(plan.flags).unwrap(),
        last_offset_delta: plan.last_offset_delta(),
        base_timestamp: TimestampMs(plan.base_timestamp),
        max_timestamp: TimestampMs(plan.base_timestamp),
        producer: plan.stamp,
    };
    let mut builder = BatchBuilder::new(plan.codec, 0);
    let mut max = i64::MIN;
    for index in 0..plan.records {
        let seed = plan.seed.wrapping_mul(31).wrapping_add(u64::from(index));
        // Not in order, and sometimes before the base.
        let timestamp = match seed % 11 {
            0 => -1,
            more => plan.base_timestamp.saturating_add((more.cast_signed() - 3) * 17),
        };
        let timestamp = timestamp.clamp(-i64::MAX / 1000, i64::MAX / 1000);
        max = max.max(timestamp);
        let offset = frame.base_offset.plus(u64::from(index) * u64::from(plan.gap + 1));
        let (key, value) = (part(seed / 3, 5), part(seed / 2 + 2, plan.value_bytes));
        let headers = [
            HeaderRef { key: b"trace", value: Some(b"1") },
            HeaderRef { key: b"trace", value: None },
            HeaderRef { key: b"", value: Some(b"") },
            HeaderRef { key: b"\xff\xfe", value: Some(b"not UTF-8") },
        ];
        let headers = &headers[..usize::try_from(seed % 5).unwrap()];
        let record = RecordFields {
            offset,
            timestamp: TimestampMs(timestamp),
            key: key.as_deref(),
            value: value.as_deref(),
        };
        builder.append_framed(&frame, record, headers.iter().copied()).unwrap();
    }
    let max = if plan.records == 0 { -1 } else { max };
    frame.max_timestamp =
        TimestampMs(max.saturating_add(plan.max_timestamp_more).min(i64::MAX / 1000));
    let bytes: Bytes = builder.build_framed(&frame).unwrap();
    Batch::validate(BytesMut::from(&bytes[..]).freeze()).unwrap()
}

/// One after another from `base` on.
pub(crate) fn batches(base: i64, plans: &[Plan]) -> Vec<Batch> {
    let mut next = base;
    let mut batches = Vec::with_capacity(plans.len());
    for plan in plans {
        let batch = batch(next, plan);
        next = batch.header().next_offset().value();
        batches.push(batch);
    }
    batches
}

pub(crate) fn any_plans() -> impl Strategy<Value = Vec<Plan>> {
    prop::collection::vec(any_plan(), 1..12)
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let flags = prop::sample::select(vec![
        0,
        0,
        0,
        LOG_APPEND_TIME,
        TRANSACTIONAL,
        CONTROL,
        CONTROL | TRANSACTIONAL,
    ]);
    let times = prop_oneof![
        Just(TIME),
        TIME..TIME + 1000,
        Just(-1),
        Just(-5),
        Just(0),
        Just(i64::MAX / 1000),
        Just(-i64::MAX / 1000),
    ];
    let stamp = prop_oneof![
        Just(ProducerStamp::NONE),
        (0..i64::MAX, 0..i16::MAX, 0..i32::MAX).prop_map(|(id, epoch, base_sequence)| {
            ProducerStamp { id: ProducerId(id), epoch: ProducerEpoch(epoch), base_sequence }
        }),
    ];
    let shape = (0..40_u32, 0..3_u32, 0..200_usize);
    let codec = prop::sample::select(Codec::ALL.to_vec());
    (codec, flags, shape, any::<u32>(), times, 0..3_i64, stamp, 0..4_i32).prop_map(
        |(codec, flags, (records, gap, value_bytes), seed, base_timestamp, more, stamp, epoch)| {
            Plan {
                // An empty batch is stored as it is, whatever its codec.
                codec: if records == 0 { Codec::None } else { codec },
                flags,
                records,
                gap,
                value_bytes,
                seed: u64::from(seed),
                base_timestamp,
                max_timestamp_more: more,
                stamp,
                epoch,
            }
        },
    )
}

/// What the golden object holds.
pub(crate) fn golden() -> Vec<Plan> {
    let stamp = ProducerStamp { id: ProducerId(4000), epoch: ProducerEpoch(3), base_sequence: 41 };
    vec![
        Plan::plain(7),
        Plan { codec: Codec::Lz4, stamp, seed: 9, ..Plan::plain(20) },
        Plan::control(),
        Plan { flags: LOG_APPEND_TIME, codec: Codec::Zstd, epoch: 2, ..Plan::plain(5) },
        Plan { gap: 2, max_timestamp_more: 40, epoch: 2, ..Plan::plain(4) },
        Plan { epoch: 2, ..Plan::empty(3) },
    ]
}

pub(crate) fn golden_end() -> RangeEnd {
    RangeEnd {
        epochs: vec![(LeaderEpoch(1), Offset::ZERO), (LeaderEpoch(2), Offset::ZERO.plus(33))],
        producers: Bytes::from_static(b"producers' state"),
        ..RangeEnd::default()
    }
}
