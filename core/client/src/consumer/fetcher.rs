//! The task that reads one partition: subscribes at its leader, verifies what comes, and
//! subscribes anew at the next offset when the stream ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millstream_env::clock::Monotonic;
use millstream_net::{BatchReceiver, CallError, Received};
use millstream_types::limits::SUBSCRIPTION_FRAME_BYTES;
use millstream_types::{ErrorCode, Offset, PartitionIndex, TopicId};
use millstream_wire::api::{
    LeaderHint, OffsetSpec, OpenSubscription, ServiceError, StartAt, TraceId,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::OutOfRange;
use super::cursor::{Cursor, Item};
use crate::client::Client;
use crate::cluster::{Route, call_error};
use crate::connections::StreamPlace;
use crate::error::{AdminError, ConsumerError};
use crate::random::Backoff;

/// Between attempts to subscribe.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

/// What a fetcher hands to the reader.
#[derive(Debug)]
pub(super) enum Delivered {
    /// Something to read.
    Chunk(Chunk),
    /// The partition is read no further, or is out of reach for now.
    Error(ConsumerError),
    /// A partition that the topic did not have when the consumer was made.
    Added(u32, Arc<Status>),
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

/// What a consumer's fetchers have in common.
#[derive(Clone, Debug)]
pub(super) struct Fetching {
    pub(super) client: Client,
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) out_of_range: OutOfRange,
    pub(super) buffer_bytes: usize,
    pub(super) buffer_bytes_total: usize,
    /// How long a leader may be silent before the reader is told.
    pub(super) unreachable_after: Option<Duration>,
    pub(super) room_total: Arc<Semaphore>,
}

impl Fetching {
    /// A fetcher of one partition, and what the reader knows of it.
    pub(super) fn fetcher(
        &self,
        partition: u32,
        start: StartAt,
        chunks: mpsc::Sender<Delivered>,
    ) -> (Fetcher, Arc<Status>) {
        let status = Arc::new(Status::new());
        let fetcher = Fetcher {
            common: self.clone(),
            partition,
            start,
            cursor: Cursor::new(Arc::clone(&self.topic), partition),
            status: Arc::clone(&status),
            room: Arc::new(Semaphore::new(self.buffer_bytes)),
            chunks,
            hint: None,
            routes_since: Monotonic::ZERO,
            endpoint: String::new(),
            attempt: 0,
            damaged_at: None,
            heard_at: self.client.clock.monotonic(),
            is_reported: false,
        };
        (fetcher, status)
    }
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

/// An open subscription.
struct Stream {
    receiver: BatchReceiver,
    _place: StreamPlace,
}

/// Reads one partition.
#[derive(Debug)]
pub(super) struct Fetcher {
    common: Fetching,
    partition: u32,
    start: StartAt,
    cursor: Cursor,
    status: Arc<Status>,
    room: Arc<Semaphore>,
    chunks: mpsc::Sender<Delivered>,
    hint: Option<LeaderHint>,
    routes_since: Monotonic,
    /// Where the present subscription is, for errors.
    endpoint: String,
    attempt: u32,
    /// Where a damaged batch came once; a second time is not the transfer's fault.
    damaged_at: Option<i64>,
    /// When the leader was last heard.
    heard_at: Monotonic,
    /// Whether the reader was told that it is silent.
    is_reported: bool,
}

impl Fetcher {
    /// Reads until the reader is gone or an error that no retry mends. `opened` is told of the
    /// first subscription.
    pub(super) async fn run(mut self, opened: oneshot::Sender<()>) {
        let mut opened = Some(opened);
        loop {
            let stop = match self.subscribe().await {
                Ok(stream) => {
                    if let Some(opened) = opened.take() {
                        // Fails where nobody waits any more, which the channel tells too.
                        opened.send(()).ok();
                    }
                    self.receive(stream).await
                }
                Err(stop) => stop,
            };
            match stop {
                Stop::Closed => return,
                Stop::Failed(error) => {
                    drop(self.chunks.send(Delivered::Error(error)).await);
                    return;
                }
                Stop::Retry(reason) => {
                    if self.silence_left().is_some_and(|left| left.is_zero())
                        && self.report(reason.clone()).await.is_err()
                    {
                        return;
                    }
                    tracing::debug!(
                        topic = %self.common.topic, partition = self.partition,
                        reason, attempt = self.attempt, "subscribing anew"
                    );
                    let delay = BACKOFF.delay(self.attempt, &self.common.client.random);
                    self.attempt = self.attempt.saturating_add(1);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = self.chunks.closed() => return,
                    }
                    self.routes_since = self.common.client.clock.monotonic();
                }
            }
        }
    }

    /// Opens a subscription at the cursor, or where the reader wants to start.
    async fn subscribe(&mut self) -> Result<Stream, Stop> {
        let route = self.route().await?;
        if route.topic != self.common.topic_id {
            let message = "the topic was deleted and created again".to_owned();
            let error = ServiceError::new(ErrorCode::UnknownTopic, message);
            return Err(Stop::Failed(self.refused(error)));
        }
        let client = &self.common.client;
        let place = client.cluster.place(&route.endpoint).await.map_err(Stop::Retry)?;
        self.endpoint = route.endpoint;
        let start = self.cursor.next().map_or(self.start, StartAt::Offset);
        let frame_bytes = SUBSCRIPTION_FRAME_BYTES.min(self.common.buffer_bytes);
        let open = OpenSubscription {
            topic: route.topic,
            partition: PartitionIndex(self.partition),
            start,
            frame_bytes_max: u32::try_from(frame_bytes).unwrap_or(u32::MAX),
            trace: TraceId::default(),
        };
        match place.connection().subscribe(open).await {
            Ok((opened, receiver)) => {
                self.cursor.on_opened(opened.start);
                self.heard();
                self.status.start(opened.start);
                self.status.set_high_watermark(opened.high_watermark);
                Ok(Stream { receiver, _place: place })
            }
            Err(error) => Err(self.stop(error, start).await),
        }
    }

    async fn route(&mut self) -> Result<Route, Stop> {
        if let Some(hint) = self.hint.take() {
            let (topic, leader_epoch) = (self.common.topic_id, Some(hint.epoch));
            return Ok(Route { topic, endpoint: hint.endpoint, leader_epoch });
        }
        let (topic, partition) = (&self.common.topic, self.partition);
        let route = self.common.client.cluster.route(topic, partition, self.routes_since).await;
        route.map_err(|error| match error {
            AdminError::Service { code, message } if !code.is_retriable() => {
                Stop::Failed(self.refused(ServiceError::new(code, message)))
            }
            error => Stop::Retry(error.to_string()),
        })
    }

    /// Reads a subscription to its end.
    async fn receive(&mut self, mut stream: Stream) -> Stop {
        loop {
            let received = match self.next_frame(&mut stream.receiver).await {
                Ok(received) => received,
                Err(stop) => return stop,
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

    /// The next that the leader says. While it says nothing for too long it is asked, since a
    /// frame may just take its time; without an answer the reader is told.
    async fn next_frame(
        &mut self,
        receiver: &mut BatchReceiver,
    ) -> Result<Result<Option<Received>, CallError>, Stop> {
        let next = receiver.next();
        tokio::pin!(next);
        loop {
            let left = self.silence_left().unwrap_or(Duration::MAX);
            let asked = async {
                tokio::time::sleep(left).await;
                let (topic, partition) = (&self.common.topic, self.partition);
                self.common
                    .client
                    .cluster
                    .list_offsets(topic, &[partition], OffsetSpec::Latest)
                    .await
            };
            let answer = tokio::select! {
                biased;
                received = &mut next => {
                    if received.is_ok() {
                        self.heard();
                    }
                    return Ok(received);
                }
                () = self.chunks.closed() => return Err(Stop::Closed),
                answer = asked => answer,
            };
            match answer {
                Ok(_) => self.heard(),
                // Its own words are about changes.
                Err(AdminError::TimedOut) => self.report("it does not answer".to_owned()).await?,
                Err(error) => self.report(error.to_string()).await?,
            }
        }
    }

    /// The leader was heard.
    fn heard(&mut self) {
        self.heard_at = self.common.client.clock.monotonic();
        self.is_reported = false;
    }

    /// How long the leader may yet be silent before the reader is told; `None` once it was told,
    /// or where it does not want to be.
    fn silence_left(&self) -> Option<Duration> {
        let limit = self.common.unreachable_after.filter(|_| !self.is_reported)?;
        let silence = self.common.client.clock.monotonic().saturating_sub(self.heard_at);
        Some(limit.saturating_sub(silence))
    }

    /// Tells the reader that the leader is out of reach.
    async fn report(&mut self, reason: String) -> Result<(), Stop> {
        self.is_reported = true;
        let partition = self.partition;
        let silence = self.common.client.clock.monotonic().saturating_sub(self.heard_at);
        let error = ConsumerError::Unreachable { partition, silence, reason };
        self.chunks.send(Delivered::Error(error)).await.or(Err(Stop::Closed))
    }

    /// Verifies batches and hands them to the reader, waiting for room.
    async fn deliver(&mut self, bytes: Bytes, high_watermark: Offset) -> Result<(), Stop> {
        let size = bytes.len();
        let (items, damage) = self.cursor.accept(bytes, high_watermark);
        if !items.is_empty() {
            let room = [
                acquire(&self.room, size, self.common.buffer_bytes).await?,
                acquire(&self.common.room_total, size, self.common.buffer_bytes_total).await?,
            ];
            let chunk = Chunk { items, _room: room };
            self.chunks.send(Delivered::Chunk(chunk)).await.or(Err(Stop::Closed))?;
        }
        let Some(damage) = damage else { return Ok(()) };
        let (partition, offset) = (self.partition, damage.offset);
        if self.damaged_at.replace(offset) == Some(offset) {
            let reason = damage.reason;
            return Err(Stop::Failed(ConsumerError::CorruptBatch { partition, offset, reason }));
        }
        tracing::warn!(topic = %self.common.topic, partition, offset, reason = damage.reason,
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
        let start_over = match self.common.out_of_range {
            OutOfRange::Error => return self.out_of_range(start).await,
            OutOfRange::Earliest => StartAt::Earliest,
            OutOfRange::Latest => StartAt::Latest,
        };
        tracing::warn!(topic = %self.common.topic, partition = self.partition,
            ?start, ?start_over, "the position is out of range");
        self.cursor.reset();
        self.start = start_over;
        Stop::Retry(error.to_string())
    }

    /// The error for a start that the partition does not hold, with what it holds.
    async fn out_of_range(&self, start: StartAt) -> Stop {
        let partition = self.partition;
        let mut range = [0, 0];
        for (bound, spec) in range.iter_mut().zip([OffsetSpec::Earliest, OffsetSpec::Latest]) {
            let (cluster, topic) = (&self.common.client.cluster, &self.common.topic);
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
            partition: self.partition,
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
