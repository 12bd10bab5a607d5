//! The consumer: subscribes to partitions, verifies what comes, and resumes by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use millstream_types::{Offset, TimestampMs};
use millstream_wire::api::StartAt;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::error::{AdminError, BuildError, ConsumerError};
use crate::record::ConsumerRecord;

mod batch;
mod cursor;
mod fetcher;
mod growth;

pub use batch::{RecordBatch, Records};
use cursor::Item;
use fetcher::{Chunk, Delivered, Fetching, Status};

/// Chunks that may wait for the reader beside one for each partition; their bytes are bounded
/// by the buffers.
const CHUNKS_AHEAD: usize = 64;
/// The least that a buffer setting may be: a subscription's usual frame.
const BUFFER_BYTES_MIN: usize = 64 * 1024;
/// The least interval at which a consumer asks for anything: brokers have other clients.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Where a consumer starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// At the first record held.
    Earliest,
    /// After the last record.
    Latest,
    /// At this offset, in every partition.
    Offset(i64),
    /// At the first record at or after so many milliseconds since the Unix epoch.
    Timestamp(i64),
    /// At an offset of its own for each partition; partitions not named start at the first
    /// record held.
    Offsets(BTreeMap<u32, i64>),
}

/// What to do when a position lies outside what a partition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OutOfRange {
    /// Report it and read that partition no further.
    #[default]
    Error,
    /// Go on at the first record held.
    Earliest,
    /// Go on after the last record.
    Latest,
}

