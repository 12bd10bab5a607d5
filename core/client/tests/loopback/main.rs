//! The client against a small broker over the real QUIC front, with faults.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is a test, its shared functions included"
)]

mod archive;
mod broker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use broker::{Cluster, Faults, Running};
use bytes::Bytes;
use millstream_client::{
    AdminError, BuildError, Client, Codec, ConnectError, Consumer, ConsumerError, DeliveryError,
    ErrorCode, OffsetSpec, OutOfRange, Producer, ProducerRecord, SendError, Start, TrySendError,
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn client(cluster: &Arc<Cluster>, brokers: &[&Running]) -> Client {
    Client::builder()
        .bootstrap(brokers.iter().map(|broker| broker.endpoint()))
        .ca_pem(cluster.ca_pem())
        .connect()
        .await
        .unwrap()
}

/// One cluster of one broker, with a client.
async fn single(partitions: usize) -> (Arc<Cluster>, Running, Client) {
    let cluster = Cluster::new(partitions);
    let running = Running::start(&cluster).await;
    let client = client(&cluster, &[&running]).await;
    (cluster, running, client)
}

fn value(number: u32) -> Bytes {
    Bytes::from(format!("{number:06}"))
}

/// Sends values `from..to` with the keys 0 to 9 and waits for none of them.
async fn send_all(producer: &Producer, from: u32, to: u32) {
    for number in from..to {
        let key = format!("key-{}", number % 10);
        producer.send(ProducerRecord::new("t", value(number)).with_key(key)).await.unwrap();
    }
}

/// Reads so many records by the stream of records.
async fn read(consumer: &mut Consumer, count: usize) -> Vec<(u32, i64, Bytes)> {
    let mut records = Vec::with_capacity(count);
    while records.len() < count {
        let next = tokio::time::timeout(PATIENCE, consumer.next_record()).await;
        let record = next.expect("a record in time").unwrap().unwrap();
        records.push((record.partition, record.offset, record.value.unwrap()));
    }
    records
}

/// Each value of 0..total once, and offsets without gap in each partition.
fn assert_exactly_once(records: &[(u32, i64, Bytes)], total: u32) {
    let mut next = BTreeMap::<u32, i64>::new();
    let mut last = BTreeMap::<(u32, u32), u32>::new();
    let mut seen = vec![false; total as usize];
    for (partition, offset, value) in records {
        let expected = next.entry(*partition).or_default();
        assert_eq!(offset, expected, "partition {partition}");
        *expected += 1;
        let number: u32 = std::str::from_utf8(value).unwrap().parse().unwrap();
        assert!(!std::mem::replace(&mut seen[number as usize], true), "{number} twice");
        if let Some(last) = last.insert((*partition, number % 10), number) {
            assert!(last < number, "{number} after {last} of the same key");
        }
    }
    assert!(seen.iter().all(|seen| *seen));
}

#[tokio::test]
async fn records_come_back_in_order_per_key_from_the_offsets_that_deliveries_gave() {
    let (_cluster, _running, client) = single(3).await;
    let producer = client.producer().compression(Codec::Lz4).build().await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..500 {
        let key = format!("key-{}", number % 10);
        let record = ProducerRecord::new("t", value(number)).with_key(key).with_header("h", "x");
        deliveries.push((number, producer.send(record).await.unwrap()));
    }
    let mut places = BTreeMap::new();
    for (number, delivery) in deliveries {
        let metadata = delivery.await.unwrap();
        places.insert((metadata.partition, metadata.offset), value(number));
    }
    let builder = client.consumer().topic("t").start(Start::Earliest);
    let mut consumer = builder.build().await.unwrap();
    let records = read(&mut consumer, 500).await;
    assert_exactly_once(&records, 500);
    let read: BTreeMap<_, _> = records
        .into_iter()
        .map(|(partition, offset, value)| ((partition, offset), value))
        .collect();
    assert_eq!(read, places);
    assert!(consumer.lag().iter().all(|lag| lag.records == Some(0)));
    consumer.close().await;
    assert!(consumer.next_batch().await.is_none());
}

#[tokio::test]
async fn a_lost_acknowledgement_makes_no_duplicate() {
    let (cluster, _running, client) = single(1).await;
    cluster.set_faults(Faults { lose_acks: 7, ..Faults::default() });
    let producer = client.producer().linger(Duration::ZERO).build().await.unwrap();
    for number in 0..50 {
        let record = ProducerRecord::new("t", value(number));
        let delivery = producer.send(record).await.unwrap();
        if number % 3 == 0 {
            assert_eq!(delivery.await.unwrap().offset, i64::from(number));
        }
    }
    producer.close().await.unwrap();
    assert_eq!(cluster.values(0), (0..50).map(value).collect::<Vec<_>>());
}

#[tokio::test]
async fn connections_that_are_cut_lose_and_repeat_nothing() {
    let (cluster, mut running, client) = single(3).await;
    let builder = client.consumer().topic("t").start(Start::Earliest);
    let mut consumer = builder.build().await.unwrap();
    let producer = client.producer().batch_bytes(2000).build().await.unwrap();
    let reading = tokio::spawn(async move { read(&mut consumer, 4000).await });
    for part in 0..4 {
        send_all(&producer, part * 1000, (part + 1) * 1000).await;
        running.cut().await;
    }
    producer.close().await.unwrap();
    assert_exactly_once(&reading.await.unwrap(), 4000);
    assert_eq!((0..3).map(|partition| cluster.values(partition).len()).sum::<usize>(), 4000);
}

#[tokio::test]
async fn more_partitions_than_a_connection_has_streams_get_further_connections() {
    const PARTITIONS: u32 = 40;
    let cluster = Cluster::new(PARTITIONS as usize);
    cluster.set_streams_max(8);
    let running = Running::start(&cluster).await;
    let client = client(&cluster, &[&running]).await;
    let producer = client.producer().linger(Duration::ZERO).build().await.unwrap();
    let mut deliveries = Vec::new();
    for partition in 0..PARTITIONS {
        let record = ProducerRecord::new("t", value(partition)).with_partition(partition);
        deliveries.push(producer.send(record).await.unwrap());
    }
    for delivery in deliveries {
        let delivered = tokio::time::timeout(PATIENCE, delivery).await;
        delivered.expect("acknowledged in time").unwrap();
    }
    let mut consumer = client.consumer().topic("t").start(Start::Earliest).build().await.unwrap();
    let mut records = read(&mut consumer, PARTITIONS as usize).await;
    records.sort();
    let expected: Vec<_> = (0..PARTITIONS).map(|index| (index, 0, value(index))).collect();
    assert_eq!(records, expected);
    // Every session is still open, and requests have streams of their own.
    for _ in 0..10 {
        client.admin().list_topics().await.unwrap();
    }
}

#[tokio::test]
async fn a_new_leader_is_found() {
    let cluster = Cluster::new(2);
    let (first, second) = (Running::start(&cluster).await, Running::start(&cluster).await);
    let client = client(&cluster, &[&first, &second]).await;
    let builder = client.consumer().topic("t").start(Start::Earliest);
    let mut consumer = builder.build().await.unwrap();
    let producer = client.producer().build().await.unwrap();
    send_all(&producer, 0, 100).await;
    producer.flush().await.unwrap();
    cluster.set_leader(1);
    send_all(&producer, 100, 200).await;
    producer.flush().await.unwrap();
    assert!(cluster.not_leader_answers() > 0);
    assert_exactly_once(&read(&mut consumer, 200).await, 200);
}

#[tokio::test]
async fn a_full_buffer_makes_send_wait_and_try_send_say_so() {
    let (cluster, _running, client) = single(1).await;
    cluster.hold_acks(true);
    let builder = client.producer().batch_bytes(2000).buffer_bytes(4000);
    let producer = builder.build().await.unwrap();
    let mut queued = 0;
    let record = ProducerRecord::new("t", vec![b'x'; 500]);
    while let Ok(sent) =
        tokio::time::timeout(Duration::from_millis(300), producer.send(record.clone())).await
    {
        sent.unwrap();
        queued += 1;
    }
    assert!((5..8).contains(&queued), "{queued}");
    assert_eq!(producer.try_send(&record).unwrap_err(), TrySendError::Full);
    cluster.hold_acks(false);
    tokio::time::timeout(PATIENCE, producer.send(record)).await.unwrap().unwrap();
    producer.close().await.unwrap();
    assert_eq!(cluster.values(0).len(), queued + 1);
}

#[tokio::test]
async fn close_drains_without_waiting_for_linger_and_refuses_what_comes_later() {
    let (cluster, _running, client) = single(2).await;
    let producer = client.producer().linger(Duration::from_secs(600)).build().await.unwrap();
    send_all(&producer, 0, 100).await;
    tokio::time::timeout(PATIENCE, producer.clone().close()).await.unwrap().unwrap();
    assert_eq!(cluster.values(0).len() + cluster.values(1).len(), 100);
    let late = producer.send(ProducerRecord::new("t", "late")).await;
    assert_eq!(late.unwrap_err(), SendError::Closed);
}

#[tokio::test]
async fn a_dropped_producer_still_sends_what_is_queued() {
    let (cluster, _running, client) = single(1).await;
    let producer = client.producer().linger(Duration::from_secs(600)).build().await.unwrap();
    let delivery = producer.send(ProducerRecord::new("t", "v")).await.unwrap();
    drop(producer);
    tokio::time::timeout(PATIENCE, delivery).await.unwrap().unwrap();
    assert_eq!(cluster.values(0).len(), 1);
}

#[tokio::test]
async fn a_timeout_is_told_as_unknown_and_later_records_go_on() {
    let (cluster, _running, client) = single(1).await;
    cluster.hold_acks(true);
    let builder = client.producer().delivery_timeout(Duration::from_millis(400));
    let producer = builder.build().await.unwrap();
    let lost = producer.send(ProducerRecord::new("t", value(0))).await.unwrap();
    let error = tokio::time::timeout(PATIENCE, lost).await.unwrap().unwrap_err();
    assert!(error.may_be_written() && !error.is_retriable(), "{error}");
    cluster.hold_acks(false);
    let later = producer.send(ProducerRecord::new("t", value(1))).await.unwrap();
    assert_eq!(later.await.unwrap().offset, 1);
    assert_eq!(producer.close().await.unwrap_err().failed, 1);
    assert_eq!(cluster.values(0), [value(0), value(1)]);
}

#[tokio::test]
async fn a_refused_batch_fails_alone() {
    let (cluster, _running, client) = single(1).await;
    let producer = client.producer().linger(Duration::ZERO).build().await.unwrap();
    producer.send(ProducerRecord::new("t", value(0))).await.unwrap().await.unwrap();
    cluster.set_faults(Faults { refuse_batches: 1, ..Faults::default() });
    let refused = producer.send(ProducerRecord::new("t", value(1))).await.unwrap();
    let error = refused.await.unwrap_err();
    assert!(
        matches!(&error, DeliveryError::Rejected { code: ErrorCode::InvalidTimestamp, .. }),
        "{error}"
    );
    let later = producer.send(ProducerRecord::new("t", value(2))).await.unwrap();
    assert_eq!(later.await.unwrap().offset, 1);
    assert_eq!(cluster.values(0), [value(0), value(2)]);
}

/// Bytes that no codec makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test]
async fn a_flush_waits_for_batches_ahead_of_one_that_cannot_be_encoded() {
    let (cluster, _running, client) = single(1).await;
    cluster.hold_acks(true);
    let producer = client.producer().compression(Codec::Lz4).build().await.unwrap();
    let first = producer.send(ProducerRecord::new("t", value(0))).await.unwrap();
    // It fits a batch as it is, and no more once it is packed.
    let noise = noise((16 << 20) - 200);
    let error = producer.send(ProducerRecord::new("t", noise)).await.unwrap().await.unwrap_err();
    assert!(matches!(error, DeliveryError::Encoding { .. }), "{error}");

    let flush = producer.flush();
    tokio::pin!(flush);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut flush).await;
    assert!(early.is_err(), "the first record's fate is open: {early:?}");
    cluster.hold_acks(false);
    let flushed = tokio::time::timeout(PATIENCE, flush).await.unwrap().unwrap_err();
    assert_eq!((flushed.failed, first.await.unwrap().offset), (1, 0));
}

