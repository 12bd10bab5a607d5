//! `cargo bench -p millstream-tiered --bench archive`: what the archive costs, against the writer
//! below it, against Parquet's defaults and against the same batches compressed by Kafka's clients.
//!
//! Ratios are of throughput by processor time, on generated JSON ("orders" of about 1 KiB, "clicks"
//! of about 100 bytes) and on the demo's flights, in Kafka's batches of 16 KiB, archived in ranges
//! of 32 MiB. Parquet's defaults are those of arrow-rs with the archive's codec: without one there
//! is nothing to compare. A table is printed, with each target; `-- -o json` prints JSON instead.
//! The environment chooses:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `MILLSTREAM_BENCH_MIB` | MiB of batches in each generated dataset | 1024 |
//! | `MILLSTREAM_BENCH_DIR` | where the log and its archive go | the system's temporary folder |
//! | `MILLSTREAM_BENCH_ROWS` | the datasets, by name, with commas | all |

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program's output")]

mod codec;
mod data;
mod offload;
mod report;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::codec::Totals;
use crate::data::{Kind, Source};
use crate::report::{Row, Target};

const MIB: u64 = 1024 * 1024;
const FLIGHTS_TIMES: usize = 8;

fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    if let Some(grown) = offload::if_asked(&arguments)? {
        println!("{grown}");
        return Ok(());
    }
    let as_json = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => false,
        ["-o", "json"] => true,
        _ => anyhow::bail!("expected no arguments, or `-o json`"),
    };
    let text = |name: &str| std::env::var(format!("MILLSTREAM_BENCH_{name}")).ok();
    let mib = match text("MIB") {
        Some(mib) => mib.parse::<u64>().context("MILLSTREAM_BENCH_MIB")?.max(1),
        None => 1024,
    };
    let dir = text("DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let wanted = text("ROWS").unwrap_or_default();
    let is_wanted =
        |kind: &Kind| wanted.is_empty() || wanted.split(',').any(|name| name.trim() == kind.name());
    let mut rows = Vec::new();
    for kind in Kind::ALL.into_iter().filter(is_wanted) {
        eprintln!("{}", kind.name());
        let dir = tempfile::tempdir_in(&dir).context("cannot make a temporary directory")?;
        rows.extend(measure(kind, mib * MIB, dir.path())?);
    }
    if as_json {
        println!("{}", report::json(&rows)?);
    } else {
        print!("{}", report::table(&rows));
    }
    Ok(())
}

fn measure(kind: Kind, bytes: u64, dir: &Path) -> Result<Vec<Row>> {
    let path = dir.join("log");
    let mut log = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let mut totals = Totals::default();
    let mut source = Source::new(kind, bytes)?;
    // What is over in a moment is measured more than once.
    let times = if kind == Kind::Flights { FLIGHTS_TIMES } else { 1 };
    while let Some(range) = source.range()? {
        log.write_all(&range).context("cannot write the log")?;
        for _ in 0..times {
            totals.add(&range)?;
        }
    }
    drop(log);
    let archive = dir.join("archive");
    let grown_bytes = offload::run(&path, &archive)?;
    let fetch = offload::fetch(&archive)?;

    let mut rows = codec_rows(kind.name(), &totals);
    let mut add = |name, value, unit, target| {
        rows.push(Row { dataset: kind.name(), name, value, unit, target: Some(target) });
    };
    let fetched = "cold fetch of 1 MiB: requests";
    add(fetched, fetch.requests, "mean", Target::AtMost(1.5));
    let fetched = "cold fetch of 1 MiB: bytes of the object";
    add(fetched, fetch.read_bytes / as_f64(MIB), "MiB mean", Target::AtMost(1.0));
    let grown = as_f64(grown_bytes) / as_f64(MIB);
    add("offload: growth of the largest resident memory", grown, "MiB", Target::Below(100.0));
    Ok(rows)
}

fn codec_rows(dataset: &'static str, totals: &Totals) -> Vec<Row> {
    let Totals { log_bytes, records, object_bytes, kafka_zstd_bytes, default_bytes, .. } = *totals;
    let Totals { encode, writer, default, default_small, replay, .. } = *totals;
    let log = as_f64(log_bytes);
    let mut rows = Vec::new();
    let mut add = |name, value, unit, target| rows.push(Row { dataset, name, value, unit, target });
    add("log, as measured", log / as_f64(MIB), "MiB", None);
    add("log, a record", log / as_f64(records), "B", None);
    for (name, seconds) in [
        ("encode", encode),
        ("Arrow's writer alone", writer),
        ("Parquet's defaults", default),
        ("Parquet's defaults, row groups of the archive's", default_small),
        ("replay", replay),
    ] {
        add(name, log / 1e6 / seconds, "MB/cpu s", None);
    }
    for (name, bytes) in [
        ("object / log, bytes", object_bytes),
        ("Parquet's defaults / log, bytes", default_bytes),
        ("Kafka's batches with zstd(3) / log, bytes", kafka_zstd_bytes),
    ] {
        add(name, as_f64(bytes) / log, "ratio", None);
    }
    let smaller = as_f64(object_bytes) / as_f64(kafka_zstd_bytes);
    for (name, ratio, target) in [
        ("encode / Arrow's writer alone", writer / encode, Target::AtLeast(0.85)),
        ("encode / Parquet's defaults", default / encode, Target::AtLeast(1.3)),
        (
            "encode / Parquet's defaults, row groups alike",
            default_small / encode,
            Target::AtLeast(1.3),
        ),
        ("object / Kafka's batches with zstd(3), bytes", smaller, Target::AtMost(0.8)),
        ("replay / encode", encode / replay, Target::AtLeast(2.0)),
    ] {
        add(name, ratio, "ratio", Some(target));
    }
    rows
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
const fn as_f64(count: u64) -> f64 {
    count as f64
}
