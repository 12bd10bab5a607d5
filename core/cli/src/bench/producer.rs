//! The sending half of a load.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use millstream_client::{Client, Delivery, Producer, ProducerRecord};
use tokio::task::JoinSet;

use super::pace::{Schedule, Timer};
use super::payload::{Maker, Stamp};
use super::target::Target;
use super::{Load, client, verifier};
use crate::connect;

/// Without a rate, one acknowledgement in so many is timed: enough for any percentile.
const ACK_SAMPLE: u64 = 16;
/// With a rate, about so many acknowledgements a second are timed over all producers.
const ACK_SAMPLES_PER_SECOND: u64 = 50_000;
/// Bytes that are sent before the network gets its turn on the shared thread.
const TURN_BYTES: usize = 64 * 1024;

/// What was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) records: u64,
    pub(super) checksum: u64,
    pub(super) per_partition: Arc<[u64]>,
}

impl Sent {
    pub(super) fn new(partitions: u32) -> Self {
        let per_partition = vec![0; partitions as usize].into();
        Self { records: 0, checksum: 0, per_partition }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.records += other.records;
        self.checksum = self.checksum.wrapping_add(other.checksum);
        let sums = Arc::make_mut(&mut self.per_partition);
        for (sum, count) in sums.iter_mut().zip(other.per_partition.iter()) {
            *sum += count;
        }
    }

    fn add(&mut self, stamp: &Stamp) {
        self.records += 1;
        self.checksum = self.checksum.wrapping_add(verifier::checksum(stamp));
        if let Some(count) =
            Arc::make_mut(&mut self.per_partition).get_mut(stamp.partition as usize)
        {
            *count += 1;
        }
    }
}

/// Starts all producers; each has its own connection and ends once all its records are stored.
pub(super) async fn start(load: &Rc<Load>, target: &Target) -> Result<JoinSet<Result<Sent>>> {
    let mut ready = Vec::new();
    for index in 0..load.args.producers {
        let client = client(target).await?;
        let producer = connect::producer(&client, &load.args.batching).build().await?;
        ready.push((index, client, producer));
    }
    // All begin together, once each has its connection.
    let start = load.now();
    load.measured_from.set(start + load.args.warmup);
    let mut producers = JoinSet::new();
    for (index, client, producer) in ready {
        let load = Rc::clone(load);
        producers.spawn_local(run(load, index, start, client, producer));
    }
    Ok(producers)
}

async fn run(
    load: Rc<Load>,
    index: u32,
    start: Duration,
    client: Client,
    producer: Producer,
) -> Result<Sent> {
    let sample = ack_sample(load.args.rate);
    let mut source = Source::new(&load, index, start)?;
    while let Some(next) = source.next(&load).await? {
        let delivery = producer.send(next.record).await?;
        load.sent.set(load.sent.get() + 1);
        if source.sent.records.is_multiple_of(sample) {
            tokio::task::spawn_local(time_ack(Rc::clone(&load), next.due, delivery));
        }
    }
    // Tells of every record that failed, timed or not.
    producer.close().await.context("a record was not stored")?;
    load.produced_at.set(load.now());
    client.close().await;
    Ok(source.sent)
}

fn ack_sample(rate: Option<u64>) -> u64 {
    rate.map_or(ACK_SAMPLE, |rate| rate.div_ceil(ACK_SAMPLES_PER_SECOND))
}

async fn time_ack(load: Rc<Load>, due: Duration, delivery: Delivery) {
    // A failure is told when the producer is closed.
    if delivery.await.is_ok() && due >= load.measured_from.get() {
        let latency = load.now().saturating_sub(due);
        load.ack_latencies.borrow_mut().record(latency);
    }
}

/// The records of one producer, each when it is due.
#[derive(Debug)]
pub(super) struct Source {
    schedule: Schedule,
    timer: Timer,
    maker: Maker,
    producer: u32,
    /// Records in a row for one partition, so that batches fill at full speed.
    run: u64,
    left: u64,
    ends_at: Duration,
    next_sequence: Vec<u64>,
    turn_bytes: usize,
    pub(super) sent: Sent,
}

/// A record that is due.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) record: ProducerRecord,
    pub(super) partition: u32,
    pub(super) sequence: u64,
    pub(super) due: Duration,
}

impl Source {
    pub(super) fn new(load: &Load, index: u32, start: Duration) -> Result<Self> {
        let args = &load.args;
        let size = args.record_size.as_usize();
        let share = |total: u64| {
            let producers = u64::from(args.producers);
            total / producers + u64::from(u64::from(index) < total % producers)
        };
        let per_batch = args.batching.batch_bytes.0 / args.record_size.0.max(1);
        Ok(Self {
            schedule: Schedule::new(args.rate, start, index, args.producers),
            timer: Timer::new()?,
            maker: Maker::new(args.payload, size, index),
            producer: index,
            run: if args.rate.is_some() { 1 } else { per_batch.max(1) },
            left: args.records.map_or(u64::MAX, share),
            ends_at: load.duration().map_or(Duration::MAX, |duration| start + duration),
            next_sequence: vec![0; args.partitions as usize],
            turn_bytes: 0,
            sent: Sent::new(args.partitions),
        })
    }

    /// Waits until the next record is due; `None` after the last.
    pub(super) async fn next(&mut self, load: &Load) -> Result<Option<Next>> {
        if self.left == 0 {
            return Ok(None);
        }
        let number = self.sent.records;
        let now = load.now();
        let due = self.schedule.due(number, now);
        if due >= self.ends_at {
            return Ok(None);
        }
        if due > now {
            self.turn_bytes = 0;
            self.timer.wait(due - now).await?;
        } else if self.turn_bytes >= TURN_BYTES {
            self.turn_bytes = 0;
            tokio::task::yield_now().await;
        }
        Ok(Some(self.make(load, number, due)))
    }

    fn make(&mut self, load: &Load, number: u64, due: Duration) -> Next {
        let partitions = self.next_sequence.len() as u64;
        // Producers start at different partitions, so that they do not move in step.
        let place = (number / self.run + u64::from(self.producer)) % partitions;
        let place = usize::try_from(place).unwrap_or(0);
        let partition = u32::try_from(place).unwrap_or(0);
        let sequence = self.next_sequence[place];
        self.next_sequence[place] += 1;
        self.left -= 1;
        let due_ns = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        let value = self.maker.make(partition, sequence, due_ns);
        self.turn_bytes += value.len();
        self.sent.add(&Stamp { producer: self.producer, partition, sequence, due_ns });
        let record = ProducerRecord::new(Arc::clone(&load.topic), value).with_partition(partition);
        Next { record, partition, sequence, due }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_add_up_by_partition() {
        let stamp = |partition, sequence| Stamp { producer: 0, partition, sequence, due_ns: 1 };
        let mut first = Sent::new(2);
        first.add(&stamp(0, 0));
        let mut second = Sent::new(2);
        second.add(&stamp(1, 0));
        second.add(&stamp(0, 1));
        let expected = first.checksum.wrapping_add(second.checksum);
        first.merge(&second);
        assert_eq!((first.records, first.checksum), (3, expected));
        assert_eq!(*first.per_partition, [2, 1]);
    }

    #[test]
    fn about_as_many_acknowledgements_are_timed_at_any_rate() {
        assert_eq!(ack_sample(Some(1_000)), 1);
        assert_eq!(ack_sample(Some(50_001)), 2);
        assert_eq!(ack_sample(Some(500_000)), 10);
    }
}
