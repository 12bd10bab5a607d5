//! A service in memory and a server around it, on loopback.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream_net::{
    Authority, ClientAuth, ClientTls, Connector, ConnectorConfig, Identity, Server, ServerConfig,
    ServerTls,
};
use millstream_service::{
    LeaderHint, OpenProduce, OpenSubscription, Principal, ProduceAck, ProduceOpened,
    ProduceSession, Progress, Request, RequestContext, Response, Service, ServiceError,
    Subscription, SubscriptionEvent, SubscriptionOpened,
};
use millstream_types::{
    BrokerId, ClusterId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId,
};
use millstream_wire::api::{
    Acks, BrokerStatusResponse, MetadataRequest, MetadataResponse, Metric, MetricValue,
    PartitionMetadata, StartAt, TopicMetadata, TraceId,
};
use tokio::sync::{Notify, watch};

pub(crate) const NOW: TimestampMs = TimestampMs(1_763_800_000_000);
pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
pub(crate) const TOPIC: TopicId = TopicId::from_bytes([9; 16]);
pub(crate) const WAIT: Duration = Duration::from_secs(10);

/// Delivers what was produced.
pub(crate) const LOG: PartitionIndex = PartitionIndex(0);
/// Delivers 256 KiB pieces without end.
pub(crate) const FIREHOSE: PartitionIndex = PartitionIndex(1);
/// Fails after one event.
pub(crate) const FAILING: PartitionIndex = PartitionIndex(2);
/// Delivers 1 MiB pieces that it can deliver again.
pub(crate) const OLD: PartitionIndex = PartitionIndex(4);
pub(crate) const OLD_PIECE_BYTES: usize = 1 << 20;
/// Has another leader.
pub(crate) const ELSEWHERE: PartitionIndex = PartitionIndex(3);

pub(crate) struct Memory {
    pub(crate) log: watch::Sender<Vec<Bytes>>,
    pub(crate) gate: watch::Sender<bool>,
    pub(crate) appended: AtomicUsize,
    pub(crate) subscriptions: AtomicUsize,
    pub(crate) calls_open: AtomicUsize,
    /// Replies to requests for named topics.
    pub(crate) replies_built: AtomicUsize,
    pub(crate) principals: Mutex<Vec<Principal>>,
    /// Bytes of pieces of `OLD` that are somewhere.
    pub(crate) lent_bytes: Arc<AtomicUsize>,
    pub(crate) is_short: AtomicBool,
    pub(crate) overstayed: Arc<Notify>,
}

/// A piece of `OLD` that counts itself.
struct Lent {
    bytes: Vec<u8>,
    lent_bytes: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.lent_bytes.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

/// What the piece of `OLD` with this number holds.
pub(crate) fn old_piece(number: usize) -> Vec<u8> {
    let words = (0..OLD_PIECE_BYTES / 8).map(|word| (number << 32) + word);
    words.flat_map(usize::to_be_bytes).collect()
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            log: watch::Sender::new(Vec::new()),
            gate: watch::Sender::new(true),
            appended: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
            calls_open: AtomicUsize::new(0),
            replies_built: AtomicUsize::new(0),
            principals: Mutex::default(),
            lent_bytes: Arc::default(),
            is_short: AtomicBool::new(false),
            overstayed: Arc::default(),
        })
    }
}

/// Topics whose names say about how many bytes they take in a reply.
fn topics_of(names: &[String]) -> MetadataResponse {
    let topics = names.iter().map(|name| {
        let bytes: usize = name.parse().unwrap();
        let partition = PartitionMetadata {
            partition: LOG,
            leader: None,
            leader_epoch: LeaderEpoch(1),
            replicas: vec![BrokerId(1); 10],
            in_sync: vec![BrokerId(1); 10],
        };
        TopicMetadata {
            error: ErrorCode::None,
            name: name.clone(),
            topic: TOPIC,
            partitions: vec![partition; bytes / 97],
        }
    });
    MetadataResponse { cluster: CLUSTER, brokers: vec![], topics: topics.collect() }
}

pub(crate) fn elsewhere() -> ServiceError {
    ServiceError::new(ErrorCode::NotLeader, "broker 2 leads").with_leader(LeaderHint {
        broker: BrokerId(2),
        epoch: LeaderEpoch(5),
        endpoint: "two.example:9092".to_owned(),
    })
}

struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) struct Front(pub Arc<Memory>);

impl Service for Front {
    type Produce = Session;
    type Subscription = Feed;

    fn reply_bytes_max(&self, request: &Request) -> usize {
        match request {
            Request::Metadata(request) => request.topics.as_ref().map_or(0, |names| {
                names.iter().filter_map(|name| name.parse::<usize>().ok()).sum::<usize>() + 128
            }),
            _ => 0,
        }
    }

    async fn unary(
        &self,
        context: RequestContext,
        request: Request,
    ) -> Result<Response, ServiceError> {
        self.0.calls_open.fetch_add(1, Ordering::SeqCst);
        let _open = Open(&self.0.calls_open);
        self.0.principals.lock().unwrap().push(context.principal.clone());
        match request {
            Request::Metadata(MetadataRequest { topics: Some(names) }) => {
                self.0.replies_built.fetch_add(1, Ordering::SeqCst);
                Ok(Response::Metadata(topics_of(&names)))
            }
            Request::Metadata(_) => Ok(Response::Metadata(MetadataResponse {
                cluster: CLUSTER,
                brokers: vec![],
                topics: vec![],
            })),
            // Waits for the gate, so that a test decides how long it takes.
            Request::BrokerStatus(_) => {
                let mut gate = self.0.gate.subscribe();
                gate.wait_for(|open| *open).await.unwrap();
                let metric = Metric { name: "up".to_owned(), value: MetricValue::Counter(1) };
                Ok(Response::BrokerStatus(BrokerStatusResponse { metrics: vec![metric] }))
            }
            other => {
                Err(ServiceError::new(ErrorCode::InvalidRequest, format!("{:?}", other.api())))
            }
        }
    }

    async fn open_produce(
        &self,
        _context: RequestContext,
        open: OpenProduce,
    ) -> Result<(ProduceOpened, Session), ServiceError> {
        if open.partition == ELSEWHERE {
            return Err(elsewhere());
        }
        let opened = ProduceOpened {
            leader_epoch: LeaderEpoch(1),
            batch_bytes_max: 1 << 20,
            in_flight_max: 256,
        };
        Ok((opened, Session { memory: Arc::clone(&self.0), count: 0 }))
    }

    async fn subscribe(
        &self,
        _context: RequestContext,
        open: OpenSubscription,
    ) -> Result<(SubscriptionOpened, Feed), ServiceError> {
        if open.partition == ELSEWHERE {
            return Err(elsewhere());
        }
        self.0.subscriptions.fetch_add(1, Ordering::SeqCst);
        let opened = SubscriptionOpened {
            start: Offset::ZERO,
            log_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            leader_epoch: LeaderEpoch(1),
        };
        let log = self.0.log.subscribe();
        let memory = Arc::clone(&self.0);
        Ok((opened, Feed { memory, log, partition: open.partition, position: 0 }))
    }
}

pub(crate) struct Session {
    memory: Arc<Memory>,
    count: u64,
}

impl ProduceSession for Session {
    type Ack = Pin<Box<dyn Future<Output = Result<ProduceAck, ServiceError>> + Send>>;

    /// The offset is the batch's number. A batch `bad...` is refused; the acknowledgement of every
    /// third comes late, so that completions are out of order; all wait for the gate.
    async fn append(&mut self, batch: BytesMut) -> Self::Ack {
        let number = self.count;
        self.count += 1;
        self.memory.appended.fetch_add(1, Ordering::SeqCst);
        let bad = batch.starts_with(b"bad");
        let mut gate = self.memory.gate.subscribe();
        self.memory.log.send_modify(|log| log.push(batch.freeze()));
        Box::pin(async move {
            gate.wait_for(|open| *open).await.unwrap();
            if number.is_multiple_of(3) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if bad {
                return Err(ServiceError::new(ErrorCode::CorruptBatch, "bad"));
            }
            let base_offset = Offset::ZERO.plus(number);
            Ok(ProduceAck { base_offset, append_time: NOW, throttle_ms: 0 })
        })
    }
}

