//! Topics found in a directory that nobody remembers.

use millstream_types::{LeaderEpoch, Offset, TimestampMs};
use millstream_wire::{Batch, BatchBuilder, Codec, ProducerStamp};
use serde_json::json;

use super::*;
use crate::Encoder;

const TOPIC_ID: TopicId = TopicId::from_bytes([2; 16]);
const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);

fn topic() -> ArchivedTopic {
    ArchivedTopic::new("orders.eu".to_owned(), TOPIC_ID)
}

fn config(retention_ms: i64) -> ConfigMap {
    json!({ "partitions": 4, "retention.ms": retention_ms }).as_object().unwrap().clone()
}

fn end_at(offset: i64) -> RangeEnd {
    RangeEnd {
        epochs: vec![(LeaderEpoch(0), Offset::ZERO), (LeaderEpoch(3), Offset::new(1).unwrap())],
        producers: Bytes::from(format!("producers at {offset}")),
        ..RangeEnd::default()
    }
}

/// Archives `count` ranges of one batch each.
async fn archived(store: &Store, partition: u32, count: i64) -> PartitionArchive {
    let ArchivedTopic { topic, topic_id, .. } = topic();
    let partition = PartitionIndex(partition);
    let identity = Identity { cluster: CLUSTER, topic, topic_id, partition };
    let mut archive = PartitionArchive::open(store.clone(), identity.clone(), None).await.unwrap();
    for base in 0..count {
        let mut builder = BatchBuilder::new(Codec::None, 0);
        builder.append(TimestampMs(base), None, Some(b"v"), &[]).unwrap();
        let mut bytes = builder.build(ProducerStamp::NONE).unwrap().to_vec();
        // Outside of what the batch's CRC covers.
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        let mut encoder = Encoder::new(identity.clone(), Offset::new(base).unwrap()).unwrap();
        encoder.push(&Batch::validate(bytes.into()).unwrap()).unwrap();
        let object = encoder.finish(&end_at(base + 1)).unwrap();
        archive.append(LeaderEpoch(3), &object, base.unsigned_abs().into()).await.unwrap();
    }
    archive
}

#[tokio::test]
async fn a_bucket_alone_tells_topics_partitions_and_their_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(dir.path()).unwrap();
    assert_eq!(ArchivedTopic::list(&store).await.unwrap(), []);
    let two = archived(&store, 2, 3).await;
    let mut ten = archived(&store, 10, 2).await;
    let everything = Offset::new(2).unwrap();
    let trimmed = ten.trim(LeaderEpoch(4), everything).await.unwrap();
    topic().write_config(&store, &config(7)).await.unwrap();
    // The rest of an attempt that died, and what is no topic.
    let orphan = format!("topics/orders.eu.{TOPIC_ID}/5/0-1-1-1.parquet");
    store.put(&orphan, Bytes::from_static(b"rest")).await.unwrap();
    for stray in [
        "topics/readme/1/a",
        "topics/.00/1/a",
        "topics/x.zz/1/a",
        &format!("topics/orders.eu.{TOPIC_ID}/05/a"),
    ] {
        store.put(stray, Bytes::new()).await.unwrap();
    }

    let listed = ArchivedTopic::list(&store).await.unwrap();
    let partitions = [2, 5, 10].map(PartitionIndex).to_vec();
    assert_eq!(listed, [ArchivedTopic { partitions, ..topic() }]);
    let found = listed[0].partitions(&store, CLUSTER).await.unwrap();
    let expected = BTreeMap::from([
        (PartitionIndex(2), ArchivedPartition { head: *two.head().unwrap(), end: Some(end_at(3)) }),
        (PartitionIndex(10), ArchivedPartition { head: trimmed, end: None }),
    ]);
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_newest_config_is_read_and_the_same_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(dir.path()).unwrap();
    assert_eq!(topic().newest_config(&store).await.unwrap(), None);
    for (retention_ms, number) in [(1, 0), (1, 0), (2, 1), (1, 2)] {
        let written = topic().write_config(&store, &config(retention_ms)).await.unwrap();
        assert_eq!(written, number);
        let newest = topic().newest_config(&store).await.unwrap();
        assert_eq!(newest, Some((number, config(retention_ms))));
    }
    let (one, other) = (config(10), config(11));
    let (topic, again) = (topic(), topic());
    let (one, other) =
        tokio::join!(topic.write_config(&store, &one), again.write_config(&store, &other));
    let mut numbers = [one.unwrap(), other.unwrap()];
    numbers.sort_unstable();
    assert_eq!(numbers, [3, 4], "two writers at once take a number each");
}

#[tokio::test]
async fn a_config_that_is_none_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(dir.path()).unwrap();
    let key = topic().config_key(3);
    let of_another = json!({
        "version": 1, "number": 4, "topic": "orders.eu", "topic_id": TOPIC_ID.to_string(),
        "config": {}
    });
    for bytes in ["", "{}", "[1]", "\u{0}", &of_another.to_string()] {
        store.put(&key, bytes.to_owned().into()).await.unwrap();
        let refused = topic().newest_config(&store).await;
        assert!(matches!(refused, Err(TopicError::Unreadable { .. })), "{bytes}: {refused:?}");
    }
    store.put(&key, Bytes::from_static(b"{\"version\": 2}")).await.unwrap();
    let refused = topic().newest_config(&store).await;
    assert!(matches!(refused, Err(TopicError::Version { version: 2, .. })), "{refused:?}");
}
