//! Damage to what was durable is reported or does no harm; it never shortens a log in silence.

use std::path::Path;

use crate::common::{Bench, files, offset, small_segments};
use bytes::Bytes;
use millstream_env::disk::{BitFlip, Disk as _, FaultPlan};
use millstream_log::{AppendError, OpenError};
use millstream_types::Offset;

/// A log of three epochs: sealed segments and an active one, closed in good order.
fn closed_log() -> Bench {
    let mut bench = Bench::new(1, 100, small_segments(), FaultPlan::default());
    bench.open().unwrap();
    for round in 0..14 {
        bench.now += 1000;
        bench.epoch += i32::from(round % 3 == 2);
        bench.append(2, 70).unwrap();
        bench.settle().unwrap();
    }
    bench.log.take().unwrap().close();
    bench
}

/// Opens the log after a flip: everything must be there, or the damage be named.
fn check_flip(path: &Path, position: u64, bit: u8, all: &Bytes) -> bool {
    let mut bench = closed_log();
    let flips = vec![BitFlip { path: path.to_path_buf(), position, bit }];
    bench.disk.set_faults(FaultPlan { flips, ..FaultPlan::default() });
    bench.disk.restart();
    let named = format!("{} byte {position} bit {bit}", path.display());
    match bench.open() {
        Err(OpenError::Corrupt(corruption)) => {
            assert_eq!(corruption.path, path, "{named}");
            true
        }
        Err(error) => panic!("{named}: {error}"),
        Ok(()) => {
            bench.log().drop_tail();
            match bench.read_all(300) {
                Ok(read) => assert!(read == all, "{named}: other bytes"),
                Err(error) => {
                    assert!(matches!(error, millstream_log::ReadError::Corrupt(_)), "{named}");
                    return true;
                }
            }
            // Whatever was repaired stays so.
            bench.settle().unwrap();
            bench.log = None;
            bench.open().unwrap();
            assert!(bench.read_all(300).unwrap() == all, "{named}: other bytes after repair");
            false
        }
    }
}

#[test]
fn every_flipped_bit_is_harmless_or_named() {
    let mut bench = closed_log();
    let found = files(&bench);
    assert!(found.len() >= 3, "sealed segments and an active one");
    bench.open().unwrap();
    let all = bench.read_all(300).unwrap();
    assert_eq!(all, bench.expected());
    for (path, len) in [found.first().unwrap(), &found[found.len() - 2], found.last().unwrap()] {
        let mut detected = 0;
        for position in (0..*len).filter(|at| *at >= 4096 || at % 512 < 72) {
            let bit = u8::try_from(position % 8).unwrap();
            detected += u64::from(check_flip(path, position, bit, &all));
        }
        assert!(detected >= 250, "{}: the batches' bytes are covered", path.display());
    }
}

#[test]
fn a_shortened_file_is_corrupt() {
    let bench = closed_log();
    let (path, len) = files(&bench).last().unwrap().clone();
    for cut in [0, 100, 4096, len - 1] {
        let mut bench = closed_log();
        let mode = millstream_env::disk::OpenMode::Existing;
        let file = bench.disk.open(&path, mode, bench.queue.clone()).unwrap();
        bench.disk.set_len(file, cut).unwrap();
        bench.disk.close(file);
        let opened = bench.open();
        if cut < 4096 {
            // Nothing tells a last file without marks from one that was just made.
            opened.unwrap();
        } else {
            assert!(matches!(opened, Err(OpenError::Corrupt(_))), "cut to {cut}: {opened:?}");
        }
    }
}

#[test]
fn a_missing_segment_is_corrupt() {
    let bench = closed_log();
    let missing = files(&bench)[1].0.clone();
    let mut bench = closed_log();
    bench.disk.remove_file(&missing).unwrap();
    assert!(matches!(bench.open(), Err(OpenError::Corrupt(_))));
}

