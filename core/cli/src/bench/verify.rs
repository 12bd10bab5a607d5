//! `millstream bench verify`: a topic against the acknowledgements of the load that filled it.

use std::collections::BTreeMap;

use anyhow::{Error, Result, bail};
use millstream_client::{OffsetSpec, Start};
use serde::Serialize;

use super::ack_log::{self, Run};
use super::payload;
use crate::args::BenchVerifyArgs;
use crate::connect::connect;
use crate::failure::advised;
use crate::output::{Out, Progress};
use crate::values::human_count;

/// What was found; only a topic without a fault gets this far.
#[derive(Serialize, Debug)]
struct Report {
    topic: String,
    acknowledged: u64,
    records: u64,
    unacknowledged: u64,
    verified: bool,
}

/// The first thing that was wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("partition {partition}, offset {offset}: the record is not as it was sent")]
    Damaged { partition: u32, offset: i64 },
    #[error("partition {partition}: offset {offset} came where {expected} was next")]
    Offset { partition: u32, offset: i64, expected: i64 },
    #[error(
        "partition {partition}, offset {offset}: record {sequence} of producer {producer} is there \
         twice, or out of order: {expected} or later was next"
    )]
    Duplicate { partition: u32, offset: i64, producer: u32, sequence: u64, expected: u64 },
    #[error(
        "partition {partition}, offset {offset}: acknowledged as record {sequence} of producer \
         {producer}, but another one is there"
    )]
    Other { partition: u32, offset: i64, producer: u32, sequence: u64 },
    #[error(
        "partition {partition} ends at offset {end}; record {sequence} of producer {producer} was \
         acknowledged at offset {offset}"
    )]
    Lost { partition: u32, end: i64, offset: i64, producer: u32, sequence: u64 },
}

/// One partition, read from its first record on.
#[derive(Debug)]
struct Check {
    partition: u32,
    /// By offset; those before `at` are behind the reader.
    runs: Vec<Run>,
    at: usize,
    next_offset: i64,
    /// The next sequence of each producer.
    next_sequence: BTreeMap<u32, u64>,
    acknowledged: u64,
}

impl Check {
    fn new(partition: u32, runs: Vec<Run>) -> Self {
        let next_sequence = BTreeMap::new();
        Self { partition, runs, at: 0, next_offset: 0, next_sequence, acknowledged: 0 }
    }

    fn add(&mut self, offset: i64, value: &[u8]) -> Result<(), Fault> {
        let partition = self.partition;
        if offset != self.next_offset {
            return Err(Fault::Offset { partition, offset, expected: self.next_offset });
        }
        self.next_offset += 1;
        let stamp = payload::read(value).filter(|stamp| stamp.partition == partition);
        let stamp = stamp.ok_or(Fault::Damaged { partition, offset })?;
        let (producer, sequence) = (stamp.producer, stamp.sequence);
        let next = self.next_sequence.entry(producer).or_default();
        if sequence < *next {
            let expected = *next;
            return Err(Fault::Duplicate { partition, offset, producer, sequence, expected });
        }
        *next = sequence + 1;

        while self.runs.get(self.at).is_some_and(|run| run.end() <= offset) {
            self.at += 1;
        }
        if let Some(run) = self.runs.get(self.at).filter(|run| run.offset <= offset) {
            let acknowledged = run.sequence + offset.abs_diff(run.offset);
            if (producer, sequence) != (run.producer, acknowledged) {
                let (producer, sequence) = (run.producer, acknowledged);
                return Err(Fault::Other { partition, offset, producer, sequence });
            }
            self.acknowledged += 1;
        }
        Ok(())
    }

    /// Whether everything acknowledged was there.
    fn finish(&self) -> Result<(), Fault> {
        let Some(run) = self.runs.iter().max_by_key(|run| run.end()) else { return Ok(()) };
        if run.end() > self.next_offset {
            let missing = self.next_offset.max(run.offset);
            return Err(Fault::Lost {
                partition: self.partition,
                end: self.next_offset,
                offset: missing,
                producer: run.producer,
                sequence: run.sequence + missing.abs_diff(run.offset),
            });
        }
        Ok(())
    }
}

const REPORT_IT: &str = "keep the broker's data directory, its log and the acknowledgement log, \
                         and report what was found";

fn reported(fault: Fault) -> Error {
    advised(fault.to_string(), REPORT_IT)
}

