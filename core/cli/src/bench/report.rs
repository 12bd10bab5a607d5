//! What a run measured, for people and for programs.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::Load;
use super::consumer::{Received, readers_of};
use super::latency::Percentiles;
use super::producer::Sent;
use super::target::{Served, Target};
use crate::args::{Acks, BenchMode, LoadArgs};
use crate::output::{Align, Table};
use crate::usage::Usage;
use crate::values::{as_f64, counted, human_bytes};

/// Everything that a run tells.
#[derive(Serialize, Debug, Default)]
pub(super) struct Report {
    mode: &'static str,
    producers: u32,
    consumers: u32,
    partitions: u32,
    record_bytes: u64,
    batch_bytes: u64,
    acks: &'static str,
    durability: &'static str,
    compression: &'static str,
    rate: Option<u64>,
    records: u64,
    /// Values' bytes: what the user sent, without keys, batches or packets.
    bytes: u64,
    produce: Option<Side>,
    consume: Option<Side>,
    broker: Option<Cost>,
    load: Option<Cost>,
    served: Served,
    /// Bytes that the broker copied for each byte that it served.
    copied_per_byte_served: Option<f64>,
    checksum: String,
    verified: bool,
}

/// One half of the path.
#[derive(Serialize, Debug)]
struct Side {
    seconds: f64,
    records_per_second: f64,
    mb_per_second: f64,
    /// To the acknowledgement, or from when a record was due to its consumption.
    latency: Option<Percentiles>,
}

/// What a process used during the measurement.
#[derive(Serialize, Debug)]
struct Cost {
    cpu_seconds: f64,
    cpu_seconds_per_gb: f64,
    resident_bytes: u64,
    resident_bytes_max: u64,
}

/// A point in time during a run.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Duration,
    sent: u64,
    received: u64,
    broker: Option<Usage>,
    load: Option<Usage>,
}

impl Mark {
    fn take(load: &Load, target: &Target) -> Self {
        Self {
            at: load.now(),
            sent: load.sent.get(),
            received: load.received.get(),
            broker: target.broker_usage(),
            load: Usage::own(),
        }
    }
}

/// The measured part of a run, from after the warm-up to its end.
pub(super) struct Phase<'a> {
    load: &'a Rc<Load>,
    target: &'a Target,
    began: Cell<Mark>,
    served: Served,
}

impl<'a> Phase<'a> {
    /// Begins now; the warm-up is taken off at the end.
    pub(super) async fn begin(load: &'a Rc<Load>, target: &'a Target) -> Result<Self> {
        let served = target.served().await?;
        let began = Cell::new(Mark::take(load, target));
        Ok(Self { load, target, began, served })
    }

    /// Waits out the warm-up, then begins again; never returns. Meant to run beside the load.
    pub(super) async fn skip_warmup(&self) -> Infallible {
        if !self.load.args.warmup.is_zero() {
            tokio::time::sleep(self.load.args.warmup).await;
            self.began.set(Mark::take(self.load, self.target));
        }
        std::future::pending().await
    }

    pub(super) async fn end_produce(self, report: &mut Report) -> Result<()> {
        let end = Mark::take(self.load, self.target);
        report.produce = Some(self.produced(&end));
        self.end(report, &end, end.sent - self.began.get().sent).await
    }

    pub(super) async fn end_consume(self, report: &mut Report) -> Result<()> {
        let end = Mark::take(self.load, self.target);
        // How long records lay there before they were read is no latency.
        report.consume = Some(Side { latency: None, ..self.consumed(&end) });
        self.end(report, &end, end.received - self.began.get().received).await
    }

    pub(super) async fn end_both(self, report: &mut Report) -> Result<()> {
        let end = Mark::take(self.load, self.target);
        report.produce = Some(self.produced(&end));
        report.consume = Some(self.consumed(&end));
        self.end(report, &end, end.sent - self.began.get().sent).await
    }

    fn produced(&self, end: &Mark) -> Side {
        let began = self.began.get();
        let latency = self.load.ack_latencies.borrow().percentiles();
        let time = self.load.produced_at.get().saturating_sub(began.at);
        self.side(end.sent - began.sent, time, latency)
    }

    fn consumed(&self, end: &Mark) -> Side {
        let began = self.began.get();
        let latency = self.load.end_to_end.borrow().percentiles();
        let time = self.load.consumed_at.get().saturating_sub(began.at);
        self.side(end.received - began.received, time, latency)
    }

    fn side(&self, records: u64, time: Duration, latency: Option<Percentiles>) -> Side {
        let seconds = time.as_secs_f64().max(1e-9);
        let bytes = as_f64(records * self.load.args.record_size.0);
        Side {
            seconds,
            records_per_second: as_f64(records) / seconds,
            mb_per_second: bytes / seconds / 1e6,
            latency,
        }
    }

    async fn end(&self, report: &mut Report, end: &Mark, records: u64) -> Result<()> {
        let began = self.began.get();
        let bytes = records * self.load.args.record_size.0;
        report.broker = cost(began.broker, end.broker, bytes);
        report.load = cost(began.load, end.load, bytes);
        let served = self.target.served().await?;
        report.served = Served {
            bytes_served: served.bytes_served.saturating_sub(self.served.bytes_served),
            bytes_copied: served.bytes_copied.saturating_sub(self.served.bytes_copied),
        };
        let Served { bytes_served, bytes_copied } = report.served;
        report.copied_per_byte_served =
            (bytes_served > 0).then(|| as_f64(bytes_copied) / as_f64(bytes_served));
        Ok(())
    }
}

