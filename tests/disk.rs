//! What happens when the disk is not as the broker left it, is full, or is somebody else's.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use millstream_tests::{Broker, consume, failure, partition_dir, produce, run, success, topics};
use serde_json::{Value, json};

const STOPS_WITHIN: Duration = Duration::from_secs(30);
const RUN_WITHIN: Duration = Duration::from_secs(60);
/// Where a segment's marks stand and its data begins; see docs/segment-format.md.
const MARKS: [u64; 2] = [512, 1024];
const DATA_START: u64 = 4096;

fn stop(broker: Broker) -> Result<String> {
    let (status, log) = broker.terminate(STOPS_WITHIN)?;
    ensure!(status.success() && !log.contains("panicked"), "{status}:\n{log}");
    Ok(log)
}

fn create(broker: &Broker, topic: &str, flags: &[&str]) -> Result<()> {
    success(&broker.millstream(&[&["topic", "create", topic], flags].concat())?)?;
    Ok(())
}

/// Appends `count` records of 1 KB to a partition, with values from `first` on, a batch each.
fn fill(broker: &Broker, topic: &str, partition: u32, first: u64, count: u64) -> Result<()> {
    let record = |number: u64| {
        let value = format!("{number:0>1000}");
        json!({"value": value, "timestamp": number, "partition": partition})
    };
    let records: Vec<Value> = (first..first + count).map(record).collect();
    produce(broker, topic, &records, &["--batch-bytes", "1KiB", "--max-in-flight", "1"])?;
    Ok(())
}

/// The numbers that [`fill`] put into a partition; their offsets must run from 0 on.
fn numbers(broker: &Broker, topic: &str, partition: u32) -> Result<Vec<u64>> {
    numbers_of(&consume(broker, topic, &["--partition", &partition.to_string()])?)
}

fn numbers_of(records: &[Value]) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for (offset, record) in records.iter().enumerate() {
        ensure!(record["offset"] == offset, "expected offset {offset}: {record}");
        let value = record["value"].as_str().context("no value")?;
        numbers.push(value.parse()?);
    }
    Ok(numbers)
}

/// The segment files of a partition, oldest first.
fn segments(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        found.push(entry?.path());
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    found.sort();
    Ok(found)
}

/// Changes one byte of a file to something else.
fn flip(path: &Path, position: u64) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, position)?;
    file.write_all_at(&[!byte[0]], position)?;
    Ok(())
}

/// How far a segment is marked as durable, read as the format says.
fn durable_mark(path: &Path) -> Result<u64> {
    let bytes = std::fs::read(path)?;
    let field = |at: u64| -> Result<u64> {
        let at = usize::try_from(at)?;
        let bytes = bytes.get(at..at + 8).context("the segment has no header block")?;
        Ok(u64::from_be_bytes(bytes.try_into()?))
    };
    let mut newest = (0, DATA_START);
    for mark in MARKS {
        let at = usize::try_from(mark)?;
        if bytes.get(at..at + 4) == Some(b"MARK") {
            newest = newest.max((field(mark + 8)?, field(mark + 16)?));
        }
    }
    Ok(newest.1)
}

#[test]
fn a_directory_serves_one_broker() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let first = Broker::start(&data)?;
    let refused = Broker::start(&data).err().context("a second broker started")?;
    let refused = format!("{refused:#}");
    assert!(refused.contains("in use") && refused.contains("data"), "{refused}");
    assert!(topics(&first)?.is_empty(), "the first goes on");
    first.kill9()?;
    // Nothing has to be cleaned up by hand.
    stop(Broker::start(&data)?)?;
    Ok(())
}

#[test]
fn another_format_and_another_broker_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    stop(Broker::start(&data)?)?;
    let identity = data.join("millstream.json");
    let original = std::fs::read_to_string(&identity)?;
    let with = |field: &str, value: Value| -> Result<String> {
        let mut changed: Value = serde_json::from_str(&original)?;
        changed[field] = value;
        std::fs::write(&identity, changed.to_string())?;
        let refused = Broker::start(&data).err().with_context(|| format!("{field} is ignored"))?;
        assert_eq!(std::fs::read_to_string(&identity)?, changed.to_string(), "left as it was");
        Ok(format!("{refused:#}"))
    };
    let said = with("version", 2.into())?;
    assert!(said.contains("format 2") && said.contains("newer build"), "{said}");
    let said = with("broker_id", 7.into())?;
    assert!(said.contains("belongs to broker 7") && said.contains("broker.id = 7"), "{said}");
    let said = with("magic", "other-data".into())?;
    assert!(said.contains("no identity of a Millstream data directory"), "{said}");
    std::fs::write(&identity, &original)?;
    stop(Broker::start(&data)?)?;
    Ok(())
}

