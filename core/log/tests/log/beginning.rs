//! Logs that go on where another copy of their partition ended.

use bytes::Bytes;
use millstream_env::disk::FaultPlan;
use millstream_log::{Beginning, Begins, EpochHistory, EpochStart, PartitionLog};
use millstream_types::{LeaderEpoch, Offset};

use crate::common::{Bench, offset, small_segments};

/// A log that begins at offset 100, in epoch 5, on a disk whose writes wait.
fn bench(seed: u64) -> Bench {
    let mut bench = Bench::new(seed, 0, small_segments(), FaultPlan::default());
    let start = |epoch, at| EpochStart { epoch: LeaderEpoch(epoch), start: offset(at) };
    bench.beginning = Some(Beginning {
        offset: offset(100),
        epochs: EpochHistory::from_starts(vec![start(1, 0), start(4, 60)]).unwrap(),
        producer_snapshot: Bytes::from_static(b"state at 100"),
    });
    bench.epoch = 5;
    bench
}

fn power_cut(bench: &mut Bench) {
    bench.disk.crash();
    bench.disk.restart();
    bench.open().unwrap();
}

#[test]
fn an_empty_log_begins_where_it_is_told() {
    let mut bench = bench(1);
    bench.open().unwrap();
    assert_eq!((bench.log().start(), bench.log().end()), (offset(100), offset(100)));
    assert_eq!(bench.snapshot.as_deref(), Some(&b"state at 100"[..]));
    bench.append(2, 50).unwrap();
    bench.settle().unwrap();
    let epochs: Vec<i32> = bench.log().epochs().starts().iter().map(|it| it.epoch.0).collect();
    assert_eq!(epochs, [5], "an epoch that has no record here is not of this log");
    power_cut(&mut bench);
    bench.check_recovered(offset(102));
    assert_eq!(bench.log().start(), offset(100));
}

#[test]
fn where_a_log_begins_is_known_without_opening_it() {
    let mut bench = bench(3);
    let begins = |bench: &Bench| PartitionLog::begins(&bench.context()).unwrap();
    assert_eq!(begins(&bench), Begins::Nowhere);
    bench.open().unwrap();
    bench.append(2, 50).unwrap();
    bench.settle().unwrap();
    let ops = bench.disk.ops();
    assert_eq!(begins(&bench), Begins::Unknown(offset(100)));
    assert_eq!(bench.disk.ops(), ops, "it changes nothing");
    for _ in 0..8 {
        bench.append(2, 200).unwrap();
    }
    bench.settle().unwrap();
    assert_eq!(begins(&bench), Begins::Known);
}

#[test]
fn once_a_segment_is_sealed_nothing_else_is_needed() {
    let mut bench = bench(2);
    bench.open().unwrap();
    for _ in 0..8 {
        bench.append(2, 200).unwrap();
    }
    bench.settle().unwrap();
    bench.beginning = None;
    power_cut(&mut bench);
    bench.check_recovered(offset(116));
    assert_eq!(bench.log().start(), offset(100));
    assert_ne!(bench.snapshot, None);
}

#[test]
fn what_was_never_durable_leaves_the_beginning() {
    for seed in 0..50 {
        let mut bench = bench(seed);
        bench.open().unwrap();
        bench.append(2, 100).unwrap();
        for _ in 0..seed % 5 {
            bench.disk.step();
        }
        bench.deliver().unwrap();
        let durable = bench.log().durable_end();
        power_cut(&mut bench);
        assert_eq!(bench.log().start(), offset(100), "seed {seed}");
        assert!(bench.log().end() >= durable, "seed {seed}");
        // And it goes on, at the same offset as before.
        bench
            .appended
            .retain(|batch| batch.header().next_offset() <= bench.log.as_ref().unwrap().end());
        bench.append(3, 100).unwrap();
        bench.settle().unwrap();
        let end = bench.log().end();
        power_cut(&mut bench);
        bench.check_recovered(end);
    }
}

#[test]
fn a_log_that_has_records_keeps_its_own_start() {
    let mut bench = bench(3);
    bench.beginning = None;
    bench.open().unwrap();
    bench.append(2, 50).unwrap();
    bench.settle().unwrap();
    bench.beginning = self::bench(3).beginning;
    power_cut(&mut bench);
    assert_eq!((bench.log().start(), bench.log().end()), (Offset::ZERO, offset(2)));
    assert_eq!(bench.snapshot, None, "a state of elsewhere");
}

#[test]
fn what_is_left_behind_an_offset_is_about_right() {
    let mut bench = bench(4);
    bench.open().unwrap();
    for _ in 0..10 {
        bench.append(2, 150).unwrap();
    }
    bench.settle().unwrap();
    let all: u64 = bench.appended.iter().map(|batch| batch.bytes().len() as u64).sum();
    let behind = |bench: &mut Bench, at| bench.log().bytes_behind(offset(at));
    let whole = behind(&mut bench, 100);
    assert!(whole >= all && whole < all * 3, "{whole} of {all}");
    let half = behind(&mut bench, 110);
    assert!(half > whole / 4 && half < whole * 3 / 4, "{half} of {whole}");
    assert_eq!(behind(&mut bench, 120), 0);
}
