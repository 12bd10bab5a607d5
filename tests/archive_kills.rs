//! kill -9 at each step by which a range is archived, in a directory and on a real S3 server: log
//! and archive together hold what was acknowledged, each record once and in order.
//!
//! A soak: `MILLSTREAM_KILLS=100 cargo test -p millstream-tests --test archive_kills`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a lock that a panic poisoned ends the test; what a soak did is the point of it"
)]

#[path = "archive_kills/directory.rs"]
mod directory;
#[path = "archive_kills/proxy.rs"]
mod proxy;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use millstream_tests::{
    Broker, Dice, Load, Moto, Options, Phoenix, json_lines, knob, pause, success, verify,
    wait_until,
};

/// How long a step is waited for at a time, and how often: a load may end meanwhile.
const STEP_WITHIN: Duration = Duration::from_secs(3);
const STEP_WAITS: u32 = 20;
const ARCHIVED_WITHIN: Duration = Duration::from_secs(120);
/// Of the topics that the loads make.
const CONFIGS: [&str; 5] = [
    "remote.storage.enable=true",
    "segment.bytes=65536",
    "archive.lag.max.ms=1000",
    "local.retention.bytes=0",
    "retention.ms=-1",
];

/// Where in a range's way to the archive the broker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// As its object is being put.
    Put,
    /// The object is there, and the broker has not heard.
    PutReply,
    /// As the manifest that names it is being created.
    Commit,
    /// The manifest is there, and the broker has not heard.
    CommitReply,
    /// As the metadata is told of the new head, and shortly after.
    Head,
    /// As the local segment goes.
    Deletion,
}

/// What tells when a step comes, as exactly as the store lets it be seen.
trait Watch {
    /// Waits until `step` is under way; the broker is then killed. False if it did not come.
    fn wait_for(&mut self, step: Step) -> bool;
    /// The broker is dead: what was held back is let go.
    fn killed(&mut self);
    /// The steps that can be told apart.
    fn steps(&self) -> &'static [Step];
}

fn options(more: Vec<(String, String)>) -> Options {
    let set = [
        ("MILLSTREAM_ARCHIVE__RANGE_BYTES_MAX", "65536"),
        ("MILLSTREAM_ARCHIVE__INTERVAL_MS", "20"),
        ("MILLSTREAM_STORAGE__MAINTENANCE_INTERVAL_MS", "20"),
    ];
    let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment = set.into_iter().chain(more).collect();
    Options { environment, ..Options::default() }
}

/// Kills the broker at one step after another, and holds what is left to what was acknowledged.
fn soak(dir: &Path, options: Options, watch: &mut dyn Watch) -> Result<()> {
    let kills = knob("MILLSTREAM_KILLS", 6)?;
    let mut dice = Dice::new(knob("MILLSTREAM_SEED", 1)?);
    let mut phoenix = Phoenix::start(&dir.join("data"), options)?;
    let mut ack_logs = Vec::new();
    let mut load = Load::start(&phoenix.broker, dir, 0, &CONFIGS)?;
    load.wait_for_first(&phoenix.broker)?;
    let (mut killed, mut waits) = (0, 0);
    while killed < kills {
        if !load.is_running()? {
            ack_logs.push(load.finish()?);
            load = Load::start(&phoenix.broker, dir, ack_logs.len(), &CONFIGS)?;
            load.wait_for_first(&phoenix.broker)?;
        }
        let steps = watch.steps();
        let step = steps[usize::try_from(killed)? % steps.len()];
        if !watch.wait_for(step) {
            waits += 1;
            ensure!(waits < STEP_WAITS, "waited in vain for {step:?}, after {killed} kills");
            continue;
        }
        waits = 0;
        if matches!(step, Step::Head | Step::Deletion) {
            pause(Duration::from_micros(dice.below(4000)));
        }
        phoenix = phoenix.kill_and_restart()?;
        watch.killed();
        killed += 1;
    }
    ack_logs.push(load.finish()?);
    let acknowledged = settle(&phoenix.broker, &ack_logs)?;
    phoenix = phoenix.kill_and_restart()?;
    ensure!(settle(&phoenix.broker, &ack_logs)? == acknowledged);
    println!("{killed} kills at named steps, {acknowledged} acknowledged records, each there once");
    Ok(())
}

/// Waits until everything is archived, then reads it all, and checks every object; returns how many
/// records were acknowledged.
fn settle(broker: &Broker, ack_logs: &[PathBuf]) -> Result<u64> {
    wait_until("everything is archived", ARCHIVED_WITHIN, || {
        let status = success(&broker.millstream(&["archive", "status", "-o", "json"])?)?;
        let rows = json_lines(&status)?;
        let mut rows = rows.iter().filter(|row| row.get("partition").is_some()).peekable();
        Ok(rows.peek().is_some() && rows.all(|row| row["end_offset"] == row["high_watermark"]))
    })?;
    let mut acknowledged = 0;
    for ack_log in ack_logs {
        acknowledged += verify(broker, ack_log)?;
    }
    ensure!(acknowledged > 0, "a soak without an acknowledgement proves nothing");
    success(&broker.millstream(&["archive", "verify"])?)?;
    Ok(acknowledged)
}

#[test]
fn a_directory_holds_each_record_once_whenever_the_broker_dies() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut watch = directory::Directory::new(&dir.path().join("data"));
    soak(dir.path(), options(Vec::new()), &mut watch)
}

#[test]
fn an_s3_server_holds_each_record_once_whenever_the_broker_dies() -> Result<()> {
    let Some(moto) = Moto::start()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let mut proxy = proxy::Proxy::start(moto.address(), &dir.path().join("data"))?;
    let options = options(Moto::environment(proxy.address()));
    soak(dir.path(), options, &mut proxy)
}
