//! A device that fails under a real broker: a sync returns an error from the kernel, not from a
//! test. The device is a file system in a file, on a memory file system that runs out of pages, so
//! that writes are taken and their sync is not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use millstream_tests::{
    Broker, Options, consume, partition_dir, produce, run, success, wait_until,
};
use serde_json::{Value, json};

const RUN_WITHIN: Duration = Duration::from_secs(60);
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// A file system whose device can fail; taken down when dropped.
struct Device {
    backing: PathBuf,
    mounted: PathBuf,
}

impl Device {
    /// `None` where this user may not mount.
    fn make(dir: &Path, real_size: &str, features: &str) -> Result<Option<Device>> {
        let device = Device { backing: dir.join("backing"), mounted: dir.join("device") };
        std::fs::create_dir(&device.backing)?;
        std::fs::create_dir(&device.mounted)?;
        let size = format!("size={real_size}");
        if !does("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &text(&device.backing)])? {
            return Ok(None);
        }
        // It says that it has 256 MiB, as a thin volume does.
        std::fs::File::create_new(device.image())?.set_len(256 << 20)?;
        let made = does("mkfs.ext4", &["-q", "-F", "-O", features, &text(&device.image())])?;
        Ok((made && device.mount()?).then_some(device))
    }

    fn image(&self) -> PathBuf {
        self.backing.join("image")
    }

    fn mount(&self) -> Result<bool> {
        does("mount", &["-o", "loop", &text(&self.image()), &text(&self.mounted)])
    }

