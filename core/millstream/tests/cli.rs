//! What users and their scripts see of the binary: exit codes, advice, and JSON that parses,
//! against a broker in a process of its own.

#![expect(clippy::unwrap_used, reason = "what does not work here is a failed test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

fn millstream(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MILLSTREAM_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    millstream(args).output().unwrap()
}

/// A broker on a free port with a directory of its own; killed when dropped.
struct Broker {
    child: Child,
    address: String,
    ca: PathBuf,
    _dir: TempDir,
}

impl Broker {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let data = data.to_str().unwrap();
        let args = ["serve", "-o", "json", "--listen", "127.0.0.1:0", "--dir", data];
        let mut command = millstream(&args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["event"], "ready");
        let address = ready["quic"].as_str().unwrap().to_owned();
        let ca = PathBuf::from(ready["ca"].as_str().unwrap());
        assert!(ca.is_absolute() && ca.is_file(), "{}", ca.display());
        Self { child, address, ca, _dir: dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = millstream(args);
        command.args(["--bootstrap", &self.address, "--ca"]).arg(&self.ca);
        command
    }

    /// Runs a command to its success; returns its standard output.
    fn ok(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {errors}");
        output.stdout
    }

    /// Runs a command that prints JSON lines.
    fn json(&self, args: &[&str], input: &[u8]) -> Vec<Value> {
        let args = [args, &["-o", "json"]].concat();
        let lines = String::from_utf8(self.ok(&args, input)).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs a command to its failure; returns what it said about it.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn every_json_output_parses() {
    let broker = Broker::start();
    let made = broker.json(&["topic", "create", "orders", "--partitions", "2"], b"");
    assert_eq!((made.len(), &made[0]["result"]), (1, &Value::from("created")));
    let listed = broker.json(&["topic", "list"], b"");
    assert_eq!(listed[0]["topic"], "orders");
    let altered = broker.json(&["topic", "alter", "orders", "-c", "retention.ms=5000000"], b"");
    assert_eq!(altered[0]["result"], "altered");

    let input = b"{\"key\":\"k\",\"value\":\"v\",\"headers\":[[\"h\",null],[\"h\",\"2\"]]}\n";
    let stored = broker.json(&["produce", "orders", "--json"], input);
    assert_eq!(stored[0]["records"], 1);
    let read = broker.json(&["consume", "orders"], b"");
    assert_eq!(read.len(), 1);
    assert_eq!((&read[0]["key"], &read[0]["value"]), (&"k".into(), &"v".into()));
    assert_eq!(read[0]["headers"], serde_json::json!([["h", null], ["h", "2"]]));

    let described = broker.json(&["topic", "describe", "orders"], b"");
    let partitions = described[0]["partitions"].as_array().unwrap();
    let records = partitions.iter().map(|p| p["log"]["records"].as_u64().unwrap()).sum::<u64>();
    assert_eq!((partitions.len(), records), (2, 1));
    let deleted = broker.json(&["topic", "delete", "orders"], b"");
    assert_eq!(deleted[0]["result"], "deleted");

    let configs = run(&["topic", "configs", "-o", "json"]);
    let configs = String::from_utf8(configs.stdout).unwrap();
    assert!(configs.lines().count() > 5);
    for line in configs.lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["name"].is_string());
    }
}

#[test]
fn values_survive_byte_for_byte() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "files"], b"");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("value");
    let value: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    std::fs::write(&path, &value).unwrap();
    broker.ok(&["produce", "files", "--file", path.to_str().unwrap()], b"");
    assert_eq!(broker.ok(&["consume", "files", "--format", "%v"], b""), value);

    // What is printed as JSON can be produced again.
    let lines = broker.ok(&["consume", "files", "-o", "json"], b"");
    broker.ok(&["topic", "create", "copy"], b"");
    broker.ok(&["produce", "copy", "--json"], &lines);
    assert_eq!(broker.ok(&["consume", "copy", "--format", "%v"], b""), value);
}

/// As the help of `produce` shows it.
#[test]
fn a_topic_is_copied_to_one_with_fewer_partitions() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "orders", "--partitions", "5"], b"");
    broker.ok(&["topic", "create", "copy", "--partitions", "2"], b"");
    let lines: String = (0..50).map(|n| format!("key-{n}:{n}\n")).collect();
    broker.ok(&["produce", "orders", "--key-separator", ":"], lines.as_bytes());
    let printed = broker.ok(&["consume", "orders", "-o", "json"], b"");
    broker.ok(&["produce", "copy", "--json", "--ignore-partition"], &printed);
    let read = |topic| {
        let text = broker.ok(&["consume", topic, "--format", "%k:%v\\n"], b"");
        let text = String::from_utf8(text).unwrap();
        text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!((read("orders").len(), read("copy")), (50, read("orders")));
}

