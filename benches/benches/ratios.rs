//! `cargo bench -p millstream-benches --bench ratios`: the broker against the ceilings of the same
//! run, interleaved, so that what else the machine does touches both alike.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program's output")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use millstream_benches::append;
use millstream_benches::broker::Run;
use millstream_benches::quic::{self, Peer, PingPong, Stream};
use millstream_benches::settings::Settings;
use millstream_benches::stats;

const ROUND_TRIPS: u32 = 20_000;

/// A shape of load.
struct Row {
    name: &'static str,
    record_bytes: u64,
    partitions: u32,
    batch: &'static str,
    /// Small records take longer: a part of the bytes will do.
    divisor: u64,
    /// Whether end-to-end latency at half load is measured, too.
    latency: bool,
}

const ROWS: [Row; 4] = [
    Row {
        name: "1KiB",
        record_bytes: 1024,
        partitions: 1,
        batch: "1MiB",
        divisor: 1,
        latency: true,
    },
    Row {
        name: "100B",
        record_bytes: 100,
        partitions: 1,
        batch: "1MiB",
        divisor: 4,
        latency: false,
    },
    Row {
        name: "8-partitions",
        record_bytes: 1024,
        partitions: 8,
        batch: "1MiB",
        divisor: 1,
        latency: false,
    },
    Row {
        name: "1000-partitions",
        record_bytes: 1024,
        partitions: 1000,
        batch: "64KiB",
        divisor: 1,
        latency: false,
    },
];

/// The ceilings of one round.
struct Ceilings {
    download: Stream,
    upload: Stream,
    append_mb_per_second: f64,
    ping_pong: PingPong,
}

/// Values by row, name and unit, one a round.
type Values = BTreeMap<String, (&'static str, Vec<f64>)>;

fn main() -> Result<()> {
    if quic::serve_if_asked()? {
        return Ok(());
    }
    let settings = Settings::from_env()?;
    let mut values = Values::new();
    for round in 1..=settings.rounds {
        for row in &ROWS {
            let is_wanted =
                settings.rows.is_empty() || settings.rows.iter().any(|name| name == row.name);
            if is_wanted {
                eprintln!("round {round} of {}: {}", settings.rounds, row.name);
                // Measured anew beside each row: machines change their pace within minutes.
                let ceilings = ceilings(&settings)?;
                measure(&settings, row, &ceilings, &mut values)?;
            }
        }
    }
    for (name, (unit, values)) in &values {
        let line = stats::line(name, unit, values);
        match target(name) {
            Some(target) => println!("{line}  {}", target.verdict(stats::median(values))),
            None => println!("{line}"),
        }
    }
    println!("{}", serde_json::to_string(&values)?);
    Ok(())
}

/// What a ratio should come to.
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn verdict(&self, median: f64) -> String {
        let (met, sign, bound) = match self {
            Self::AtLeast(bound) => (median >= *bound, ">=", bound),
            Self::AtMost(bound) => (median <= *bound, "<=", bound),
        };
        format!("{}: {sign} {bound}", if met { "met" } else { "missed" })
    }
}

/// The targets of the first row; the others are told without.
fn target(name: &str) -> Option<Target> {
    Some(match name.strip_prefix("1KiB: ")? {
        "consume / raw quinn down" => Target::AtLeast(0.85),
        "produce / min(quinn up, append)" => Target::AtLeast(0.65),
        "end to end / ping-pong, replicated, p50" => Target::AtMost(1.4),
        "end to end / ping-pong, replicated, p99" => Target::AtMost(2.0),
        _ => return None,
    })
}

fn ceilings(settings: &Settings) -> Result<Ceilings> {
    let peer = Peer::start(settings.cpus.as_ref().map(|(broker, _)| broker.as_str()))?;
    let download = peer.download(settings.bytes)?;
    let upload = peer.upload(settings.bytes)?;
    let ping_pong = peer.ping_pong(1024, ROUND_TRIPS)?;
    peer.stop()?;
    let append_mb_per_second = append::run(&settings.dir, settings.bytes, true)?.mb_per_second;
    Ok(Ceilings { download, upload, append_mb_per_second, ping_pong })
}

