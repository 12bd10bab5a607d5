//! A broker in its own process: started, found, stopped one way or another, never left behind.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::binary::{RUN_WITHIN, command, run, wait_within};
use crate::capture::Log;

/// Lines of stdout that may wait to be looked at while the broker starts.
const LINES_WAITING_MAX: usize = 64;

/// What differs from the defaults when a broker starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Further arguments, after `serve` and its directory, address and output format.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Where it serves QUIC; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How long it may take until it is ready.
    pub ready_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            arguments: Vec::new(),
            environment: Vec::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ready_within: Duration::from_secs(30),
        }
    }
}

/// A running `millstream serve`. Dropping it kills it, and prints
/// its output if the test is panicking then: keep it in scope to the end, and assert or unwrap.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    log: Log,
    readers: Vec<JoinHandle<()>>,
    ready: Ready,
}

/// What the broker says once it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ready {
    quic: SocketAddr,
    ca: PathBuf,
}

impl Broker {
    /// Starts a broker on the data directory `dir`, on a free port of 127.0.0.1, and waits until it
    /// serves.
    ///
    /// # Errors
    /// There is no binary; the broker ended or was not ready in time. Its output is in the error.
    pub fn start(dir: &Path) -> Result<Broker> {
        Broker::start_with(dir, &Options::default())
    }

    /// As [`Broker::start`], with options.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_with(dir: &Path, options: &Options) -> Result<Broker> {
        let mut command = command()?;
        command.arg("serve").arg("--dir").arg(dir);
        command.args(["--listen", &options.listen.to_string(), "-o", "json"]);
        command.args(&options.arguments);
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        Broker::spawn(command, options.ready_within)
    }

    fn spawn(mut command: Command, ready_within: Duration) -> Result<Broker> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let log = Log::default();
        let (sender, lines) = sync_channel(LINES_WAITING_MAX);
        let stdout = child.stdout.take().map(|pipe| log.follow(pipe, "stdout", Some(sender)));
        let stderr = child.stderr.take().map(|pipe| log.follow(pipe, "stderr", None));
        let readers = stdout.into_iter().chain(stderr).collect();
        match wait_ready(&lines, ready_within) {
            Ok(ready) => Ok(Broker { child, log, readers, ready }),
            Err(error) => {
                // A reader that waits to offer a line would never come to its end.
                drop(lines);
                child.kill().ok();
                let status = child.wait()?;
                join(readers);
                let output = log.text();
                Err(error.context(format!("{command:?} ({status}) wrote:\n{output}")))
            }
        }
    }

    /// Where it serves QUIC.
    pub fn quic(&self) -> SocketAddr {
        self.ready.quic
    }

    /// The certificate of the cluster's authority, in PEM.
    pub fn ca(&self) -> &Path {
        &self.ready.ca
    }

    /// A `millstream` command that talks to this broker and trusts it.
    ///
    /// # Errors
    /// As [`command`].
    pub fn command(&self) -> Result<Command> {
        let mut command = command()?;
        command.env("MILLSTREAM_BOOTSTRAP", self.quic().to_string());
        command.env("MILLSTREAM_CA", self.ca());
        Ok(command)
    }

    /// Runs `millstream` as a client of this broker, for at most a minute, with no input.
    ///
    /// # Errors
    /// As [`millstream`](crate::millstream).
    pub fn millstream<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output> {
        let mut command = self.command()?;
        command.args(arguments);
        run(command, &[], RUN_WITHIN)
    }

    /// Its process id, for a look into /proc.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far: every line of stdout and stderr after `stdout: ` or `stderr: `,
    /// the newest 4 MiB of them.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Whether the process has not ended.
    ///
    /// # Errors
    /// The operating system cannot say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Takes the process away as a lost machine would (SIGKILL), and returns its output.
    ///
    /// # Errors
    /// It had ended before on its own.
    pub fn kill9(mut self) -> Result<String> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the broker had ended ({status}) before it was killed:\n{}", self.log());
        }
        self.child.kill()?;
        self.child.wait()?;
        join(std::mem::take(&mut self.readers));
        Ok(self.log())
    }

    /// Asks the process to stop (SIGTERM) and waits for its end; returns its exit status and
    /// output.
    ///
    /// # Errors
    /// It had ended before, or did not end in time; it is then killed.
    pub fn terminate(mut self, within: Duration) -> Result<(ExitStatus, String)> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the broker had ended ({status}) before it was told to:\n{}", self.log());
        }
        // Not waited for yet, so the id is still this process's. A shell has `kill` built in.
        let kill = ["-c", "kill -TERM \"$0\"", &self.pid().to_string()];
        let told = Command::new("sh").args(kill).status().context("cannot run sh")?;
        ensure!(told.success(), "cannot signal the broker: {told}");
        let Some(status) = wait_within(&mut self.child, within)? else {
            bail!("the broker did not stop within {within:?}:\n{}", self.log());
        };
        join(std::mem::take(&mut self.readers));
        Ok((status, self.log()))
    }
}

