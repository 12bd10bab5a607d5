//! A small broker over the real QUIC front: logs in memory, idempotence as the real one has it,
//! and faults on demand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream_net::{Authority, ClientAuth, Server, ServerConfig, ServerTls};
use millstream_service::{
    OpenProduce, OpenSubscription, ProduceAck, ProduceOpened, ProduceSession, Progress, Request,
    RequestContext, Response, Service, ServiceError, Subscription, SubscriptionEvent,
    SubscriptionOpened,
};
use millstream_types::{
    BrokerId, ClusterId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    TimestampMs, TopicId,
};
use millstream_wire::api::{
    BrokerMetadata, DeleteTopicResponse, InitProducerResponse, LeaderHint, ListOffsetsResponse,
    MetadataResponse, OffsetSpec, PartitionMetadata, PartitionOffset, ProducerIdentity, StartAt,
    TopicMetadata,
};
use millstream_wire::{Batch, IncomingBatch};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::archive;

pub(crate) const TOPIC: TopicId = TopicId::from_bytes(*b"the-only-topic-0");
const NOW: TimestampMs = TimestampMs(1_795_000_000_000);

/// One partition: batches with their end, and what is known of producers.
#[derive(Default)]
struct Log {
    start: i64,
    end: i64,
    batches: Vec<(i64, Bytes)>,
    producers: BTreeMap<i64, Known>,
}

/// What a partition knows of a producer.
struct Known {
    epoch: i16,
    next_sequence: i32,
    /// Sequence and offset of the last batches.
    kept: Vec<(i32, i64)>,
}

impl Log {
    fn append(&mut self, bytes: BytesMut) -> Result<i64, ErrorCode> {
        let incoming = IncomingBatch::validate(bytes, 4 << 20).map_err(|error| error.code())?;
        let header = *incoming.header();
        let base = self.end;
        if header.producer_id.is_some() {
            let (id, epoch) = (header.producer_id.0, header.producer_epoch.0);
            let next = header.last_sequence().checked_add(1).unwrap_or(0);
            match self.producers.get_mut(&id) {
                Some(known) if known.epoch > epoch => return Err(ErrorCode::FencedProducer),
                Some(known) if known.epoch == epoch => {
                    let sequence = header.base_sequence;
                    if let Some((_, base)) = known.kept.iter().find(|(kept, _)| *kept == sequence) {
                        return Ok(*base);
                    }
                    if sequence != known.next_sequence {
                        return Err(ErrorCode::OutOfOrderSequence);
                    }
                    known.next_sequence = next;
                    known.kept.push((sequence, base));
                    if known.kept.len() > 5 {
                        known.kept.remove(0);
                    }
                }
                _ if header.base_sequence != 0 => return Err(ErrorCode::UnknownProducer),
                _ => {
                    let kept = vec![(0, base)];
                    self.producers.insert(id, Known { epoch, next_sequence: next, kept });
                }
            }
        }
        self.end += i64::from(header.record_count);
        let batch = incoming.assign(Offset::new(base).unwrap(), LeaderEpoch(3));
        self.batches.push((self.end, batch.into_bytes()));
        Ok(base)
    }
}

/// What goes wrong; each count is used up.
#[derive(Default)]
pub(crate) struct Faults {
    /// Batches that are stored but answered with an error.
    pub(crate) lose_acks: u32,
    /// Batches that are refused for good.
    pub(crate) refuse_batches: u32,
    /// Batches that are delivered with a flipped bit.
    pub(crate) flip_bits: u32,
}

struct State {
    logs: Vec<Log>,
    /// Index of the broker that leads every partition.
    leader: usize,
    endpoints: Vec<String>,
    next_producer: i64,
    faults: Faults,
    /// Streams that brokers started from now on allow on a connection.
    streams_max: u32,
    /// Answers of the broker that does not lead.
    not_leader_answers: u32,
    /// Whether the topic was deleted; it is served all the same.
    deleted: bool,
}

