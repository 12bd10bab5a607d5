//! `millstream demo`: real records in over QUIC, at rest in the log, out again, compared; then into
//! the archive, off the local disk, and back from the archive alone.

mod archive;
mod compare;
mod flights;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use millstream_client::{Client, NewTopic, OffsetSpec, ProducerRecord, Start};
use millstream_env::clock::{Clock as _, SystemClock};
use serde::Serialize;
use tempfile::TempDir;

use crate::args::{ConnectionArgs, DemoArgs};
use crate::connect::connect;
use crate::failure::advised;
use crate::output::{Align, Out, Progress, Table};
use crate::own_broker::{Options, OwnBroker, Ready};
use crate::values::{as_f64, human_bytes, human_count};

use archive::{Archived, Reading};
use compare::Side;
use flights::Flight;

const TOPIC: &str = "flights";
const PARTITIONS: u32 = 6;
/// Of the topic. The flights are old: without the first, retention would take them. Small segments,
/// since the newest of each partition stays on the local disk.
const CONFIGS: [(&str, &str); 4] = [
    ("retention.ms", "-1"),
    ("remote.storage.enable", "true"),
    ("archive.lag.max.ms", "1000"),
    ("segment.bytes", "65536"),
];
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often the bar moves, in records.
const PROGRESS_STRIDE: usize = 1024;

/// What the demo measured and found.
#[derive(Serialize, Debug)]
struct Report {
    records_in: u64,
    records_out: u64,
    keys: usize,
    bytes: u64,
    seconds_in: f64,
    seconds_out: f64,
    mb_per_second_in: f64,
    mb_per_second_out: f64,
    partitions: Vec<u64>,
    skew: f64,
    checksum_in: String,
    checksum_out: String,
    archive: Archived,
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<Kept>,
}

/// How to reach the broker that was left running.
#[derive(Serialize, Debug)]
struct Kept {
    pid: u32,
    bootstrap: String,
    ca: PathBuf,
    dir: PathBuf,
}

/// Where the broker's data is; a temporary directory goes when this is dropped.
struct Place {
    dir: PathBuf,
    temporary: Option<TempDir>,
}

pub(crate) async fn run(args: DemoArgs) -> Result<()> {
    let place = Place::new(&args)?;
    let options = Options {
        dir: place.dir.clone(),
        detached: args.keep,
        maintenance: Some(archive::MAINTENANCE),
        ..Options::default()
    };
    let broker = OwnBroker::start(&options).await?;
    let client = connect(&connection(&broker.ready)).await?;
    let mut report = send_and_compare(&client, &place.dir).await?;
    client.close().await;

    if args.keep {
        report.kept = Some(Kept {
            pid: broker.pid(),
            bootstrap: broker.ready.quic.to_string(),
            ca: broker.ready.ca.clone(),
            dir: place.keep(),
        });
        broker.release();
    } else {
        broker.stop().await?;
    }
    let mut out = Out::new(&args.output);
    out.object(&report, report_text)?;
    if let Some(dir) = args.dir.filter(|_| !args.keep && !out.is_json()) {
        let dir = dir.display();
        let duckdb = duckdb(&report.archive.parquet);
        out.text(&format!("\nThe data stays: millstream serve --dir {dir}\nQuery it: {duckdb}"))?;
    }
    out.flush()?;
    match report.difference {
        Some(difference) => bail!("what came out is not what went in: {difference}"),
        None => Ok(()),
    }
}

