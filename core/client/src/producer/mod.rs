//! The producer: queues records into batches by partition, sends them in order, and tells each
//! record's fate.

use std::sync::Arc;
use std::time::Duration;

use millstream_types::limits;
use millstream_wire::{Codec, api};

use crate::client::Client;
use crate::error::{BuildError, FlushError, SendError, TrySendError};
use crate::record::ProducerRecord;

use crate::random::Backoff;

mod buffer;
mod core;
mod delivery;
mod partitioner;
mod queue;
mod sender;
mod session;
mod topics;

use buffer::Buffer;
use core::{Core, Failures};
pub use delivery::Delivery;
use queue::{Linger, QueueSettings, RECORD_BYTES_MAX};
use topics::Topics;

/// How long a batch waits for company while others of its partition are in flight, by default:
/// Kafka's default linger, but never for a partition that is idle.
const LINGER_WHILE_IN_FLIGHT: Duration = Duration::from_millis(5);

/// When a broker acknowledges a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Acks {
    /// When every in-sync replica has it, durably on topics with `durability=fsync`.
    #[default]
    All,
    /// When the leader has appended it. A leader that fails then may lose it.
    Leader,
}

/// Settings of a producer.
#[derive(Clone, Debug)]
pub struct ProducerBuilder {
    client: Client,
    linger: Option<Duration>,
    batch_bytes: usize,
    batch_records: u32,
    compression: Codec,
    max_in_flight: usize,
    buffer_bytes: usize,
    acks: Acks,
    idempotent: bool,
    delivery_timeout: Duration,
    retry_backoff: Duration,
    retry_backoff_max: Duration,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            linger: None,
            batch_bytes: 1024 * 1024,
            batch_records: 100_000,
            compression: Codec::None,
            max_in_flight: 5,
            buffer_bytes: 64 * 1024 * 1024,
            acks: Acks::All,
            idempotent: true,
            delivery_timeout: Duration::from_secs(120),
            retry_backoff: Duration::from_millis(50),
            retry_backoff_max: Duration::from_secs(1),
        }
    }

    /// How long a batch waits for more records. Unset, a batch goes at once while none of its
    /// partition is in flight, and otherwise waits at most 5 ms: quick when idle, large batches
    /// under load. Set, every batch waits that long; zero sends whenever fewer than
    /// `max_in_flight` batches are out.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger);
        self
    }

    /// The most bytes that a batch gathers, before compression; one record may be larger and
    /// goes alone. Default 1 MiB, a quarter of what a topic takes by default: five of them in
    /// flight bridge 7 ms at 700 MB/s, where a durable acknowledgement of 1 MiB takes 1 to 3 ms.
    /// Small batches are sent all the same while records come slowly.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// The most records that a batch gathers. Default 100,000.
    #[must_use]
    pub fn batch_records(mut self, records: u32) -> Self {
        self.batch_records = records;
        self
    }

    /// How batches are compressed, in the client. Default none.
    #[must_use]
    pub fn compression(mut self, codec: Codec) -> Self {
        self.compression = codec;
        self
    }

    /// How many batches of one partition may await acknowledgement. Default 5, which is also
    /// the most while idempotent: brokers recognise that many as duplicates.
    #[must_use]
    pub fn max_in_flight(mut self, batches: usize) -> Self {
        self.max_in_flight = batches;
        self
    }

    /// The most bytes of records that are queued or in flight; beyond it `send` waits. Default
    /// 64 MiB.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// When a record counts as written. Default [`Acks::All`].
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// Whether brokers drop what a retry sends twice. Default true. When false, a retry after
    /// a lost acknowledgement writes its batch a second time.
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// The longest that a record may take from `send` to its acknowledgement, retries included.
    /// Default 120 s.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// How long to wait before the first retry, and the most that doubling may make of it; half
    /// of each wait is random. Default 50 ms and 1 s.
    #[must_use]
    pub fn retry_backoff(mut self, first: Duration, max: Duration) -> Self {
        self.retry_backoff = first;
        self.retry_backoff_max = max;
        self
    }

    /// Makes the producer. Identities and streams are had when the first record of a partition
    /// is sent.
    ///
    /// # Errors
    /// [`BuildError::Setting`]: a setting is out of its range.
    pub async fn build(self) -> Result<Producer, BuildError> {
        self.check()?;
        let linger = match self.linger {
            Some(linger) => Linger::Fixed(linger),
            None => Linger::WhileInFlight(LINGER_WHILE_IN_FLIGHT),
        };
        let core = Core {
            queue: QueueSettings {
                codec: self.compression,
                batch_bytes: self.batch_bytes,
                batch_records: self.batch_records,
            },
            linger,
            acks: match self.acks {
                Acks::All => api::Acks::All,
                Acks::Leader => api::Acks::Leader,
            },
            idempotent: self.idempotent,
            max_in_flight: self.max_in_flight,
            delivery_timeout: self.delivery_timeout,
            backoff: Backoff { first: self.retry_backoff, max: self.retry_backoff_max },
            buffer: Buffer::new(self.buffer_bytes),
            record_bytes_max: RECORD_BYTES_MAX.min(self.buffer_bytes),
            failures: Failures::default(),
            client: self.client,
        };
        let topics = Arc::new(Topics::new(Arc::new(core)));
        tokio::spawn(topics::keep_fresh(Arc::downgrade(&topics)));
        Ok(Producer { handle: Arc::new(Handle { topics }) })
    }

    fn check(&self) -> Result<(), BuildError> {
        let in_flight_max = match self.idempotent {
            true => limits::PRODUCER_BATCHES_KEPT,
            false => limits::PRODUCE_IN_FLIGHT_MAX,
        };
        let records_max = limits::BATCH_RECORDS_MAX;
        let bytes = limits::BATCH_HEADER_BYTES + 1..=limits::BATCH_BYTES_MAX;
        let checks = [
            (
                "batch_bytes",
                bytes.contains(&self.batch_bytes),
                format!("{} to {}", bytes.start(), bytes.end()),
            ),
            (
                "batch_records",
                (1..=records_max).contains(&self.batch_records),
                format!("1 to {records_max}"),
            ),
            (
                "max_in_flight",
                (1..=in_flight_max).contains(&self.max_in_flight),
                format!("1 to {in_flight_max} with idempotent({})", self.idempotent),
            ),
            (
                "buffer_bytes",
                self.buffer_bytes >= self.batch_bytes,
                "at least batch_bytes".to_owned(),
            ),
            ("delivery_timeout", !self.delivery_timeout.is_zero(), "more than 0".to_owned()),
        ];
        for (setting, holds, reason) in checks {
            if !holds {
                return Err(BuildError::Setting { setting, reason });
            }
        }
        Ok(())
    }
}