#[test]
fn a_topic_that_grows_is_followed_into_its_new_partitions() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t"], b"");
    let follow = ["consume", "t", "--follow", "-n", "2", "--format", "%p:%v\\n"];
    let mut child = broker.command(&follow).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    broker.ok(&["produce", "t"], b"before\n");
    assert_eq!(lines.next().unwrap().unwrap(), "0:before");
    broker.ok(&["topic", "alter", "t", "--partitions", "3"], b"");
    broker.ok(&["produce", "t", "--partition", "2"], b"after\n");
    assert_eq!(lines.next().unwrap().unwrap(), "2:after");
    assert!(child.wait().unwrap().success());
}

/// A consumer that its reader keeps waiting in the middle of a topic.
fn stalled_consumer(broker: &Broker, args: &[&str]) -> (Child, ChildStdout) {
    broker.ok(&["topic", "create", "t"], b"");
    let line = "x".repeat(100_000);
    let lines: String = (0..400).map(|n| format!("{n} {line}\n")).collect();
    broker.ok(&["produce", "t"], lines.as_bytes());
    let args = [&["consume", "t", "--timeout", "1s"], args].concat();
    let mut command = broker.command(&args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 1000]).unwrap();
    (child, stdout)
}

#[test]
fn a_broker_that_dies_in_the_middle_ends_a_consumer_with_advice() {
    let mut broker = Broker::start();
    let (child, mut stdout) = stalled_consumer(&broker, &[]);
    broker.child.kill().unwrap();
    let (tell, told) = sync_channel(1);
    std::thread::spawn(move || {
        std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
        tell.send(child.wait_with_output().unwrap()).unwrap();
    });
    let output = told.recv_timeout(Duration::from_secs(30)).expect("it waits for ever");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("partition 0: nothing was heard of its leader"), "{errors}");
    assert!(errors.contains("\nnext: see that the broker runs"), "{errors}");
}

#[test]
fn a_broker_that_dies_is_waited_for_with_one_warning_by_who_follows() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "t", "--partitions", "3"], b"");
    let mut command = broker.command(&["consume", "t", "--follow", "--timeout", "1s"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    broker.ok(&["produce", "t"], b"read\n");
    let mut printed = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(printed.next().unwrap().unwrap(), "read");
    broker.child.kill().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let (tell, told) = sync_channel(100);
    let reader = std::thread::spawn(move || {
        errors.for_each(|line| tell.send(line.unwrap()).unwrap());
    });
    let warning = told.recv_timeout(Duration::from_secs(30)).expect("a warning");
    assert!(warning.starts_with("warning: partition "), "{warning}");
    assert!(warning.ends_with("; waiting for it"), "{warning}");
    // All three partitions have been silent for long by then.
    let more = told.recv_timeout(Duration::from_secs(4));
    assert_eq!(more, Err(RecvTimeoutError::Timeout), "neither a second warning nor an end");
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn keys_are_split_filtered_and_counted() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "events", "--partitions", "3"], b"");
    let lines = b"a:1\nb:2\na:3\nb:4\na:5\n";
    broker.ok(&["produce", "events", "--key-separator", ":"], lines);
    let read = |args: &[&str]| {
        let args = [&["consume", "events", "--format", "%k%v "], args].concat();
        String::from_utf8(broker.ok(&args, b"")).unwrap()
    };
    assert_eq!(read(&["--key", "a"]), "a1 a3 a5 ");
    assert_eq!(read(&["--key", "b", "-n", "1"]), "b2 ");
    assert_eq!(read(&["--from", "latest"]), "");
}

#[test]
fn a_failure_says_what_to_do_next_and_exits_with_1() {
    let broker = Broker::start();
    let unknown = broker.fails(&["consume", "nowhere"]);
    assert!(unknown.contains("millstream topic create"), "{unknown}");
    broker.ok(&["topic", "create", "t"], b"");
    let setting = broker.fails(&["topic", "alter", "t", "-c", "nonsense=1"]);
    assert!(setting.contains("millstream topic configs"), "{setting}");
    let far = broker.fails(&["consume", "t", "--from", "7"]);
    assert!(far.contains("earliest"), "{far}");

    let ca = broker.ca.to_str().unwrap();
    let closed = ["topic", "list", "-b", "127.0.0.1:1", "--timeout", "1s", "--ca", ca];
    let output = run(&closed);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("127.0.0.1:1") && told.contains("millstream serve"), "{told}");
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for args in [&["bogus"][..], &["consume"], &["topic", "create", "t", "-c", "x"], &[]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["completions", "bash"]).status.code(), Some(0));
}

