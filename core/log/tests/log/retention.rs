//! When segments are rolled and forgotten, and that the log's place survives it.

use crate::common::{Bench, files, small_segments};
use millstream_env::disk::{BitFlip, FaultPlan};
use millstream_log::AppendError;
use millstream_types::{Offset, TimestampMs};

/// Four batches, each in a segment of its own, all durable; one a second.
fn bench(retention_ms: Option<u64>, retention_bytes: Option<u64>) -> Bench {
    let mut config = small_segments();
    (config.retention_ms, config.retention_bytes) = (retention_ms, retention_bytes);
    let mut bench = Bench::new(5, 100, config, FaultPlan::default());
    bench.open().unwrap();
    for _ in 0..4 {
        bench.roll().unwrap();
        bench.append(2, 50).unwrap();
        bench.settle().unwrap();
        bench.now += 1000;
    }
    assert_eq!((bench.log().segment_count(), bench.log().end().value()), (4, 8));
    bench
}

fn start_after(bench: &mut Bench, limit: i64) -> i64 {
    let now = bench.now();
    let before = bench.log().size_bytes();
    let removed =
        bench.log().apply_retention(now, Offset::new(limit).unwrap(), usize::MAX).unwrap();
    let bytes: u64 = removed.iter().map(|one| one.bytes).sum();
    assert_eq!(bench.log().size_bytes(), before - bytes);
    let start = bench.log().start();
    bench.disk.crash();
    bench.disk.restart();
    bench.open().unwrap();
    assert_eq!(bench.log().start(), start, "the start survives a power cut");
    start.value()
}

#[test]
fn segments_go_when_their_newest_record_is_too_old() {
    let mut bench = bench(Some(2500), None);
    assert_eq!(start_after(&mut bench, 8), 4);
    bench.now += 1_000_000;
    assert_eq!(start_after(&mut bench, 8), 6, "the newest segment stays");
}

#[test]
fn no_more_go_at_once_than_the_owner_asks_for() {
    let mut bench = bench(Some(0), None);
    let (now, limit) = (bench.now(), Offset::new(8).unwrap());
    let starts = [2, 4, 6, 6].map(|_| {
        bench.log().apply_retention(now, limit, 1).unwrap();
        bench.log().start().value()
    });
    assert_eq!(starts, [2, 4, 6, 6], "the newest stays");
}

/// To give back a large file's bytes takes long: the owner chooses when.
#[test]
fn a_removed_segment_has_its_room_until_it_is_let_go() {
    let mut bench = bench(Some(0), None);
    bench.roll().unwrap();
    bench.settle().unwrap();
    let used = files(&bench).iter().map(|(_, length)| length).sum();
    let faults = FaultPlan { space_bytes_max: Some(used), ..FaultPlan::default() };
    bench.disk.set_faults(faults);
    let (now, limit) = (bench.now(), bench.log().end());
    let removed = bench.log().apply_retention(now, limit, 1).unwrap();
    assert_eq!((removed.len(), files(&bench).len()), (1, 3), "its name is gone");
    assert!(matches!(bench.append(1, 10), Err(AppendError::NoSpace)));
    drop(removed);
    bench.append(1, 10).unwrap();
}

#[test]
fn a_timestamp_in_the_future_keeps_no_segment() {
    let mut bench = bench(Some(2500), None);
    bench.roll().unwrap();
    let (end, now) = (bench.log().end(), bench.now());
    let far = crate::common::batch(end, bench.epoch, 1, 99, 10, i64::MAX / 2000);
    bench.log().append(now, far.clone()).unwrap();
    bench.appended.push(far);
    bench.roll().unwrap();
    bench.append(1, 10).unwrap();
    bench.settle().unwrap();
    bench.now += 3000;
    assert_eq!(start_after(&mut bench, 10), 9);
}

/// Kafka's producers may leave the timestamp out, which is -1 and not the end of 1969.
#[test]
fn a_batch_without_a_timestamp_is_as_old_as_its_append() {
    let mut bench = bench(Some(2500), None);
    // A batch alone in its segment, then one beside a batch whose timestamp is past retention.
    for timestamps in [&[-1][..], &[bench.now - 2000, -1]] {
        bench.roll().unwrap();
        for timestamp in timestamps {
            let (end, now) = (bench.log().end(), bench.now());
            let sent = crate::common::batch(end, bench.epoch, 1, 99, 10, *timestamp);
            bench.log().append(now, sent.clone()).unwrap();
            bench.appended.push(sent);
        }
    }
    bench.roll().unwrap();
    bench.append(1, 10).unwrap();
    bench.settle().unwrap();
    bench.now += 2500;
    assert_eq!(start_after(&mut bench, 12), 8, "those with an old timestamp went");
    bench.now += 1;
    assert_eq!(start_after(&mut bench, 12), 11, "then these");
}