#[tokio::test]
async fn records_without_a_key_fill_one_batch_before_they_move_on() {
    let (cluster, _running, client) = single(4).await;
    let builder = client.producer().linger(Duration::from_secs(600)).batch_records(10);
    let producer = builder.build().await.unwrap();
    for number in 0..100 {
        producer.send(ProducerRecord::new("t", value(number))).await.unwrap();
    }
    producer.close().await.unwrap();
    let batches: usize = (0..4).map(|partition| cluster.batches(partition)).sum();
    assert_eq!(batches, 10);
    let used = (0..4).filter(|partition| cluster.batches(*partition) > 0).count();
    assert!(used > 1, "all in one partition");
}

#[tokio::test]
async fn reading_starts_in_the_middle_of_a_batch_and_positions_follow_the_reader() {
    let (_cluster, _running, client) = single(1).await;
    let producer = client.producer().linger(Duration::from_secs(600)).build().await.unwrap();
    for number in 0..10 {
        producer.send(ProducerRecord::new("t", value(number))).await.unwrap();
    }
    producer.close().await.unwrap();
    let builder = client.consumer().topic("t").start(Start::Offset(7));
    let mut consumer = builder.build().await.unwrap();
    assert_eq!(consumer.positions()[0].offset, Some(7));
    assert_eq!(consumer.lag()[0].records, Some(3));
    let batch = consumer.next_batch().await.unwrap().unwrap();
    assert_eq!((batch.base_offset(), batch.next_offset(), batch.high_watermark()), (0, 10, 10));
    let mut records = batch.records().unwrap();
    let mut values = Vec::new();
    while let Some(record) = records.next_ref() {
        values.push(Bytes::copy_from_slice(record.unwrap().value.unwrap()));
    }
    assert_eq!(values, [value(7), value(8), value(9)]);
    assert_eq!(consumer.positions()[0].offset, Some(10));
}

