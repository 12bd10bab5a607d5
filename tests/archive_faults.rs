//! A store that fails or stalls keeps nobody from producing, and loses nothing.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millstream_tests::{
    Broker, Moto, Options, consume, failure, json_lines, produce, success, wait_until,
};
use serde_json::{Value, json};

const TOPIC: &str = "orders";
const PATIENCE: Duration = Duration::from_secs(60);

fn options(more: Vec<(String, String)>) -> Options {
    let set = [
        ("MILLSTREAM_ARCHIVE__RANGE_BYTES_MAX", "65536"),
        ("MILLSTREAM_ARCHIVE__INTERVAL_MS", "20"),
        ("MILLSTREAM_STORAGE__MAINTENANCE_INTERVAL_MS", "50"),
        ("MILLSTREAM_ARCHIVE__BACKLOG_BYTES_MAX", "2097152"),
    ];
    let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Options { environment: set.into_iter().chain(more).collect(), ..Options::default() }
}

fn create(broker: &Broker) -> Result<()> {
    let configs = ["remote.storage.enable=true", "retention.ms=-1", "archive.lag.max.ms=1000"];
    let more = ["segment.bytes=65536", "local.retention.bytes=0"];
    let mut arguments = vec!["topic", "create", TOPIC];
    arguments.extend(configs.iter().chain(&more).flat_map(|config| ["-c", config]));
    success(&broker.millstream(&arguments)?).map(drop)
}

/// Records of about 1 KiB.
fn records(from: u64, to: u64) -> Vec<Value> {
    let value = |number: u64| format!("{number} {}", "x".repeat(1000));
    (from..to).map(|number| json!({ "value": value(number) })).collect()
}

fn values(broker: &Broker) -> Result<Vec<String>> {
    let records = consume(broker, TOPIC, &[])?;
    let value = |record: &Value| record["value"].as_str().map(str::to_owned).context("no value");
    records.iter().map(value).collect()
}

fn expected(to: u64) -> Vec<String> {
    records(0, to).iter().filter_map(|it| it["value"].as_str().map(str::to_owned)).collect()
}

/// What `archive status` says of the topic's only partition.
fn status(broker: &Broker) -> Result<Value> {
    let printed = success(&broker.millstream(&["archive", "status", TOPIC, "-o", "json"])?)?;
    let rows = json_lines(&printed)?;
    rows.into_iter().find(|row| row.get("topic").is_some()).context("no partition")
}

/// Makes a directory store unusable, or usable again.
fn set_usable(archive: &Path, usable: bool) -> Result<()> {
    let away = archive.with_file_name("away");
    if usable {
        std::fs::remove_file(archive)?;
        std::fs::rename(&away, archive)?;
    } else {
        std::fs::rename(archive, &away)?;
        std::fs::write(archive, "in the way")?;
    }
    Ok(())
}

#[test]
fn a_store_that_fails_is_shown_and_loses_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let archive = data.join("archive");
    let broker = Broker::start_with(&data, &options(Vec::new()))?;
    create(&broker)?;
    produce(&broker, TOPIC, &records(0, 200), &[])?;
    let archived = || Ok(status(&broker)?["end_offset"].as_u64() > Some(0));
    wait_until("something is archived", PATIENCE, archived)?;

    set_usable(&archive, false)?;
    produce(&broker, TOPIC, &records(200, 1000), &[])?;
    let shown = || Ok(status(&broker)?["error"].is_string());
    wait_until("the failure is shown", PATIENCE, shown)?;
    // Up to the bound producers notice nothing; beyond it they are told why, and may retry.
    produce(&broker, TOPIC, &records(1000, 1500), &[])?;
    let mut number = 1500;
    let mut refused = None;
    while refused.is_none() && number < 6000 {
        let mut command = broker.command()?;
        command.args(["produce", TOPIC, "--json", "--delivery-timeout", "1s"]);
        let mut input = String::new();
        records(number, number + 100).iter().for_each(|it| input.push_str(&format!("{it}\n")));
        let output = millstream_tests::run(command, input.as_bytes(), PATIENCE)?;
        if output.status.success() {
            number += 100;
        } else {
            refused = Some(failure(&output, 1)?);
        }
    }
    let refused = refused.context("nothing was refused")?;
    ensure!(refused.contains("archive.backlog_bytes_max"), "{refused}");

    set_usable(&archive, true)?;
    wait_until("everything is archived", PATIENCE * 2, || {
        let row = status(&broker)?;
        Ok(row["end_offset"] == row["high_watermark"] && row["error"].is_null())
    })?;
    let held = values(&broker)?;
    // Of the batch that was refused in the end, a part may have been stored.
    ensure!(held.len() >= usize::try_from(number)?, "{} of {number}", held.len());
    let next = number + 100;
    ensure!(held == expected(next)[..held.len()], "other records than were sent");
    produce(&broker, TOPIC, &records(next, next + 10), &[])?;
    Ok(())
}

#[test]
fn a_store_that_does_not_answer_keeps_nobody_waiting() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // It takes connections and never says a word.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let environment = Moto::environment(silent.local_addr()?);
    let broker = Broker::start_with(&dir.path().join("data"), &options(environment))?;
    create(&broker)?;
    produce(&broker, TOPIC, &records(0, 500), &[])?;
    ensure!(values(&broker)? == expected(500));
    let row = status(&broker)?;
    ensure!(row["end_offset"] == 0 && row["backlog_bytes"].as_u64() > Some(400_000), "{row}");
    let (ended, log) = broker.terminate(Duration::from_secs(30))?;
    ensure!(ended.success() && !log.contains("panicked"), "{log}");
    Ok(())
}

#[test]
#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
fn a_start_that_needs_a_store_that_does_not_answer_takes_seconds() -> Result<()> {
    const PARTITIONS: usize = 100;
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start_with(&data, &options(Vec::new()))?;
    let configs = ["remote.storage.enable=true", "archive.lag.max.ms=1000"];
    let count = PARTITIONS.to_string();
    let mut arguments = vec!["topic", "create", TOPIC, "-p", &count];
    arguments.extend(configs.iter().flat_map(|config| ["-c", config]));
    success(&broker.millstream(&arguments)?)?;
    let record = |partition: usize| json!({ "partition": partition, "value": "x" });
    let records: Vec<Value> = (0..PARTITIONS).map(record).collect();
    produce(&broker, TOPIC, &records, &[])?;
    wait_until("every partition is archived", PATIENCE * 2, || {
        let printed = success(&broker.millstream(&["archive", "status", TOPIC, "-o", "json"])?)?;
        let ends = json_lines(&printed)?;
        let ends = ends.iter().filter(|row| row["end_offset"].as_u64() > Some(0));
        Ok(ends.count() == PARTITIONS)
    })?;
    broker.terminate(Duration::from_secs(30))?;

    // The logs are lost, and where they go on is known to a store that never says a word.
    std::fs::remove_dir_all(data.join("topics"))?;
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let begun = Instant::now();
    let broker = Broker::start_with(&data, &options(Moto::environment(silent.local_addr()?)))?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(20), "it took {took:?}");
    success(&broker.millstream(&["topic", "create", "other"])?)?;
    produce(&broker, "other", &[json!({ "value": "y" })], &[])?;
    ensure!(consume(&broker, "other", &[])?.len() == 1);
    let (ended, log) = broker.terminate(Duration::from_secs(30))?;
    ensure!(ended.success() && !log.contains("panicked"), "{log}");
    Ok(())
}
