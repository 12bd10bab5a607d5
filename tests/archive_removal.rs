//! What retention and deletion take out of the archive: readers are told, objects go after their
//! grace and not before, and a kill between the two leaves nothing behind. In a directory and in a
//! bucket of a real S3 server.

#[path = "archive_removal/place.rs"]
mod place;
#[path = "archive_removal/reader.rs"]
mod reader;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use millstream_tests::{
    Broker, Moto, Options, Phoenix, consume, copy_dir, failure, json_lines, produce, success,
    topics, wait_until,
};
use serde_json::{Value, json};

use place::Place;

const TOPIC: &str = "orders";
const PATIENCE: Duration = Duration::from_secs(90);
/// So that a record takes as many bytes as it has.
const UNCOMPRESSED: &[&str] = &["--compression", "none"];
const HOUR_MS: u64 = 3_600_000;

/// A broker that archives small ranges at once, and removes what is given up after `grace`.
fn options(place: &Place, grace: Duration) -> Options {
    let grace_ms = grace.as_millis().to_string();
    let set = [
        ("MILLSTREAM_ARCHIVE__RANGE_BYTES_MAX", "65536"),
        ("MILLSTREAM_ARCHIVE__INTERVAL_MS", "20"),
        ("MILLSTREAM_STORAGE__MAINTENANCE_INTERVAL_MS", "50"),
        ("MILLSTREAM_ARCHIVE__GRACE_MS", &grace_ms),
    ];
    let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment = set.into_iter().chain(place.environment()).collect();
    Options { environment, ..Options::default() }
}

fn create(broker: &Broker) -> Result<()> {
    let configs = ["remote.storage.enable=true", "retention.ms=-1", "archive.lag.max.ms=1000"];
    let more = ["segment.bytes=65536", "local.retention.bytes=0"];
    let mut arguments = vec!["topic", "create", TOPIC];
    arguments.extend(configs.iter().chain(&more).flat_map(|config| ["-c", config]));
    success(&broker.millstream(&arguments)?).map(drop)
}

fn alter(broker: &Broker, config: &str) -> Result<()> {
    success(&broker.millstream(&["topic", "alter", TOPIC, "-c", config])?).map(drop)
}

/// Records of about 1 KiB, all of one time.
fn records(from: u64, to: u64, timestamp: u64) -> Vec<Value> {
    let value = |number: u64| format!("{number} {}", "x".repeat(1000));
    let record = |number| json!({ "value": value(number), "timestamp": timestamp });
    (from..to).map(record).collect()
}

/// Appends records in batches of 50, as they would come over time.
fn fill(broker: &Broker, from: u64, to: u64, timestamp: u64) -> Result<()> {
    for first in (from..to).step_by(50) {
        let records = records(first, to.min(first + 50), timestamp);
        produce(broker, TOPIC, &records, UNCOMPRESSED)?;
    }
    Ok(())
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
fn now_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// Starts to measure.
#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
fn now() -> Instant {
    Instant::now()
}

/// What `archive status` says of the topic's only partition.
fn status(broker: &Broker) -> Result<Value> {
    let printed = success(&broker.millstream(&["archive", "status", TOPIC, "-o", "json"])?)?;
    let rows = json_lines(&printed)?;
    rows.into_iter().find(|row| row.get("partition").is_some()).context("no partition")
}

/// Waits until all of the first `end` records are in the archive.
fn wait_until_archived(broker: &Broker, end: u64) -> Result<()> {
    wait_until("everything is archived", PATIENCE, || {
        let row = status(broker)?;
        Ok(row["end_offset"] == end && row["high_watermark"] == end)
    })
}

/// Waits until the archive starts behind `offset`; returns where.
fn wait_until_trimmed(broker: &Broker, offset: u64) -> Result<u64> {
    let mut start = 0;
    wait_until("the oldest ranges are given up", PATIENCE, || {
        start = status(broker)?["start_offset"].as_u64().context("no start")?;
        Ok(start > offset)
    })?;
    Ok(start)
}

/// The offset after the last in an object, by its name.
fn end_of(object: &str) -> Result<u64> {
    let name = object.rsplit('/').next().and_then(|name| name.split('-').nth(1));
    Ok(name.with_context(|| format!("{object} names no range"))?.parse()?)
}

/// Those that hold nothing from `start` on.
fn given_up(objects: &BTreeSet<String>, start: u64) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for object in objects {
        if end_of(object)? <= start {
            found.insert(object.clone());
        }
    }
    Ok(found)
}