/// What all brokers of the test cluster share.
pub(crate) struct Cluster {
    state: Mutex<State>,
    /// Counts changes; subscriptions at the tail wait for one.
    changed: watch::Sender<u64>,
    /// While true, acknowledgements are held back.
    hold: watch::Sender<bool>,
    authority: Authority,
}

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

impl Cluster {
    pub(crate) fn new(partitions: usize) -> Arc<Self> {
        let state = State {
            logs: (0..partitions).map(|_| Log::default()).collect(),
            leader: 0,
            endpoints: Vec::new(),
            next_producer: 100,
            faults: Faults::default(),
            streams_max: 1024,
            not_leader_answers: 0,
            deleted: false,
        };
        let authority = Authority::create(ClusterId::NIL, NOW).unwrap();
        Arc::new(Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            hold: watch::Sender::new(false),
            authority,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn ca_pem(&self) -> String {
        self.authority.certificate_pem().to_owned()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    pub(crate) fn set_streams_max(&self, streams_max: u32) {
        self.state().streams_max = streams_max;
    }

    pub(crate) fn set_leader(&self, broker: usize) {
        self.state().leader = broker;
    }

    pub(crate) fn not_leader_answers(&self) -> u32 {
        self.state().not_leader_answers
    }

    pub(crate) fn hold_acks(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    /// Adds a partition that holds nothing.
    pub(crate) fn add_partition(&self) {
        self.state().logs.push(Log::default());
    }

    /// Drops everything before `start`.
    pub(crate) fn truncate_front(&self, partition: usize, start: i64) {
        let mut state = self.state();
        let log = &mut state.logs[partition];
        log.start = start;
        log.batches.retain(|(end, _)| *end > start);
    }

    /// Every value in a partition, in order.
    pub(crate) fn values(&self, partition: usize) -> Vec<Bytes> {
        let state = self.state();
        let mut values = Vec::new();
        for (_, bytes) in &state.logs[partition].batches {
            for record in Batch::validate(bytes.clone()).unwrap().records().unwrap() {
                values.push(record.unwrap().value.unwrap());
            }
        }
        values
    }

    pub(crate) fn batches(&self, partition: usize) -> usize {
        self.state().logs[partition].batches.len()
    }

    fn metadata(&self) -> MetadataResponse {
        let state = self.state();
        let id = |index: usize| BrokerId(u32::try_from(index).unwrap());
        let brokers = (0..).zip(&state.endpoints).map(|(index, endpoint)| BrokerMetadata {
            broker: id(index),
            endpoint: endpoint.clone(),
        });
        let partitions = (0..).zip(&state.logs).map(|(partition, _)| PartitionMetadata {
            partition: PartitionIndex(partition),
            leader: Some(id(state.leader)),
            leader_epoch: LeaderEpoch(3),
            replicas: vec![],
            in_sync: vec![],
        });
        let topic = TopicMetadata {
            error: ErrorCode::None,
            name: "t".to_owned(),
            topic: TOPIC,
            partitions: partitions.collect(),
        };
        MetadataResponse {
            cluster: ClusterId::NIL,
            brokers: brokers.collect(),
            topics: vec![topic],
        }
    }
}

/// One broker of the cluster.
pub(crate) struct TestBroker {
    index: usize,
    cluster: Arc<Cluster>,
}

/// A broker that listens, until dropped or cut.
pub(crate) struct Running {
    broker: Arc<TestBroker>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts the next broker of the cluster.
    pub(crate) async fn start(cluster: &Arc<Cluster>) -> Self {
        let index = cluster.state().endpoints.len();
        let broker = Arc::new(TestBroker { index, cluster: Arc::clone(cluster) });
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, task) = listen(&broker, any).await;
        cluster.state().endpoints.push(address.to_string());
        Self { broker, address, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Ends all connections abruptly and listens again at the same address.
    pub(crate) async fn cut(&mut self) {
        self.stop().await;
        let (_, task) = listen(&self.broker, self.address).await;
        self.task = task;
    }

    /// Ends all connections abruptly, for good.
    pub(crate) async fn stop(&mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(broker: &Arc<TestBroker>, at: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let identity = broker.cluster.authority.issue_server(&[], NOW).unwrap();
    for _ in 0..100 {
        let tls = ServerTls { identity: identity.clone(), client_auth: ClientAuth::None };
        let id = BrokerId(u32::try_from(broker.index).unwrap());
        let mut config = ServerConfig::new(at, tls, ClusterId::NIL, id);
        config.transport.streams_max = broker.cluster.state().streams_max;
        if let Ok(server) = Server::bind(config, Arc::clone(broker)) {
            let address = server.local_addr();
            return (address, tokio::spawn(async move { server.run().await }));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{at} stays taken");
}

impl TestBroker {
    /// The error of a broker that does not lead.
    fn check_leader(&self) -> Result<(), ServiceError> {
        let mut state = self.cluster.state();
        if state.leader == self.index {
            return Ok(());
        }
        state.not_leader_answers += 1;
        let hint = LeaderHint {
            broker: BrokerId(u32::try_from(state.leader).unwrap()),
            epoch: LeaderEpoch(3),
            endpoint: state.endpoints[state.leader].clone(),
        };
        Err(ServiceError::new(ErrorCode::NotLeader, "another leads").with_leader(hint))
    }
}

impl Service for TestBroker {
    type Produce = Session;
    type Subscription = Tail;

    fn reply_bytes_max(&self, _: &Request) -> usize {
        4096
    }

    async fn unary(&self, _: RequestContext, request: Request) -> Result<Response, ServiceError> {
        match request {
            Request::Metadata(request) => {
                let mut metadata = self.cluster.metadata();
                if let Some(name) = request.topics.and_then(|names| names.into_iter().next())
                    && name != "t"
                {
                    metadata.topics[0].error = ErrorCode::UnknownTopic;
                    metadata.topics[0].name = name;
                }
                Ok(metadata.into())
            }
            Request::InitProducer(request) => {
                let mut state = self.cluster.state();
                let producer = match request.producer {
                    Some(known) => {
                        ProducerIdentity { epoch: ProducerEpoch(known.epoch.0 + 1), ..known }
                    }
                    None => {
                        state.next_producer += 1;
                        let id = ProducerId(state.next_producer);
                        ProducerIdentity { id, epoch: ProducerEpoch(0) }
                    }
                };
                Ok(InitProducerResponse { producer }.into())
            }
            Request::ListOffsets(request) => {
                let state = self.cluster.state();
                let answer = |partition: &PartitionIndex| {
                    let log = &state.logs[partition.0 as usize];
                    let at = if request.spec == OffsetSpec::Earliest { log.start } else { log.end };
                    PartitionOffset {
                        partition: *partition,
                        error: ErrorCode::None,
                        offset: Some(offset(at)),
                        timestamp: TimestampMs::NONE,
                        leader_epoch: LeaderEpoch(3),
                    }
                };
                let partitions = request.partitions.iter().map(answer).collect();
                Ok(ListOffsetsResponse { partitions }.into())
            }
            Request::DeleteTopic(request) => {
                let mut state = self.cluster.state();
                let topic = (!state.deleted).then_some(TOPIC);
                if topic.is_none() && !request.if_exists {
                    return Err(ServiceError::new(ErrorCode::UnknownTopic, "deleted"));
                }
                state.deleted = true;
                Ok(DeleteTopicResponse { topic }.into())
            }
            Request::VerifyArchive(request) => {
                self.check_leader()?;
                Ok(archive::verify(&request).into())
            }
            Request::ArchiveStatus(request) => {
                let leads = self.cluster.state().leader == self.index;
                Ok(archive::status(&request, leads).into())
            }
            other => archive::answer(other),
        }
    }

    async fn open_produce(
        &self,
        _: RequestContext,
        open: OpenProduce,
    ) -> Result<(ProduceOpened, Session), ServiceError> {
        self.check_leader()?;
        let opened = ProduceOpened {
            leader_epoch: LeaderEpoch(3),
            batch_bytes_max: 4 << 20,
            in_flight_max: 256,
        };
        let partition = open.partition.0 as usize;
        let (cluster, index) = (Arc::clone(&self.cluster), self.index);
        Ok((opened, Session { broker: Self { index, cluster }, partition }))
    }

    async fn subscribe(
        &self,
        _: RequestContext,
        open: OpenSubscription,
    ) -> Result<(SubscriptionOpened, Tail), ServiceError> {
        self.check_leader()?;
        let partition = open.partition.0 as usize;
        let state = self.cluster.state();
        let log = &state.logs[partition];
        let next = match open.start {
            StartAt::Earliest | StartAt::Timestamp(_) => log.start,
            StartAt::Latest => log.end,
            StartAt::Offset(offset) => offset.value(),
        };
        if !(log.start..=log.end).contains(&next) {
            return Err(ServiceError::new(ErrorCode::OffsetOutOfRange, "out of range"));
        }
        let opened = SubscriptionOpened {
            start: offset(next),
            log_start: offset(log.start),
            high_watermark: offset(log.end),
            leader_epoch: LeaderEpoch(3),
        };
        let changed = self.cluster.changed.subscribe();
        let cluster = Arc::clone(&self.cluster);
        Ok((opened, Tail { cluster, partition, next, changed }))
    }
}

/// A produce session.
pub(crate) struct Session {
    broker: TestBroker,
    partition: usize,
}

impl ProduceSession for Session {
    type Ack = Pin<Box<dyn Future<Output = Result<ProduceAck, ServiceError>> + Send>>;

    async fn append(&mut self, batch: BytesMut) -> Self::Ack {
        let answer = self.store(batch);
        let cluster = Arc::clone(&self.broker.cluster);
        cluster.changed.send_modify(|changes| *changes += 1);
        Box::pin(async move {
            drop(cluster.hold.subscribe().wait_for(|hold| !hold).await);
            answer
        })
    }
}

impl Session {
    fn store(&self, batch: BytesMut) -> Result<ProduceAck, ServiceError> {
        self.broker.check_leader()?;
        let mut state = self.broker.cluster.state();
        if state.faults.refuse_batches > 0 {
            state.faults.refuse_batches -= 1;
            return Err(ServiceError::new(ErrorCode::InvalidTimestamp, "refused by the test"));
        }
        let base = state.logs[self.partition]
            .append(batch)
            .map_err(|code| ServiceError::new(code, "by the test's log"))?;
        if state.faults.lose_acks > 0 {
            state.faults.lose_acks -= 1;
            return Err(ServiceError::new(ErrorCode::TimedOut, "stored, but not acknowledged"));
        }
        let append_time = TimestampMs::NONE;
        Ok(ProduceAck { base_offset: offset(base), append_time, throttle_ms: 0 })
    }
}

/// A subscription.
pub(crate) struct Tail {
    cluster: Arc<Cluster>,
    partition: usize,
    next: i64,
    changed: watch::Receiver<u64>,
}

impl Tail {
    fn read(&mut self) -> Option<SubscriptionEvent> {
        self.changed.borrow_and_update();
        let mut state = self.cluster.state();
        let flip = state.faults.flip_bits > 0;
        let log = &state.logs[self.partition];
        let high_watermark = offset(log.end);
        let (end, bytes) = log.batches.iter().find(|(end, _)| *end > self.next)?.clone();
        self.next = end;
        let mut bytes = BytesMut::from(&bytes[..]);
        if flip {
            state.faults.flip_bits -= 1;
            *bytes.last_mut().unwrap() ^= 1;
        }
        Some(SubscriptionEvent::Batches { batches: vec![bytes.freeze()], high_watermark })
    }
}

impl Subscription for Tail {
    async fn next(&mut self) -> Result<SubscriptionEvent, ServiceError> {
        loop {
            if let Some(event) = self.read() {
                return Ok(event);
            }
            let wait = tokio::time::timeout(Duration::from_millis(100), self.changed.changed());
            if wait.await.is_err() {
                let state = self.cluster.state();
                let log = &state.logs[self.partition];
                let (high_watermark, log_start) = (offset(log.end), offset(log.start));
                return Ok(SubscriptionEvent::Progress(Progress { high_watermark, log_start }));
            }
        }
    }
}