fn cost(began: Option<Usage>, ended: Option<Usage>, bytes: u64) -> Option<Cost> {
    let (began, ended) = (began?, ended?);
    let cpu_seconds = ended.cpu_seconds - began.cpu_seconds;
    Some(Cost {
        cpu_seconds,
        cpu_seconds_per_gb: cpu_seconds / (as_f64(bytes.max(1)) / 1e9),
        resident_bytes: ended.resident_bytes,
        resident_bytes_max: ended.resident_bytes_max,
    })
}

impl Report {
    pub(super) fn new(args: &LoadArgs) -> Self {
        Self {
            mode: match args.mode {
                BenchMode::Produce => "produce",
                BenchMode::Consume => "consume",
                BenchMode::Both => "both",
            },
            producers: args.producers,
            consumers: args.consumers,
            partitions: args.partitions,
            record_bytes: args.record_size.0,
            batch_bytes: args.batching.batch_bytes.0,
            acks: match args.batching.acks {
                Acks::All => "all",
                Acks::Leader => "leader",
            },
            durability: args.durability.as_str(),
            compression: args.batching.compression.as_str(),
            rate: args.rate,
            ..Self::default()
        }
    }

    /// Compares what came out with what went in. Every record was checked as it came; this checks
    /// the sums, in case a whole partition or the check itself was skipped.
    pub(super) fn verified(
        &mut self,
        sent: &Sent,
        received: &Received,
        args: &LoadArgs,
    ) -> Result<()> {
        let mut expected = 0;
        for (partition, count) in (0..).zip(sent.per_partition.iter()) {
            expected += count * readers_of(partition, args.consumers, args.partitions);
        }
        if received.records != expected {
            bail!("{expected} records should have been read, {} were", received.records);
        }
        // Partitions that several consumers read count several times on one side only.
        let is_once = args.consumers <= args.partitions;
        if is_once && sent.checksum != received.checksum {
            bail!("checksum {:016x} was sent, {:016x} read", sent.checksum, received.checksum);
        }
        self.records = sent.records;
        self.bytes = sent.records * args.record_size.0;
        self.checksum = format!("{:016x}", sent.checksum);
        self.verified = true;
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        let head = format!(
            "{} of {} ({}), {}, {}, {}, acks={}, \
             durability={}, compression={}\n\n",
            counted(self.records, "record"),
            human_bytes(self.record_bytes),
            human_bytes(self.bytes),
            counted(self.producers.into(), "producer"),
            counted(self.consumers.into(), "consumer"),
            counted(self.partitions.into(), "partition"),
            self.acks,
            self.durability,
            self.compression,
        );
        let names = ["", "records/s", "mb/s", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us"];
        let right =
            |name: &'static str| (name, if name.is_empty() { Align::Left } else { Align::Right });
        let is_end_to_end = self.consume.as_ref().is_some_and(|side| side.latency.is_some());
        let consumed = if is_end_to_end { "consumed, end to end" } else { "consumed" };
        let mut rates = Table::new(&names.map(right));
        for (name, side) in [("produced, to ack", &self.produce), (consumed, &self.consume)] {
            let Some(side) = side else { continue };
            let mut row = vec![
                name.to_owned(),
                format!("{:.0}", side.records_per_second),
                format!("{:.1}", side.mb_per_second),
            ];
            if let Some(latency) = side.latency {
                let Percentiles { p50_us, p90_us, p99_us, p999_us, max_us, .. } = latency;
                row.extend([p50_us, p90_us, p99_us, p999_us, max_us].map(|us| format!("{us:.0}")));
            }
            rates.row(row);
        }
        let mut costs = Table::new(&["", "cpu s", "cpu s/GB", "rss", "rss max"].map(right));
        for (name, cost) in [("broker", &self.broker), ("load", &self.load)] {
            let Some(cost) = cost else { continue };
            costs.row([
                name.to_owned(),
                format!("{:.2}", cost.cpu_seconds),
                format!("{:.2}", cost.cpu_seconds_per_gb),
                human_bytes(cost.resident_bytes),
                human_bytes(cost.resident_bytes_max),
            ]);
        }
        let copied = match self.copied_per_byte_served {
            Some(ratio) => format!("bytes copied per byte served: {ratio:.2}\n"),
            None => String::new(),
        };
        format!("{head}{rates}\n{costs}\n{copied}verified: count, order and every byte\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_by_gigabyte() {
        let usage = |cpu_seconds| Some(Usage { cpu_seconds, ..Usage::default() });
        let cost = cost(usage(1.0), usage(2.5), 500_000_000).unwrap();
        assert!((cost.cpu_seconds_per_gb - 3.0).abs() < 1e-9);
        assert!(super::cost(None, usage(1.0), 1).is_none());
    }

    #[test]
    fn the_report_reads_as_recorded() {
        let latency = Percentiles {
            count: 10,
            mean_us: 100.0,
            p50_us: 90.0,
            p90_us: 120.0,
            p99_us: 180.5,
            p999_us: 900.0,
            max_us: 1500.0,
        };
        let side = |latency| Side {
            seconds: 2.0,
            records_per_second: 500_000.0,
            mb_per_second: 512.0,
            latency,
        };
        let report = Report {
            mode: "both",
            producers: 1,
            consumers: 1,
            partitions: 1,
            record_bytes: 1024,
            records: 1_000_000,
            bytes: 1_024_000_000,
            acks: "all",
            durability: "fsync",
            compression: "none",
            produce: Some(side(None)),
            consume: Some(side(Some(latency))),
            broker: cost(
                Some(Usage::default()),
                Some(Usage {
                    cpu_seconds: 1.5,
                    resident_bytes: 1 << 20,
                    resident_bytes_max: 2 << 20,
                }),
                1_024_000_000,
            ),
            copied_per_byte_served: Some(0.0),
            verified: true,
            ..Report::default()
        };
        insta::assert_snapshot!("bench-report", report.text());
    }
}
