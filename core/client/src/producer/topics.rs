//! The topics that a producer has met, their partitions' queues, and the choice among them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use millstream_types::TimestampMs;
use millstream_types::limits::{RECORD_HEADERS_MAX, TIMESTAMP_MS_MAX};
use millstream_wire::BuildError;

use super::buffer::Reservation;
use super::core::SharedCore;
use super::delivery::Delivery;
use super::partitioner::partition_for_key;
use super::queue::{NotQueued, PartitionQueue, Queued, record_bytes_bound};
use super::sender::Sender;
use crate::error::{AdminError, FlushError, SendError};
use crate::record::ProducerRecord;

/// How often a producer looks whether its topics have grown (Kafka's `metadata.max.age.ms`).
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);

/// A topic as one producer sees it.
#[derive(Debug)]
pub(super) struct Topic {
    name: Arc<str>,
    /// By partition; never empty.
    queues: Vec<Arc<PartitionQueue>>,
    /// Where records without a key go until their batch is sent or full.
    sticky: AtomicU32,
}

/// All of a producer's topics.
#[derive(Debug)]
pub(super) struct Topics {
    core: SharedCore,
    runtime: tokio::runtime::Handle,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<Arc<str>, Arc<Topic>>,
    closed: bool,
}

impl Topics {
    /// For the runtime that this is called on: senders run there.
    pub(super) fn new(core: SharedCore) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self { core, runtime, state: RwLock::default() }
    }

    pub(super) fn core(&self) -> &SharedCore {
        &self.core
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        // Whole at every step, as is what the write locks below guard.
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.topics.get(name).map(Arc::clone)
    }

    /// Learns a topic's partitions.
    pub(super) async fn resolve(&self, name: &Arc<str>) -> Result<Arc<Topic>, SendError> {
        let known = self.core.client.cluster.topic(name, self.core.now()).await;
        let failed = |error| SendError::Topic { topic: Arc::clone(name), error };
        let partitions = known.map_err(failed)?.partitions();
        if partitions == 0 {
            let reason = "a topic without partitions".to_owned();
            return Err(failed(AdminError::Protocol { reason }));
        }
        self.insert(name, partitions)
    }

    /// Makes the topic known with so many partitions, of which those that were known keep their
    /// queues.
    fn insert(&self, name: &Arc<str>, partitions: u32) -> Result<Arc<Topic>, SendError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(SendError::Closed);
        }
        let mut queues = Vec::new();
        if let Some(known) = state.topics.get(name) {
            if known.partitions() == partitions {
                return Ok(Arc::clone(known));
            }
            queues.clone_from(&known.queues);
        }
        // A topic made anew may have fewer; their senders end once they have drained.
        for gone in queues.drain(queues.len().min(partitions as usize)..) {
            gone.close();
        }
        for partition in u32::try_from(queues.len()).unwrap_or(u32::MAX)..partitions {
            let settings = self.core.queue;
            queues.push(Arc::new(PartitionQueue::new(Arc::clone(name), partition, settings)));
        }
        let sticky = AtomicU32::new(self.core.client.random.below(partitions));
        let topic = Arc::new(Topic { name: Arc::clone(name), queues, sticky });
        state.topics.insert(Arc::clone(name), Arc::clone(&topic));
        Ok(topic)
    }

    /// The most bytes that a record may take, unless it can never be sent.
    pub(super) fn check(&self, record: &ProducerRecord) -> Result<u32, SendError> {
        let (bytes, max) = (record_bytes_bound(record), self.core.record_bytes_max);
        let bound = u32::try_from(bytes).ok().filter(|_| bytes <= max);
        let Some(bound) = bound else {
            return Err(SendError::RecordTooLarge { bytes, max });
        };
        let count = record.headers.len();
        if count > RECORD_HEADERS_MAX {
            return Err(SendError::TooManyHeaders { count, max: RECORD_HEADERS_MAX });
        }
        if let Some(timestamp) = record.timestamp
            && !(0..=TIMESTAMP_MS_MAX).contains(&timestamp)
        {
            return Err(SendError::InvalidTimestamp { timestamp, max: TIMESTAMP_MS_MAX });
        }
        Ok(bound)
    }

    /// Puts a record, for which `bound` bytes are reserved, into its partition's queue.
    pub(super) fn enqueue(
        &self,
        topic: &Topic,
        record: &ProducerRecord,
        bound: u32,
        reservation: Reservation<'_>,
    ) -> Result<Delivery, SendError> {
        let timestamp = match record.timestamp {
            Some(timestamp) => TimestampMs(timestamp),
            None => self.core.client.clock.wall(),
        };
        let append = |queue: &Arc<PartitionQueue>, may_open| {
            queue.append(record, bound as usize, timestamp, may_open, || self.core.now())
        };
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => Some(partition),
            (None, Some(key)) => Some(partition_for_key(key, topic.partitions())),
            (None, None) => None,
        };
        let (queue, queued) = match partition {
            Some(partition) => {
                let queue = topic.queue(partition)?;
                (queue, append(queue, true))
            }
            None => {
                let sticky = topic.sticky.load(Ordering::Relaxed);
                let queue = topic.queue(sticky)?;
                match append(queue, false) {
                    Err(NotQueued::WouldOpen) => {
                        let queue = topic.queue(topic.switch(sticky, &self.core.client.random))?;
                        (queue, append(queue, true))
                    }
                    queued => (queue, queued),
                }
            }
        };
        let Queued { delivery, first } = queued.map_err(|why| self.not_queued(why, timestamp))?;
        reservation.keep();
        if first {
            let sender = Sender::new(Arc::clone(&self.core), Arc::clone(queue));
            self.runtime.spawn(sender.run());
        }
        Ok(delivery)
    }

    fn not_queued(&self, why: NotQueued, timestamp: TimestampMs) -> SendError {
        match why {
            NotQueued::Refused(BuildError::TooLarge { bytes, .. }) => {
                SendError::RecordTooLarge { bytes, max: self.core.record_bytes_max }
            }
            NotQueued::Refused(BuildError::TooManyHeaders { count }) => {
                SendError::TooManyHeaders { count, max: RECORD_HEADERS_MAX }
            }
            NotQueued::Refused(_) => {
                // `check` has seen to size and headers; what is left is the clock's time.
                SendError::InvalidTimestamp { timestamp: timestamp.0, max: TIMESTAMP_MS_MAX }
            }
            NotQueued::Closed | NotQueued::WouldOpen => SendError::Closed,
        }
    }

    fn queues(&self) -> Vec<Arc<PartitionQueue>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.topics.values().flat_map(|topic| topic.queues.iter().map(Arc::clone)).collect()
    }

    /// Has every sender look at its queue again.
    pub(super) fn wake(&self) {
        for queue in self.queues() {
            queue.wake();
        }
    }

    /// Refuses further records; what is queued goes without lingering.
    pub(super) fn close(&self) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.core.buffer.close();
        for queue in self.queues() {
            queue.close();
        }
    }

    /// Waits for the fate of everything queued so far.
    pub(super) async fn flush(&self) -> Result<(), FlushError> {
        // All are told before any is waited for.
        let fates: Vec<_> = self.queues().iter().flat_map(|queue| queue.flush()).collect();
        for delivery in fates {
            // A failure is counted; this is about when, not what.
            drop(delivery.await);
        }
        self.core.failures.take()
    }
}

