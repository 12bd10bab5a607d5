//! `millstream consume`: prints records as they come, up to an end or for ever.

mod template;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use millstream_client::{
    Admin, Client, Consumer, ConsumerError, OffsetSpec, PartitionOffset, RecordBatch, RecordRef,
    Start,
};

use crate::args::{ConsumeArgs, StartAt};
use crate::connect::connect;
use crate::failure::advised;
use crate::output::{Out, Progress, note};

pub(crate) use template::RecordView;
use template::render;
pub use template::{Piece, Template};

/// How often --follow looks for partitions that were added.
const GROWTH_INTERVAL: Duration = Duration::from_secs(3);
/// Below it, a busy broker would be taken for one that is gone.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: ConsumeArgs) -> Result<()> {
    let client = connect(&args.connection).await?;
    let mut printer = Printer::new(&args);
    if args.follow {
        let mut consumer = follow(&client, &args).await?;
        let mut is_silent = false;
        while !printer.is_done() {
            let Some(batch) = consumer.next_batch().await else { break };
            // One line for all partitions, until one of them is read again.
            if let Err(error @ ConsumerError::Unreachable { .. }) = &batch {
                if !std::mem::replace(&mut is_silent, true) {
                    note(&format!("warning: {error}; waiting for it"));
                }
                continue;
            }
            printer.batch(&batch?, i64::MAX)?;
            is_silent = false;
            // Whoever watches sees a record when it comes.
            printer.out.flush()?;
        }
        consumer.close().await;
    } else {
        let ranges = ranges(&client.admin(), &args).await?;
        read_ranges(&client, &args, ranges, &mut printer).await?;
    }
    printer.out.flush()?;
    client.close().await;
    Ok(())
}

async fn follow(client: &Client, args: &ConsumeArgs) -> Result<Consumer> {
    let start = match args.from {
        StartAt::Earliest => Start::Earliest,
        StartAt::Latest => Start::Latest,
        StartAt::Offset(offset) => Start::Offset(offset),
        StartAt::TimestampMs(ms) => Start::Timestamp(ms),
    };
    let mut builder = client
        .consumer()
        .topic(&args.topic)
        .start(start)
        .unreachable_after(patience(args))
        .growth_interval(GROWTH_INTERVAL);
    if !args.partition.is_empty() {
        builder = builder.partitions(args.partition.iter().copied());
    }
    Ok(builder.build().await?)
}

/// How long a broker may be silent: as long as it may take for an answer.
fn patience(args: &ConsumeArgs) -> Duration {
    args.connection.timeout.max(PATIENCE_MIN)
}

/// Offsets to read, the end excluded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    start: i64,
    end: i64,
}

/// What there is to read now in each partition; partitions without anything are left out.
async fn ranges(admin: &Admin, args: &ConsumeArgs) -> Result<BTreeMap<u32, Range>> {
    let list = |spec| admin.list_offsets(&args.topic, &args.partition, spec);
    let ends = list(OffsetSpec::Latest).await?;
    let starts = match args.from {
        StartAt::Latest => return Ok(BTreeMap::new()),
        StartAt::Earliest => list(OffsetSpec::Earliest).await?,
        StartAt::TimestampMs(ms) => list(OffsetSpec::Timestamp(ms)).await?,
        StartAt::Offset(offset) => {
            ends.iter().map(|end| PartitionOffset { offset: Some(offset), ..*end }).collect()
        }
    };
    let ranges = nonempty(&starts, &ends);
    if let StartAt::Offset(start) = args.from
        && ranges.is_empty()
        && ends.iter().all(|end| end.offset.is_some_and(|end| end < start))
    {
        return Err(advised(
            format!("no partition of {} has come to offset {start}", args.topic),
            "start at --from earliest, or wait for it with --follow and --from latest",
        ));
    }
    Ok(ranges)
}

/// Joins starts and ends; keeps the partitions that have something.
fn nonempty(starts: &[PartitionOffset], ends: &[PartitionOffset]) -> BTreeMap<u32, Range> {
    let starts: BTreeMap<u32, i64> =
        starts.iter().filter_map(|start| Some((start.partition, start.offset?))).collect();
    let mut ranges = BTreeMap::new();
    for entry in ends {
        let (Some(start), Some(end)) = (starts.get(&entry.partition), entry.offset) else {
            continue;
        };
        if *start < end {
            ranges.insert(entry.partition, Range { start: *start, end });
        }
    }
    ranges
}

