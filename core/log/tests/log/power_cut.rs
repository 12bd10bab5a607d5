//! Cuts the power after every single disk operation of a workload, and looks at what is left.

use crate::common::{Bench, small_segments};
use millstream_env::disk::FaultPlan;
use millstream_types::Offset;

/// Appends, syncs, rolls and forgets; returns what was known to be durable when it ended, which
/// is when the power went off.
fn workload(bench: &mut Bench) -> Offset {
    let mut durable = Offset::ZERO;
    let _ = run(bench, &mut durable);
    durable
}

fn run(bench: &mut Bench, durable: &mut Offset) -> Option<()> {
    bench.open().ok()?;
    for round in 0..14_u32 {
        bench.now += 1000;
        if round == 6 {
            bench.epoch += 1;
        }
        for batch in 0..1 + round % 3 {
            bench.append(1 + batch % 2, 60 + 40 * batch as usize).ok()?;
            bench.disk.step();
            bench.deliver().ok()?;
            *durable = bench.log().durable_end();
        }
        bench.log().sync().ok()?;
        for _ in 0..2 + round % 7 {
            bench.disk.step();
            bench.deliver().ok()?;
        }
        *durable = bench.log().durable_end();
        if round % 5 == 4 {
            let (now, limit) = (bench.now(), *durable);
            bench.log().apply_retention(now, limit, usize::MAX).ok()?;
        }
        if round == 9 {
            bench.settle().ok()?;
            *durable = bench.log().durable_end();
            bench.log.take()?.close();
            bench.open().ok()?;
        }
    }
    bench.settle().ok()?;
    *durable = bench.log().durable_end();
    Some(())
}

/// Continues after a restart as if nothing had happened, then looks again.
fn go_on(bench: &mut Bench) {
    for _ in 0..5 {
        bench.append(2, 80).unwrap();
    }
    bench.settle().unwrap();
    let end = bench.log().end();
    assert_eq!(bench.log().durable_end(), end);
    bench.disk.crash();
    bench.disk.restart();
    bench.open().unwrap();
    bench.check_recovered(end);
}

fn cut_everywhere(seed: u64, ready_per_cent: u8) {
    let mut config = small_segments();
    config.retention_bytes = Some(6_000);
    let mut whole = Bench::new(seed, ready_per_cent, config, FaultPlan::default());
    let end = workload(&mut whole);
    assert_eq!(end, whole.log().end(), "the workload runs to its end when nothing fails");
    assert!(whole.log().start() > Offset::ZERO, "and retention removes something");
    let ops = whole.disk.ops();
    assert!(ops > 80, "{ops} operations");
    for cut in 1..=ops {
        let faults = FaultPlan { power_cut_after: Some(cut), ..FaultPlan::default() };
        let mut bench = Bench::new(seed, ready_per_cent, config, faults);
        let durable = workload(&mut bench);
        bench.log = None;
        bench.disk.crash();
        bench.disk.restart();
        bench.open().unwrap_or_else(|error| panic!("seed {seed}, cut at {cut}: {error}"));
        bench.check_recovered(durable);
        go_on(&mut bench);
    }
}

#[test]
fn with_a_disk_that_completes_later() {
    for seed in 0..40 {
        cut_everywhere(seed, 0);
    }
}

#[test]
fn with_a_disk_that_completes_at_once_or_later() {
    for seed in 100..130 {
        cut_everywhere(seed, 60);
    }
}

#[test]
fn with_a_disk_that_completes_at_once() {
    for seed in 200..210 {
        cut_everywhere(seed, 100);
    }
}

/// An opening that drops several segments which were never durable, and is itself cut short.
#[test]
fn while_opening() {
    let mut cut_short = 0;
    for (seed, within) in (0..300).flat_map(|seed| (1..8).map(move |within| (seed, within))) {
        let mut bench = Bench::new(seed, 0, small_segments(), FaultPlan::default());
        bench.open().unwrap();
        for _ in 0..3 {
            bench.append(2, 80).unwrap();
            bench.roll().unwrap();
        }
        bench.log = None;
        bench.disk.crash();
        bench.disk.restart();
        let power_cut_after = Some(bench.disk.ops() + within);
        bench.disk.set_faults(FaultPlan { power_cut_after, ..FaultPlan::default() });
        cut_short += u32::from(bench.open().is_err());
        bench.log = None;
        bench.disk.crash();
        bench.disk.restart();
        bench.open().unwrap_or_else(|error| panic!("seed {seed}, cut within {within}: {error}"));
        bench.check_recovered(Offset::ZERO);
        go_on(&mut bench);
    }
    assert!(cut_short > 100, "{cut_short} openings were cut short");
}

/// The process dies and the machine goes on: what was written stays, what waited may be lost.
#[test]
fn a_killed_process_loses_only_what_was_not_written() {
    for seed in 0..200 {
        let mut bench = Bench::new(seed, 50, small_segments(), FaultPlan::default());
        bench.open().unwrap();
        for _ in 0..3 {
            for _ in 0..7 {
                bench.append(2, 100).unwrap();
                bench.disk.step();
                bench.deliver().unwrap();
            }
            let written = bench.log().written_end();
            bench.log = None;
            bench.disk.restart();
            bench.open().unwrap();
            bench.check_recovered(written);
        }
        go_on(&mut bench);
    }
}
