//! `cargo bench -p millstream-benches --bench cold_replay`: what a full-speed replay out of the
//! archive costs the producers beside it. The same load runs alone, beside the replay, and beside a
//! raw QUIC stream between two other processes, which takes as many processors and nothing of the
//! broker: what that costs, the machine does and not the broker.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program's output")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use millstream_benches::quic::{self, Peer};
use millstream_benches::settings::Settings;
use millstream_benches::stats;
use millstream_env::clock::{Clock as _, SystemClock};
use millstream_tests::{Broker, Options, json_lines, pause, success, wait_until};
use serde_json::Value;

const COLD: &str = "cold";
/// How long archiving the old records may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at whether a replay has ended.
const LOOK: Duration = Duration::from_millis(5);
/// The raw stream's pieces.
const PIECE_BYTES: u64 = 64 << 20;

/// Values by name and unit, one a round.
type Values = BTreeMap<String, (&'static str, Vec<f64>)>;

fn main() -> Result<()> {
    if quic::serve_if_asked()? {
        return Ok(());
    }
    let settings = Settings::from_env()?;
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let broker = Broker::start_with(&dir.path().join("data"), &options())?;
    let archived_bytes = fill(&broker, dir.path(), settings.bytes / 4)?;
    let mut values = Values::new();
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        measure(&broker, archived_bytes, &mut values)?;
    }
    for (name, (unit, values)) in &values {
        println!("{}", stats::line(name, unit, values));
    }
    println!("{}", serde_json::to_string(&values)?);
    Ok(())
}

/// A broker that archives what it can at once.
fn options() -> Options {
    let set = [
        ("MILLSTREAM_ARCHIVE__INTERVAL_MS", "100"),
        ("MILLSTREAM_STORAGE__MAINTENANCE_INTERVAL_MS", "200"),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Options { environment: set.map(owned).to_vec(), ..Options::default() }
}

/// Writes the old records and waits until only the archive has them. Returns their bytes.
fn fill(broker: &Broker, dir: &Path, bytes: u64) -> Result<u64> {
    let records = (bytes / 1024).to_string();
    let mut load = broker.command()?;
    load.args(["bench", "--payload", "text", "--topic", COLD]);
    for config in [
        "remote.storage.enable=true",
        "local.retention.ms=1",
        "segment.bytes=33554432",
        "segment.ms=2000",
        "archive.lag.max.ms=1000",
    ] {
        load.args(["--config", config]);
    }
    load.args(["--records", &records, "--ack-log"]).arg(dir.join("acks"));
    let status = load.stdout(Stdio::null()).status().context("cannot run the load")?;
    ensure!(status.success(), "the old records were not all stored");
    // The first line is of the store.
    let row = || -> Result<Value> {
        let status = broker.millstream(&["archive", "status", COLD, "-o", "json"])?;
        json_lines(&success(&status)?)?.pop().context("no status")
    };
    let number = |row: &Value, name: &str| {
        row[name].as_u64().with_context(|| format!("no `{name}` in {row}"))
    };
    wait_until("only the archive has the old records", PATIENCE, || {
        let row = row()?;
        Ok(number(&row, "local_start_offset")? * 10 > number(&row, "high_watermark")? * 9)
    })?;
    number(&row()?, "log_bytes")
}

fn measure(broker: &Broker, archived_bytes: u64, values: &mut Values) -> Result<()> {
    let mut add = |name: &str, unit, value| {
        values.entry(name.to_owned()).or_insert_with(|| (unit, Vec::new())).1.push(value);
    };
    let alone = load(broker)?;
    let (beside, passes) = while_running(|| load(broker), |ended| replay(broker, ended))?;
    let (contended, pieces) = while_running(|| load(broker), stream)?;
    let mb_per_second = |bytes, times: f64| quic::gigabytes(bytes) * 1000.0 * times;
    add("replay", "MB/s", mb_per_second(archived_bytes, passes));
    add("raw stream", "MB/s", mb_per_second(PIECE_BYTES, pieces));
    for (place, name) in [("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9")] {
        let of = |run: &Value| {
            let found = run.pointer("/produce/latency").and_then(|found| found[place].as_f64());
            found.with_context(|| format!("no {place} in {run}"))
        };
        let (alone, beside, contended) = (of(&alone)?, of(&beside)?, of(&contended)?);
        add(&format!("produce alone, {name}"), "us", alone);
        add(&format!("produce beside a replay, {name}"), "us", beside);
        add(&format!("produce beside a raw stream, {name}"), "us", contended);
        add(&format!("beside a replay / alone, {name}"), "ratio", beside / alone);
        add(&format!("beside a raw stream / alone, {name}"), "ratio", contended / alone);
    }
    Ok(())
}

/// The producers: 10,000 records of 1 KiB a second, each acknowledged from an fsync.
fn load(broker: &Broker) -> Result<Value> {
    let arguments = [
        "bench",
        "--mode",
        "produce",
        "--rate",
        "10000",
        "--duration",
        "6s",
        "--warmup",
        "1s",
        "--output",
        "json",
    ];
    let printed = success(&broker.millstream(&arguments)?)?;
    serde_json::from_str(&printed).context("millstream bench said no JSON")
}

/// Runs `load` while `beside` goes on until it is told that the load has ended; returns what both
/// found.
fn while_running<T>(
    load: impl FnOnce() -> Result<T>,
    beside: impl FnOnce(&AtomicBool) -> Result<f64> + Send,
) -> Result<(T, f64)> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| beside(&ended));
        let loaded = load();
        ended.store(true, Ordering::Release);
        let beside =
            beside.join().map_err(|_| anyhow!("the thread beside the load panicked"))??;
        Ok((loaded?, beside))
    })
}

/// Replays everything again and again; returns how many times a second, whole ones alone.
fn replay(broker: &Broker, ended: &AtomicBool) -> Result<f64> {
    let clock = SystemClock::new();
    let (mut passes, mut until) = (0.0, 0.0);
    loop {
        let mut consumer = broker.command()?;
        consumer.args(["consume", COLD]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut consumer = consumer.spawn().context("cannot start a consumer")?;
        if !wait_or_end(&mut consumer, ended)? {
            ensure!(passes > 0.0, "no replay came to its end beside the load: fewer MiB would do");
            return Ok(passes / until);
        }
        (passes, until) = (passes + 1.0, clock.monotonic().as_secs_f64());
    }
}

/// Waits for a consumer; false if the load was over first, which ends it.
fn wait_or_end(consumer: &mut Child, ended: &AtomicBool) -> Result<bool> {
    loop {
        if let Some(status) = consumer.try_wait()? {
            ensure!(status.success(), "a consumer failed");
            return Ok(true);
        }
        if ended.load(Ordering::Acquire) {
            consumer.kill()?;
            consumer.wait()?;
            return Ok(false);
        }
        pause(LOOK);
    }
}

/// A raw stream from another process; returns how many pieces came a second.
fn stream(ended: &AtomicBool) -> Result<f64> {
    let peer = Peer::start(None)?;
    let clock = SystemClock::new();
    let mut pieces = 0.0;
    while !ended.load(Ordering::Acquire) {
        peer.download(PIECE_BYTES)?;
        pieces += 1.0;
    }
    let seconds = clock.monotonic().as_secs_f64();
    peer.stop()?;
    Ok(pieces / seconds)
}
