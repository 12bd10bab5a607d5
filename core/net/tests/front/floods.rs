//! Many connections that announce or send much and then fall silent: others go on.

use std::time::Duration;

use crate::common::*;
use crate::hostile::{exchange, hello, raw};
use bytes::Bytes;
use millstream_net::{ClientAuth, Connection, Received};
use millstream_types::ErrorCode;
use millstream_types::limits::{BATCH_BYTES_MAX, FRAME_BODY_BYTES_MAX};
use millstream_wire::api::{ApiKey, FrameBody, MetadataRequest, Request, read_response};
use millstream_wire::frame::{FrameHeader, FrameKind};

const CONNECTIONS: usize = 12;
const STREAMS: usize = 8;
const MIB: usize = 1024 * 1024;
const PROMPTLY: Duration = Duration::from_secs(3);
const HELD: &str = "quic_received_held_bytes";

type Halves = (quinn::SendStream, quinn::RecvStream);

/// An attacker's connection and what must live as long.
struct Flood {
    _endpoint: quinn::Endpoint,
    connection: quinn::Connection,
    streams: Vec<Halves>,
}

/// Connections whose streams each send `start` and then nothing more.
async fn flood(cluster: &Cluster, start: &[u8]) -> Vec<Flood> {
    let mut floods = Vec::new();
    for _ in 0..CONNECTIONS {
        let (endpoint, connection) = raw(cluster).await;
        exchange(&connection, &hello(1, 1, "default")).await;
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let (mut send, recv) = connection.open_bi().await.unwrap();
            send.write_all(start).await.unwrap();
            streams.push((send, recv));
        }
        floods.push(Flood { _endpoint: endpoint, connection, streams });
    }
    floods
}

/// A session, then the header of the longest batch and `body_bytes` of it.
fn half_a_batch(body_bytes: usize) -> Vec<u8> {
    let mut start = open_produce(LOG).to_frame().unwrap().to_vec();
    start.extend(FrameHeader::encode(FrameKind::Produce, BATCH_BYTES_MAX).unwrap());
    start.resize(start.len() + body_bytes, 7);
    start
}

async fn call(connection: &Connection) {
    let request = Request::Metadata(MetadataRequest { topics: None });
    let answer = tokio::time::timeout(PROMPTLY, connection.request(&request, WAIT)).await;
    answer.expect("a prompt answer").unwrap();
}

/// Batches of several lengths go in and come out of a subscription, calls are answered meanwhile.
async fn goes_on(connection: &Connection, within: Duration) {
    call(connection).await;
    let work = async {
        let (_, mut sender, mut acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
        let (_, mut feed) = connection.subscribe(open_subscription(LOG)).await.unwrap();
        for length in [100, 10_000, MIB] {
            sender.send(Bytes::from(vec![1; length])).await.unwrap();
            acks.next().await.unwrap().unwrap().unwrap();
            match feed.next().await.unwrap().unwrap() {
                Received::Batches { bytes, .. } => assert!(bytes.len() >= length),
                other @ Received::Progress(_) => panic!("{other:?}"),
            }
            call(connection).await;
        }
        sender.finish();
        assert_eq!(acks.next().await.unwrap(), None);
    };
    let done = tokio::time::timeout(within, work).await;
    assert!(done.is_ok(), "held up for {within:?}");
}

async fn all_is_given_back(cluster: &Cluster, floods: Vec<Flood>) {
    for flood in floods {
        flood.connection.close(0_u32.into(), b"");
    }
    eventually("all memory is given back", || cluster.counter(HELD) == 0).await;
    eventually("their streams are gone", || cluster.counter("quic_streams_open") == 0).await;
}

#[tokio::test]
async fn a_stream_that_starts_with_a_batch_is_refused_by_its_header() {
    let cluster = Cluster::start();
    let start = FrameHeader::encode(FrameKind::Produce, BATCH_BYTES_MAX).unwrap();
    let mut floods = flood(&cluster, &start).await;
    for (_, recv) in floods.iter_mut().flat_map(|flood| &mut flood.streams) {
        let mut header = [0; 8];
        tokio::time::timeout(WAIT, recv.read_exact(&mut header)).await.unwrap().unwrap();
        assert_eq!(header[4], 4, "a Response frame");
        let body = recv.read_to_end(1 << 20).await.unwrap();
        let error = read_response(ApiKey::Metadata, &body).unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest);
    }
    let bystander = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    goes_on(&bystander, PROMPTLY).await;
    all_is_given_back(&cluster, floods).await;
}

#[tokio::test]
async fn announced_batches_cost_others_nothing() {
    // No more than one frame's room, so that a single claim would be felt.
    let cluster = Cluster::start_with(ClientAuth::None, |config| {
        config.receive_bytes_max = FRAME_BODY_BYTES_MAX + MIB;
    });
    let floods = flood(&cluster, &half_a_batch(0)).await;
    let open = (CONNECTIONS * STREAMS) as u64;
    eventually("they are open", || cluster.counter("quic_streams_open") == open).await;
    assert_eq!(cluster.counter(HELD), 0);
    let bystander = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    goes_on(&bystander, PROMPTLY).await;
    all_is_given_back(&cluster, floods).await;
}

#[tokio::test]
async fn half_sent_batches_hold_what_arrived_and_no_more() {
    let cluster = Cluster::start();
    let floods = flood(&cluster, &half_a_batch(MIB)).await;
    let arrived = (CONNECTIONS * STREAMS * MIB) as u64;
    eventually("it arrived", || cluster.counter(HELD) >= arrived).await;
    assert!(cluster.counter(HELD) <= 2 * arrived, "{}", cluster.counter(HELD));
    let bystander = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    goes_on(&bystander, PROMPTLY).await;
    all_is_given_back(&cluster, floods).await;
}

#[tokio::test]
async fn half_sent_batches_that_fill_the_account_give_way_and_leave_calls_alone() {
    let account = FRAME_BODY_BYTES_MAX + 32 * MIB;
    let cluster = Cluster::start_with(ClientAuth::None, |config| {
        config.receive_bytes_max = account;
    });
    let floods = flood(&cluster, &half_a_batch(MIB)).await;
    // The finisher holds a whole frame; steps that do not fit may leave a little of the rest.
    let full = (account - 2 * MIB) as u64;
    eventually("the account is used", || cluster.counter(HELD) >= full).await;
    let bystander = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    for _ in 0..20 {
        call(&bystander).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refused = || cluster.counter("quic_protocol_errors_total");
    eventually("some gave way", || refused() > 0).await;
    assert!(cluster.counter(HELD) <= account as u64);
    all_is_given_back(&cluster, floods).await;
}
