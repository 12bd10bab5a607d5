//! `cargo bench -p millstream-benches --bench ceilings`: what this machine could do at best.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program's output")]

use std::collections::BTreeMap;

use anyhow::Result;
use millstream_benches::append;
use millstream_benches::quic::{self, Peer};
use millstream_benches::settings::Settings;
use millstream_benches::stats;

const ROUND_TRIPS: u32 = 20_000;

/// Values by name and unit, one a round.
type Values = BTreeMap<(&'static str, &'static str), Vec<f64>>;

fn main() -> Result<()> {
    if quic::serve_if_asked()? {
        return Ok(());
    }
    let settings = Settings::from_env()?;
    let mut values = Values::new();
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        measure(&settings, &mut values)?;
    }
    for ((name, unit), values) in &values {
        println!("{}", stats::line(name, unit, values));
    }
    let all: BTreeMap<String, &Vec<f64>> =
        values.iter().map(|((name, unit), values)| (format!("{name}, {unit}"), values)).collect();
    println!("{}", serde_json::to_string(&all)?);
    Ok(())
}

fn measure(settings: &Settings, values: &mut Values) -> Result<()> {
    let mut add = |name, unit, value| values.entry((name, unit)).or_default().push(value);
    let peer = Peer::start(settings.cpus.as_ref().map(|(broker, _)| broker.as_str()))?;
    let download = peer.download(settings.bytes)?;
    add("raw quinn stream, from the other process", "MB/s", download.mb_per_second);
    add("raw quinn stream, sender", "cpu s/GB", download.sender_cpu_seconds_per_gb);
    add("raw quinn stream, receiver", "cpu s/GB", download.receiver_cpu_seconds_per_gb);
    let upload = peer.upload(settings.bytes)?;
    add("raw quinn stream, to the other process", "MB/s", upload.mb_per_second);
    for (bytes, name) in [(100, "100 B"), (1024, "1 KiB")] {
        let round_trip = peer.ping_pong(bytes, ROUND_TRIPS)?;
        let names = match name {
            "100 B" => ["ping-pong 100 B p50", "ping-pong 100 B p99", "ping-pong 100 B p99.9"],
            _ => ["ping-pong 1 KiB p50", "ping-pong 1 KiB p99", "ping-pong 1 KiB p99.9"],
        };
        for (name, us) in
            names.into_iter().zip([round_trip.p50_us, round_trip.p99_us, round_trip.p999_us])
        {
            add(name, "us", us);
        }
    }
    peer.stop()?;
    let cached = append::run(&settings.dir, settings.bytes, false)?;
    add("append 1 MiB, not synced", "MB/s", cached.mb_per_second);
    let synced = append::run(&settings.dir, settings.bytes, true)?;
    add("append 1 MiB, fdatasync each", "MB/s", synced.mb_per_second);
    Ok(())
}
