//! Data that an earlier build wrote is served by this one, record for record.
//!
//! `golden/vN/` holds a data directory made by the build that introduced format N (or something
//! else worth keeping), and `expected.jsonl`, every record as `consume -o json` printed it then.
//! To add one, after a change of format:
//!
//! ```text
//! MILLSTREAM_GOLDEN=v2 cargo test -p millstream-tests --test golden -- --ignored
//! ```
//!
//! It never writes over an older one: what was promised to be readable stays.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millstream_tests::{Broker, Options, consume, copy_dir, json_lines, produce, success, topics};
use serde_json::{Value, json};

const STOPS_WITHIN: Duration = Duration::from_secs(30);
/// What one version may take in the repository.
const BYTES_MAX: u64 = 1 << 20;
const EXPECTED: &str = "expected.jsonl";
const DATA: &str = "data";

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Every version there is.
fn versions() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(golden_dir())? {
        found.push(entry?.path());
    }
    found.sort();
    ensure!(!found.is_empty(), "no golden data");
    Ok(found)
}

/// Retention would take the records, which are as old as the format.
fn options() -> Options {
    let environment = vec![("MILLSTREAM_STORAGE__MAINTENANCE_INTERVAL_MS".into(), "200".into())];
    Options { environment, ..Options::default() }
}

/// Every record of every topic, in order of topic, partition and offset.
fn all_records(broker: &Broker) -> Result<Vec<Value>> {
    let mut records = Vec::new();
    for (topic, _) in topics(broker)? {
        records.extend(consume(broker, &topic, &[])?);
    }
    records.sort_by_key(|record| {
        let number = |name: &str| record[name].as_u64().unwrap_or(0);
        (record["topic"].to_string(), number("partition"), number("offset"))
    });
    Ok(records)
}

fn stop(broker: Broker) -> Result<()> {
    let (status, log) = broker.terminate(STOPS_WITHIN)?;
    ensure!(status.success() && !log.contains("panicked"), "{status}:\n{log}");
    // It is on this that a golden directory is good for: no warning of anything amiss.
    ensure!(!log.contains("ERROR"), "{log}");
    Ok(())
}

fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let is_dir = entry.file_type()?.is_dir();
        bytes += if is_dir { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

#[test]
fn earlier_data_is_served_record_for_record() -> Result<()> {
    for version in versions()? {
        let name = version.display();
        ensure!(size(&version)? < BYTES_MAX, "{name} is too large");
        let dir = tempfile::tempdir()?;
        let data = dir.path().join(DATA);
        copy_dir(&version.join(DATA), &data)?;
        let expected = json_lines(&std::fs::read_to_string(version.join(EXPECTED))?)?;
        ensure!(expected.len() > 100, "{name} expects too little");

        let broker = Broker::start_with(&data, &options())?;
        let found = all_records(&broker)?;
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(found.len(), expected.len(), "{name}");

        // And it can be written on to, and read again after that.
        let next = json!({"value": "of this build", "partition": 0});
        let summary = produce(&broker, "plain", &[next], &[])?;
        stop(broker)?;
        let broker = Broker::start_with(&data, &options())?;
        assert_eq!(all_records(&broker)?.len(), expected.len() + 1, "{name}");
        let at = summary["partitions"][0]["first_offset"].to_string();
        let read = consume(&broker, "plain", &["--partition", "0", "--from", &at])?;
        assert_eq!(read.len(), 1);
        assert_eq!(read[0]["value"], "of this build");
        stop(broker)?;
    }
    Ok(())
}

/// The topics of a golden directory: one for each thing that a reader may get wrong.
const TOPICS: &[(&str, &[&str])] = &[
    ("plain", &["--partitions", "2"]),
    ("sealed", &["--config", "segment.bytes=65536"]),
    ("codecs", &["--partitions", "5"]),
    ("append-time", &["--config", "message.timestamp.type=LogAppendTime"]),
    ("empty", &["--partitions", "3"]),
    ("dropped", &["--partitions", "2"]),
];

/// One round of writing: between two rounds the broker ends, so that logs are closed and opened.
fn write_round(broker: &Broker, round: u64) -> Result<()> {
    let timestamp = |number: u64| 1_500_000_000_000 + 1000 * (100 * round + number);
    let plain: Vec<Value> = (0..20)
        .map(|number| {
            json!({
                "key": format!("key-{}", number % 7),
                "value": format!("round {round}, record {number}"),
                "headers": [["round", round.to_string()], ["same", "1"], ["same", null]],
                "timestamp": timestamp(number),
                "partition": number % 2,
            })
        })
        .collect();
    produce(broker, "plain", &plain, &[])?;
    let large: Vec<Value> = (0..30)
        .map(|number| {
            let value = format!("{round}-{number} ").repeat(250);
            json!({"value": value, "timestamp": timestamp(number)})
        })
        .collect();
    produce(broker, "sealed", &large, &["--batch-bytes", "4KiB"])?;
    for (partition, codec) in (0..).zip(["none", "gzip", "snappy", "lz4", "zstd"]) {
        let records: Vec<Value> = (0..10)
            .map(|number| {
                json!({
                    "key_base64": "/wA=",
                    "value": format!("{codec} {round} {number}").repeat(10),
                    "timestamp": timestamp(number),
                    "partition": partition,
                })
            })
            .collect();
        produce(broker, "codecs", &records, &["--compression", codec])?;
    }
    // Tombstones, nothing at all, and bytes that are no text.
    let odd = [
        json!({"key": "gone", "value": null}),
        json!({"key": null, "value": ""}),
        json!({"value_base64": "AP/+gA=="}),
    ];
    produce(broker, "append-time", &odd, &[])?;
    Ok(())
}

#[test]
#[ignore = "writes the golden directory of a new version"]
fn write_a_golden_directory() -> Result<()> {
    let name = std::env::var("MILLSTREAM_GOLDEN").context("set MILLSTREAM_GOLDEN to its name")?;
    let target = golden_dir().join(&name);
    ensure!(!target.exists(), "{} is there already, and stays", target.display());
    let dir = tempfile::tempdir()?;
    let data = dir.path().join(DATA);
    let mut broker = Broker::start(&data)?;
    for (topic, flags) in TOPICS {
        let forever = ["topic", "create", topic, "--config", "retention.ms=-1"];
        success(&broker.millstream(&[&forever[..], flags].concat())?)?;
    }
    produce(&broker, "dropped", &[json!({"value": "x"})], &[])?;
    for round in 0..4 {
        write_round(&broker, round)?;
        if round == 2 {
            // Not every end is an orderly one.
            broker.kill9()?;
        } else {
            stop(broker)?;
        }
        broker = Broker::start(&data)?;
    }
    success(&broker.millstream(&["topic", "delete", "dropped"])?)?;
    let alter = ["topic", "alter", "plain", "--partitions", "3", "--config", "segment.ms=86400000"];
    success(&broker.millstream(&alter)?)?;
    let mut expected = String::new();
    for record in all_records(&broker)? {
        writeln!(expected, "{record}")?;
    }
    stop(broker)?;

    // Keys do not belong into a repository; a broker makes new ones.
    std::fs::remove_dir_all(data.join("tls"))?;
    std::fs::remove_file(data.join("LOCK"))?;
    ensure!(size(&data)? + (expected.len() as u64) < BYTES_MAX, "it grew too large");
    std::fs::create_dir_all(&target)?;
    copy_dir(&data, &target.join(DATA))?;
    Ok(std::fs::write(target.join(EXPECTED), expected)?)
}