pub(crate) struct Feed {
    memory: Arc<Memory>,
    log: watch::Receiver<Vec<Bytes>>,
    partition: PartitionIndex,
    position: usize,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.memory.subscriptions.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Feed {
    /// The piece before this place, in two halves.
    fn old(&self) -> Vec<Bytes> {
        let bytes = old_piece(self.position - 1);
        self.memory.lent_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
        let lent_bytes = Arc::clone(&self.memory.lent_bytes);
        let mut first = Bytes::from_owner(Lent { bytes, lent_bytes });
        let second = first.split_off(OLD_PIECE_BYTES / 2);
        vec![first, second]
    }
}

impl Subscription for Feed {
    fn is_repeatable(&self) -> bool {
        self.partition == OLD
    }

    fn keeps_others_waiting(&self) -> bool {
        self.memory.is_short.load(Ordering::SeqCst)
    }

    fn overstayed(&self) -> impl Future<Output = ()> + Send + 'static {
        let overstayed = Arc::clone(&self.memory.overstayed);
        async move { overstayed.notified().await }
    }

    async fn again(&mut self) -> Result<Vec<Bytes>, ServiceError> {
        Ok(self.old())
    }

    async fn next(&mut self) -> Result<SubscriptionEvent, ServiceError> {
        if self.partition == OLD {
            self.position += 1;
            let high_watermark = Offset::ZERO.plus(self.position as u64);
            return Ok(SubscriptionEvent::Batches { batches: self.old(), high_watermark });
        }
        if self.partition == FIREHOSE {
            let batches = vec![Bytes::from(vec![b'x'; 256 * 1024]); 4];
            return Ok(SubscriptionEvent::Batches { batches, high_watermark: Offset::MAX });
        }
        if self.partition == FAILING && self.position > 0 {
            return Err(elsewhere());
        }
        if self.partition == FAILING {
            self.position = 1;
            let progress = Progress { high_watermark: Offset::ZERO, log_start: Offset::ZERO };
            return Ok(SubscriptionEvent::Progress(progress));
        }
        let position = self.position;
        let log = self.log.wait_for(|log| log.len() > position).await.unwrap();
        let batches = log[position..].to_vec();
        let high_watermark = Offset::ZERO.plus(log.len() as u64);
        self.position = log.len();
        Ok(SubscriptionEvent::Batches { batches, high_watermark })
    }
}

pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    pub(crate) memory: Arc<Memory>,
    pub(crate) server: Arc<Server<Front>>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_with(ClientAuth::None, |_| {})
    }

    pub(crate) fn start_with(auth: ClientAuth, adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        let authority = Authority::create(CLUSTER, NOW).unwrap();
        Self::start_under(authority, auth, adjust)
    }

    pub(crate) fn start_under(
        authority: Authority,
        client_auth: ClientAuth,
        adjust: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let identity = authority.issue_server(&[], NOW).unwrap();
        let tls = ServerTls { identity, client_auth };
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = ServerConfig::new(listen, tls, CLUSTER, BrokerId(1));
        adjust(&mut config);
        let memory = Memory::new();
        let server = Server::bind(config, Arc::new(Front(Arc::clone(&memory)))).unwrap();
        let server = Arc::new(server);
        let running = Arc::clone(&server);
        tokio::spawn(async move { running.run().await });
        Self { authority, memory, server }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.server.local_addr().to_string()
    }

    pub(crate) fn client_tls(&self, identity: Option<Identity>) -> ClientTls {
        ClientTls { roots_pem: self.authority.certificate_pem().to_owned(), identity }
    }

    pub(crate) fn connector(&self) -> Connector {
        Connector::new(&self.client_tls(None), config()).unwrap()
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.server.counters().get(name).unwrap()
    }
}

pub(crate) fn config() -> ConnectorConfig {
    ConnectorConfig {
        client_id: "test".to_owned(),
        connect_timeout: Duration::from_secs(5),
        ..ConnectorConfig::default()
    }
}

pub(crate) fn open_produce(partition: PartitionIndex) -> OpenProduce {
    OpenProduce {
        topic: TOPIC,
        partition,
        leader_epoch: None,
        producer: None,
        acks: Acks::All,
        trace: TraceId::default(),
    }
}

pub(crate) fn open_subscription(partition: PartitionIndex) -> OpenSubscription {
    OpenSubscription {
        topic: TOPIC,
        partition,
        start: StartAt::Earliest,
        frame_bytes_max: 0,
        trace: TraceId::default(),
    }
}

/// Polls until `done`, or fails the test.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}
