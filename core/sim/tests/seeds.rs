//! Every profile over many seeds, the same seed twice, and brokers broken on purpose.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use millstream_sim::{Counts, Options, Profile, Sabotage, simulate};

const SEEDS: u64 = 40;

fn run_profile(name: &str) -> Counts {
    let profile = Profile::named(name).unwrap();
    let mut counts = Counts::default();
    for seed in 0..SEEDS {
        match simulate(seed, profile, Options::default()) {
            Ok(outcome) => counts.add(&outcome.counts),
            // Its `Debug` has the whole trace.
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(counts.placed > 1000 && counts.acked > 1000 && counts.read > 1000, "{counts:?}");
    counts
}

#[test]
fn nothing_goes_wrong() {
    let counts = run_profile("calm");
    assert!(counts.recognised > 100, "{counts:?}");
    assert_eq!((counts.refused, counts.lost), (0, 0));
}

#[test]
fn the_process_dies() {
    let counts = run_profile("kills");
    assert!(counts.restarts > 100 && counts.lost > 0, "{counts:?}");
    assert_eq!(counts.refused, 0);
}

#[test]
fn the_power_is_cut() {
    let counts = run_profile("power");
    assert!(counts.power_cuts > 100 && counts.cuts_while_opening > 10, "{counts:?}");
    assert!(counts.lost > 100 && counts.refused > 0, "{counts:?}");
}

#[test]
fn segments_are_removed() {
    let counts = run_profile("retention");
    assert!(counts.trimmed > 100 && counts.power_cuts > 100, "{counts:?}");
}

#[test]
fn the_disk_is_full_or_fails() {
    let counts = run_profile("disk");
    assert!(counts.no_space > 100 && counts.fences > 20, "{counts:?}");
}

#[test]
fn bits_turn_over() {
    let counts = run_profile("rot");
    assert!(counts.rotten_bits > 50 && counts.damage_reported > 10, "{counts:?}");
}

#[test]
fn ranges_are_archived_and_disks_are_lost() {
    let counts = run_profile("archive");
    assert!(
        counts.archived > 500 && counts.trimmed > 100 && counts.read_archived > 500,
        "{counts:?}"
    );
    assert!(counts.disks_lost > 50 && counts.power_cuts > 100 && counts.begun > 100, "{counts:?}");
    assert!(counts.store_faults > 100 && counts.heads_caught_up > 50, "{counts:?}");
    assert!(counts.superseded > 0 && counts.late_ranges > 0 && counts.waited > 10, "{counts:?}");
    assert!(counts.given_up > 20 && counts.late_trims > 0 && counts.collected > 100, "{counts:?}");
}

#[test]
fn a_seed_is_the_whole_of_a_run() {
    for profile in Profile::ALL {
        let options = Options::default();
        let run = |seed| match simulate(seed, profile, options) {
            Ok(outcome) => outcome.trace,
            Err(failure) => panic!("{failure}"),
        };
        let (one, two, other) = (run(7), run(7), run(8));
        assert!(one == two, "{} differs from run to run", profile.name);
        assert_ne!(one.digest(), other.digest());
    }
}

/// The properties that some seed of a profile finds broken.
fn found(profile: &str, sabotage: Sabotage) -> BTreeSet<&'static str> {
    let options = Options { sabotage: Some(sabotage), ..Options::default() };
    let profile = Profile::named(profile).unwrap();
    let runs = (0..SEEDS).map(|seed| simulate(seed, profile, options));
    runs.filter_map(|run| run.err().map(|failure| failure.violation.property)).collect()
}

#[test]
fn acknowledging_before_the_commit_is_found() {
    let found = found("power", Sabotage::AckWritten);
    assert!(found.contains("acknowledged is kept"), "{found:?}");
}

#[test]
fn reading_before_the_commit_is_found() {
    let found = found("power", Sabotage::ShowWritten);
    assert!(found.contains("one order"), "{found:?}");
}

#[test]
fn forgetting_producers_is_found() {
    let found = found("calm", Sabotage::ForgetProducers);
    assert!(found.contains("no duplicate"), "{found:?}");
}

#[test]
fn changing_bytes_is_found() {
    let found = found("calm", Sabotage::ChangeBytes);
    assert!(found.contains("nothing invented"), "{found:?}");
}

#[test]
fn losing_the_disk_is_found() {
    let found = found("kills", Sabotage::LoseDisk);
    assert!(found.contains("acknowledged is kept"), "{found:?}");
}

#[test]
fn telling_the_metadata_before_the_manifest_is_found() {
    let found = found("archive", Sabotage::HeadFirst);
    assert!(found.contains("archive holds"), "{found:?}");
}

#[test]
fn archiving_what_is_not_durable_is_found() {
    let found = found("archive", Sabotage::ArchiveUnsynced);
    assert!(found.contains("archive holds"), "{found:?}");
}

#[test]
fn forgetting_before_the_metadata_knows_is_found() {
    let found = found("archive", Sabotage::ForgetFirst);
    assert!(found.contains("archive holds"), "{found:?}");
}

#[test]
fn forgetting_the_archives_producers_is_found() {
    let found = found("archive", Sabotage::DropProducers);
    assert!(found.contains("no duplicate") || found.contains("progress"), "{found:?}");
}

/// A process that is gone may yet name what it has put.
#[test]
fn collecting_what_is_about_to_be_named_is_found() {
    let found = found("archive", Sabotage::CollectAtOnce);
    assert!(found.contains("archive holds"), "{found:?}");
}

#[test]
fn giving_up_more_than_retention_asks_for_is_found() {
    let found = found("archive", Sabotage::GiveUpAll);
    assert!(found.contains("archive holds"), "{found:?}");
}