#[tokio::test]
async fn latest_means_after_build() {
    let (_cluster, _running, client) = single(1).await;
    let producer = client.producer().build().await.unwrap();
    producer.send(ProducerRecord::new("t", value(0))).await.unwrap().await.unwrap();
    let mut consumer = client.consumer().topic("t").build().await.unwrap();
    producer.send(ProducerRecord::new("t", value(1))).await.unwrap().await.unwrap();
    assert_eq!(read(&mut consumer, 1).await, [(0, 1, value(1))]);
}

#[tokio::test]
async fn a_position_out_of_range_is_told_with_the_range_or_moved_as_asked() {
    let (cluster, _running, client) = single(1).await;
    let producer = client.producer().linger(Duration::ZERO).build().await.unwrap();
    for number in 0..4 {
        producer.send(ProducerRecord::new("t", value(number))).await.unwrap().await.unwrap();
    }
    cluster.truncate_front(0, 2);
    let builder = client.consumer().topic("t").start(Start::Offset(1));
    let mut consumer = builder.clone().build().await.unwrap();
    let error = consumer.next_batch().await.unwrap().unwrap_err();
    let range = ConsumerError::OffsetOutOfRange { partition: 0, offset: 1, earliest: 2, latest: 4 };
    assert_eq!(error, range);
    assert!(consumer.next_batch().await.is_none());

    let mut moved = builder.out_of_range(OutOfRange::Earliest).build().await.unwrap();
    assert_eq!(read(&mut moved, 2).await, [(0, 2, value(2)), (0, 3, value(3))]);
}