impl Place {
    fn new(args: &DemoArgs) -> Result<Self> {
        let Some(dir) = &args.dir else {
            let temporary = tempfile::Builder::new()
                .prefix("millstream-demo-")
                .tempdir()
                .context("cannot make a temporary directory")?;
            return Ok(Self { dir: temporary.path().join("data"), temporary: Some(temporary) });
        };
        let is_used = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        if is_used {
            return Err(advised(
                format!("{} is not empty", dir.display()),
                "name another directory with --dir, or remove this one",
            ));
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir =
            fs::canonicalize(dir).with_context(|| format!("cannot find {}", dir.display()))?;
        Ok(Self { dir, temporary: None })
    }

    /// Leaves the directory; returns where the data is.
    fn keep(self) -> PathBuf {
        if let Some(temporary) = self.temporary {
            let _stays = temporary.keep();
        }
        self.dir
    }
}

fn connection(ready: &Ready) -> ConnectionArgs {
    ConnectionArgs {
        bootstrap: vec![ready.quic.to_string()],
        ca: Some(ready.ca.clone()),
        cert: None,
        cert_key: None,
        timeout: TIMEOUT,
    }
}

async fn send_and_compare(client: &Client, dir: &Path) -> Result<Report> {
    let flights = flights::load()?;
    let mut sent = Side::default();
    for flight in &flights {
        sent.add(&flight.origin, flight.timestamp_ms, &flight.json);
    }
    let topic = NewTopic::new(TOPIC).partitions(PARTITIONS);
    let topic = CONFIGS.iter().fold(topic, |topic, (name, value)| topic.config(*name, *value));
    client.admin().create_topic(topic).await?;

    let clock = SystemClock::new();
    send(client, &flights).await?;
    let seconds_in = clock.monotonic().as_secs_f64();
    let (read, partitions) = read_back(client, flights.len(), "consuming").await?;
    let seconds_out = clock.monotonic().as_secs_f64() - seconds_in;

    let bytes: usize = flights.iter().map(|flight| flight.origin.len() + flight.json.len()).sum();
    let bytes = bytes as u64;
    let (archived, in_archive) = archive_and_compare(client, dir, &sent, bytes).await?;
    let difference = sent.difference(&read).or(in_archive);
    Ok(Report {
        records_in: sent.records(),
        records_out: read.records(),
        keys: sent.keys(),
        bytes,
        seconds_in,
        seconds_out,
        mb_per_second_in: as_f64(bytes) / seconds_in / 1e6,
        mb_per_second_out: as_f64(bytes) / seconds_out / 1e6,
        skew: skew(&partitions),
        partitions,
        checksum_in: sent.checksum(),
        checksum_out: read.checksum(),
        archive: archived,
        verified: difference.is_none(),
        difference,
        kept: None,
    })
}

/// Has everything archived, reads it again without the local copies, and once more from a broker
/// that has the archive alone. What differs from what was sent, if anything.
async fn archive_and_compare(
    client: &Client,
    dir: &Path,
    sent: &Side,
    bytes: u64,
) -> Result<(Archived, Option<String>)> {
    let expected = usize::try_from(sent.records()).unwrap_or(usize::MAX);
    let status = archive::wait(client).await?;
    let local = archive::drop_local(client).await?;
    let clock = SystemClock::new();
    let (replayed, _) = read_back(client, expected, "reading the archive").await?;
    let seconds = clock.monotonic().as_secs_f64();
    let (restored, seconds_restored) = archive::restore(dir, expected).await?;
    let differs = |read: &Side, place: &str| {
        sent.difference(read).map(|difference| format!("{place}: {difference}"))
    };
    let difference = differs(&replayed, "from the archive")
        .or_else(|| differs(&restored, "restored from the archive"));
    let archived = Archived {
        objects: status.partitions.iter().map(|it| it.objects).sum(),
        log_bytes: status.partitions.iter().map(|it| it.log_bytes).sum(),
        parquet_bytes: status.partitions.iter().map(|it| it.object_bytes).sum(),
        local,
        replayed: Reading::new(&replayed, seconds, bytes),
        restored: Reading::new(&restored, seconds_restored, bytes),
        parquet: format!("{}/topics/{TOPIC}.*/*/*.parquet", archive::location(dir).display()),
    };
    Ok((archived, difference))
}

async fn send(client: &Client, flights: &[Flight]) -> Result<()> {
    let producer = client.producer().build().await?;
    let progress = Progress::new(Some(flights.len() as u64), "producing");
    let topic: Arc<str> = TOPIC.into();
    for (sent, flight) in flights.iter().enumerate() {
        let record = ProducerRecord::new(Arc::clone(&topic), flight.json.clone())
            .with_key(flight.origin.clone())
            .with_timestamp(flight.timestamp_ms);
        // Closing tells of every failure, so that each record's own future is not needed.
        drop(producer.send(record).await?);
        if sent.is_multiple_of(PROGRESS_STRIDE) {
            progress.set(sent as u64);
        }
    }
    producer.close().await.context("not every record was stored")
}

/// Reads each partition from its first record to its end; returns what it saw, and how many
/// records each partition holds.
async fn read_back(
    client: &Client,
    expected: usize,
    doing: &'static str,
) -> Result<(Side, Vec<u64>)> {
    let ends = client.admin().list_offsets(TOPIC, &[], OffsetSpec::Latest).await?;
    let mut consumer = client.consumer().topic(TOPIC).start(Start::Earliest).build().await?;
    let progress = Progress::new(Some(expected as u64), doing);
    let mut counts = vec![0_u64; ends.len()];
    let mut read = Side::default();
    let mut left: std::collections::BTreeMap<u32, i64> = ends
        .iter()
        .filter_map(|end| Some((end.partition, end.offset.filter(|offset| *offset > 0)?)))
        .collect();
    while !left.is_empty() {
        let Some(batch) = consumer.next_batch().await else {
            bail!("the broker ended the subscription before the end of the topic");
        };
        let batch = batch?;
        let mut records = batch.records()?;
        while let Some(record) = records.next_ref() {
            let record = record?;
            read.add(
                record.key.unwrap_or_default(),
                record.timestamp.0,
                record.value.unwrap_or_default(),
            );
            if let Some(count) = counts.get_mut(batch.partition() as usize) {
                *count += 1;
            }
        }
        if left.get(&batch.partition()).is_some_and(|end| batch.next_offset() >= *end) {
            left.remove(&batch.partition());
        }
        progress.set(counts.iter().sum());
    }
    consumer.close().await;
    Ok((read, counts))
}

/// How much fuller the fullest partition is than the average: 1 where all are alike.
fn skew(partitions: &[u64]) -> f64 {
    let total: u64 = partitions.iter().sum();
    let most = partitions.iter().copied().max().unwrap_or(0);
    if total == 0 { 1.0 } else { as_f64(most) * as_f64(partitions.len() as u64) / as_f64(total) }
}

fn report_text(report: &Report) -> String {
    let mut summary = Table::new(
        &["", "records", "seconds", "mb/s", "checksum"]
            .map(|name| (name, if name.is_empty() { Align::Left } else { Align::Right })),
    );
    let side = |name: &str, records: u64, seconds: f64, rate: f64, checksum: &str| {
        [
            name.to_owned(),
            human_count(records),
            format!("{seconds:.2}"),
            format!("{rate:.1}"),
            checksum.to_owned(),
        ]
    };
    let (into, out) = (&report.checksum_in, &report.checksum_out);
    summary.row(side("in", report.records_in, report.seconds_in, report.mb_per_second_in, into));
    summary.row(side("out", report.records_out, report.seconds_out, report.mb_per_second_out, out));
    let archived = &report.archive;
    let readings = [("from the archive", &archived.replayed), ("restored", &archived.restored)];
    for (name, it) in readings {
        summary.row(side(name, it.records, it.seconds, it.mb_per_second, &it.checksum));
    }

    let mut partitions = Table::new(&[
        ("partition", Align::Right),
        ("records", Align::Right),
        ("share", Align::Right),
    ]);
    let total: u64 = report.partitions.iter().sum();
    for (index, count) in report.partitions.iter().enumerate() {
        let share = 100.0 * as_f64(*count) / as_f64(total.max(1));
        partitions.row([index.to_string(), human_count(*count), format!("{share:.1} %")]);
    }
    let verdict = if report.verified {
        "verified: every record, in order per key, byte for byte"
    } else {
        "DIFFERENT: what came out is not what went in"
    };
    let mut text = format!(
        "{} US flights as JSON, {}, keyed by {} airports, through QUIC and the log\n\n\
         {summary}\n{partitions}\n\
         skew: the fullest partition holds {:.2} times the average\n\
         archive: {} of log became {} of Parquet in {} objects\n\
         local disk: {} became {}; {} records are in the archive alone\n\
         restored: a broker with nothing but the archive brought it all back\n\
         {verdict}\n",
        human_count(report.records_in),
        human_bytes(report.bytes),
        report.keys,
        report.skew,
        human_bytes(archived.log_bytes),
        human_bytes(archived.parquet_bytes),
        human_count(archived.objects),
        human_bytes(archived.local.bytes_before),
        human_bytes(archived.local.bytes_after),
        human_count(archived.local.records_gone),
    );
    if let Some(kept) = &report.kept {
        text.push_str(&what_next(kept, &archived.parquet));
    }
    text
}

/// What DuckDB answers about every record without a line of ours.
fn duckdb(parquet: &str) -> String {
    format!(
        "duckdb -c \"select \\\"partition\\\", count(*), min(\\\"offset\\\"), max(\\\"offset\\\") \
         from '{parquet}' group by 1 order by 1\""
    )
}

fn what_next(kept: &Kept, parquet: &str) -> String {
    let duckdb = duckdb(parquet);
    let to = format!("--bootstrap {} --ca {}", kept.bootstrap, kept.ca.display());
    format!(
        "\nThe broker runs on (process {}, data in {}). Try:\n\
         \x20 millstream consume flights -n 5 --format '%p/%o %k %v\\n' {to}\n\
         \x20 millstream consume flights --key ANC --from @2001-01-12T00:00:00Z -n 5 {to}\n\
         \x20 millstream archive status flights {to}\n\
         \x20 echo 'ANC:hello' | millstream produce flights --key-separator : {to}\n\
         \x20 {duckdb}\n\
         Stop it with: kill {}\n",
        kept.pid,
        kept.dir.display(),
        kept.pid,
    )
}

#[cfg(test)]
mod tests {
    use super::archive::Local;
    use super::*;

