//! The task that reads one partition: subscribes at its leader, verifies what comes, and
//! subscribes anew at the next offset when the stream ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millstream_env::clock::Monotonic;
use millstream_net::{BatchReceiver, CallError, Received};
use millstream_types::{ErrorCode, Offset, PartitionIndex, TopicId};
use millstream_wire::api::{
    LeaderHint, OffsetSpec, OpenSubscription, ServiceError, StartAt, TraceId,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::OutOfRange;
use super::cursor::{Cursor, Item};
use crate::client::Client;
use crate::cluster::{Route, call_error};
use crate::error::{AdminError, ConsumerError};
use crate::random::Backoff;

/// Between attempts to subscribe.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

/// What a fetcher hands to the reader.
#[derive(Debug)]
pub(super) enum Delivered {
    /// Something to read.
    Chunk(Chunk),
    /// The partition is read no further.
    Failed(ConsumerError),
}

/// Items received together, and their room in the buffers.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) items: VecDeque<Item>,
    _room: [OwnedSemaphorePermit; 2],
}

/// What reader and fetcher both know of a partition; -1 is unknown.
#[derive(Debug)]
pub(super) struct Status {
    position: AtomicI64,
    high_watermark: AtomicI64,
}

impl Status {
    pub(super) fn new() -> Self {
        Self { position: AtomicI64::new(-1), high_watermark: AtomicI64::new(-1) }
    }

    pub(super) fn position(&self) -> Option<i64> {
        Some(self.position.load(Ordering::Relaxed)).filter(|position| *position >= 0)
    }

    pub(super) fn set_position(&self, offset: i64) {
        self.position.store(offset, Ordering::Relaxed);
    }

    pub(super) fn lag(&self) -> Option<u64> {
        let end = Offset::new(self.high_watermark.load(Ordering::Relaxed))?;
        Some(end.since(Offset::new(self.position()?)?))
    }

    fn set_high_watermark(&self, offset: Offset) {
        self.high_watermark.store(offset.value(), Ordering::Relaxed);
    }

    /// The reader starts here, unless it is known where it stands. Called before the reader gets
    /// anything of the subscription.
    fn start(&self, offset: Offset) {
        if self.position.load(Ordering::Relaxed) < 0 {
            self.set_position(offset.value());
        }
    }
}

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) partition: u32,
    pub(super) out_of_range: OutOfRange,
    pub(super) buffer_bytes: usize,
    pub(super) buffer_bytes_total: usize,
    pub(super) frame_bytes: usize,
}

/// Why a subscription is over.
enum Stop {
    /// Subscribe anew.
    Retry(String),
    /// No subscription will do.
    Failed(ConsumerError),
    /// The reader is gone.
    Closed,
}

/// Reads one partition.
#[derive(Debug)]
pub(super) struct Fetcher {
    client: Client,
    settings: Settings,
    start: StartAt,
    cursor: Cursor,
    status: Arc<Status>,
    room: Arc<Semaphore>,
    room_total: Arc<Semaphore>,
    chunks: mpsc::Sender<Delivered>,
    hint: Option<LeaderHint>,
    routes_since: Monotonic,
    /// Where the present subscription is, for errors.
    endpoint: String,
    attempt: u32,
    /// Where a damaged batch came once; a second time is not the transfer's fault.
    damaged_at: Option<i64>,
}

impl Fetcher {
    pub(super) fn new(
        client: Client,
        settings: Settings,
        start: StartAt,
        status: Arc<Status>,
        room_total: Arc<Semaphore>,
        chunks: mpsc::Sender<Delivered>,
    ) -> Self {
        Self {
            cursor: Cursor::new(Arc::clone(&settings.topic), settings.partition),
            room: Arc::new(Semaphore::new(settings.buffer_bytes)),
            client,
            settings,
            start,
            status,
            room_total,
            chunks,
            hint: None,
            routes_since: Monotonic::ZERO,
            endpoint: String::new(),
            attempt: 0,
            damaged_at: None,
        }
    }

