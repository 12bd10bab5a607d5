//! Calls whose clients do not take the replies: those hold little, and others go on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::*;
use crate::hostile::{exchange, hello, raw_with};
use millstream_net::{ClientAuth, Connection, close_code};
use millstream_wire::api::{MetadataRequest, Request, Response, TraceId, request_frame};
use quinn::{RecvStream, SendStream, VarInt};

const HELD: &str = "quic_reply_held_bytes";
const ABANDONED: &str = "quic_replies_abandoned_total";
const MIB: usize = 1024 * 1024;
/// Nearly the longest reply.
const LONG_BYTES: usize = 4_000_000;
/// What a reply of so many bytes may hold while it is built.
const LONG_BUILT_BYTES: usize = 6 * (LONG_BYTES + 4096 + 1024);
/// All that there is for replies.
const ACCOUNT_BYTES: usize = 128 * MIB;

/// Asks for a reply of about so many bytes.
fn wish(bytes: usize) -> Request {
    Request::Metadata(MetadataRequest { topics: Some(vec![bytes.to_string()]) })
}

/// A connection that asks and takes nothing; its parts must live as long.
struct Greedy {
    _endpoint: quinn::Endpoint,
    connection: quinn::Connection,
    streams: Vec<(SendStream, RecvStream)>,
}

impl Greedy {
    async fn ask(cluster: &Cluster, count: usize, bytes: usize) -> Self {
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(2000));
        let (endpoint, connection) = raw_with(cluster, transport).await;
        exchange(&connection, &hello(1, 1, "default")).await;
        let call = request_frame(0, TraceId::default(), &wish(bytes)).unwrap();
        let mut streams = Vec::new();
        for _ in 0..count {
            let (mut send, recv) = connection.open_bi().await.unwrap();
            send.write_all(&call).await.unwrap();
            send.finish().unwrap();
            streams.push((send, recv));
        }
        Self { _endpoint: endpoint, connection, streams }
    }

    /// How its stream of this number ends.
    async fn outcome(&mut self, stream: usize) -> Result<usize, quinn::ReadToEndError> {
        let read = self.streams[stream].1.read_to_end(8 * MIB);
        tokio::time::timeout(WAIT, read).await.expect("an end").map(|bytes| bytes.len())
    }
}

/// A call of about so many bytes is answered in time.
async fn answered(connection: &Connection, bytes: usize, within: Duration) {
    let wish = wish(bytes);
    let answer = tokio::time::timeout(within, connection.request(&wish, within)).await;
    match answer.expect("an answer").unwrap() {
        Response::Metadata(metadata) => assert_eq!(metadata.topics[0].partitions.len(), bytes / 97),
        other => panic!("{other:?}"),
    }
}

fn too_slow() -> quinn::ReadToEndError {
    let code = VarInt::from_u32(close_code::TOO_SLOW);
    quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))
}

#[tokio::test]
async fn replies_that_are_not_taken_are_not_built() {
    let cluster = Cluster::start();
    let greedy = Greedy::ask(&cluster, 300, LONG_BYTES).await;
    let built = || cluster.memory.replies_built.load(Ordering::SeqCst);
    eventually("as many as one may have", || built() == 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(built(), 2, "of 300");
    assert!(cluster.counter(HELD) <= 2 * LONG_BUILT_BYTES as u64, "{}", cluster.counter(HELD));
    greedy.connection.close(0_u32.into(), b"");
    eventually("all is given back", || cluster.counter(HELD) == 0).await;
    eventually("its streams are gone", || cluster.counter("quic_streams_open") == 0).await;
}

#[tokio::test]
async fn who_takes_nothing_gives_way_to_others() {
    let cluster = Cluster::start();
    let mut greedy = Vec::new();
    for _ in 0..20 {
        greedy.push(Greedy::ask(&cluster, 20, LONG_BYTES).await);
    }
    eventually("others wait", || cluster.counter("quic_replies_waiting") > 0).await;
    let bystander = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    for bytes in [100, 10_000, LONG_BYTES, LONG_BYTES, 1000] {
        answered(&bystander, bytes, WAIT).await;
        assert!(cluster.counter(HELD) <= ACCOUNT_BYTES as u64, "{}", cluster.counter(HELD));
    }
    assert!(cluster.counter(ABANDONED) > 0);
    let built = cluster.memory.replies_built.load(Ordering::SeqCst);
    assert!(built < 200, "{built} of 400 replies were built");
    assert_eq!(greedy[0].outcome(0).await, Err(too_slow()));
}

#[tokio::test]
async fn who_takes_nothing_loses_the_reply_even_if_nobody_waits() {
    let cluster = Cluster::start_with(ClientAuth::None, |config| {
        config.reply_timeout = Duration::from_millis(300);
    });
    // With memory of an account, and without.
    for bytes in [100_000, 3900] {
        let abandoned = cluster.counter(ABANDONED);
        let mut greedy = Greedy::ask(&cluster, 1, bytes).await;
        eventually("it is lost", || cluster.counter(ABANDONED) > abandoned).await;
        assert_eq!(greedy.outcome(0).await, Err(too_slow()));
    }
    eventually("all is given back", || cluster.counter(HELD) == 0).await;
}

#[tokio::test]
async fn who_waits_for_its_own_replies_is_told() {
    let cluster = Cluster::start_with(ClientAuth::None, |config| {
        config.reply_timeout = Duration::from_millis(300);
    });
    let mut greedy = Greedy::ask(&cluster, 3, LONG_BYTES).await;
    // 300 ms and 8 s for each MiB have the two that were built.
    let told = greedy.outcome(2).await.unwrap();
    assert!((8..1000).contains(&told), "a short reply, {told} bytes");
    assert_eq!(cluster.memory.replies_built.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn many_long_replies_that_are_taken_come_to_their_end() {
    let cluster = Cluster::start();
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let connection = std::sync::Arc::new(connection);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..32 {
        let connection = std::sync::Arc::clone(&connection);
        tasks.spawn(async move {
            answered(&connection, LONG_BYTES / (1 + number % 4), 6 * WAIT).await;
        });
    }
    tasks.join_all().await;
    eventually("all is given back", || cluster.counter(HELD) == 0).await;
    assert_eq!(cluster.counter(ABANDONED), 0);
}
