//! Partitions are cheap: thousands of them on one broker share few open files, and all of them
//! come back after a kill -9.
//!
//! Ten thousand: `cargo test -p millstream-tests --test many_partitions -- --ignored --nocapture`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millstream_tests::{
    Broker, Options, consume, knob, open_files, produce, resident_kib, success,
};
use serde_json::{Value, json};

/// What a broker may have open, however many partitions it has.
const OPEN_FILES_MAX: usize = 1000;
const TOPIC: &str = "wide";

/// What a broker costs at one moment.
fn cost(broker: &Broker) -> Result<(usize, u64)> {
    let files = open_files(broker.pid())?;
    ensure!(files < OPEN_FILES_MAX, "{files} files are open");
    Ok((files, resident_kib(broker.pid())?))
}

/// The value of partition `index`: `bytes` of text that no other partition has.
fn value(index: u64, bytes: usize) -> String {
    let mut text = format!("partition {index} ");
    while text.len() < bytes {
        text.push_str(&index.to_string());
    }
    text.truncate(bytes);
    text
}

/// Every partition has exactly its one record.
fn check(broker: &Broker, partitions: u64, bytes: usize) -> Result<()> {
    let mut records = consume(broker, TOPIC, &["--timeout", "55s"])?;
    records.sort_by_key(|record| record["partition"].as_u64());
    ensure!(records.len() as u64 == partitions, "{} records", records.len());
    for (index, record) in (0..).zip(&records) {
        let right = record["partition"] == index
            && record["offset"] == 0
            && record["value"] == value(index, bytes);
        ensure!(right, "partition {index} has {record}");
    }
    Ok(())
}

/// Fills one topic, kills the broker, starts it again and compares.
#[expect(clippy::print_stdout, reason = "the numbers are the point of the long run")]
#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
fn fill_kill_and_reopen(data: &Path, partitions: u64, bytes: usize) -> Result<()> {
    let options = Options { ready_within: Duration::from_secs(300), ..Options::default() };
    let broker = Broker::start_with(data, &options)?;
    let count = partitions.to_string();
    success(&broker.millstream(&["topic", "create", TOPIC, "-p", &count, "--timeout", "55s"])?)?;
    let (files, kib) = cost(&broker)?;
    println!("{partitions} empty partitions: {files} open files, {kib} KiB resident");

    let record = |index: u64| json!({"value": value(index, bytes), "partition": index});
    let records: Vec<Value> = (0..partitions).map(record).collect();
    let start = Instant::now();
    let summary = produce(&broker, TOPIC, &records, &["--timeout", "55s"])?;
    assert_eq!(summary["records"].as_u64().context("no count")?, partitions);
    let took = start.elapsed();
    let (files, kib) = cost(&broker)?;
    println!("a record in each, in {took:?}: {files} open files, {kib} KiB resident");
    check(&broker, partitions, bytes)?;
    cost(&broker)?;

    let log = broker.kill9()?;
    ensure!(!log.contains("panicked"), "{log}");
    let start = Instant::now();
    let broker = Broker::start_with(data, &options)?;
    let took = start.elapsed();
    let (files, kib) = cost(&broker)?;
    println!("ready {took:?} after kill -9: {files} open files, {kib} KiB resident");
    check(&broker, partitions, bytes)?;
    let (files, kib) = cost(&broker)?;
    println!("read once: {files} open files, {kib} KiB resident");
    Ok(())
}

#[test]
fn a_thousand_partitions_share_few_files() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // 100 KiB in all.
    fill_kill_and_reopen(&dir.path().join("data"), 1000, 102)
}

#[test]
#[ignore = "takes minutes"]
fn ten_thousand_partitions_come_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fill_kill_and_reopen(&dir.path().join("data"), knob("MILLSTREAM_PARTITIONS", 10_000)?, 1024)
}
