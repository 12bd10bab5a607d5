//! The protocol's three shapes over real QUIC on loopback, with a service in memory behind it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::*;
use bytes::Bytes;
use millstream_net::{CallError, CloseReason, Received, StreamError};
use millstream_types::limits::{BATCH_BYTES_MAX, PRODUCE_IN_FLIGHT_MAX};
use millstream_types::{BrokerId, ErrorCode, Offset};
use millstream_wire::api::{
    BrokerStatusRequest, InitProducerRequest, MetadataRequest, Request, Response,
};

fn metadata() -> Request {
    Request::Metadata(MetadataRequest { topics: None })
}

fn status() -> Request {
    Request::BrokerStatus(BrokerStatusRequest {})
}

#[tokio::test]
async fn calls_are_answered_or_refused() {
    let cluster = Cluster::start();
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    assert_eq!(connection.hello().cluster, CLUSTER);
    assert_eq!(connection.hello().broker, BrokerId(1));

    let answer = connection.request(&metadata(), WAIT).await.unwrap();
    assert!(matches!(answer, Response::Metadata(response) if response.cluster == CLUSTER));

    let init = Request::InitProducer(InitProducerRequest { producer: None });
    match connection.request(&init, WAIT).await {
        Err(CallError::Service(error)) => assert_eq!(error.code, ErrorCode::InvalidRequest),
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.counter("quic_protocol_errors_total"), 0);
}

