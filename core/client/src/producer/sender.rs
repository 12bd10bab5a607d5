//! The task that brings one partition's batches to its leader: it does what the session decides,
//! and tells the session what came of it.

use std::sync::Arc;
use std::time::Duration;

use millstream_net::{AckReceiver, CallError, ProduceSender, StreamError};
use millstream_types::{PartitionIndex, TopicId};
use millstream_wire::api::{
    InitProducerRequest, LeaderHint, OpenProduce, ProduceAck, ProducerIdentity, Response,
    ServiceError, TraceId,
};

use super::core::{Core, SharedCore};
use super::queue::{Demand, Monotonic, PartitionQueue, Take};
use super::session::{Failure, Session, Step};
use crate::admin::unexpected;
use crate::cluster::Route;
use crate::connections::StreamPlace;
use crate::error::{AdminError, DeliveryError};

/// A stream on which nothing was sent for so long is closed, and opened again when needed.
const IDLE_CLOSE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Stream {
    sender: ProduceSender,
    acks: AckReceiver,
    _place: StreamPlace,
}

type Answer = Result<Option<Result<ProduceAck, ServiceError>>, StreamError>;

/// One partition's sender.
#[derive(Debug)]
pub(super) struct Sender {
    core: SharedCore,
    queue: Arc<PartitionQueue>,
    session: Session,
    stream: Option<Stream>,
    topic: Option<TopicId>,
    /// Where a broker said that the leader is.
    hint: Option<LeaderHint>,
    /// What was heard of the leader before this is known to be wrong.
    routes_since: Monotonic,
}

impl Sender {
    pub(super) fn new(core: SharedCore, queue: Arc<PartitionQueue>) -> Self {
        let session = Session::new(core.session(queue.partition));
        Self {
            core,
            queue,
            session,
            stream: None,
            topic: None,
            hint: None,
            routes_since: Monotonic::ZERO,
        }
    }

    /// Sends until the queue is closed and empty and every batch is settled.
    pub(super) async fn run(mut self) {
        loop {
            let now = self.core.now();
            self.session.expire(now);
            self.expire_queue(now);
            settle(&self.core, &self.queue, &mut self.session);
            if !self.session.is_up() {
                self.stream = None;
            }
            let queued = self.queue.oldest().is_some();
            match self.session.next(now, queued) {
                Step::Init(identity) => self.init(now, identity).await,
                Step::Open(identity) => self.open(now, identity).await,
                Step::Send(bytes) => self.send(bytes).await,
                Step::Pull => match self.queue.take(self.core.linger, self.demand(now)) {
                    Take::Batch(batch) => self.session.push(batch),
                    Take::WaitUntil(due) => self.wait(now, Some(due)).await,
                    Take::Closed if !self.session.has_in_flight() => break,
                    Take::Empty | Take::Closed => self.wait(now, None).await,
                },
                Step::Wait if self.queue.is_done() && !self.session.has_in_flight() => break,
                Step::Wait => self.wait(now, None).await,
            }
        }
        if let Some(stream) = &mut self.stream {
            stream.sender.finish();
        }
    }

    fn demand(&self, now: Monotonic) -> Demand {
        Demand {
            now,
            in_flight: self.session.has_in_flight(),
            buffer_short: self.core.buffer.is_short(),
        }
    }

    /// Fails what waited in the queue for longer than a record may take.
    fn expire_queue(&self, now: Monotonic) {
        let Some(since) = now.checked_sub(self.core.delivery_timeout) else { return };
        while let Some(batch) = self.queue.take_expired(since) {
            let last_error = self.session.last_error();
            self.core.fail(batch, DeliveryError::Expired { last_error });
        }
    }