/// Looks on as `doomed` objects go, which may be no sooner than `grace` after `since`; all others
/// of `before` stay.
fn watch_them_go(
    place: &Place,
    before: &BTreeSet<String>,
    doomed: &BTreeSet<String>,
    (since, grace): (Instant, Duration),
) -> Result<()> {
    ensure!(!doomed.is_empty(), "nothing was given up");
    let stay: BTreeSet<&String> = before.difference(doomed).collect();
    wait_until("what was given up is removed", PATIENCE, || {
        let found = place.objects()?;
        let passed = since.elapsed();
        let left = doomed.iter().filter(|object| found.contains(*object)).count();
        ensure!(left == doomed.len() || passed >= grace, "objects went after {passed:?}");
        ensure!(stay.iter().all(|object| found.contains(*object)), "more went than was given up");
        Ok(left == 0)
    })
}

/// Reads all there is, which must be the records from `start` to `end`.
fn check_whole(broker: &Broker, start: u64, end: u64) -> Result<()> {
    let read = consume(broker, TOPIC, &[])?;
    ensure!(read.len() as u64 == end - start, "{} records from {start} to {end}", read.len());
    for (record, number) in read.iter().zip(start..) {
        let value = record["value"].as_str().context("no value")?;
        let expected = value.starts_with(&format!("{number} "));
        ensure!(record["offset"] == number && expected, "{record} at {number}");
    }
    success(&broker.millstream(&["archive", "verify", TOPIC])?).map(drop)
}

/// A consumer at an offset that was given up is told what there is instead.
fn check_refused(broker: &Broker, start: u64) -> Result<()> {
    let refused = failure(&broker.millstream(&["consume", TOPIC, "--from", "0"])?, 1)?;
    let advice = format!("--from earliest (now {start})");
    ensure!(refused.contains(&advice), "{refused} does not say {advice}");
    Ok(())
}

fn end(broker: Broker) -> Result<()> {
    let log = broker.kill9()?;
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}

fn retention(dir: &Path, place: &Place) -> Result<()> {
    let grace = Duration::from_secs(3);
    let broker = Broker::start_with(&dir.join("data"), &options(place, grace))?;
    create(&broker)?;
    let now_ms = now_ms()?;
    fill(&broker, 0, 300, now_ms - HOUR_MS)?;
    fill(&broker, 300, 700, now_ms)?;
    wait_until_archived(&broker, 700)?;
    check_whole(&broker, 0, 700)?;

    // By age: what is an hour old goes, but for a range that has newer records, too.
    let (before, since) = (place.objects()?, now());
    alter(&broker, "retention.ms=1800000")?;
    let start = wait_until_trimmed(&broker, 0)?;
    ensure!((100..=300).contains(&start), "it starts at {start}");
    check_refused(&broker, start)?;
    check_whole(&broker, start, 700)?;
    watch_them_go(place, &before, &given_up(&before, start)?, (since, grace))?;

    // By size: some 150 of 1 KiB.
    let (before, since) = (place.objects()?, now());
    alter(&broker, "retention.bytes=150000")?;
    let by_size = wait_until_trimmed(&broker, start)?;
    ensure!((450..=560).contains(&by_size), "it starts at {by_size}");
    check_refused(&broker, by_size)?;
    watch_them_go(place, &before, &given_up(&before, by_size)?, (since, grace))?;
    check_whole(&broker, by_size, 700)?;
    fill(&broker, 700, 710, now_ms)?;
    wait_until_archived(&broker, 710)?;
    end(broker)
}