#[test]
fn a_torn_tail_is_cut_and_never_followed() {
    let mut bench = Bench::new(1, 100, small_segments(), FaultPlan::default());
    bench.open().unwrap();
    bench.append(1, 50).unwrap();
    bench.settle().unwrap();
    let durable = bench.log().end();
    bench.append(1, 50).unwrap();
    bench.append(1, 50).unwrap();
    let (path, _) = files(&bench).last().unwrap().clone();
    // The second batch is damaged, the third whole: neither was durable.
    let position = 4096 + bench.appended[0].bytes().len() as u64 + 80;
    let flips = vec![BitFlip { path, position, bit: 0 }];
    bench.disk.set_faults(FaultPlan { flips, ..FaultPlan::default() });
    bench.log = None;
    bench.disk.restart();
    bench.open().unwrap();
    assert_eq!(bench.log().end(), durable);
    bench.check_recovered(durable);
    bench.append(1, 50).unwrap();
    let end = bench.log().end();
    bench.settle().unwrap();
    bench.open().unwrap();
    bench.check_recovered(end);
}

#[test]
fn a_full_disk_refuses_and_the_log_goes_on_when_there_is_room() {
    for space_bytes_max in (20_000..40_000).step_by(500) {
        let faults = FaultPlan { space_bytes_max: Some(space_bytes_max), ..FaultPlan::default() };
        let mut bench = Bench::new(1, 100, small_segments(), faults);
        bench.open().unwrap();
        let refused = loop {
            match bench.append(1, 100) {
                Ok(()) => bench.settle().unwrap(),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, AppendError::NoSpace), "{refused}");
        let end = bench.log().end();
        assert_eq!(bench.expected(), bench.read_all(500).unwrap());
        bench.disk.set_faults(FaultPlan::default());
        for _ in 0..5 {
            bench.append(1, 30).unwrap();
        }
        bench.settle().unwrap();
        bench.log = None;
        bench.open().unwrap();
        bench.check_recovered(end.plus(5));
    }
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    for fail_sync in 1..12 {
        let faults = FaultPlan { fail_sync: Some(fail_sync), ..FaultPlan::default() };
        let mut bench = Bench::new(fail_sync, 30, small_segments(), faults);
        bench.open().unwrap();
        let mut durable = Offset::ZERO;
        let failed = loop {
            let done = bench.append(1, 200).and_then(|()| Ok(bench.settle()?));
            if let Err(error) = done {
                break error;
            }
            durable = bench.log().durable_end();
        };
        assert!(matches!(failed, AppendError::Failed(_)), "{failed}");
        assert_eq!(bench.log().durable_end(), durable);
        assert!(bench.log().sync().is_err());
        assert!(bench.roll().is_err());
        bench.disk.crash();
        bench.disk.restart();
        bench.open().unwrap();
        bench.check_recovered(durable);
    }
}

#[test]
fn a_batch_out_of_place_is_refused() {
    let mut bench = closed_log();
    bench.open().unwrap();
    let (end, now) = (bench.log().end(), bench.now());
    let batch = |base, epoch| crate::common::batch(base, epoch, 1, 0, 10, 0);
    let gap = bench.log().append(now, batch(end.plus(1), 9));
    assert!(matches!(gap, Err(AppendError::OffsetMismatch { .. })), "{gap:?}");
    let old = bench.log().append(now, batch(end, 0));
    assert!(matches!(old, Err(AppendError::OlderEpoch { .. })), "{old:?}");
    assert_eq!(bench.log().end(), end);
}

#[test]
fn a_removed_segment_stays_readable_for_reads_under_way() {
    let mut bench = closed_log();
    bench.open().unwrap();
    let expected = bench.appended[0].bytes().clone();
    let end = bench.log().end();
    let plan = bench.log().read(Offset::ZERO.into(), end, 1).unwrap();
    let mut config = small_segments();
    config.retention_bytes = Some(0);
    let now = bench.now();
    bench.log().set_config(config);
    let removed = bench.log().apply_retention(now, end, usize::MAX).unwrap();
    assert!(!removed.is_empty() && bench.log().start() > offset(0));
    let millstream_log::ReadPlan::File(read) = plan else { panic!("not in memory") };
    assert_eq!(read.load().unwrap().batches, expected);
}