#[tokio::test]
async fn a_call_past_its_deadline_is_given_up_on_both_sides() {
    let cluster = Cluster::start();
    cluster.memory.gate.send_replace(false);
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let error = connection.request(&status(), Duration::from_millis(50)).await.unwrap_err();
    assert!(error.is_retriable(), "{error:?}");
    eventually("the call is dropped", || cluster.memory.calls_open.load(Ordering::SeqCst) == 0)
        .await;
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_given_up() {
    let cluster = Cluster::start();
    cluster.memory.gate.send_replace(false);
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let other = connection.clone();
    let task = tokio::spawn(async move { other.request(&status(), WAIT).await });
    let open = || cluster.memory.calls_open.load(Ordering::SeqCst);
    eventually("the call is made", || open() == 1).await;
    task.abort();
    eventually("the call is dropped", || open() == 0).await;
}

#[tokio::test]
async fn acknowledgements_come_in_order_with_errors_in_their_places() {
    let cluster = Cluster::start();
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (opened, mut sender, mut acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
    assert_eq!(opened.in_flight_max, 256);
    for number in 0..1000 {
        let text = if number == 500 { "bad".to_owned() } else { format!("batch {number}") };
        sender.send(Bytes::from(text)).await.unwrap();
    }
    sender.finish();
    for number in 0..1000 {
        let ack = acks.next().await.unwrap().expect("one for each batch");
        if number == 500 {
            assert_eq!(ack.unwrap_err().code, ErrorCode::CorruptBatch);
        } else {
            assert_eq!(ack.unwrap().base_offset, Offset::ZERO.plus(number));
        }
    }
    assert_eq!(acks.next().await.unwrap(), None);
    let log = cluster.memory.log.borrow();
    assert_eq!(log.len(), 1000);
    assert_eq!(&log[999][..], b"batch 999");
}

#[tokio::test]
async fn batches_in_flight_are_bounded() {
    let cluster = Cluster::start();
    cluster.memory.gate.send_replace(false);
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (_, mut sender, mut acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
    let count = PRODUCE_IN_FLIGHT_MAX + 100;
    for _ in 0..count {
        sender.send(Bytes::from_static(b"batch")).await.unwrap();
    }
    sender.finish();
    let appended = || cluster.memory.appended.load(Ordering::SeqCst);
    eventually("the bound is reached", || appended() == PRODUCE_IN_FLIGHT_MAX).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(appended(), PRODUCE_IN_FLIGHT_MAX);
    cluster.memory.gate.send_replace(true);
    for _ in 0..count {
        acks.next().await.unwrap().unwrap().unwrap();
    }
    assert_eq!(acks.next().await.unwrap(), None);
}

#[tokio::test]
async fn received_frames_hold_bounded_memory() {
    let mib = 1024 * 1024;
    let cluster = Cluster::start_with(millstream_net::ClientAuth::None, |config| {
        config.connection_receive_bytes_max = 20 * mib;
    });
    cluster.memory.gate.send_replace(false);
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (_, mut sender, mut acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
    let task = tokio::spawn(async move {
        for _ in 0..30 {
            sender.send(Bytes::from(vec![1; 2 * mib])).await.unwrap();
        }
        sender.finish();
    });
    let appended = || cluster.memory.appended.load(Ordering::SeqCst);
    eventually("the account is used", || appended() == 10).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(appended(), 10);
    cluster.memory.gate.send_replace(true);
    for _ in 0..30 {
        acks.next().await.unwrap().unwrap().unwrap();
    }
    task.await.unwrap();
}

#[tokio::test]
async fn the_largest_batch_passes_and_a_larger_one_does_not() {
    let cluster = Cluster::start();
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (_, mut sender, mut acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
    let largest: Bytes = (0..BATCH_BYTES_MAX).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let (sent, ack) = tokio::join!(sender.send(largest.clone()), acks.next());
    sent.unwrap();
    ack.unwrap().unwrap().unwrap();
    assert!(cluster.memory.log.borrow()[0] == largest);
    let refused = sender.send(Bytes::from(vec![0; BATCH_BYTES_MAX + 1])).await;
    assert!(matches!(refused, Err(StreamError::Protocol(_))));

    let (_, mut feed) = connection.subscribe(open_subscription(LOG)).await.unwrap();
    match feed.next().await.unwrap().unwrap() {
        Received::Batches { bytes, high_watermark } => {
            assert!(bytes == largest);
            assert_eq!(high_watermark, Offset::ZERO.plus(1));
        }
        other @ Received::Progress(_) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_partition_led_elsewhere_names_its_leader() {
    let cluster = Cluster::start();
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let produce = connection.open_produce(open_produce(ELSEWHERE)).await.unwrap_err();
    assert_eq!(produce, CallError::Service(elsewhere()));
    assert!(produce.is_retriable());
    let subscribe = connection.subscribe(open_subscription(ELSEWHERE)).await.unwrap_err();
    assert_eq!(subscribe, CallError::Service(elsewhere()));
}

#[tokio::test]
async fn a_subscription_pushes_what_is_appended_and_stays_past_a_stalled_one() {
    let cluster = Cluster::start();
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    // Four that nobody reads, each with a full window.
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(connection.subscribe(open_subscription(FIREHOSE)).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;

    let (_, mut live) = connection.subscribe(open_subscription(LOG)).await.unwrap();
    let (_, mut sender, mut acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
    let mut seen = Vec::new();
    for number in 0..20 {
        let batch = Bytes::from(vec![number; 64 * 1024]);
        sender.send(batch).await.unwrap();
        acks.next().await.unwrap().unwrap().unwrap();
        let event = tokio::time::timeout(WAIT, live.next()).await.expect("not held up");
        match event.unwrap().unwrap() {
            Received::Batches { bytes, .. } => seen.extend_from_slice(&bytes),
            other @ Received::Progress(_) => panic!("{other:?}"),
        }
    }
    let expected: Vec<u8> = (0..20).flat_map(|number| vec![number; 64 * 1024]).collect();
    assert!(seen == expected);
    // And the stalled ones still deliver.
    let (_, mut first) = stalled.swap_remove(0);
    for _ in 0..10 {
        let event = first.next().await.unwrap().unwrap();
        assert!(matches!(event, Received::Batches { bytes, .. } if bytes.len() == 1024 * 1024));
    }
}

#[tokio::test]
async fn a_subscription_that_is_dropped_ends_at_the_broker() {
    let cluster = Cluster::start();
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let open = || cluster.memory.subscriptions.load(Ordering::SeqCst);
    let idle = connection.subscribe(open_subscription(LOG)).await.unwrap();
    let blocked = connection.subscribe(open_subscription(FIREHOSE)).await.unwrap();
    assert_eq!(open(), 2);
    drop(idle);
    eventually("the idle one ends", || open() == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(blocked);
    eventually("the blocked one ends", || open() == 0).await;
}

#[tokio::test]
async fn a_failed_subscription_says_why() {
    let cluster = Cluster::start();
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (_, mut feed) = connection.subscribe(open_subscription(FAILING)).await.unwrap();
    assert!(matches!(feed.next().await, Ok(Some(Received::Progress(_)))));
    assert_eq!(feed.next().await, Err(CallError::Service(elsewhere())));
}

#[tokio::test]
async fn shutdown_answers_what_is_in_flight_and_says_so() {
    let cluster = Cluster::start();
    cluster.memory.gate.send_replace(false);
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (_, mut sender, mut acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
    let (_, mut feed) = connection.subscribe(open_subscription(FAILING)).await.unwrap();
    assert!(feed.next().await.is_ok());
    let (_, mut idle) = connection.subscribe(open_subscription(LOG)).await.unwrap();
    for _ in 0..10 {
        sender.send(Bytes::from_static(b"batch")).await.unwrap();
    }
    let other = connection.clone();
    let call = tokio::spawn(async move { other.request(&status(), WAIT).await });
    let memory = &cluster.memory;
    eventually("all are in flight", || {
        memory.appended.load(Ordering::SeqCst) == 10
            && memory.calls_open.load(Ordering::SeqCst) == 1
    })
    .await;
    let Received::Batches { .. } = idle.next().await.unwrap().unwrap() else { panic!("batches") };

    let server = std::sync::Arc::clone(&cluster.server);
    let shutdown = tokio::spawn(async move { server.shutdown(Duration::from_secs(5)).await });
    let ended = loop {
        match idle.next().await {
            Ok(event) => assert!(event.is_some(), "an end with a reason"),
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, CallError::Service(error) if error.code == ErrorCode::Unavailable));
    assert!(cluster.connector().connect(&cluster.endpoint()).await.is_err(), "no newcomers");
    cluster.memory.gate.send_replace(true);
    assert!(call.await.unwrap().is_ok());
    for number in 0..10 {
        let ack = acks.next().await.unwrap().unwrap().unwrap();
        assert_eq!(ack.base_offset, Offset::ZERO.plus(number));
    }
    match acks.next().await {
        Err(StreamError::Ended(error)) => assert_eq!(error.code, ErrorCode::Unavailable),
        other => panic!("{other:?}"),
    }
    tokio::time::timeout(Duration::from_secs(4), shutdown).await.expect("in time").unwrap();
    assert_eq!(connection.closed().await, CloseReason::ShuttingDown);
    let late = connection.request(&metadata(), WAIT).await;
    assert!(matches!(late, Err(CallError::ConnectionLost(CloseReason::ShuttingDown))), "{late:?}");
}

#[tokio::test]
async fn shutdown_does_not_wait_longer_than_its_grace() {
    let cluster = Cluster::start();
    cluster.memory.gate.send_replace(false);
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let other = connection.clone();
    let call = tokio::spawn(async move { other.request(&status(), WAIT).await });
    eventually("the call is made", || cluster.memory.calls_open.load(Ordering::SeqCst) == 1).await;
    let shutdown = cluster.server.shutdown(Duration::from_millis(200));
    tokio::time::timeout(Duration::from_secs(2), shutdown).await.expect("in time");
    let lost = call.await.unwrap().unwrap_err();
    assert_eq!(lost, CallError::ConnectionLost(CloseReason::ShuttingDown));
}

#[tokio::test]
async fn bytes_are_counted_and_copied_once() {
    let cluster = Cluster::start();
    let connector = cluster.connector();
    let connection = connector.connect(&cluster.endpoint()).await.unwrap();
    let (_, mut sender, mut acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
    let before = cluster.counter("quic_copied_bytes_total");
    sender.send(Bytes::from(vec![1; 1_000_000])).await.unwrap();
    acks.next().await.unwrap().unwrap().unwrap();
    assert_eq!(cluster.counter("quic_copied_bytes_total") - before, 1_000_000);
    let (_, mut feed) = connection.subscribe(open_subscription(LOG)).await.unwrap();
    let before = cluster.counter("quic_copied_bytes_total");
    feed.next().await.unwrap();
    assert_eq!(cluster.counter("quic_copied_bytes_total"), before, "out without a copy");
    assert!(connector.counters().get("quic_received_bytes_total").unwrap() > 1_000_000);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_subscriber_that_does_not_read() {
    let cluster = Cluster::start();
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let _stalled = connection.subscribe(open_subscription(FIREHOSE)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let shutdown = cluster.server.shutdown(Duration::from_secs(30));
    tokio::time::timeout(Duration::from_secs(6), shutdown).await.expect("well within its grace");
    assert_eq!(connection.closed().await, CloseReason::ShuttingDown);
}

#[tokio::test]
async fn a_producer_that_leaves_is_noticed_while_its_batches_wait() {
    let cluster = Cluster::start();
    cluster.memory.gate.send_replace(false);
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (_, mut sender, acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
    for _ in 0..PRODUCE_IN_FLIGHT_MAX + 10 {
        sender.send(Bytes::from_static(b"batch")).await.unwrap();
    }
    eventually("the bound is reached", || {
        cluster.memory.appended.load(Ordering::SeqCst) == PRODUCE_IN_FLIGHT_MAX
    })
    .await;
    connection.close("leaving");
    drop((sender, acks));
    eventually("its stream is gone", || cluster.counter("quic_streams_open") == 0).await;
    eventually("its connection too", || cluster.counter("quic_connections_open") == 0).await;
}
