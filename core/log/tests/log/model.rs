//! The log against a model: a plain list of batches.

use std::sync::Arc;

use crate::common::{Bench, small_segments};
use bytes::BytesMut;
use millstream_env::disk::FaultPlan;
use millstream_log::{Cursor, FileRead, Load, ReadPlan};
use millstream_types::{LeaderEpoch, Offset, TimestampMs};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Append { records: u32, bytes: usize },
    NewEpoch,
    Sync,
    Disk(u8),
    Roll,
    Read { at: u8, up_to: u8, max_bytes: usize },
    Time { at: u8 },
    Retention { kept_bytes: u64 },
    DropTail,
    Close,
    Kill,
    PowerCut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (1..4_u32, 1..400_usize).prop_map(|(records, bytes)| Step::Append { records, bytes }),
        1 => Just(Step::NewEpoch),
        6 => Just(Step::Sync),
        8 => (1..6_u8).prop_map(Step::Disk),
        1 => Just(Step::Roll),
        8 => (any::<u8>(), any::<u8>(), 1..2000_usize)
            .prop_map(|(at, up_to, max_bytes)| Step::Read { at, up_to, max_bytes }),
        3 => any::<u8>().prop_map(|at| Step::Time { at }),
        2 => (0..20_000_u64).prop_map(|kept_bytes| Step::Retention { kept_bytes }),
        1 => Just(Step::DropTail),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
    ];
    prop::collection::vec(step, 1..80)
}

/// Picks an offset of the log, both ends included.
fn pick(bench: &mut Bench, at: u8) -> Offset {
    let (start, end) = (bench.log().start(), bench.log().end());
    start.plus(end.since(start) * u64::from(at) / 255)
}

fn check_read(bench: &mut Bench, from: Offset, up_to: Offset, max_bytes: usize) {
    let up_to = up_to.min(bench.log().written_end());
    let wanted: Vec<_> = bench
        .appended
        .iter()
        .filter(|batch| {
            batch.header().last_offset() >= from && batch.header().next_offset() <= up_to
        })
        .cloned()
        .collect();
    let (bytes, next) = match bench.log().read(Cursor::from(from), up_to, max_bytes).unwrap() {
        ReadPlan::Empty => return assert!(from >= up_to || wanted.is_empty()),
        ReadPlan::Memory { batches, next } => {
            // The very bytes that were appended, not a copy.
            assert_eq!(batches[0].as_ptr(), wanted[0].bytes().as_ptr());
            (batches.concat().into(), next.offset())
        }
        ReadPlan::File(read) => {
            let read = read.verify_crc(true);
            let loaded = read.load().unwrap();
            check_tight(&read, &loaded.batches);
            (loaded.batches, loaded.next.offset())
        }
    };
    let mut expected = BytesMut::new();
    let mut end = from;
    for batch in wanted.iter().take_while(|batch| batch.header().base_offset < next) {
        expected.extend_from_slice(batch.bytes());
        end = batch.header().next_offset();
    }
    assert_eq!((&bytes, next), (&expected.freeze(), end));
    if let Some(first) = wanted.first() {
        assert!(!bytes.is_empty(), "at least one whole batch");
        assert!(bytes.len() <= max_bytes.max(first.bytes().len()));
    }
}

/// The room that one batch needs is enough to load at least one, of those that more room loads.
fn check_tight(read: &FileRead, expected: &[u8]) {
    let mut room_bytes = 1;
    let tight = loop {
        match read.load_within(room_bytes).unwrap() {
            Load::Done(loaded) => break loaded.batches,
            Load::Needs(bytes) => {
                assert!(bytes > room_bytes);
                room_bytes = bytes;
            }
        }
    };
    assert!(tight.len() <= room_bytes && expected.starts_with(&tight));
    assert_eq!(tight.is_empty(), expected.is_empty());
}