/// Settings of a consumer. Only `topic` has no default.
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    client: Client,
    topic: String,
    partitions: Option<Vec<u32>>,
    start: Start,
    out_of_range: OutOfRange,
    partition_buffer_bytes: usize,
    buffer_bytes: usize,
    unreachable_after: Option<Duration>,
    growth_interval: Option<Duration>,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            topic: String::new(),
            partitions: None,
            start: Start::Latest,
            out_of_range: OutOfRange::Error,
            partition_buffer_bytes: 4 * 1024 * 1024,
            buffer_bytes: 64 * 1024 * 1024,
            unreachable_after: None,
            growth_interval: None,
        }
    }

    /// The topic, by name.
    #[must_use]
    pub fn topic(mut self, name: impl Into<String>) -> Self {
        self.topic = name.into();
        self
    }

    /// Reads only these partitions. Default all that the topic has when the consumer is made;
    /// see [`growth_interval`](Self::growth_interval).
    #[must_use]
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Where to start. Default [`Start::Latest`]: what is produced once `build` has returned.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// What to do when a position lies outside what a partition holds. Default: report it.
    #[must_use]
    pub fn out_of_range(mut self, policy: OutOfRange) -> Self {
        self.out_of_range = policy;
        self
    }

    /// The most bytes of batches, of each partition, that are received ahead of the reader; a
    /// larger batch comes alone. Default 4 MiB, at least 64 KiB. The connection's flow control
    /// window comes on top.
    #[must_use]
    pub fn partition_buffer_bytes(mut self, bytes: usize) -> Self {
        self.partition_buffer_bytes = bytes;
        self
    }

    /// The same over all partitions. Default 64 MiB, at least 64 KiB.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Reports [`ConsumerError::Unreachable`] once nothing was heard of a partition's leader for
    /// so long, and goes on trying; to give up is the reader's to decide. An idle leader is heard
    /// every 5 s or so, and is asked before it is reported, which may take the client's request
    /// timeout on top. Default never: the consumer waits silently for as long as it takes.
    #[must_use]
    pub fn unreachable_after(mut self, silence: Duration) -> Self {
        self.unreachable_after = Some(silence);
        self
    }

    /// Looks this often whether partitions were added to the topic, and reads those too, from
    /// their first record. Without effect where [`partitions`](Self::partitions) names some.
    /// Default never.
    #[must_use]
    pub fn growth_interval(mut self, interval: Duration) -> Self {
        self.growth_interval = Some(interval);
        self
    }

    /// Makes the consumer, and returns once its subscriptions are open.
    ///
    /// # Errors
    /// A setting is out of its range, the topic or a partition is unknown, or no broker
    /// answers within the client's request timeout.
    pub async fn build(self) -> Result<Consumer, BuildError> {
        self.check()?;
        let cluster = &self.client.cluster;
        let known = cluster.topic(&self.topic, self.client.clock.monotonic()).await?;
        let partitions = self.chosen(known.partitions())?;
        let (chunks, received) = mpsc::channel(partitions.len() + CHUNKS_AHEAD);
        let fetching = Fetching {
            client: self.client.clone(),
            topic: Arc::from(self.topic.as_str()),
            topic_id: known.topic,
            out_of_range: self.out_of_range,
            buffer_bytes: self.partition_buffer_bytes,
            buffer_bytes_total: self.buffer_bytes,
            unreachable_after: self.unreachable_after,
            room_total: Arc::new(Semaphore::new(self.buffer_bytes)),
        };
        let mut tasks = JoinSet::new();
        let mut statuses = BTreeMap::new();
        let mut opening = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let (opened, open) = oneshot::channel();
            let start = self.start_of(partition)?;
            let (fetcher, status) = fetching.fetcher(partition, start, chunks.clone());
            tasks.spawn(fetcher.run(opened));
            statuses.insert(partition, status);
            opening.push(open);
        }
        if let Some(interval) = self.growth_interval.filter(|_| self.partitions.is_none()) {
            tasks.spawn(growth::run(fetching, known.partitions(), interval, chunks.downgrade()));
        }
        drop(chunks);
        let opened = async {
            for open in opening {
                // Dropped by a fetcher that ended: its error waits for the reader.
                drop(open.await);
            }
        };
        if tokio::time::timeout(cluster.request_timeout(), opened).await.is_err() {
            return Err(BuildError::Broker(AdminError::TimedOut));
        }
        Ok(Consumer { received, statuses, current: None, reading: None, tasks })
    }

    /// Whether every setting is in its range.
    fn check(&self) -> Result<(), BuildError> {
        for (setting, bytes) in [
            ("partition_buffer_bytes", self.partition_buffer_bytes),
            ("buffer_bytes", self.buffer_bytes),
        ] {
            if !(BUFFER_BYTES_MIN..=Semaphore::MAX_PERMITS).contains(&bytes) {
                let reason = format!("at least {BUFFER_BYTES_MIN}");
                return Err(BuildError::Setting { setting, reason });
            }
        }
        for (setting, interval) in [
            ("unreachable_after", self.unreachable_after),
            ("growth_interval", self.growth_interval),
        ] {
            if interval.is_some_and(|interval| interval < INTERVAL_MIN) {
                let reason = format!("at least {INTERVAL_MIN:?}");
                return Err(BuildError::Setting { setting, reason });
            }
        }
        Ok(())
    }

    fn chosen(&self, partitions: u32) -> Result<BTreeSet<u32>, BuildError> {
        let Some(chosen) = &self.partitions else { return Ok((0..partitions).collect()) };
        if let Some(partition) = chosen.iter().find(|partition| **partition >= partitions) {
            let reason = format!(
                "topic {} has {partitions} partitions, there is no partition {partition}",
                self.topic
            );
            return Err(BuildError::Setting { setting: "partitions", reason });
        }
        Ok(chosen.iter().copied().collect())
    }

    fn start_of(&self, partition: u32) -> Result<StartAt, BuildError> {
        let offset = |offset: i64| {
            let reason = format!("offset {offset} of partition {partition} is negative");
            let bad = BuildError::Setting { setting: "start", reason };
            Offset::new(offset).map(StartAt::Offset).ok_or(bad)
        };
        match &self.start {
            Start::Earliest => Ok(StartAt::Earliest),
            Start::Latest => Ok(StartAt::Latest),
            Start::Offset(start) => offset(*start),
            Start::Timestamp(ms) => Ok(StartAt::Timestamp(TimestampMs(*ms))),
            Start::Offsets(offsets) => {
                offsets.get(&partition).map_or(Ok(StartAt::Earliest), |start| offset(*start))
            }
        }
    }
}

/// The offset of the next record of a partition that the reader will get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionPosition {
    /// The partition.
    pub partition: u32,
    /// The offset; `None` when the subscription could not be opened.
    pub offset: Option<i64>,
}