#[tokio::test]
async fn a_batch_damaged_once_is_fetched_again_and_one_damaged_twice_is_told() {
    let (cluster, _running, client) = single(1).await;
    let producer = client.producer().build().await.unwrap();
    producer.send(ProducerRecord::new("t", value(0))).await.unwrap().await.unwrap();
    let builder = client.consumer().topic("t").start(Start::Earliest);
    cluster.set_faults(Faults { flip_bits: 1, ..Faults::default() });
    let mut consumer = builder.clone().build().await.unwrap();
    assert_eq!(read(&mut consumer, 1).await, [(0, 0, value(0))]);

    cluster.set_faults(Faults { flip_bits: 2, ..Faults::default() });
    let mut consumer = builder.build().await.unwrap();
    let error = consumer.next_record().await.unwrap().unwrap_err();
    assert!(matches!(error, ConsumerError::CorruptBatch { offset: 0, .. }), "{error}");
}

#[tokio::test]
async fn errors_say_what_was_tried_and_what_is_missing() {
    let (cluster, running, connected) = single(1).await;
    let builder = Client::builder().ca_pem(cluster.ca_pem());
    assert_eq!(builder.clone().connect().await.unwrap_err(), ConnectError::NoBootstrap);
    let short = builder.connect_timeout(Duration::from_millis(300));
    let nobody = short.clone().bootstrap(["127.0.0.1:1", "nonsense"]);
    let error = nobody.connect().await.unwrap_err();
    assert!(error.is_retriable());
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:1") && text.contains("nonsense"), "{text}");
    let second = short.bootstrap(["127.0.0.1:1".to_owned(), running.endpoint()]);
    assert!(second.connect().await.is_ok());

    let producer = connected.producer().build().await.unwrap();
    let error = producer.send(ProducerRecord::new("nowhere", "v")).await.unwrap_err();
    let SendError::Topic { error: AdminError::Service { code, .. }, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(code, ErrorCode::UnknownTopic);
    let record = ProducerRecord::new("t", "v").with_partition(9);
    let error = producer.send(record).await.unwrap_err();
    assert!(matches!(error, SendError::UnknownPartition { partitions: 1, .. }), "{error}");
    let too_many = connected.producer().max_in_flight(6).build().await.unwrap_err();
    assert!(matches!(too_many, BuildError::Setting { setting: "max_in_flight", .. }));
    let offsets = connected.admin().list_offsets("t", &[], OffsetSpec::Latest).await.unwrap();
    assert_eq!(offsets[0].offset, Some(0));
}

#[tokio::test]
async fn a_silent_first_address_costs_a_moment_and_no_timeout() {
    let cluster = Cluster::new(1);
    let mut running = Running::start(&cluster).await;
    // Takes every packet and answers none.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let connecting = Client::builder()
        .bootstrap([address, running.endpoint()])
        .ca_pem(cluster.ca_pem())
        .request_timeout(Duration::from_secs(3))
        .connect_timeout(Duration::from_secs(60))
        .connect();
    let client = tokio::time::timeout(PATIENCE, connecting).await.unwrap().unwrap();
    for _ in 0..2 {
        client.admin().list_topics().await.unwrap();
        running.cut().await;
    }
}

#[tokio::test]
async fn a_topic_is_deleted_again_without_an_error() {
    let (_cluster, _running, client) = single(1).await;
    assert_eq!(client.admin().delete_topic("t").await, Ok(true));
    assert_eq!(client.admin().delete_topic("t").await, Ok(false));
}

#[tokio::test]
async fn a_closed_client_reaches_no_broker() {
    let (_cluster, _running, client) = single(1).await;
    client.close().await;
    let error = client.admin().list_topics().await.unwrap_err();
    assert!(matches!(error, AdminError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("closed"), "{error}");
}

#[tokio::test]
async fn a_silent_leader_is_told_once_and_the_next_one_is_read() {
    let cluster = Cluster::new(1);
    let mut brokers = Vec::new();
    for _ in 0..3 {
        brokers.push(Running::start(&cluster).await);
    }
    let client = Client::builder()
        .bootstrap(brokers.iter().map(Running::endpoint))
        .ca_pem(cluster.ca_pem())
        .request_timeout(Duration::from_secs(2))
        .connect_timeout(Duration::from_millis(150))
        .connect()
        .await
        .unwrap();
    let builder = client.consumer().topic("t").start(Start::Earliest);
    let mut consumer = builder.unreachable_after(Duration::from_millis(300)).build().await.unwrap();
    for (leader, number) in [(0, 0), (1, 1)] {
        // A leader that has nothing to say is heard all the same.
        let quiet = tokio::time::timeout(Duration::from_secs(1), consumer.next_batch()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        brokers[leader].stop().await;
        let told = tokio::time::timeout(PATIENCE, consumer.next_batch()).await;
        let error = told.expect("told in time").unwrap().unwrap_err();
        assert!(matches!(error, ConsumerError::Unreachable { partition: 0, .. }), "{error}");
        let once = tokio::time::timeout(Duration::from_secs(1), consumer.next_batch()).await;
        assert!(once.is_err(), "{once:?}");

        cluster.set_leader(leader + 1);
        let producer = client.producer().build().await.unwrap();
        producer.send(ProducerRecord::new("t", value(number))).await.unwrap().await.unwrap();
        assert_eq!(read(&mut consumer, 1).await, [(0, i64::from(number), value(number))]);
    }
}

#[tokio::test]
async fn partitions_that_are_added_are_read_from_their_first_record() {
    let (cluster, running, connected) = single(1).await;
    let builder = connected.consumer().topic("t").growth_interval(Duration::from_millis(100));
    let mut consumer = builder.build().await.unwrap();
    cluster.add_partition();
    let client = client(&cluster, &[&running]).await;
    let producer = client.producer().build().await.unwrap();
    for (partition, number) in [(1, 0), (0, 1)] {
        let record = ProducerRecord::new("t", value(number)).with_partition(partition);
        producer.send(record).await.unwrap().await.unwrap();
    }
    let mut records = read(&mut consumer, 2).await;
    records.sort();
    assert_eq!(records, [(0, 0, value(1)), (1, 0, value(0))]);
    let positions: Vec<_> = consumer.positions().iter().map(|one| one.offset).collect();
    assert_eq!(positions, [Some(1), Some(1)]);
}