fn check_time(bench: &mut Bench, timestamp: TimestampMs) {
    let (start, up_to) = (bench.log().start(), bench.log().written_end());
    let expected = bench.appended.iter().map(|batch| *batch.header()).find(|header| {
        header.base_offset >= start
            && header.next_offset() <= up_to
            && header.max_timestamp >= timestamp
    });
    let lookup = bench.log().offset_for_timestamp(timestamp, up_to);
    let hit = lookup.and_then(|lookup| lookup.load().unwrap());
    let found = hit.map(|hit| (hit.offset, hit.max_timestamp));
    assert_eq!(found, expected.map(|header| (header.base_offset, header.max_timestamp)));
}

fn check_epochs(bench: &mut Bench) {
    let (start, end) = (bench.log().start(), bench.log().end());
    for epoch in 0..bench.epoch + 1 {
        let epoch = LeaderEpoch(epoch);
        let of_epoch = |batch: &&millstream_wire::Batch| batch.header().leader_epoch <= epoch;
        let last = bench.appended.iter().rev().find(of_epoch).map(|batch| *batch.header());
        let expected = last
            .filter(|header| header.next_offset() > start)
            .map(|header| (header.leader_epoch, header.next_offset()));
        assert_eq!(bench.log().epochs().end_offset_for_epoch(epoch, end), expected);
    }
}

fn reopen(bench: &mut Bench, durable: Offset) {
    let start = bench.log.as_ref().map(|log| log.start());
    bench.log = None;
    bench.disk.restart();
    bench.open().unwrap();
    bench.check_recovered(durable);
    if let Some(start) = start {
        assert_eq!(bench.log().start(), start, "the log's start survives");
    }
}

fn run(bench: &mut Bench, step: Step) {
    bench.now += 7;
    match step {
        Step::Append { records, bytes } => bench.append(records, bytes).unwrap(),
        Step::NewEpoch => bench.epoch += 1,
        Step::Sync => {
            bench.log().sync().unwrap();
        }
        Step::Disk(steps) => {
            for _ in 0..steps {
                bench.disk.step();
            }
        }
        Step::Roll => bench.roll().unwrap(),
        Step::Read { at, up_to, max_bytes } => {
            let (from, up_to) = (pick(bench, at), pick(bench, up_to));
            check_read(bench, from, up_to, max_bytes);
        }
        Step::Time { at } => {
            let passed = (bench.now - 1_000_000) * i64::from(at) / 255;
            check_time(bench, TimestampMs(1_000_000 + passed));
        }
        Step::Retention { kept_bytes } => {
            let mut config = bench.config;
            config.retention_bytes = Some(kept_bytes);
            let (now, limit) = (bench.now(), bench.log().durable_end());
            bench.log().set_config(config);
            bench.log().apply_retention(now, limit, usize::MAX).unwrap();
        }
        Step::DropTail => bench.log().drop_tail(),
        Step::Close => {
            bench.settle().unwrap();
            let end = bench.log().end();
            let start = bench.log().start();
            bench.log.take().unwrap().close();
            bench.disk.run_until_idle();
            reopen(bench, end);
            assert_eq!(bench.log().start(), start);
            assert_eq!(bench.log().durable_end(), end, "a clean close leaves nothing to sync");
        }
        Step::Kill => {
            let written = bench.log().written_end();
            reopen(bench, written);
        }
        Step::PowerCut => {
            let durable = bench.log().durable_end();
            bench.disk.crash();
            reopen(bench, durable);
        }
    }
    bench.deliver().unwrap();
    bench.log().check().unwrap();
    check_epochs(bench);
    assert!(bench.shared.tail_bytes() <= 1000 && bench.shared.sealed_handles() <= 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn the_log_is_a_list_of_batches(seed: u64, ready in 0..=100_u8, steps in steps()) {
        let mut bench = Bench::new(seed, ready, small_segments(), FaultPlan::default());
        bench.open().unwrap();
        for step in steps {
            run(&mut bench, step);
        }
        bench.settle().unwrap();
        prop_assert_eq!(bench.log().durable_end(), bench.log().end());
        let (read, expected) = (bench.read_all(500).unwrap(), bench.expected());
        prop_assert_eq!(read, expected);
        let shared = Arc::clone(&bench.shared);
        drop(bench.log.take());
        prop_assert_eq!(shared.tail_bytes(), 0);
    }
}
