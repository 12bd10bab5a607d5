//! A broker that a command starts for itself: this executable with `serve`, as a process of its
//! own, so that what is measured and shown is what users run.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::args::ServeArgs;
use crate::output::{Format, Out, note};

/// How long a broker may take until clients can connect; recovery of large logs included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a broker may take to end after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a killed broker may take to be gone, and how often that is looked at.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const KILL_INTERVAL: Duration = Duration::from_millis(5);
/// How much of a broker's log is shown when it fails to start.
const LOG_LINES_SHOWN: usize = 10;

/// What `serve` says on standard output once clients can connect. With `-o json` it is one line,
/// `{"event":"ready","quic":"127.0.0.1:9092","ca":"/.../tls/ca.pem"}`, which scripts wait for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename = "ready")]
pub struct Ready {
    /// The address that QUIC is served on; the port is the one taken where 0 was asked for.
    pub quic: SocketAddr,
    /// The certificate authority for clients to trust, an absolute path.
    pub ca: PathBuf,
}

impl Ready {
    /// Prints it on standard output as `args` asks.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&self, args: &ServeArgs) -> Result<()> {
        let mut out = Out::new(&args.output);
        if args.output.output == Format::Json {
            out.json(self)?;
        } else {
            let ca = self.ca.display();
            out.text(&format!("ready: QUIC on {}, certificate authority {ca}", self.quic))?;
        }
        out.flush()
    }
}

/// How to start a broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Its data directory; made if it does not exist.
    pub(crate) dir: PathBuf,
    /// Where it archives, if not below its data directory.
    pub(crate) archive: Option<PathBuf>,
    /// How often it applies retention, if not as by default.
    pub(crate) maintenance: Option<Duration>,
    /// The processors to pin it to, as taskset takes them.
    pub(crate) cpus: Option<String>,
    /// Whether it is to go on after this process, and when its terminal sends Ctrl-C. Any other
    /// ends when this process does, however that ends.
    pub(crate) detached: bool,
}

/// A running broker. Killed when dropped, unless [`OwnBroker::release`]d.
#[derive(Debug)]
pub(crate) struct OwnBroker {
    child: Option<Child>,
    pid: u32,
    pub(crate) ready: Ready,
}

impl OwnBroker {
    /// Starts a broker on a free port of loopback and waits until it is ready.
    pub(crate) async fn start(options: &Options) -> Result<Self> {
        let log_path = log_path(&options.dir);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("cannot write {}", log_path.display()))?;
        let mut command = command(options)?;
        let stdin = if options.detached { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().context("cannot start a broker process")?;
        let pid = child.id().context("the broker ended at once")?;
        let stdout = child.stdout.take().context("the broker's output is not connected")?;
        // From here on, an early return kills it.
        let ready = Ready { quic: SocketAddr::from(([127, 0, 0, 1], 0)), ca: PathBuf::new() };
        let mut broker = Self { child: Some(child), pid, ready };

        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(START_TIMEOUT, lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            bail!("the broker did not start; its log ends with:\n{}", tail(&log_path));
        };
        broker.ready = serde_json::from_str(&line)
            .with_context(|| format!("the broker said `{line}` instead of being ready"))?;
        Ok(broker)
    }

    /// The process's id.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it run on after this process.
    pub(crate) fn release(mut self) {
        self.child = None;
    }

    /// Ends it: SIGTERM, then SIGKILL if it takes too long.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
        {
            kill_process(pid, Signal::TERM).context("cannot stop the broker")?;
        }
        match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
            Ok(status) => {
                let status = status.context("cannot wait for the broker")?;
                if !status.success() {
                    bail!("the broker ended with {status}");
                }
                Ok(())
            }
            Err(_elapsed) => {
                note("the broker did not stop in time: killing it");
                child.kill().await.context("cannot kill the broker")
            }
        }
    }
}

impl Drop for OwnBroker {
    #[expect(clippy::disallowed_methods, reason = "a drop cannot await another process's end")]
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; there is nobody to tell here.
            let _ended = child.start_kill().is_err();
            // Its directory may be removed next: it must write there no more.
            for _ in 0..KILL_TIMEOUT.as_millis() / KILL_INTERVAL.as_millis() {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(KILL_INTERVAL);
            }
        }
    }
}

fn command(options: &Options) -> Result<Command> {
    let executable = std::env::current_exe().context("cannot find this executable")?;
    let mut command = match &options.cpus {
        Some(cpus) => {
            let mut command = Command::new("taskset");
            command.args(["-c", cpus]).arg(executable);
            command
        }
        None => Command::new(executable),
    };
    command
        .args(["serve", "--output", "json", "--listen", "127.0.0.1:0", "--dir"])
        .arg(&options.dir)
        .env_remove("MILLSTREAM_CONFIG");
    if let Some(archive) = &options.archive {
        command.arg("--archive").arg(archive);
    }
    if let Some(interval) = options.maintenance {
        let interval_ms = interval.as_millis().to_string();
        command.env("MILLSTREAM_STORAGE__MAINTENANCE_INTERVAL_MS", interval_ms);
    }
    if options.detached {
        command.process_group(0);
    } else {
        command.arg("--end-with-stdin");
    }
    Ok(command)
}

/// Beside the data directory, so that the directory holds the broker's files alone.
pub(crate) fn log_path(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".log");
    dir.with_file_name(name)
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_as_documented() {
        let ready = Ready {
            quic: SocketAddr::from(([127, 0, 0, 1], 9092)),
            ca: PathBuf::from("/data/tls/ca.pem"),
        };
        let line = serde_json::to_string(&ready).unwrap();
        assert_eq!(line, r#"{"event":"ready","quic":"127.0.0.1:9092","ca":"/data/tls/ca.pem"}"#);
        assert_eq!(serde_json::from_str::<Ready>(&line).unwrap(), ready);
    }

    #[test]
    fn the_log_stands_beside_the_directory() {
        assert_eq!(log_path(Path::new("/tmp/x/data")), Path::new("/tmp/x/data.log"));
        assert_eq!(log_path(Path::new("demo")), Path::new("demo.log"));
    }
}