#[test]
fn the_oldest_go_while_the_log_keeps_its_size() {
    let mut bench = bench(None, Some(0));
    let sizes = bench.log().size_bytes();
    let mut config = bench.config;
    config.retention_bytes = Some(sizes / 2);
    bench.log().set_config(config);
    assert_eq!(start_after(&mut bench, 8), 2);
}

/// A segment that recovery seals carries no state of the producers: the one that does may not go
/// before another does.
#[test]
fn the_newest_state_of_the_producers_is_never_forgotten() {
    let mut bench = bench(Some(2500), None);
    bench.settle().unwrap();
    let (path, length) = files(&bench)[2].clone();
    let flips = vec![BitFlip { path, position: length - 30, bit: 0 }];
    bench.disk.set_faults(FaultPlan { flips, ..FaultPlan::default() });
    bench.log = None;
    bench.disk.restart();
    bench.open().unwrap();
    assert_eq!(bench.snapshot.as_deref(), Some(&b"state at 4"[..]), "the third lost its own");
    bench.settle().unwrap();

    // The first two are due, and the second is the newest that carries any.
    let (now, limit) = (bench.now(), Offset::new(8).unwrap());
    assert!(bench.log().would_forget_producers(now, limit));
    bench.roll().unwrap();
    bench.settle().unwrap();
    assert!(!bench.log().would_forget_producers(now, limit));
    assert_eq!(start_after(&mut bench, 8), 4);
    assert_eq!(bench.snapshot.as_deref(), Some(&b"state at 8"[..]));
}

/// The owner's part: what is due goes once another segment has the producers' state for good.
fn forget(bench: &mut Bench) {
    for _ in 0..4 {
        let (now, limit) = (bench.now(), bench.log().durable_end());
        if !bench.log().would_forget_producers(now, limit) {
            bench.log().apply_retention(now, limit, usize::MAX).unwrap();
        } else if !bench.log().secure_producers().unwrap() {
            bench.roll().unwrap();
        }
        bench.settle().unwrap();
    }
}

/// A process that dies between a seal's write and its sync leaves one that a power cut can take
/// later: nothing may rest on it before it is synced, retention and later seals alike.
#[test]
fn no_state_of_the_producers_goes_for_one_that_a_power_cut_can_take() {
    let mut config = small_segments();
    config.retention_ms = Some(2500);
    for (seed, rolls) in (0..200).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut bench = Bench::new(seed, 0, config, FaultPlan::default());
        bench.open().unwrap();
        bench.append(2, 50).unwrap();
        bench.roll().unwrap();
        bench.now += 3000;
        bench.append(2, 50).unwrap();
        bench.settle().unwrap();
        // The first segment is due. The process dies at some step of the second segment's seal.
        bench.roll().unwrap();
        bench.append(2, 50).unwrap();
        for _ in 0..seed % 10 {
            bench.disk.step();
            bench.deliver().unwrap();
        }
        let written = bench.log().written_end();
        bench.log = None;
        bench.disk.restart();
        bench.open().unwrap();
        bench.check_recovered(written);
        bench.append(2, 50).unwrap();
        if rolls {
            bench.roll().unwrap();
            bench.append(2, 50).unwrap();
        }
        bench.settle().unwrap();
        forget(&mut bench);
        assert!(bench.log().start() > Offset::ZERO, "seed {seed}: something went");
        let durable = bench.log().durable_end();
        bench.disk.crash();
        bench.disk.restart();
        bench.open().unwrap();
        assert_ne!(bench.snapshot, None, "seed {seed}, rolls: {rolls}");
        bench.check_recovered(durable);
    }
}

#[test]
fn nothing_goes_beyond_the_limit() {
    let mut bench = bench(None, Some(0));
    assert_eq!(start_after(&mut bench, 5), 4);
    assert_eq!(start_after(&mut bench, 3), 4);
    assert_eq!(start_after(&mut bench, 8), 6);
}

#[test]
fn a_segment_is_rolled_by_size_and_by_age() {
    let mut bench = bench(None, None);
    bench.config.segment_ms = 5000;
    let config = bench.config;
    bench.log().set_config(config);
    let needs = |bench: &mut Bench, ahead_ms: i64, bytes| {
        let now = TimestampMs(bench.now + ahead_ms);
        bench.log().needs_roll(now, bytes)
    };
    assert!(!needs(&mut bench, 0, 100));
    assert!(needs(&mut bench, 0, 900));
    assert!(!needs(&mut bench, 3999, 0) && needs(&mut bench, 4000, 0));
    bench.roll().unwrap();
    assert!(!needs(&mut bench, 0, 900), "an empty segment is not rolled");
}