    /// Reads until the reader is gone or an error that no retry mends. `opened` is told of the
    /// first subscription.
    pub(super) async fn run(mut self, opened: oneshot::Sender<()>) {
        let mut opened = Some(opened);
        loop {
            let stop = match self.subscribe().await {
                Ok(receiver) => {
                    if let Some(opened) = opened.take() {
                        // Fails where nobody waits any more, which the channel tells too.
                        opened.send(()).ok();
                    }
                    self.receive(receiver).await
                }
                Err(stop) => stop,
            };
            match stop {
                Stop::Closed => return,
                Stop::Failed(error) => {
                    drop(self.chunks.send(Delivered::Failed(error)).await);
                    return;
                }
                Stop::Retry(reason) => {
                    tracing::debug!(
                        topic = %self.settings.topic, partition = self.settings.partition,
                        reason, attempt = self.attempt, "subscribing anew"
                    );
                    let delay = BACKOFF.delay(self.attempt, &self.client.random);
                    self.attempt = self.attempt.saturating_add(1);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = self.chunks.closed() => return,
                    }
                    self.routes_since = self.client.clock.monotonic();
                }
            }
        }
    }

    /// Opens a subscription at the cursor, or where the reader wants to start.
    async fn subscribe(&mut self) -> Result<BatchReceiver, Stop> {
        let route = self.route().await?;
        if route.topic != self.settings.topic_id {
            let message = "the topic was deleted and created again".to_owned();
            let error = ServiceError::new(ErrorCode::UnknownTopic, message);
            return Err(Stop::Failed(self.refused(error)));
        }
        let connection = self.client.cluster.connection(&route.endpoint).await;
        let connection = connection.map_err(Stop::Retry)?;
        self.endpoint = route.endpoint;
        let start = self.cursor.next().map_or(self.start, StartAt::Offset);
        let open = OpenSubscription {
            topic: route.topic,
            partition: PartitionIndex(self.settings.partition),
            start,
            frame_bytes_max: u32::try_from(self.settings.frame_bytes).unwrap_or(u32::MAX),
            trace: TraceId::default(),
        };
        match connection.subscribe(open).await {
            Ok((opened, receiver)) => {
                self.cursor.on_opened(opened.start);
                self.status.start(opened.start);
                self.status.set_high_watermark(opened.high_watermark);
                Ok(receiver)
            }
            Err(error) => Err(self.stop(error, start).await),
        }
    }

    async fn route(&mut self) -> Result<Route, Stop> {
        if let Some(hint) = self.hint.take() {
            let (topic, leader_epoch) = (self.settings.topic_id, Some(hint.epoch));
            return Ok(Route { topic, endpoint: hint.endpoint, leader_epoch });
        }
        let Settings { topic, partition, .. } = &self.settings;
        let route = self.client.cluster.route(topic, *partition, self.routes_since).await;
        route.map_err(|error| match error {
            AdminError::Service { code, message } if !code.is_retriable() => {
                Stop::Failed(self.refused(ServiceError::new(code, message)))
            }
            error => Stop::Retry(error.to_string()),
        })
    }

    /// Reads a subscription to its end.
    async fn receive(&mut self, mut receiver: BatchReceiver) -> Stop {
        loop {
            let received = tokio::select! {
                biased;
                received = receiver.next() => received,
                () = self.chunks.closed() => return Stop::Closed,
            };
            match received {
                Ok(Some(Received::Batches { bytes, high_watermark })) => {
                    self.attempt = 0;
                    self.status.set_high_watermark(high_watermark);
                    if let Err(stop) = self.deliver(bytes, high_watermark).await {
                        return stop;
                    }
                }
                Ok(Some(Received::Progress(progress))) => {
                    self.attempt = 0;
                    self.status.set_high_watermark(progress.high_watermark);
                }
                Ok(None) => return Stop::Retry("the broker ended the stream".to_owned()),
                Err(error) => {
                    let start = self.cursor.next().map_or(self.start, StartAt::Offset);
                    return self.stop(error, start).await;
                }
            }
        }
    }

    /// Verifies batches and hands them to the reader, waiting for room.
    async fn deliver(&mut self, bytes: Bytes, high_watermark: Offset) -> Result<(), Stop> {
        let size = bytes.len();
        let (items, damage) = self.cursor.accept(bytes, high_watermark);
        if !items.is_empty() {
            let room = [
                acquire(&self.room, size, self.settings.buffer_bytes).await?,
                acquire(&self.room_total, size, self.settings.buffer_bytes_total).await?,
            ];
            let chunk = Chunk { items, _room: room };
            self.chunks.send(Delivered::Chunk(chunk)).await.or(Err(Stop::Closed))?;
        }
        let Some(damage) = damage else { return Ok(()) };
        let (partition, offset) = (self.settings.partition, damage.offset);
        if self.damaged_at.replace(offset) == Some(offset) {
            let reason = damage.reason;
            return Err(Stop::Failed(ConsumerError::CorruptBatch { partition, offset, reason }));
        }
        tracing::warn!(topic = %self.settings.topic, partition, offset, reason = damage.reason,
            "a damaged batch; it is fetched once more");
        Err(Stop::Retry(damage.reason))
    }

    /// What to do about a subscription's error.
    async fn stop(&mut self, error: CallError, start: StartAt) -> Stop {
        let error = match error {
            CallError::Service(error) => error,
            other => return Stop::Retry(call_error(&self.endpoint, other).to_string()),
        };
        self.hint.clone_from(&error.leader);
        if error.is_retriable() {
            return Stop::Retry(error.to_string());
        }
        if error.code != ErrorCode::OffsetOutOfRange {
            return Stop::Failed(self.refused(error));
        }
        let start_over = match self.settings.out_of_range {
            OutOfRange::Error => return self.out_of_range(start).await,
            OutOfRange::Earliest => StartAt::Earliest,
            OutOfRange::Latest => StartAt::Latest,
        };
        tracing::warn!(topic = %self.settings.topic, partition = self.settings.partition,
            ?start, ?start_over, "the position is out of range");
        self.cursor.reset();
        self.start = start_over;
        Stop::Retry(error.to_string())
    }

    /// The error for a start that the partition does not hold, with what it holds.
    async fn out_of_range(&self, start: StartAt) -> Stop {
        let partition = self.settings.partition;
        let mut range = [0, 0];
        for (bound, spec) in range.iter_mut().zip([OffsetSpec::Earliest, OffsetSpec::Latest]) {
            let (cluster, topic) = (&self.client.cluster, &self.settings.topic);
            let answers = cluster.list_offsets(topic, &[partition], spec).await;
            let answers = match answers {
                Ok(answers) => answers,
                Err(error) => return Stop::Failed(error.into()),
            };
            let answer = answers.iter().find(|answer| answer.partition.0 == partition);
            *bound = answer.and_then(|answer| answer.offset).unwrap_or_default().value();
        }
        let offset = match start {
            StartAt::Offset(offset) => offset.value(),
            StartAt::Earliest | StartAt::Latest | StartAt::Timestamp(_) => -1,
        };
        let [earliest, latest] = range;
        Stop::Failed(ConsumerError::OffsetOutOfRange { partition, offset, earliest, latest })
    }

    fn refused(&self, error: ServiceError) -> ConsumerError {
        ConsumerError::Service {
            partition: self.settings.partition,
            code: error.code,
            message: error.message,
        }
    }
}

/// Room for `bytes`, or all there is for a piece that is larger.
async fn acquire(
    room: &Arc<Semaphore>,
    bytes: usize,
    capacity: usize,
) -> Result<OwnedSemaphorePermit, Stop> {
    let permits = u32::try_from(bytes.min(capacity)).unwrap_or(u32::MAX);
    Arc::clone(room).acquire_many_owned(permits).await.or(Err(Stop::Closed))
}