    #[test]
    fn skew_compares_the_fullest_with_the_average() {
        assert!((skew(&[5, 5, 5]) - 1.0).abs() < 1e-9);
        assert!((skew(&[9, 0, 0]) - 3.0).abs() < 1e-9);
        assert!((skew(&[]) - 1.0).abs() < 1e-9);
    }

    fn reading(seconds: f64, mb_per_second: f64) -> Reading {
        Reading { records: 200_000, seconds, mb_per_second, checksum: "00".repeat(8) }
    }

    #[test]
    fn the_report_shows_every_reading_and_what_to_try() {
        let report = Report {
            records_in: 200_000,
            records_out: 200_000,
            keys: 223,
            bytes: 20_000_000,
            seconds_in: 0.5,
            seconds_out: 0.25,
            mb_per_second_in: 40.0,
            mb_per_second_out: 80.0,
            partitions: vec![150_000, 50_000],
            skew: 1.5,
            checksum_in: "00".repeat(8),
            checksum_out: "00".repeat(8),
            archive: Archived {
                objects: 6,
                log_bytes: 22_000_000,
                parquet_bytes: 3_000_000,
                local: Local {
                    bytes_before: 22_000_000,
                    bytes_after: 400_000,
                    records_gone: 196_000,
                },
                replayed: reading(0.4, 50.0),
                restored: reading(0.5, 40.0),
                parquet: "/d/archive/topics/flights.*/*/*.parquet".to_owned(),
            },
            verified: true,
            difference: None,
            kept: Some(Kept {
                pid: 7,
                bootstrap: "127.0.0.1:4242".to_owned(),
                ca: PathBuf::from("/d/tls/ca.pem"),
                dir: PathBuf::from("/d"),
            }),
        };
        insta::assert_snapshot!("demo-report", report_text(&report));
    }
}