async fn read_ranges(
    client: &Client,
    args: &ConsumeArgs,
    mut ranges: BTreeMap<u32, Range>,
    printer: &mut Printer<'_>,
) -> Result<()> {
    if ranges.is_empty() {
        return Ok(());
    }
    let starts = ranges.iter().map(|(partition, range)| (*partition, range.start)).collect();
    let mut consumer = client
        .consumer()
        .topic(&args.topic)
        .partitions(ranges.keys().copied())
        .start(Start::Offsets(starts))
        .unreachable_after(patience(args))
        .build()
        .await?;
    let total = ranges.values().map(|range| range.end.abs_diff(range.start)).sum();
    let progress = Progress::new(Some(total), "consuming");
    let mut read = 0;
    while !ranges.is_empty() && !printer.is_done() {
        let Some(batch) = consumer.next_batch().await else {
            bail!("the broker ended the subscription before the end of the topic");
        };
        let batch = batch?;
        // Records that came after the start are another run's.
        let Some(range) = ranges.get(&batch.partition()) else { continue };
        read += printer.batch(&batch, range.end)?;
        progress.set(read);
        if batch.next_offset() >= range.end {
            ranges.remove(&batch.partition());
        }
    }
    consumer.close().await;
    Ok(())
}

/// Prints records, filtered and counted.
struct Printer<'a> {
    out: Out,
    topic: &'a str,
    key: Option<&'a [u8]>,
    left: u64,
    /// `None` prints JSON.
    pieces: Option<&'a [Piece]>,
    wants_headers: bool,
    line: Vec<u8>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a ConsumeArgs) -> Self {
        let out = Out::new(&args.output);
        let pieces = match &args.format {
            Template::Pieces(pieces) if !out.is_json() => Some(pieces.as_slice()),
            Template::Pieces(_) | Template::Json => None,
        };
        Self {
            topic: &args.topic,
            key: args.key.as_deref().map(str::as_bytes),
            left: args.count.unwrap_or(u64::MAX),
            wants_headers: pieces.is_none_or(|pieces| pieces.contains(&Piece::Headers)),
            pieces,
            out,
            line: Vec::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Prints the records of a batch below `end` that match; returns how many it read.
    fn batch(&mut self, batch: &RecordBatch, end: i64) -> Result<u64> {
        let mut read = 0;
        let mut records = batch.records()?;
        while let Some(record) = records.next_ref() {
            let record = record?;
            if record.offset.value() >= end || self.is_done() {
                break;
            }
            read += 1;
            if self.key.is_none() || record.key == self.key {
                self.record(&self.view(batch.partition(), &record))?;
            }
        }
        Ok(read)
    }

    fn view<'r>(&self, partition: u32, record: &RecordRef<'r>) -> RecordView<'r>
    where
        'a: 'r,
    {
        let headers = record.headers.take_while(|_| self.wants_headers);
        RecordView {
            topic: self.topic,
            partition,
            offset: record.offset.value(),
            timestamp_ms: record.timestamp.0,
            key: record.key,
            value: record.value,
            headers: headers
                .map(|header| (String::from_utf8_lossy(header.key), header.value))
                .collect(),
        }
    }

    fn record(&mut self, record: &RecordView<'_>) -> Result<()> {
        self.left -= 1;
        let Some(pieces) = self.pieces else { return self.out.json(record) };
        self.line.clear();
        render(pieces, record, &mut self.line);
        self.out.bytes(&self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(partition: u32, offset: Option<i64>) -> PartitionOffset {
        PartitionOffset { partition, offset, timestamp: None }
    }

    #[test]
    fn partitions_without_anything_to_read_are_left_out() {
        let starts = [offset(0, Some(0)), offset(1, Some(5)), offset(2, None), offset(3, Some(1))];
        let ends = [offset(0, Some(9)), offset(1, Some(5)), offset(2, Some(7)), offset(3, Some(2))];
        let all = nonempty(&starts, &ends);
        let expected =
            BTreeMap::from([(0, Range { start: 0, end: 9 }), (3, Range { start: 1, end: 2 })]);
        assert_eq!(all, expected);
    }
}