    /// Waits for an answer, for the queue, or for the next deadline.
    async fn wait(&mut self, now: Monotonic, until: Option<Monotonic>) {
        let oldest = self.queue.oldest();
        let expiry = oldest.map(|since| since.saturating_add(self.core.delivery_timeout));
        let busy = oldest.is_some() || self.session.has_in_flight();
        let idle = (!busy && self.stream.is_some()).then(|| now.saturating_add(IDLE_CLOSE));
        let deadlines = [until, self.session.deadline(oldest.is_some()), expiry, idle];
        let deadline = deadlines.into_iter().flatten().min();
        let sleep = async {
            match deadline {
                Some(deadline) => tokio::time::sleep(deadline.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        let answer = async {
            match &mut self.stream {
                Some(stream) => stream.acks.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answer => {
                let Self { core, session, hint, routes_since, .. } = self;
                on_answer(core, session, hint, routes_since, answer);
            }
            () = self.queue.woken() => {}
            () = sleep => {
                if idle.is_some() && deadline == idle {
                    self.session.on_idle();
                    if let Some(mut stream) = self.stream.take() {
                        stream.sender.finish();
                    }
                }
            }
        }
    }

    /// Sends one batch; takes acknowledgements meanwhile.
    async fn send(&mut self, bytes: bytes::Bytes) {
        let Self { core, queue, session, stream, hint, routes_since, .. } = self;
        let Some(Stream { sender, acks, .. }) = stream else {
            let random = &core.client.random;
            return session.on_stream_lost(core.now(), "no stream is open", random);
        };
        let send = sender.send(bytes);
        tokio::pin!(send);
        while session.is_up() {
            let now = core.now();
            let deadline = session.expiry().unwrap_or(Monotonic::MAX);
            tokio::select! {
                biased;
                sent = &mut send => {
                    match sent {
                        // Why the broker stopped reading is still to be read.
                        Ok(()) | Err(StreamError::Stopped(_)) => {}
                        Err(error) => {
                            *routes_since = core.now();
                            let random = &core.client.random;
                            session.on_stream_lost(core.now(), &error.to_string(), random);
                        }
                    }
                    return;
                }
                answer = acks.next() => {
                    on_answer(core, session, hint, routes_since, answer);
                    settle(core, queue, session);
                }
                () = tokio::time::sleep(deadline.saturating_sub(now)) => {
                    session.expire(core.now());
                    settle(core, queue, session);
                }
            }
        }
    }

    /// Asks for an identity.
    async fn init(&mut self, now: Monotonic, producer: Option<ProducerIdentity>) {
        let request = InitProducerRequest { producer };
        let call = self.core.client.cluster.call(request.into());
        let answer = self.in_time(now, call).await.and_then(|response| match response {
            Response::InitProducer(response) => Ok(response.producer),
            other => Err(admin_failure(unexpected(&other))),
        });
        match answer {
            Ok(identity) => self.session.on_identity(identity),
            Err(failure) => {
                let random = &self.core.client.random;
                self.session.on_init_failed(self.core.now(), failure, random);
            }
        }
    }

    /// Finds the leader and opens a stream to it.
    async fn open(&mut self, now: Monotonic, producer: Option<ProducerIdentity>) {
        let route = match self.route(now).await {
            Ok(route) => route,
            Err(failure) => return self.open_failed(failure),
        };
        if self.topic.replace(route.topic).is_some_and(|known| known != route.topic) {
            // What is in flight was for the old one; the session looks again.
            return self.session.on_topic_replaced();
        }
        let open = OpenProduce {
            topic: route.topic,
            partition: PartitionIndex(self.queue.partition),
            leader_epoch: route.leader_epoch,
            producer,
            acks: self.core.acks,
            trace: TraceId::default(),
        };
        let core = Arc::clone(&self.core);
        let opening = async {
            let place = core.client.cluster.place(&route.endpoint).await;
            let place = place.map_err(Failure::Unreachable)?;
            let opened = place.connection().open_produce(open).await;
            opened.map(|opened| (opened, place)).map_err(call_failure)
        };
        match self.bounded(now, opening).await {
            Ok(((opened, sender, acks), place)) => {
                let batch_bytes = usize::try_from(opened.batch_bytes_max).unwrap_or(usize::MAX);
                self.queue.limit_batch_bytes(batch_bytes);
                let in_flight = usize::try_from(opened.in_flight_max).unwrap_or(usize::MAX);
                self.session.on_opened(in_flight);
                self.stream = Some(Stream { sender, acks, _place: place });
                tracing::debug!(
                    topic = %self.queue.topic, partition = self.queue.partition,
                    endpoint = route.endpoint, "a produce stream is open"
                );
            }
            Err(failure) => self.open_failed(failure),
        }
    }

    /// Where the leader is: by the last broker's word, or by metadata.
    async fn route(&mut self, now: Monotonic) -> Result<Route, Failure> {
        if let (Some(hint), Some(topic)) = (self.hint.take(), self.topic) {
            let leader_epoch = Some(hint.epoch);
            return Ok(Route { topic, endpoint: hint.endpoint, leader_epoch });
        }
        let core = Arc::clone(&self.core);
        let (name, partition) = (Arc::clone(&self.queue.topic), self.queue.partition);
        let routes_since = self.routes_since;
        self.in_time(now, core.client.cluster.route(&name, partition, routes_since)).await
    }

    fn open_failed(&mut self, failure: Failure) {
        let now = self.core.now();
        self.routes_since = now;
        if let Failure::Refused(error) = &failure {
            self.hint = error.leader.clone();
        }
        self.session.on_open_failed(now, failure, &self.core.client.random);
    }

    /// Waits for a request no longer than the first batch in line may take.
    async fn in_time<T>(
        &self,
        now: Monotonic,
        work: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, Failure> {
        self.bounded(now, async { work.await.map_err(admin_failure) }).await
    }

    async fn bounded<T>(
        &self,
        now: Monotonic,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let queued = self.queue.oldest().map(|since| since + self.core.delivery_timeout);
        let expiry = [queued, self.session.expiry()].into_iter().flatten().min();
        let left = expiry.map_or(Duration::MAX, |expiry| expiry.saturating_sub(now));
        let limit = left.min(self.core.client.cluster.request_timeout());
        let timed = tokio::time::timeout(limit, work).await;
        timed.unwrap_or_else(|_late| Err(Failure::Unreachable("no answer in time".to_owned())))
    }
}

impl Drop for Sender {
    /// With the runtime, the task may end at any await: nobody must wait for ever.
    fn drop(&mut self) {
        self.queue.close();
        self.session.abandon();
        settle(&self.core, &self.queue, &mut self.session);
        while let Some(batch) = self.queue.take_any() {
            self.core.fail(batch, DeliveryError::Abandoned);
        }
    }
}

/// Tells the session what the stream said.
fn on_answer(
    core: &Core,
    session: &mut Session,
    hint: &mut Option<LeaderHint>,
    routes_since: &mut Monotonic,
    answer: Answer,
) {
    let now = core.now();
    let random = &core.client.random;
    match answer {
        Ok(Some(Ok(ack))) => return session.on_ack(now, ack, random),
        Ok(Some(Err(error))) => {
            hint.clone_from(&error.leader);
            session.on_refused(now, error, random);
        }
        Ok(None) => session.on_stream_lost(now, "the broker ended the stream", random),
        Err(error) => {
            if let StreamError::Ended(error) = &error {
                hint.clone_from(&error.leader);
            }
            session.on_stream_lost(now, &error.to_string(), random);
        }
    }
    *routes_since = now;
}

/// Passes on what the session has settled.
fn settle(core: &Core, queue: &PartitionQueue, session: &mut Session) {
    for settled in session.take_settled() {
        core.settle(&settled.state, settled.records, settled.reserved, settled.outcome);
    }
    if let Some(error) = session.take_refusal() {
        while let Some(batch) = queue.take_any() {
            core.fail(batch, error.clone());
        }
    }
}

fn admin_failure(error: AdminError) -> Failure {
    match error {
        AdminError::Service { code, message } => Failure::Refused(ServiceError::new(code, message)),
        other => Failure::Unreachable(other.to_string()),
    }
}

fn call_failure(error: CallError) -> Failure {
    match error {
        CallError::Service(error) => Failure::Refused(error),
        other => Failure::Unreachable(other.to_string()),
    }
}