impl Drop for Broker {
    #[expect(clippy::print_stderr, reason = "a failing test shows what the broker said")]
    fn drop(&mut self) {
        // Neither can fail in a way that matters: a process that has ended is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("the broker (pid {}) wrote:\n{}", self.pid(), self.log());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
fn wait_ready(lines: &Receiver<String>, within: Duration) -> Result<Ready> {
    let start = Instant::now();
    loop {
        let left = within.saturating_sub(start.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(ready) = parse_ready(&line)? {
                    return Ok(ready);
                }
            }
            Err(RecvTimeoutError::Timeout) => bail!("the broker was not ready within {within:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the broker ended before it was ready"),
        }
    }
}

/// Reads `{"event":"ready","quic":"127.0.0.1:4242","ca":"/path"}`; any other line is `None`.
fn parse_ready(line: &str) -> Result<Option<Ready>> {
    let Ok(value) = serde_json::from_str::<Value>(line) else { return Ok(None) };
    if value.get("event").and_then(Value::as_str) != Some("ready") {
        return Ok(None);
    }
    let field = |name: &str| {
        let text = value.get(name).and_then(Value::as_str);
        text.ok_or_else(|| anyhow!("the ready line has no text in `{name}`: {line}"))
    };
    let quic: SocketAddr =
        field("quic")?.parse().with_context(|| format!("no address in `quic`: {line}"))?;
    ensure!(quic.port() != 0, "the ready line does not say which port was taken: {line}");
    Ok(Some(Ready { quic, ca: PathBuf::from(field("ca")?) }))
}

fn join(readers: Vec<JoinHandle<()>>) {
    for reader in readers {
        // It has nothing to return, and what it had read is in the log.
        reader.join().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = r#"{"event":"ready","quic":"127.0.0.1:4242","ca":"/ca.pem"}"#;

    const FOR_EVER: &str = "while :; do sleep 0.01; done";

    /// A shell script in the place of the broker.
    fn spawn(script: &str, ready_within: Duration) -> Result<Broker> {
        let mut command = Command::new("sh");
        command.args(["-c", script, READY]);
        Broker::spawn(command, ready_within)
    }

    /// Is ready after `first`, such as a trap, and then runs `script`.
    fn served(first: &str, script: &str) -> Broker {
        let script = format!("echo starting; {first}; echo \"$0\"; {script}");
        spawn(&script, Duration::from_secs(30)).unwrap()
    }

    #[test]
    fn the_ready_line_is_read_whole_or_refused() {
        let ready = parse_ready(READY).unwrap().unwrap();
        assert_eq!(ready.quic, SocketAddr::from(([127, 0, 0, 1], 4242)));
        assert_eq!(ready.ca, Path::new("/ca.pem"));
        assert_eq!(parse_ready("starting").unwrap(), None);
        assert_eq!(parse_ready(r#"{"event":"recovered"}"#).unwrap(), None);
        for part in [r#","ca":"/ca.pem""#, r#""quic":"127.0.0.1:4242","#, "4242"] {
            let wrong = READY.replace(part, if part == "4242" { "0" } else { "" });
            assert!(parse_ready(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_broker_that_ends_or_hangs_tells_why() {
        let ended = spawn("echo no disk >&2; exit 1", Duration::from_secs(30)).unwrap_err();
        let ended = format!("{ended:#}");
        assert!(ended.contains("no disk") && ended.contains("before it was ready"), "{ended}");
        let hung = spawn("echo slow; exec sleep 60", Duration::from_millis(300)).unwrap_err();
        let hung = format!("{hung:#}");
        assert!(hung.contains("slow") && hung.contains("not ready within 300ms"), "{hung}");
    }

    #[test]
    fn a_broker_that_talks_too_much_does_not_block_its_failure() {
        let script = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; exec sleep 60";
        let error = spawn(script, Duration::ZERO).unwrap_err();
        assert!(format!("{error:#}").contains("not ready within"), "{error:#}");
    }

    #[test]
    fn killed_is_not_terminated() {
        let mut broker = served("trap 'echo stopped; exit 7' TERM", FOR_EVER);
        assert!(broker.is_running().unwrap());
        assert_eq!(broker.quic().port(), 4242);
        let (status, log) = broker.terminate(Duration::from_secs(30)).unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(log.contains("stdout: starting\n") && log.ends_with("stdout: stopped\n"), "{log}");

        let broker = served("trap 'echo stopped; exit 7' TERM", FOR_EVER);
        let log = broker.kill9().unwrap();
        assert!(!log.contains("stopped"), "{log}");
    }

    #[test]
    fn an_early_end_is_an_error() {
        let mut broker = served(":", "exit 0");
        while broker.is_running().unwrap() {
            std::thread::yield_now();
        }
        assert!(broker.kill9().unwrap_err().to_string().contains("had ended"));
    }

    #[test]
    fn one_that_will_not_stop_is_killed_at_last() {
        let broker = served("trap '' TERM", FOR_EVER);
        let pid = broker.pid();
        let error = broker.terminate(Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("did not stop within 100ms"), "{error}");
        assert!(!Path::new(&format!("/proc/{pid}/cmdline")).exists(), "{pid} still runs");
    }
}