    /// As an operator does: more room for the volume, a check, and a mount of its own.
    fn mend(&self, real_size: &str) -> Result<()> {
        ensure!(does("umount", &[&text(&self.mounted)])?, "the device is in use");
        let size = format!("remount,size={real_size}");
        ensure!(does("mount", &["-o", &size, &text(&self.backing)])?, "no more room");
        // 1 says that something was put right.
        let check = tool("fsck.ext4", &["-f", "-y", &text(&self.image())])?;
        ensure!(check.status.code().is_some_and(|code| code <= 1), "{check:?}");
        ensure!(self.mount()?, "the mended device cannot be mounted");
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // A mount that stays is a nuisance and no wrong result.
        for at in [&self.mounted, &self.backing] {
            tool("umount", &["-l", &text(at)]).ok();
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn tool(name: &str, arguments: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new(name);
    command.args(arguments);
    run(command, &[], RUN_WITHIN)
}

/// Whether a tool is there and did what it was told.
fn does(name: &str, arguments: &[&str]) -> Result<bool> {
    match tool(name, arguments) {
        Ok(output) => Ok(output.status.success()),
        Err(_missing) => Ok(false),
    }
}

/// A number as 100 KB of digits.
fn numbered(number: u64) -> String {
    let digits = number.to_string();
    "0".repeat(100_000 - digits.len()) + &digits
}

/// Appends until an append fails; returns how many records were acknowledged.
fn until_failure(broker: &Broker) -> Result<u64> {
    for number in 0..600 {
        let mut command = broker.command()?;
        command.args(["produce", "t", "--json", "--delivery-timeout", "3s"]);
        let record = format!("{}\n", json!({"value": numbered(number)}));
        if !run(command, record.as_bytes(), RUN_WITHIN)?.status.success() {
            return Ok(number);
        }
    }
    bail!("60 MB fit onto 24 MB")
}

fn stored(broker: &Broker) -> Result<Vec<u64>> {
    let number = |record: &Value| Ok(record["value"].as_str().context("no value")?.parse()?);
    consume(broker, "t", &[])?.iter().map(number).collect()
}

#[test]
fn a_failed_sync_stops_the_broker_and_a_repair_brings_back_what_was_acknowledged() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(device) = Device::make(dir.path(), "24m", "has_journal")? else {
        println!("skipped: a device that fails cannot be made here (it takes root and ext4)");
        return Ok(());
    };
    let data = device.mounted.join("data");
    let mut broker = Broker::start(&data)?;
    success(&broker.millstream(&["topic", "create", "t"])?)?;
    let acknowledged = until_failure(&broker)?;
    ensure!(acknowledged > 5, "{acknowledged}");

    // Nobody knows what is on the disk: the broker ends, and says what to do.
    wait_until("the broker to stop", STOPS_WITHIN, || Ok(!broker.is_running()?))?;
    let log = broker.log();
    assert!(log.contains("sync") && log.contains("--repair"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    drop(broker);
    // The journal has failed with it: there is nothing to write the fence to, and none is needed.
    assert!(Broker::start(&data).is_err(), "on a device that cannot be written");

    device.mend("512m")?;
    let repair = Options { arguments: vec!["--repair".to_owned()], ..Options::default() };
    let broker = Broker::start_with(&data, &repair)?;
    let kept = stored(&broker)?;
    let expected: Vec<u64> = (0..kept.len() as u64).collect();
    assert_eq!(kept, expected, "in order, without a gap");
    // The record whose sync failed may be there: nobody was told that it is not.
    let count = kept.len() as u64;
    assert!((acknowledged..=acknowledged + 1).contains(&count), "{count} of {acknowledged}");
    produce(&broker, "t", &[json!({"value": numbered(count)})], &[])?;
    broker.kill9()?;

    // The fence is lifted: it starts as usual.
    let broker = Broker::start(&data)?;
    assert_eq!(stored(&broker)?.len() as u64, count + 1);
    let (status, log) = broker.terminate(STOPS_WITHIN)?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}

/// A failed sync of the metadata's log is as bad as one of a topic's.
#[test]
fn a_failed_sync_of_the_metadata_fences_the_directory() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // Without a journal, whose own failure would leave nothing that the fence can be written to.
    let Some(device) = Device::make(dir.path(), "24m", "^has_journal")? else {
        println!("skipped: a device that fails cannot be made here (it takes root and ext4)");
        return Ok(());
    };
    let data = device.mounted.join("data");
    let mut broker = Broker::start(&data)?;
    // Takes the device's last pages; that its own sync fails is its own affair.
    let ballast = std::fs::File::create_new(device.mounted.join("ballast"))?;
    std::io::Write::write_all(&mut &ballast, &vec![7; 40 << 20])?;
    assert!(ballast.sync_all().is_err(), "40 MB fit onto 24 MB");
    // Changes of metadata alone, until its log needs another page.
    for number in 0..2000 {
        let name = format!("topic-{number}");
        let config = format!("retention.ms={}", 1_000_000 + number);
        if !broker.is_running()? {
            break;
        }
        broker.millstream(&["topic", "create", &name, "--config", &config])?;
    }
    wait_until("the broker to stop", STOPS_WITHIN, || Ok(!broker.is_running()?))?;
    let log = broker.log();
    assert!(log.contains("a sync failed") && !log.contains("panicked"), "{log}");
    drop(broker);
    let refused = Broker::start(&data).err().context("it started without a repair")?;
    assert!(format!("{refused:#}").contains("--repair"), "{refused:#}");
    Ok(())
}

/// Damage that a repair finds keeps the fence up and is named.
#[test]
fn a_repair_that_finds_damage_does_not_lift_the_fence() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start(&data)?;
    success(&broker.millstream(&["topic", "create", "t"])?)?;
    let records: Vec<Value> = (0..50).map(|n| json!({"value": format!("{n:0>1000}")})).collect();
    produce(&broker, "t", &records, &["--batch-bytes", "1KiB"])?;
    let partition = partition_dir(&broker, &data, "t", 0)?;
    let (status, log) = broker.terminate(STOPS_WITHIN)?;
    ensure!(status.success(), "{status}:\n{log}");

    // What a broker leaves behind whose sync failed.
    std::fs::write(data.join("FENCED"), "a test\n")?;
    let refused = Broker::start(&data).err().context("a fenced directory was opened")?;
    let refused = format!("{refused:#}");
    assert!(refused.contains("--repair") && refused.contains("a test"), "{refused}");

    let segment = std::fs::read_dir(&partition)?.next().context("no segment")??.path();
    let original = std::fs::read(&segment)?;
    let mut damaged = original.clone();
    damaged[4096 + 20_000] ^= 1;
    std::fs::write(&segment, &damaged)?;
    let repair = Options { arguments: vec!["--repair".to_owned()], ..Options::default() };
    let refused = Broker::start_with(&data, &repair).err().context("damage was let pass")?;
    let refused = format!("{refused:#}");
    assert!(refused.contains("1 partitions are damaged"), "{refused}");
    assert!(Broker::start(&data).is_err(), "the fence stays");

    std::fs::write(&segment, &original)?;
    let broker = Broker::start_with(&data, &repair)?;
    assert_eq!(consume(&broker, "t", &[])?.len(), 50);
    let (status, log) = broker.terminate(STOPS_WITHIN)?;
    ensure!(status.success(), "{status}:\n{log}");
    Broker::start(&data)?.terminate(STOPS_WITHIN)?;
    Ok(())
}