/// Sends records. Cheap to clone; clones share one buffer. When the last clone is dropped, what
/// is queued is still sent as long as the runtime lives; [`close`](Self::close) waits for it.
///
/// Records of one partition are written in the order of their sends, through retries and
/// changes of leader. While idempotent, none is written twice. With `idempotent(false)` a retry
/// may write its batch twice, and a batch that the broker refuses may be overtaken by those in
/// flight behind it; `max_in_flight(1)` excludes the latter.
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// Dropped with the last clone.
#[derive(Debug)]
struct Handle {
    topics: Arc<Topics>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.topics.close();
    }
}

impl Producer {
    /// Queues a record and returns the future of its fate. Waits while the buffer is full, and
    /// for the first record of a topic asks a broker for its partitions.
    ///
    /// Dropping the future of `send` itself leaves the record unqueued.
    ///
    /// # Errors
    /// The record can never be sent as it is, its topic is unknown, or the producer is closed.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, SendError> {
        let topics = &self.handle.topics;
        let bound = topics.check(&record)?;
        let topic = match topics.get(&record.topic) {
            Some(topic) => topic,
            // Boxed: rare, and every send would carry its size.
            None => Box::pin(topics.resolve(&record.topic)).await?,
        };
        let buffer = &topics.core().buffer;
        let reservation = match buffer.try_reserve(bound) {
            Some(reservation) => reservation,
            None => {
                let reserve = buffer.reserve(bound, || topics.wake());
                reserve.await.or(Err(SendError::Closed))?
            }
        };
        topics.enqueue(&topic, &record, bound, reservation)
    }

    /// As [`send`](Self::send), without waiting.
    ///
    /// # Errors
    /// [`TrySendError::Full`] when the buffer is full, [`TrySendError::Unresolved`] for the
    /// first record of a topic, and what `send` refuses.
    pub fn try_send(&self, record: &ProducerRecord) -> Result<Delivery, TrySendError> {
        let topics = &self.handle.topics;
        let bound = topics.check(record)?;
        let Some(topic) = topics.get(&record.topic) else {
            return Err(TrySendError::Unresolved { topic: Arc::clone(&record.topic) });
        };
        let buffer = &topics.core().buffer;
        let Some(reservation) = buffer.try_reserve(bound) else {
            return Err(if buffer.is_closed() {
                SendError::Closed.into()
            } else {
                TrySendError::Full
            });
        };
        Ok(topics.enqueue(&topic, record, bound, reservation)?)
    }

    /// Sends what is queued without waiting for linger, and waits for the fate of every record
    /// queued before the call.
    ///
    /// # Errors
    /// Records failed since the last flush, whether or not their deliveries were awaited.
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.handle.topics.flush().await
    }

    /// Refuses further records, then does what [`flush`](Self::flush) does. Closes all clones.
    ///
    /// # Errors
    /// As `flush`.
    pub async fn close(&self) -> Result<(), FlushError> {
        self.handle.topics.close();
        self.handle.topics.flush().await
    }
}