#[test]
fn damage_below_the_mark_stops_its_partition_and_no_other() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start(&data)?;
    create(&broker, "t", &["--partitions", "2"])?;
    fill(&broker, "t", 0, 0, 20)?;
    fill(&broker, "t", 1, 100, 20)?;
    let segment = segments(&partition_dir(&broker, &data, "t", 0)?)?.remove(0);
    stop(broker)?;
    let end = durable_mark(&segment)?;
    ensure!(end > DATA_START + 20_000, "an orderly end leaves a mark at the end, not at {end}");
    let position = DATA_START + (end - DATA_START) / 2;
    flip(&segment, position)?;
    let damaged = std::fs::read(&segment)?;

    let broker = Broker::start(&data)?;
    let name = segment.file_name().context("no name")?.to_string_lossy().into_owned();
    let said = failure(&broker.millstream(&["consume", "t", "--partition", "0"])?, 1)?;
    assert!(said.contains("storage-fenced") && said.contains("partition 0"), "{said}");
    assert!(said.contains("next: the broker's log names the file"), "{said}");
    let mut command = broker.command()?;
    command.args(["produce", "t", "--partition", "0"]);
    let said = failure(&run(command, b"x\n", RUN_WITHIN)?, 1)?;
    assert!(said.contains("storage-fenced") && said.contains(&name), "{said}");

    assert_eq!(numbers(&broker, "t", 1)?, (100..120).collect::<Vec<_>>());
    fill(&broker, "t", 1, 120, 1)?;
    let following = ["--partition", "1", "--follow", "-n", "21"];
    let followed = numbers_of(&consume(&broker, "t", &following)?)?;
    assert_eq!(followed, (100..121).collect::<Vec<_>>());
    let log = broker.log();
    assert!(log.contains(&name) && log.contains("ERROR"), "the log names no file: {log}");
    stop(broker)?;
    assert!(std::fs::read(&segment)? == damaged, "evidence is left as it is");

    // Put right by hand, it serves as before.
    flip(&segment, position)?;
    let broker = Broker::start(&data)?;
    assert_eq!(numbers(&broker, "t", 0)?, (0..20).collect::<Vec<_>>());
    stop(broker)?;
    Ok(())
}

#[test]
fn damage_in_a_sealed_segment_is_never_served() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start(&data)?;
    create(&broker, "t", &["--config", "segment.bytes=65536"])?;
    fill(&broker, "t", 0, 0, 150)?;
    let partition = partition_dir(&broker, &data, "t", 0)?;
    stop(broker)?;
    let sealed = segments(&partition)?;
    ensure!(sealed.len() > 2, "{sealed:?}");
    flip(&sealed[0], DATA_START + 30_000)?;

    let broker = Broker::start(&data)?;
    let mut command = broker.command()?;
    command.args(["consume", "t", "-o", "json"]);
    let output = run(command, &[], RUN_WITHIN)?;
    let said = failure(&output, 1)?;
    assert!(said.contains("storage-fenced") || said.contains("is damaged"), "{said}");
    // What came before the damage may be shown, and it is right.
    for (offset, line) in String::from_utf8(output.stdout)?.lines().enumerate() {
        let record: Value = serde_json::from_str(line)?;
        assert_eq!(record["value"], format!("{offset:0>1000}"));
        assert!(offset < 40, "{offset} lies beyond the damage");
    }
    stop(broker)?;
    Ok(())
}

/// Fills a partition, kills the broker, lets `tear` do its worst to the newest segment and returns
/// what is read after a restart.
fn after_a_tear(tear: fn(&Path) -> Result<()>) -> Result<Vec<u64>> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start(&data)?;
    create(&broker, "t", &["--config", "segment.bytes=65536"])?;
    fill(&broker, "t", 0, 0, 100)?;
    let partition = partition_dir(&broker, &data, "t", 0)?;
    broker.kill9()?;
    let newest = segments(&partition)?.pop().context("no segment")?;
    tear(&newest)?;

    let broker = Broker::start(&data)?;
    let kept = numbers(&broker, "t", 0)?;
    // It goes on where it was cut, and remembers that over one more restart.
    let next = kept.len() as u64;
    fill(&broker, "t", 0, next, 10)?;
    let after = numbers(&broker, "t", 0)?;
    ensure!(after == (0..next + 10).collect::<Vec<_>>(), "{after:?}");
    stop(broker)?;
    let broker = Broker::start(&data)?;
    let reopened = numbers(&broker, "t", 0)?;
    ensure!(reopened == after, "{reopened:?}");
    stop(broker)?;
    Ok(kept)
}

/// Where the batches of a segment end, by their lengths.
fn data_end(path: &Path) -> Result<u64> {
    let bytes = std::fs::read(path)?;
    let mut at = usize::try_from(DATA_START)?;
    while let Some(length) = bytes.get(at + 8..at + 12) {
        let length = usize::try_from(u32::from_be_bytes(length.try_into()?))?;
        if length == 0 {
            break;
        }
        at += 12 + length;
    }
    Ok(at.min(bytes.len()) as u64)
}