impl Topic {
    fn partitions(&self) -> u32 {
        u32::try_from(self.queues.len()).unwrap_or(u32::MAX)
    }

    fn queue(&self, partition: u32) -> Result<&Arc<PartitionQueue>, SendError> {
        self.queues.get(partition as usize).ok_or_else(|| SendError::UnknownPartition {
            topic: Arc::clone(&self.name),
            partition,
            partitions: self.partitions(),
        })
    }

    /// Moves records without a key from `from` to another partition; returns where they go now,
    /// which somebody else may have decided.
    fn switch(&self, from: u32, random: &crate::random::Random) -> u32 {
        let partitions = self.partitions();
        if partitions == 1 {
            return from;
        }
        let to = (from + 1 + random.below(partitions - 1)) % partitions;
        let order = Ordering::Relaxed;
        match self.sticky.compare_exchange(from, to, order, order) {
            Ok(_) => to,
            Err(chosen) => chosen,
        }
    }
}

/// Looks now and then whether topics have grown, for as long as the producer lives.
pub(super) async fn keep_fresh(topics: Weak<Topics>) {
    loop {
        tokio::time::sleep(REFRESH_INTERVAL).await;
        let Some(topics) = topics.upgrade() else { return };
        let names: Vec<Arc<str>> = {
            let state = topics.state.read().unwrap_or_else(PoisonError::into_inner);
            if state.closed {
                return;
            }
            state.topics.keys().map(Arc::clone).collect()
        };
        for name in names {
            let now = topics.core.now();
            // An error here is found again, and told, by whoever sends.
            if let Ok(known) = topics.core.client.cluster.topic(&name, now).await
                && known.partitions() > 0
            {
                drop(topics.insert(&name, known.partitions()));
            }
        }
    }
}