fn deletion(dir: &Path, place: &Place) -> Result<()> {
    let grace = Duration::from_secs(6);
    let options = options(place, grace);
    let broker = Broker::start_with(&dir.join("data"), &options)?;
    create(&broker)?;
    fill(&broker, 0, 200, now_ms()?)?;
    wait_until_archived(&broker, 200)?;
    let (first, since) = (place.objects()?, now());
    success(&broker.millstream(&["topic", "delete", TOPIC])?)?;
    ensure!(topics(&broker)?.is_empty());
    // Under the same name, at once.
    create(&broker)?;
    fill(&broker, 0, 100, now_ms()?)?;
    wait_until_archived(&broker, 100)?;
    let both = place.objects()?;
    let second: BTreeSet<String> = both.difference(&first).cloned().collect();
    ensure!(!second.is_empty(), "the new topic has no archive of its own");
    check_whole(&broker, 0, 100)?;
    // A kill in between makes no difference.
    end(broker)?;
    let broker = Broker::start_with(&dir.join("data"), &options)?;
    let all: BTreeSet<String> = first.union(&second).cloned().collect();
    watch_them_go(place, &all, &first, (since, grace))?;
    wait_until("nothing of the first is left to restore", PATIENCE, || {
        let listed = broker.millstream(&["archive", "restore", TOPIC, "-o", "json"])?;
        Ok(success(&listed)?.contains("exists already"))
    })?;
    check_whole(&broker, 0, 100)?;
    end(broker)
}

fn killed_before_removal(dir: &Path, place: &Place) -> Result<()> {
    let grace = Duration::from_secs(5);
    let broker = Phoenix::start(&dir.join("data"), options(place, grace))?;
    create(&broker.broker)?;
    fill(&broker.broker, 0, 400, now_ms()?)?;
    wait_until_archived(&broker.broker, 400)?;
    let (before, since) = (place.objects()?, now());
    alter(&broker.broker, "retention.bytes=100000")?;
    let start = wait_until_trimmed(&broker.broker, 0)?;
    let doomed = given_up(&before, start)?;
    let broker = broker.kill_and_restart()?;
    ensure!(status(&broker.broker)?["start_offset"] == start, "the trim was forgotten");
    watch_them_go(place, &before, &doomed, (since, grace))?;
    check_refused(&broker.broker, start)?;
    check_whole(&broker.broker, start, 400)?;
    end(broker.broker)
}

/// The newest manifests' numbers say how far the store is.
fn manifests(bucket: &Path) -> Result<usize> {
    let folders = std::fs::read_dir(bucket.join("topics"))?.collect::<Result<Vec<_>, _>>()?;
    let folder = folders.first().context("nothing is archived")?.path();
    let entries = std::fs::read_dir(folder.join("0/manifest"))?.collect::<Result<Vec<_>, _>>()?;
    let whole = entries.iter().filter(|it| it.path().extension().is_some_and(|it| it == "json"));
    Ok(whole.count())
}

/// The store gave the oldest up, and the metadata may not have heard: nobody writes any more, so
/// that upkeep alone can tell.
#[test]
fn a_kill_in_the_middle_of_a_trim_leaves_the_head_where_the_store_is() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bucket = dir.path().join("bucket");
    let options = options(&Place::Directory(bucket.clone()), Duration::from_secs(2));
    let mut phoenix = Phoenix::start(&dir.path().join("data"), options)?;
    create(&phoenix.broker)?;
    fill(&phoenix.broker, 0, 600, now_ms()?)?;
    wait_until_archived(&phoenix.broker, 600)?;
    let mut start = 0;
    for kept in [400_000, 300_000, 200_000, 100_000] {
        let before = manifests(&bucket)?;
        alter(&phoenix.broker, &format!("retention.bytes={kept}"))?;
        wait_until("a trim's manifest", PATIENCE, || Ok(manifests(&bucket)? > before))?;
        phoenix = phoenix.kill_and_restart()?;
        let trimmed = wait_until_trimmed(&phoenix.broker, start)?;
        ensure!(trimmed >= 600 - kept / 1000, "{trimmed} for {kept} bytes");
        check_refused(&phoenix.broker, trimmed)?;
        check_whole(&phoenix.broker, trimmed, 600)?;
        start = trimmed;
    }
    ensure!(manifests(&bucket)? >= 5);
    end(phoenix.broker)
}