#[test]
fn garbage_after_the_last_batch_is_cut() -> Result<()> {
    let kept = after_a_tear(|segment| {
        let file = OpenOptions::new().write(true).open(segment)?;
        Ok(file.write_all_at(&[0xa5; 3000], data_end(segment)?)?)
    })?;
    assert_eq!(kept, (0..100).collect::<Vec<_>>(), "nothing that was acknowledged is cut");
    Ok(())
}

#[test]
fn a_batch_that_came_half_is_cut() -> Result<()> {
    let kept = after_a_tear(|segment| {
        let bytes = std::fs::read(segment)?;
        let (start, end) = (usize::try_from(DATA_START)?, data_end(segment)?);
        // The first half of a batch, as a torn write of the next one leaves it.
        let file = OpenOptions::new().write(true).open(segment)?;
        Ok(file.write_all_at(&bytes[start..start + 500], end)?)
    })?;
    assert_eq!(kept, (0..100).collect::<Vec<_>>(), "nothing that was acknowledged is cut");
    Ok(())
}

#[test]
fn a_file_that_ends_above_the_mark_is_served_up_to_there() -> Result<()> {
    let kept = after_a_tear(|segment| {
        let mark = durable_mark(segment)?;
        let end = data_end(segment)?;
        // In the middle of a batch beyond the mark, if there is one.
        let cut = if end > mark { mark + (end - mark) / 2 } else { mark };
        Ok(OpenOptions::new().write(true).open(segment)?.set_len(cut)?)
    })?;
    // A device that loses what it said to have synced may lose the newest, not those before.
    assert!(kept.len() > 50, "{}", kept.len());
    assert_eq!(kept, (0..kept.len() as u64).collect::<Vec<_>>());
    Ok(())
}

/// A file system of its own, so small that it fills up; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    /// `None` where this user may not mount.
    fn mount(at: PathBuf, size: &str) -> Result<Option<Small>> {
        std::fs::create_dir(&at)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at);
        match run(command, &[], RUN_WITHIN) {
            Ok(output) if output.status.success() => Ok(Some(Small(at))),
            Ok(_) | Err(_) => Ok(None),
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        command.arg("-l").arg(&self.0);
        // A mount that stays is a nuisance and no wrong result.
        run(command, &[], RUN_WITHIN).ok();
    }
}

/// A number as 100 KB of digits.
fn numbered(number: u64) -> String {
    let digits = number.to_string();
    "0".repeat(100_000 - digits.len()) + &digits
}

/// Appends until the broker has no room; returns how many records were acknowledged.
fn fill_up(broker: &Broker) -> Result<u64> {
    for round in 0..200 {
        let mut command = broker.command()?;
        command.args(["produce", "t", "--json", "--delivery-timeout", "3s"]);
        command.args(["--batch-bytes", "100KiB", "--max-in-flight", "1"]);
        let value = numbered(round);
        let record = format!("{}\n", json!({"value": value}));
        let output = run(command, record.as_bytes(), 3 * RUN_WITHIN)?;
        if !output.status.success() {
            let said = failure(&output, 1)?;
            ensure!(said.contains("no-space"), "another failure: {said}");
            ensure!(said.contains("next: ") && said.contains("room"), "no advice: {said}");
            return Ok(round);
        }
    }
    bail!("20 MB fit onto 8 MB")
}

#[test]
fn a_full_disk_refuses_and_recovers() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(small) = Small::mount(dir.path().join("small"), "8m")? else {
        println!("skipped: a small file system cannot be mounted here (it takes root)");
        return Ok(());
    };
    let ballast = small.0.join("ballast");
    std::fs::write(&ballast, vec![0; 3 << 20])?;
    let data = small.0.join("data");
    let mut broker = Broker::start(&data)?;
    create(&broker, "t", &[])?;
    let acknowledged = fill_up(&broker)?;
    ensure!(acknowledged > 5, "{acknowledged}");

    assert!(broker.is_running()?, "it refuses, and lives");
    // What was acknowledged can be read; a record that was refused is not there.
    let stored = |broker: &Broker, topic: &str| -> Result<Vec<u64>> {
        let records = consume(broker, topic, &[])?;
        records.iter().map(|record| Ok(record["value"].as_str().unwrap_or("").parse()?)).collect()
    };
    let expected: Vec<u64> = (0..acknowledged).collect();
    assert_eq!(stored(&broker, "t")?, expected);

    std::fs::remove_file(&ballast)?;
    let value = numbered(acknowledged);
    produce(&broker, "t", &[json!({"value": value})], &[])?;
    let expected: Vec<u64> = (0..=acknowledged).collect();
    assert_eq!(stored(&broker, "t")?, expected, "it works again with room");
    broker.kill9()?;
    let broker = Broker::start(&data)?;
    assert_eq!(stored(&broker, "t")?, expected);
    stop(broker)?;
    Ok(())
}
