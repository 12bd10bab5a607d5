//! A broker that is killed and comes back, under a load that writes down what was acknowledged.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::binary::run;
use crate::broker::{Broker, Options};
use crate::knob::wait_until;
use crate::outcome::{json_lines, success};

/// One load writes for so long; when it ends before the kills do, another follows.
const LOAD_DURATION: &str = "6s";
/// A load has this long to get its last record through. Less than the idle timeout: a broker that
/// is back tells its clients that their connections are gone.
const LOAD_END: Duration = Duration::from_secs(28);
const VERIFY_WITHIN: Duration = Duration::from_secs(300);

/// A broker that is killed and comes back on the same port with the same directory.
#[derive(Debug)]
pub struct Phoenix {
    /// Its data directory.
    pub data: PathBuf,
    /// The process that runs now.
    pub broker: Broker,
    options: Options,
}

impl Phoenix {
    /// Starts a broker with what `options` say, on a free port that it keeps.
    ///
    /// # Errors
    /// As [`Broker::start_with`].
    pub fn start(data: &Path, options: Options) -> Result<Phoenix> {
        let broker = Broker::start_with(data, &options)?;
        let options = Options { listen: broker.quic(), ..options };
        Ok(Phoenix { data: data.to_owned(), options, broker })
    }

    /// Kills it with SIGKILL and starts it again.
    ///
    /// # Errors
    /// It had panicked, or does not come back.
    pub fn kill_and_restart(mut self) -> Result<Phoenix> {
        let log = self.broker.kill9()?;
        ensure!(!log.contains("panicked"), "the broker panicked:\n{log}");
        self.broker = Broker::start_with(&self.data, &self.options)?;
        Ok(self)
    }
}

/// `bench --ack-log`, which retries through restarts and writes down what was acknowledged.
#[derive(Debug)]
pub struct Load {
    child: Child,
    topic: String,
    ack_log: PathBuf,
}

impl Load {
    /// Starts load `number` on a topic of its own; `configs` are further ones of that topic.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn start(broker: &Broker, dir: &Path, number: usize, configs: &[&str]) -> Result<Load> {
        let ack_log = dir.join(format!("acks-{number}.jsonl"));
        let topic = format!("load-{number}");
        let mut command = broker.command()?;
        command.args(["bench", "--durability", "fsync", "--topic", &topic]);
        command.args(["--producers", "2", "--partitions", "3", "--record-size", "256"]);
        command.args(["--rate", "3000", "--duration", LOAD_DURATION, "-o", "json"]);
        command.args(configs.iter().flat_map(|config| ["--config", config]));
        command.arg("--ack-log").arg(&ack_log);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Load { child: command.spawn()?, topic, ack_log })
    }

    /// Whether it is still writing.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until its first records are acknowledged: from then on it outlives kills, but a client
    /// that starts needs its broker for a moment.
    ///
    /// # Errors
    /// Nothing is acknowledged in time.
    pub fn wait_for_first(&self, broker: &Broker) -> Result<()> {
        wait_until("the load's first record", LOAD_END, || {
            let described = broker.millstream(&["topic", "describe", &self.topic, "-o", "json"])?;
            // It may not have made its topic yet.
            let Ok(described) = success(&described) else { return Ok(false) };
            let topic = json_lines(&described)?.pop().context("no topic")?;
            let partitions = topic["partitions"].as_array().context("no partitions")?;
            let holds = |partition: &Value| partition["log"]["records"].as_u64() > Some(0);
            Ok(partitions.iter().any(holds))
        })
    }

    /// Waits for its end, which must be a good one; returns where its acknowledgements stand.
    ///
    /// # Errors
    /// It failed, or did not end in time.
    pub fn finish(mut self) -> Result<PathBuf> {
        let ended = wait_until("the load's end", LOAD_END, || Ok(!self.is_running()?));
        if ended.is_err() {
            self.child.kill()?;
        }
        let output = self.child.wait_with_output()?;
        ended.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        success(&output).context("the load failed")?;
        Ok(self.ack_log)
    }
}

/// Runs `bench verify`; returns how many records were acknowledged.
///
/// # Errors
/// One of them is missing, doubled or out of order, or they cannot be read.
pub fn verify(broker: &Broker, ack_log: &Path) -> Result<u64> {
    let mut command = broker.command()?;
    command.args(["bench", "verify", "-o", "json", "--ack-log"]).arg(ack_log);
    let printed = success(&run(command, &[], VERIFY_WITHIN)?)?;
    let report = json_lines(&printed)?.pop().context("no report")?;
    ensure!(report["verified"] == true, "not verified: {report}");
    report["acknowledged"].as_u64().with_context(|| format!("no count: {report}"))
}