fn measure(settings: &Settings, row: &Row, ceilings: &Ceilings, values: &mut Values) -> Result<()> {
    let mut add = |name: &str, unit, value| {
        let name = format!("{}: {name}", row.name);
        values.entry(name).or_insert_with(|| (unit, Vec::new())).1.push(value);
    };
    add("raw quinn down", "MB/s", ceilings.download.mb_per_second);
    add("raw quinn up", "MB/s", ceilings.upload.mb_per_second);
    add("append 1 MiB + fdatasync", "MB/s", ceilings.append_mb_per_second);

    let consume = Run::measure(settings, &flags(settings, row, "consume"))?;
    let rate = consume.number("/consume/mb_per_second")?;
    add("consume", "MB/s", rate);
    add("consume / raw quinn down", "ratio", rate / ceilings.download.mb_per_second);
    let broker = consume.number("/broker/cpu_seconds_per_gb")?;
    add("consume, broker", "cpu s/GB", broker);
    add(
        "consume, broker / raw sender",
        "ratio",
        broker / ceilings.download.sender_cpu_seconds_per_gb,
    );
    add("consume, client", "cpu s/GB", consume.number("/load/cpu_seconds_per_gb")?);
    add("consume, copied per byte served", "ratio", consume.number("/copied_per_byte_served")?);

    let produce = Run::measure(settings, &flags(settings, row, "produce"))?;
    let rate = produce.number("/produce/mb_per_second")?;
    let ceiling = ceilings.upload.mb_per_second.min(ceilings.append_mb_per_second);
    add("produce, fsync acks", "MB/s", rate);
    add("produce / min(quinn up, append)", "ratio", rate / ceiling);
    let broker = produce.number("/broker/cpu_seconds_per_gb")?;
    add("produce, broker", "cpu s/GB", broker);
    add(
        "produce, broker / raw receiver",
        "ratio",
        broker / ceilings.upload.receiver_cpu_seconds_per_gb,
    );
    add("produce, client", "cpu s/GB", produce.number("/load/cpu_seconds_per_gb")?);

    if row.latency {
        latency(settings, row, ceilings, &mut add)?;
    }
    Ok(())
}

/// End to end at half of what the same shape took at most, against the ping-pong.
fn latency(
    settings: &Settings,
    row: &Row,
    ceilings: &Ceilings,
    add: &mut impl FnMut(&str, &'static str, f64),
) -> Result<()> {
    let most = Run::measure(settings, &flags(settings, row, "both"))?;
    let per_second = most.number("/consume/records_per_second")?;
    add("both at once", "MB/s", most.number("/consume/mb_per_second")?);
    let half = format!("{:.0}", (per_second / 2.0).max(1.0));
    let peer = Peer::start(settings.cpus.as_ref().map(|(broker, _)| broker.as_str()))?;
    let (duration, warmup) = (Duration::from_secs(6), Duration::from_secs(1));
    let relay = peer.paced(usize::try_from(row.record_bytes)?, half.parse()?, duration, warmup)?;
    peer.stop()?;
    add("raw quinn relay at the same pace, p50", "us", relay.p50_us);
    add("raw quinn relay at the same pace, p99", "us", relay.p99_us);
    add("raw quinn relay at the same pace, p99.9", "us", relay.p999_us);
    for durability in ["fsync", "replicated"] {
        let flags = [
            ["--mode", "both"],
            ["--rate", &half],
            ["--duration", "6s"],
            ["--warmup", "1s"],
            ["--durability", durability],
        ];
        let flags: Vec<String> = flags.iter().flatten().map(|flag| (*flag).to_owned()).collect();
        let run = Run::measure(settings, &flags)?;
        let told = [
            ("p50", "/consume/latency/p50_us", ceilings.ping_pong.p50_us, relay.p50_us),
            ("p99", "/consume/latency/p99_us", ceilings.ping_pong.p99_us, relay.p99_us),
            ("p99.9", "/consume/latency/p999_us", ceilings.ping_pong.p999_us, relay.p999_us),
        ];
        for (name, place, ping_pong, relay) in told {
            let us = run.number(place)?;
            add(&format!("end to end at half load, {durability}, {name}"), "us", us);
            let ratio = format!("end to end / ping-pong, {durability}, {name}");
            add(&ratio, "ratio", us / ping_pong);
            add(&format!("end to end / relay, {durability}, {name}"), "ratio", us / relay);
        }
    }
    Ok(())
}

fn flags(settings: &Settings, row: &Row, mode: &str) -> Vec<String> {
    let records = settings.bytes / row.divisor / row.record_bytes;
    [
        ("--mode", mode.to_owned()),
        ("--record-size", row.record_bytes.to_string()),
        ("--partitions", row.partitions.to_string()),
        ("--batch-bytes", row.batch.to_owned()),
        ("--records", records.max(1).to_string()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect()
}
