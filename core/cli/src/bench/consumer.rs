//! The reading half of a load: verifies every record and measures from when it was due.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use millstream_client::{Client, Consumer, RecordBatch, Start};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::latency::Latencies;
use super::target::Target;
use super::verifier::Verifier;
use super::{Load, client};

/// Nothing for so long, while records are missing, is a failure.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How many records were sent to each partition, once that is known.
pub(super) type Expected = Option<Arc<[u64]>>;

/// What was read, all of it verified.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    pub(super) records: u64,
    pub(super) checksum: u64,
}

impl Received {
    pub(super) fn merge(&mut self, other: &Self) {
        self.records += other.records;
        self.checksum = self.checksum.wrapping_add(other.checksum);
    }
}

/// The partitions of consumer `index`. Consumers share them out; where there are more consumers
/// than partitions, several read the same one.
fn partitions_of(index: u32, consumers: u32, partitions: u32) -> Vec<u32> {
    if consumers >= partitions {
        return vec![index % partitions];
    }
    (0..partitions).filter(|partition| partition % consumers == index).collect()
}

/// How often each partition is read: more than once only with more consumers than partitions.
pub(super) fn readers_of(partition: u32, consumers: u32, partitions: u32) -> u64 {
    let reads = |index: &u32| partitions_of(*index, consumers, partitions).contains(&partition);
    (0..consumers).filter(reads).count() as u64
}

/// Starts all consumers, subscribed when this returns; each ends once it has everything that
/// `expected` says was sent.
pub(super) async fn start(
    load: &Rc<Load>,
    target: &Target,
    expected: &watch::Receiver<Expected>,
) -> Result<JoinSet<Result<Received>>> {
    let mut ready = Vec::new();
    for index in 0..load.args.consumers {
        let client = client(target).await?;
        let partitions = partitions_of(index, load.args.consumers, load.args.partitions);
        let consumer = client
            .consumer()
            .topic(&*load.topic)
            .partitions(partitions.iter().copied())
            .start(Start::Earliest)
            .build()
            .await?;
        let verifier = Verifier::new(load.args.producers, load.args.partitions);
        let latencies = Latencies::new()?;
        let load = Rc::clone(load);
        ready.push((
            client,
            consumer,
            Reader { load, partitions, verifier, latencies, records: 0 },
        ));
    }
    let mut consumers = JoinSet::new();
    for (client, consumer, reader) in ready {
        consumers.spawn_local(run(client, consumer, reader, expected.clone()));
    }
    Ok(consumers)
}

async fn run(
    client: Client,
    mut consumer: Consumer,
    mut reader: Reader,
    mut expected: watch::Receiver<Expected>,
) -> Result<Received> {
    loop {
        let sent: Expected = expected.borrow_and_update().clone();
        if let Some(sent) = &sent
            && reader.verifier.is_complete(&reader.partitions, sent)?
        {
            break;
        }
        tokio::select! {
            batch = consumer.next_batch() => {
                let batch = batch.context("the broker ended the subscription")??;
                reader.batch(&batch)?;
            }
            changed = expected.changed(), if sent.is_none() => {
                changed.context("the producers failed")?;
            }
            () = tokio::time::sleep(STALL_TIMEOUT), if sent.is_some() => {
                let Reader { verifier, partitions, .. } = &reader;
                match sent.and_then(|sent| verifier.missing(partitions, &sent)) {
                    Some(missing) => bail!("nothing came for {STALL_TIMEOUT:?}: {missing}"),
                    None => bail!("nothing came for {STALL_TIMEOUT:?}"),
                }
            }
        }
    }
    consumer.close().await;
    client.close().await;
    reader.load.end_to_end.borrow_mut().merge(&reader.latencies)?;
    Ok(Received { records: reader.records, checksum: reader.verifier.checksum() })
}

/// One consumer's state.
struct Reader {
    load: Rc<Load>,
    partitions: Vec<u32>,
    verifier: Verifier,
    latencies: Latencies,
    records: u64,
}

impl Reader {
    fn batch(&mut self, batch: &RecordBatch) -> Result<()> {
        // One look at the clock for a batch: its records arrived together.
        let now = self.load.now();
        self.load.consumed_at.set(now);
        let measured_from = self.load.measured_from.get();
        let partition = batch.partition();
        let mut records = batch.records()?;
        let before = self.records;
        while let Some(record) = records.next_ref() {
            let record = record?;
            let value = record.value.unwrap_or_default();
            let stamp = self.verifier.add(partition, record.offset.value(), value)?;
            let due = Duration::from_nanos(stamp.due_ns);
            if due >= measured_from {
                self.latencies.record(now.saturating_sub(due));
            }
            self.records += 1;
        }
        self.load.received.set(self.load.received.get() + self.records - before);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_share_out_the_partitions() {
        assert_eq!(partitions_of(0, 2, 5), [0, 2, 4]);
        assert_eq!(partitions_of(1, 2, 5), [1, 3]);
        let all: Vec<u64> = (0..5).map(|partition| readers_of(partition, 2, 5)).collect();
        assert_eq!(all, [1; 5]);
    }

    #[test]
    fn more_consumers_than_partitions_read_the_same() {
        assert_eq!(partitions_of(4, 5, 2), [0]);
        assert_eq!([readers_of(0, 5, 2), readers_of(1, 5, 2)], [3, 2]);
    }
}
