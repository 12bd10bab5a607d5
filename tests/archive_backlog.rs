//! A topic that cannot be archived stops itself, and nobody else.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millstream_tests::{Broker, Options, failure, json_lines, produce, run, success, wait_until};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const STUCK: &str = "stuck";
const SOUND: &str = "sound";

fn options() -> Options {
    let set = [
        ("MILLSTREAM_ARCHIVE__RANGE_BYTES_MAX", "65536"),
        ("MILLSTREAM_ARCHIVE__INTERVAL_MS", "20"),
        ("MILLSTREAM_ARCHIVE__BACKLOG_BYTES_MAX", "2097152"),
    ];
    let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Options { environment: set.into(), ..Options::default() }
}

fn create(broker: &Broker, topic: &str) -> Result<()> {
    let configs = ["remote.storage.enable=true", "archive.lag.max.ms=1000"];
    let mut arguments = vec!["topic", "create", topic];
    arguments.extend(configs.iter().flat_map(|config| ["-c", config]));
    success(&broker.millstream(&arguments)?).map(drop)
}

/// Records of about 1 KiB.
fn records(from: u64, to: u64) -> Vec<Value> {
    let value = |number: u64| format!("{number} {}", "x".repeat(1000));
    (from..to).map(|number| json!({ "value": value(number) })).collect()
}

/// What `archive status` says of a topic's only partition.
fn status(broker: &Broker, topic: &str) -> Result<Value> {
    let printed = success(&broker.millstream(&["archive", "status", topic, "-o", "json"])?)?;
    let rows = json_lines(&printed)?;
    rows.into_iter().find(|row| row.get("topic").is_some()).context("no partition")
}

/// Puts a file where the folder of a topic's first partition is.
fn obstruct(topics: &Path, topic: &str) -> Result<()> {
    for folder in std::fs::read_dir(topics)? {
        let folder = folder?;
        if folder.file_name().to_string_lossy().starts_with(&format!("{topic}.")) {
            let partition = folder.path().join("0");
            std::fs::rename(&partition, folder.path().join("away"))?;
            std::fs::write(partition, "in the way")?;
            return Ok(());
        }
    }
    anyhow::bail!("{topic} has no folder")
}

#[test]
fn a_topic_whose_archive_is_stuck_stops_no_other() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start_with(&data, &options())?;
    for topic in [STUCK, SOUND] {
        create(&broker, topic)?;
        produce(&broker, topic, &records(0, 100), &[])?;
        let archived = || Ok(status(&broker, topic)?["end_offset"].as_u64() > Some(0));
        wait_until("something is archived", PATIENCE, archived)?;
    }
    obstruct(&data.join("archive/topics"), STUCK)?;
    let mut refused = None;
    let mut number = 100;
    while refused.is_none() && number < 6000 {
        let mut command = broker.command()?;
        command.args(["produce", STUCK, "--json", "--delivery-timeout", "1s"]);
        let mut input = String::new();
        records(number, number + 100).iter().for_each(|it| input.push_str(&format!("{it}\n")));
        let output = run(command, input.as_bytes(), PATIENCE)?;
        if output.status.success() {
            number += 100;
        } else {
            refused = Some(failure(&output, 1)?);
        }
    }
    let refused = refused.context("nothing was refused")?;
    for part in ["archive.backlog_bytes_max", "`stuck`", "partition 0 failed last"] {
        ensure!(refused.contains(part), "no {part}: {refused}");
    }
    // More than the bound in all, and each of them archived.
    produce(&broker, SOUND, &records(100, 1000), &[])?;
    wait_until("the other is archived", PATIENCE, || {
        let row = status(&broker, SOUND)?;
        Ok(row["end_offset"] == row["high_watermark"] && row["error"].is_null())
    })?;
    produce(&broker, SOUND, &records(1000, 4000), &[])?;
    ensure!(status(&broker, STUCK)?["error"].is_string());
    Ok(())
}