/// A data directory from an old copy: what was archived since is in no log of it.
#[test]
fn a_log_that_is_shorter_than_its_stores_archive_loses_nothing_that_it_takes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (data, old) = (dir.path().join("data"), dir.path().join("old"));
    let options = options(&Place::Directory(dir.path().join("bucket")), PATIENCE);
    let broker = Broker::start_with(&data, &options)?;
    create(&broker)?;
    fill(&broker, 0, 200, now_ms()?)?;
    wait_until_archived(&broker, 200)?;
    broker.terminate(PATIENCE)?;
    copy_dir(&data, &old)?;
    let broker = Broker::start_with(&data, &options)?;
    fill(&broker, 200, 500, now_ms()?)?;
    wait_until_archived(&broker, 500)?;
    let newer = consume(&broker, TOPIC, &[])?;
    end(broker)?;

    let broker = Broker::start_with(&old, &options)?;
    // Other records than those that the archive has at these offsets; enough to fill segments.
    fill(&broker, 1_200, 1_400, now_ms()?)?;
    wait_until("the gap is told", PATIENCE, || {
        let row = status(&broker)?;
        Ok(row["error"].as_str().is_some_and(|it| it.contains("the archive ends at offset 500")))
    })?;
    let kept = consume(&broker, TOPIC, &["--from", "200"])?;
    ensure!(kept.len() == 200, "{} records", kept.len());
    let own = |record: &Value| record["value"].as_str().is_some_and(|it| it.starts_with("1"));
    ensure!(kept.iter().all(own), "what it took since is not there");
    let row = status(&broker)?;
    ensure!(row["end_offset"] == 200, "its head moved to what it does not have: {row}");
    end(broker)?;
    // The directory that the archive is of has everything still.
    let broker = Broker::start_with(&data, &options)?;
    ensure!(consume(&broker, TOPIC, &[])? == newer, "the archive has changed");
    success(&broker.millstream(&["archive", "verify", TOPIC])?)?;
    end(broker)
}

/// Runs a test on a directory.
fn in_directory(test: impl FnOnce(&Path, &Place) -> Result<()>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    test(dir.path(), &Place::Directory(dir.path().join("bucket")))
}

/// Runs a test on a bucket, where there is a server to be had.
fn on_s3(test: impl FnOnce(&Path, &Place) -> Result<()>) -> Result<()> {
    let Some(moto) = Moto::start()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    test(dir.path(), &Place::Bucket(moto.address()))
}

#[test]
fn retention_gives_up_the_oldest_in_a_directory() -> Result<()> {
    in_directory(retention)
}

#[test]
fn retention_gives_up_the_oldest_on_s3() -> Result<()> {
    on_s3(retention)
}

#[test]
fn a_deleted_topic_leaves_a_directory_after_the_grace() -> Result<()> {
    in_directory(deletion)
}

#[test]
fn a_deleted_topic_leaves_s3_after_the_grace() -> Result<()> {
    on_s3(deletion)
}

#[test]
fn what_was_given_up_before_a_kill_leaves_a_directory() -> Result<()> {
    in_directory(killed_before_removal)
}

#[test]
fn what_was_given_up_before_a_kill_leaves_s3() -> Result<()> {
    on_s3(killed_before_removal)
}

#[test]
fn a_reader_in_flight_ends_within_the_grace() -> Result<()> {
    in_directory(|dir, place| {
        let broker = Broker::start_with(&dir.join("data"), &options(place, reader::GRACE))?;
        create(&broker)?;
        // More than the network takes while nobody reads.
        let count = 16_000;
        for first in (0..count).step_by(1_000) {
            let records = records(first, first + 1_000, now_ms()?);
            produce(&broker, TOPIC, &records, UNCOMPRESSED)?;
        }
        wait_until_archived(&broker, count)?;
        let mut reading = reader::Reading::begin(&broker, TOPIC)?;
        let begun = reading.read_some()?;
        alter(&broker, "retention.bytes=100000")?;
        let start = wait_until_trimmed(&broker, count / 2)?;
        ensure!(begun < start, "it has read too far to prove anything");
        check_refused(&broker, start)?;
        reading.read_to(count)?;
        check_whole(&broker, start, count)?;
        end(broker)
    })
}