/// How far the reader is behind a partition's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionLag {
    /// The partition.
    pub partition: u32,
    /// Records between the position and the high watermark last heard of; `None` until one was.
    pub records: Option<u64>,
}

/// Records in order per partition, partitions in turn. A `Stream` of records that never ends;
/// [`next_batch`](Self::next_batch) is the same by batches, without a cost per record. Use one
/// or the other: a batch that the `Stream` has begun is not given as a batch.
///
/// It reconnects by itself and goes on at the record after the last received. Dropping it ends
/// the subscriptions.
#[derive(Debug)]
pub struct Consumer {
    received: mpsc::Receiver<Delivered>,
    statuses: BTreeMap<u32, Arc<Status>>,
    /// What was received and not yet given to the reader.
    current: Option<Chunk>,
    /// What the stream of records is in the middle of.
    reading: Option<Reading>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Reading {
    records: Records,
    partition: u32,
    next_offset: i64,
}

impl Consumer {
    /// The next batch of any partition; waits for one. `None` once closed, or once every
    /// partition ended with an error. Dropping the future loses nothing.
    pub async fn next_batch(&mut self) -> Option<Result<RecordBatch, ConsumerError>> {
        let next = std::future::poll_fn(|context| self.poll_batch(context)).await;
        if let Some(Ok(batch)) = &next {
            self.set_position(batch.partition(), batch.next_offset());
        }
        next
    }

    /// The next record of any partition; waits for one. As the `Stream` gives it, for those who
    /// have no stream combinators at hand.
    pub async fn next_record(&mut self) -> Option<Result<ConsumerRecord, ConsumerError>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Each partition's position: the offset after the last record given to the reader.
    #[must_use]
    pub fn positions(&self) -> Vec<PartitionPosition> {
        let position = |(partition, status): (&u32, &Arc<Status>)| PartitionPosition {
            partition: *partition,
            offset: status.position(),
        };
        self.statuses.iter().map(position).collect()
    }

    /// Each partition's lag.
    #[must_use]
    pub fn lag(&self) -> Vec<PartitionLag> {
        let lag = |(partition, status): (&u32, &Arc<Status>)| PartitionLag {
            partition: *partition,
            records: status.lag(),
        };
        self.statuses.iter().map(lag).collect()
    }

    /// Ends the subscriptions. Batches received ahead of the reader are dropped; positions
    /// stay readable.
    pub async fn close(&mut self) {
        self.received.close();
        self.tasks.shutdown().await;
        while self.received.try_recv().is_ok() {}
        self.current = None;
        self.reading = None;
    }

    fn set_position(&self, partition: u32, offset: i64) {
        if let Some(status) = self.statuses.get(&partition) {
            status.set_position(offset);
        }
    }

    fn poll_batch(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<RecordBatch, ConsumerError>>> {
        loop {
            if let Some(chunk) = &mut self.current {
                match chunk.items.pop_front() {
                    Some(Item::Batch(batch)) => return Poll::Ready(Some(Ok(batch))),
                    Some(Item::Gap(error)) => return Poll::Ready(Some(Err(error))),
                    Some(Item::Skipped { partition, next_offset }) => {
                        self.set_position(partition, next_offset);
                        continue;
                    }
                    // Dropping it returns its room in the buffers.
                    None => self.current = None,
                }
            }
            match self.received.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Delivered::Error(error))) => {
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(Some(Delivered::Added(partition, status))) => {
                    self.statuses.insert(partition, status);
                }
                Poll::Ready(Some(Delivered::Chunk(chunk))) => self.current = Some(chunk),
            }
        }
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumerRecord, ConsumerError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(reading) = &mut this.reading {
                let partition = reading.partition;
                match reading.records.next() {
                    Some(Ok(record)) => {
                        this.set_position(partition, record.offset.saturating_add(1));
                        return Poll::Ready(Some(Ok(record)));
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => {
                        let next_offset = reading.next_offset;
                        this.set_position(partition, next_offset);
                        this.reading = None;
                    }
                }
            }
            let batch = match this.poll_batch(context) {
                Poll::Ready(Some(Ok(batch))) => batch,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            };
            match batch.records() {
                Ok(records) => {
                    let (partition, next_offset) = (batch.partition(), batch.next_offset());
                    this.reading = Some(Reading { records, partition, next_offset });
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}