pub(super) async fn run(args: BenchVerifyArgs) -> Result<()> {
    let (header, runs) = ack_log::read(&args.ack_log)?;
    let acknowledged: u64 = runs.iter().flatten().map(|run| run.count).sum();
    let client = connect(&args.connection).await?;
    let ends = client.admin().list_offsets(&header.topic, &[], OffsetSpec::Latest).await?;
    let mut checks: Vec<Check> =
        (0..).zip(runs).map(|(partition, runs)| Check::new(partition, runs)).collect();
    let mut left: BTreeMap<u32, i64> = ends
        .iter()
        .filter_map(|end| Some((end.partition, end.offset.filter(|offset| *offset > 0)?)))
        .collect();

    let builder = client.consumer().topic(&header.topic).start(Start::Earliest);
    let mut consumer = builder.build().await?;
    let total: u64 = left.values().map(|end| end.unsigned_abs()).sum();
    let progress = Progress::new(Some(total), "verifying");
    let mut records_read = 0;
    while !left.is_empty() {
        let Some(batch) = consumer.next_batch().await else {
            bail!("the broker ended the subscription before the end of the topic");
        };
        let batch = batch?;
        let Some(check) = checks.get_mut(batch.partition() as usize) else {
            bail!("the topic has more partitions than the load made");
        };
        let mut records = batch.records()?;
        while let Some(record) = records.next_ref() {
            let record = record?;
            let value = record.value.unwrap_or_default();
            check.add(record.offset.value(), value).map_err(reported)?;
            records_read += 1;
        }
        if left.get(&batch.partition()).is_some_and(|end| batch.next_offset() >= *end) {
            left.remove(&batch.partition());
        }
        progress.set(records_read);
    }
    drop(progress);
    for check in &checks {
        check.finish().map_err(reported)?;
    }
    let found: u64 = checks.iter().map(|check| check.acknowledged).sum();
    if found != acknowledged {
        let message = format!("{acknowledged} records were acknowledged, {found} are there");
        return Err(advised(message, REPORT_IT));
    }
    consumer.close().await;
    client.close().await;

    let unacknowledged = records_read - found;
    let report = Report {
        topic: header.topic,
        acknowledged,
        records: records_read,
        unacknowledged,
        verified: true,
    };
    let mut out = Out::new(&args.output);
    out.object(&report, |report| {
        format!(
            "verified: every one of {} acknowledged records is in {} exactly once, in order \
             ({} more were written and not acknowledged)",
            human_count(report.acknowledged),
            report.topic,
            human_count(report.unacknowledged),
        )
    })?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::PayloadKind;
    use crate::bench::payload::Maker;

    fn record(producer: u32, sequence: u64) -> bytes::Bytes {
        Maker::new(PayloadKind::Random, 64, producer).make(0, sequence, 0)
    }

    fn run(producer: u32, offset: i64, sequence: u64, count: u64) -> Run {
        Run { partition: 0, producer, offset, sequence, count }
    }

    /// Reads records (producer, sequence) from offset 0 on.
    fn check(runs: &[Run], records: &[(u32, u64)]) -> Result<u64, Fault> {
        let mut check = Check::new(0, runs.to_vec());
        for (offset, (producer, sequence)) in (0..).zip(records) {
            check.add(offset, &record(*producer, *sequence))?;
        }
        check.finish()?;
        Ok(check.acknowledged)
    }

    #[test]
    fn acknowledged_records_in_their_place_pass() {
        let runs = [run(0, 0, 0, 2), run(1, 2, 0, 1), run(0, 4, 3, 1)];
        // Offset 3 holds a record whose acknowledgement was lost.
        let found = check(&runs, &[(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (0, 4)]);
        assert_eq!(found, Ok(4));
    }

    #[test]
    fn every_fault_is_found() {
        let runs = [run(0, 0, 0, 3)];
        let lost = check(&runs, &[(0, 0), (0, 1)]).unwrap_err();
        assert!(matches!(lost, Fault::Lost { offset: 2, sequence: 2, end: 2, .. }), "{lost}");
        let other = check(&runs, &[(0, 0), (0, 2)]).unwrap_err();
        assert!(matches!(other, Fault::Other { offset: 1, sequence: 1, .. }), "{other}");
        let twice = check(&[], &[(0, 0), (0, 1), (0, 1)]).unwrap_err();
        assert!(matches!(twice, Fault::Duplicate { offset: 2, expected: 2, .. }), "{twice}");
        let all = check(&runs, &[]).unwrap_err();
        assert!(matches!(all, Fault::Lost { offset: 0, .. }), "{all}");

        let mut gap = Check::new(0, Vec::new());
        let fault = gap.add(1, &record(0, 0)).unwrap_err();
        assert_eq!(fault, Fault::Offset { partition: 0, offset: 1, expected: 0 });
        let mut damaged = Check::new(0, Vec::new());
        let fault = damaged.add(0, b"other bytes").unwrap_err();
        assert_eq!(fault, Fault::Damaged { partition: 0, offset: 0 });
    }
}