#[test]
fn a_reader_that_left_ends_a_command_quietly() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "long"], b"");
    let lines: String = (0..50_000).map(|n| format!("line number {n}\n")).collect();
    broker.ok(&["produce", "long"], lines.as_bytes());
    let mut command = broker.command(&["consume", "long"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 13];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_demo_verifies_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let demo = || {
        let mut command = millstream(&["demo", "-o", "json"]);
        command.env("TMPDIR", temporary.path());
        command
    };
    let output = demo().output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["records_out"], &report["verified"]), (&200_000.into(), &true.into()));
    assert_eq!(report["checksum_in"], report["checksum_out"]);
    let archive = &report["archive"];
    for reading in ["replayed", "restored"] {
        assert_eq!(report["checksum_in"], archive[reading]["checksum"], "{reading}");
    }
    let local = |name: &str| archive["local"][name].as_u64().unwrap();
    assert!(local("records_gone") > 100_000, "{archive}");
    assert!(local("bytes_after") < local("bytes_before") / 2, "{archive}");
    assert_eq!(left_in(temporary.path()), 0);

    let data = temporary.path().join("data");
    let output = demo().arg("--dir").arg(&data).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(left_in(&data) > 0);
    // Data is never overwritten.
    assert_eq!(demo().arg("--dir").arg(&data).output().unwrap().status.code(), Some(1));
}

#[test]
fn the_demo_leaves_its_broker_running_when_asked() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = millstream(&["demo", "--keep", "-o", "json"]);
    // The broker outlives the command: its data is here, and it is ended by its process id below.
    let output = command.env("TMPDIR", temporary.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = &report["kept"];
    let pid = kept["pid"].as_u64().unwrap().to_string();
    let (at, ca) = (kept["bootstrap"].as_str().unwrap(), kept["ca"].as_str().unwrap());
    let read = run(&["consume", "flights", "-n", "1", "--bootstrap", at, "--ca", ca]);
    let archived = goes_on_archiving(at, ca);
    let killed = Command::new("kill").arg(&pid).status().unwrap();
    let list = ["topic", "list", "--bootstrap", at, "--ca", ca, "--timeout", "1s"];
    let ended = (0..200).any(|_| run(&list).status.code() == Some(1));
    assert!(killed.success() && ended, "what is printed stops it");
    assert!(archived, "the demo's replay takes its archive from nobody");
    assert_eq!(read.status.code(), Some(0), "{}", String::from_utf8_lossy(&read.stderr));
    assert!(read.stdout.starts_with(b"{"), "{}", String::from_utf8_lossy(&read.stdout));
    assert!(left_in(Path::new(kept["dir"].as_str().unwrap())) > 0);
}

/// Whether a further record is archived, too.
fn goes_on_archiving(at: &str, ca: &str) -> bool {
    let mut produce = millstream(&["produce", "flights", "--bootstrap", at, "--ca", ca]);
    let mut produce = produce.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    produce.stdin.take().unwrap().write_all(b"one more\n").unwrap();
    assert!(produce.wait().unwrap().success());
    let status = ["archive", "status", "flights", "-o", "json", "--bootstrap", at, "--ca", ca];
    (0..400).any(|_| {
        let told = String::from_utf8(run(&status).stdout).unwrap();
        let rows = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut rows = rows.filter(|row| row["topic"].is_string()).peekable();
        let is_there = rows.peek().is_some();
        is_there && rows.all(|row| row["end_offset"] == row["high_watermark"])
    })
}

fn left_in(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_benchmark_verifies_what_it_measures() {
    for mode in ["produce", "consume", "both"] {
        let shape = ["--producers", "2", "--consumers", "2", "--partitions", "3", "-s", "100"];
        let args = ["bench", "-o", "json", "--mode", mode, "--records", "3000"];
        let output = run(&[&args[..], &shape].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["records"], &report["verified"]), (&3000.into(), &true.into()));
        assert_eq!(report["produce"].is_object(), mode != "consume");
        assert_eq!(report["consume"].is_object(), mode != "produce");
    }
}

#[test]
fn acknowledgements_are_logged_and_verified() {
    let broker = Broker::start();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acks.jsonl");
    let log = log.to_str().unwrap();
    let load = ["bench", "--topic", "soak", "--partitions", "2", "--records", "5000"];
    let report = broker.json(&[&load[..], &["--ack-log", log]].concat(), b"");
    assert_eq!(report[0]["acknowledged"], 5000);
    let verified = broker.json(&["bench", "verify", "--ack-log", log], b"");
    assert_eq!((&verified[0]["records"], &verified[0]["verified"]), (&5000.into(), &true.into()));

    // A log that claims one record more than there is does not pass.
    let claims = r#"{"partition":0,"producer":0,"offset":999999,"sequence":999999,"count":1}"#;
    let text = std::fs::read_to_string(log).unwrap();
    std::fs::write(log, format!("{text}{claims}\n")).unwrap();
    let told = broker.fails(&["bench", "verify", "--ack-log", log]);
    assert!(told.contains("999999"), "{told}");
}
