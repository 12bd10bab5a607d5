//! `millstream produce`: records from lines, JSON lines or files, in order, until the first that
//! cannot be stored.

mod input;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result};
use millstream_client::{Delivery, Header, Producer, ProducerRecord, RecordMetadata};
use millstream_env::clock::{Clock as _, SystemClock};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::args::ProduceArgs;
use crate::connect::{connect, producer};
use crate::json_record::InputRecord;
use crate::output::{Align, Out, Progress, Table};
use crate::values::{as_f64, counted, human_bytes, human_count};

use input::Input;

/// Records that may await their acknowledgement; the producer's own buffer bounds their bytes.
const AWAITING_MAX: usize = 65_536;
/// The most partitions for which the summary has a row each, for people.
const SUMMARY_PARTITIONS_MAX: usize = 32;

/// What was stored, and where.
#[derive(Serialize, Debug, Default)]
struct Summary {
    topic: String,
    records: u64,
    bytes: u64,
    seconds: f64,
    partitions: Vec<PartitionSummary>,
    /// Why there is no more; the words name the record and its place in the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, Debug)]
struct PartitionSummary {
    partition: u32,
    records: u64,
    first_offset: i64,
    last_offset: i64,
}

/// A record that was handed to the producer, by its place in the input, counted from 1.
struct Sent {
    place: u64,
    source: Arc<str>,
    bytes: u64,
    delivery: Delivery,
}

/// What was acknowledged, and the first failure, after which nothing more is sent.
#[derive(Default)]
struct Stored {
    partitions: BTreeMap<u32, PartitionSummary>,
    bytes: u64,
    failure: Option<Error>,
}

pub(crate) async fn run(args: ProduceArgs) -> Result<()> {
    args.batching.check()?;
    let client = connect(&args.connection).await?;
    let clock = SystemClock::new();
    let sender = producer(&client, &args.batching).build().await?;
    let (awaiting, arrivals) = mpsc::channel(AWAITING_MAX);
    let acknowledged = tokio::spawn(collect(arrivals));
    let sent = send_all(&args, &sender, awaiting).await;
    let stored = acknowledged.await?;
    // A failed delivery comes first: it is the reason why sending stopped.
    let failure = stored.failure.or(sent.err());
    if failure.is_none() {
        sender.close().await?;
    }
    let seconds = clock.monotonic().as_secs_f64();
    client.close().await;

    let partitions: Vec<PartitionSummary> = stored.partitions.into_values().collect();
    let summary = Summary {
        topic: args.topic,
        records: partitions.iter().map(|partition| partition.records).sum(),
        bytes: stored.bytes,
        seconds,
        partitions,
        error: failure.as_ref().map(|error| format!("{error:#}")),
    };
    let mut out = Out::new(&args.output);
    let Some(failure) = failure else {
        out.object(&summary, summary_text)?;
        return out.flush();
    };
    if out.is_json() {
        out.json(&summary)?;
        out.flush()?;
    }
    Err(failure.context(stopped_after(summary.records)))
}

fn stopped_after(records: u64) -> String {
    let verb = if records == 1 { "was" } else { "were" };
    format!("stopped after {} {verb} stored", counted(records, "record"))
}

/// Sends records until the input ends, cannot be read, or a delivery failed; returns when the fate
/// of each is known.
async fn send_all(
    args: &ProduceArgs,
    sender: &Producer,
    awaiting: mpsc::Sender<Sent>,
) -> Result<()> {
    let sent = send_input(args, sender, &awaiting).await;
    drop(awaiting);
    // Records wait for more only while more may come.
    let flushed = sender.flush().await;
    // What failed is told by `collect`, which knows the record.
    drop(flushed);
    sent
}

async fn send_input(
    args: &ProduceArgs,
    sender: &Producer,
    awaiting: &mpsc::Sender<Sent>,
) -> Result<()> {
    let topic: Arc<str> = args.topic.as_str().into();
    let progress = Progress::new(None, "producing");
    let mut input = Input::new(args);
    let mut place = 0;
    while let Some((record, source)) = input.next().await? {
        place += 1;
        let bytes = size(&record);
        let partition = partition_of(args, &record);
        let record = producer_record(&topic, record, partition);
        let failed = |error: Error| error.context(format!("record {place} ({source})"));
        let delivery = sender.send(record).await.map_err(|error| failed(error.into()))?;
        if awaiting.send(Sent { place, source, bytes, delivery }).await.is_err() {
            break;
        }
        progress.set(place);
    }
    Ok(())
}

/// Awaits deliveries in order. The first that fails ends the sending; those that are on their way
/// by then are awaited as well, since they may be stored.
async fn collect(mut arrivals: mpsc::Receiver<Sent>) -> Stored {
    let mut all = Stored::default();
    while let Some(Sent { place, source, bytes, delivery }) = arrivals.recv().await {
        match delivery.await {
            Ok(stored) => {
                all.bytes += bytes;
                count(&mut all.partitions, stored);
            }
            Err(error) if all.failure.is_none() => {
                let words = format!("record {place} ({source}) was not stored");
                all.failure = Some(Error::from(error).context(words));
                arrivals.close();
            }
            // The first one's reason is told.
            Err(_) => {}
        }
    }
    all
}

fn count(partitions: &mut BTreeMap<u32, PartitionSummary>, stored: RecordMetadata) {
    let entry = partitions.entry(stored.partition).or_insert(PartitionSummary {
        partition: stored.partition,
        records: 0,
        first_offset: stored.offset,
        last_offset: stored.offset,
    });
    entry.records += 1;
    entry.last_offset = stored.offset;
}

fn size(record: &InputRecord) -> u64 {
    let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + len(value)).sum();
    (len(&record.key) + len(&record.value) + headers) as u64
}

