//! A command that is ended takes what it started with it: its broker, and its temporary data.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use millstream_tests::wait_until;

const WITHIN: Duration = Duration::from_secs(60);

/// A load that would last an hour, on a broker of its own, with its data below `dir`.
fn bench(dir: &Path) -> Result<Child> {
    let mut command = millstream_tests::command()?;
    command.args(["bench", "--duration", "1h"]).env("TMPDIR", dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("cannot start a load")
}

/// The broker that `parent` started, once it runs; one that is about to end is none.
fn broker_of(parent: &mut Child) -> Result<u32> {
    let mut found = None;
    let id = parent.id();
    wait_until("the broker runs", WITHIN, || {
        found = children(id)?.into_iter().find(|child| is_broker(*child));
        Ok(found.is_some())
    })?;
    ensure!(parent.try_wait()?.is_none(), "the load ended");
    found.context("no broker")
}

fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let of = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if of.and_then(|of| of.trim().parse().ok()) == Some(parent) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Whether a process is a running `millstream serve`; a zombie has no command line.
fn is_broker(pid: u32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).any(|word| word == b"serve")
}

/// Tells a process, which has not been waited for, and returns how it ended.
fn signal(mut child: Child, name: &str) -> Result<ExitStatus> {
    let kill = ["-c", "kill -\"$1\" \"$0\"", &child.id().to_string(), name];
    let told = Command::new("sh").args(kill).status().context("cannot run sh")?;
    ensure!(told.success(), "cannot signal: {told}");
    let mut ended = None;
    let waited = wait_until("the load ends", WITHIN, || {
        ended = child.try_wait()?;
        Ok(ended.is_some())
    });
    if waited.is_err() {
        child.kill()?;
        child.wait()?;
    }
    waited?;
    ended.context("it did not end")
}

/// As under nohup: what this process starts inherits it.
fn ignores_hangups() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.context("no SigIgn")?.trim(), 16)?;
    Ok(ignored & 1 == 1)
}

#[test]
fn a_signal_leaves_no_broker_and_no_data() -> Result<()> {
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        if name == "HUP" && ignores_hangups()? {
            println!("hangups are ignored here, and so they are by what is started");
            continue;
        }
        let dir = tempfile::tempdir()?;
        let mut load = bench(dir.path())?;
        let broker = broker_of(&mut load)?;
        let status = signal(load, name)?;
        assert_eq!(status.code(), Some(code), "{name}: {status}");
        assert!(!is_broker(broker), "{name}: the broker is left behind");
        let left = std::fs::read_dir(dir.path())?.count();
        assert_eq!(left, 0, "{name}: data is left behind");
    }
    Ok(())
}

#[test]
fn a_broker_ends_with_the_load_that_is_killed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut load = bench(dir.path())?;
    let broker = broker_of(&mut load)?;
    load.kill()?;
    load.wait()?;
    if wait_until("it ends", WITHIN, || Ok(!is_broker(broker))).is_err() {
        Command::new("sh").args(["-c", "kill -9 \"$0\"", &broker.to_string()]).status()?;
        bail!("the broker goes on");
    }
    Ok(())
}