/// The partition that was asked for: on the command line, or else by the record.
fn partition_of(args: &ProduceArgs, record: &InputRecord) -> Option<u32> {
    args.partition.or(record.partition.filter(|_| !args.ignore_partition))
}

fn producer_record(
    topic: &Arc<str>,
    record: InputRecord,
    partition: Option<u32>,
) -> ProducerRecord {
    let header = |(key, value): (String, Option<Vec<u8>>)| Header {
        key: key.into(),
        value: value.map(Into::into),
    };
    ProducerRecord {
        topic: Arc::clone(topic),
        partition,
        key: record.key.map(Into::into),
        value: record.value.map(Into::into),
        headers: record.headers.into_iter().map(header).collect(),
        timestamp: record.timestamp_ms,
    }
}

fn summary_text(summary: &Summary) -> String {
    let mut text = format!(
        "{}, {}, stored in {} in {}\n",
        counted(summary.records, "record"),
        human_bytes(summary.bytes),
        summary.topic,
        duration(summary.seconds, summary.bytes),
    );
    if (1..=SUMMARY_PARTITIONS_MAX).contains(&summary.partitions.len()) {
        let mut table = Table::new(&[
            ("partition", Align::Right),
            ("records", Align::Right),
            ("first offset", Align::Right),
            ("last offset", Align::Right),
        ]);
        for row in &summary.partitions {
            table.row([
                row.partition.to_string(),
                human_count(row.records),
                row.first_offset.to_string(),
                row.last_offset.to_string(),
            ]);
        }
        text.push_str(&table.to_string());
    }
    text
}

/// The time, and the rate where there was enough of it for one.
fn duration(seconds: f64, bytes: u64) -> String {
    let shown =
        humantime::format_duration(Duration::from_millis(1).mul_f64((seconds * 1e3).round()));
    if seconds < 0.5 {
        return shown.to_string();
    }
    format!("{shown} ({:.1} MB/s)", as_f64(bytes) / seconds / 1e6)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn the_summary_counts_by_partition() {
        let mut partitions = BTreeMap::new();
        for (partition, offset) in [(1, 7), (0, 0), (1, 8), (1, 10)] {
            count(&mut partitions, RecordMetadata { partition, offset, timestamp: 0 });
        }
        let summary = Summary {
            topic: "orders".to_owned(),
            records: 4,
            bytes: 2048,
            seconds: 2.0,
            partitions: partitions.into_values().collect(),
            error: None,
        };
        let one = Summary { topic: "orders".to_owned(), records: 1, ..Summary::default() };
        insta::assert_snapshot!(summary_text(&one), @"1 record, 0 B, stored in orders in 0s");
        insta::assert_snapshot!(summary_text(&summary), @r"
        4 records, 2.0 KiB, stored in orders in 2s (0.0 MB/s)
        PARTITION  RECORDS  FIRST OFFSET  LAST OFFSET
                0        1             0            0
                1        3             7           10
        ");
    }

    #[test]
    fn the_partition_of_the_command_line_wins_and_that_of_a_record_can_be_ignored() {
        let record = InputRecord { partition: Some(3), ..InputRecord::default() };
        let asked = |flags: &[&str]| {
            let line = ["millstream", "produce", "t", "--json"].iter().chain(flags);
            let Command::Produce(args) = Cli::try_parse_from(line).unwrap().command else {
                panic!("another command")
            };
            partition_of(&args, &record)
        };
        assert_eq!(asked(&[]), Some(3));
        assert_eq!(asked(&["--partition", "5"]), Some(5));
        assert_eq!(asked(&["--ignore-partition"]), None);
    }
}
