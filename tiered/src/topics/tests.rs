//! Topics found in a directory that nobody remembers.

use millstream_types::{LeaderEpoch, Offset, TimestampMs};
use millstream_wire::{Batch, BatchBuilder, Codec, ProducerStamp};
use serde_json::json;

use super::*;
use crate::Encoder;

const TOPIC_ID: TopicId = TopicId::from_bytes([2; 16]);
const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);
const OTHER: ClusterId = ClusterId::from_bytes([3; 16]);

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
    topic().write_config(&store, CLUSTER, &config(7)).await.unwrap();
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
    let restored = || listed[0].take_over_partitions(&store, OTHER, 4, |end| end);
    let found = restored().await.unwrap();
    assert_eq!(found.keys().map(|index| index.0).collect::<Vec<_>>(), Vec::from_iter(0..11));
    let taken = |of: &Head, found: &ArchivedPartition| {
        let (number, leader_epoch) = (of.number + 1, of.leader_epoch + 1);
        assert_eq!(found.head, Head { number, leader_epoch, digest: found.head.digest, ..*of });
    };
    let held = &found[&PartitionIndex(2)];
    taken(two.head().unwrap(), held);
    assert_eq!(held.end, Some(end_at(3)));
    let trimmed_away = &found[&PartitionIndex(10)];
    taken(&trimmed, trimmed_away);
    assert_eq!(trimmed_away.end, None);
    for index in [0, 5, 9].map(PartitionIndex) {
        let ArchivedPartition { head, end } = &found[&index];
        assert_eq!((head.number, head.start, head.end, end), (0, 0, 0, &None), "{index}");
    }
    assert_eq!(restored().await.unwrap(), found, "a restore that died is repeated");
}

#[tokio::test]
async fn the_newest_config_is_read_and_the_same_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(dir.path()).unwrap();
    assert_eq!(topic().newest_config(&store).await.unwrap(), None);
    for (retention_ms, number) in [(1, 0), (1, 0), (2, 1), (1, 2)] {
        let written = topic().write_config(&store, CLUSTER, &config(retention_ms)).await.unwrap();
        assert_eq!(written, number);
        let newest = topic().newest_config(&store).await.unwrap();
        assert_eq!(newest, Some((number, config(retention_ms))));
    }
    let (one, other) = (config(10), config(11));
    let (topic, again) = (topic(), topic());
    let (one, other) = tokio::join!(
        topic.write_config(&store, CLUSTER, &one),
        again.write_config(&store, CLUSTER, &other)
    );
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

fn is_taken_over<T: std::fmt::Debug>(result: &Result<T, TopicError>, by: ClusterId) -> bool {
    matches!(result, Err(TopicError::TakenOver { cluster }) if *cluster == by)
}

/// As builds wrote it that did not say whose a topic was.
async fn unlabelled_config(store: &Store, number: u64, config: &ConfigMap) {
    let old = json!({
        "version": 1, "number": number, "topic": "orders.eu", "topic_id": TOPIC_ID.to_string(),
        "config": config
    });
    store.put(&topic().config_key(number), old.to_string().into()).await.unwrap();
}

#[tokio::test]
async fn a_topic_is_of_the_cluster_that_wrote_its_newest_config() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(dir.path()).unwrap();
    let gone = topic().take_over(&store, OTHER).await;
    assert!(matches!(gone, Err(TopicError::Gone { .. })), "{gone:?}");
    unlabelled_config(&store, 0, &config(1)).await;
    topic().check_owner(&store, OTHER).await.unwrap();
    // The same once more, with its name on it.
    assert_eq!(topic().write_config(&store, CLUSTER, &config(1)).await.unwrap(), 1);
    assert!(is_taken_over(&topic().check_owner(&store, OTHER).await, CLUSTER));
    for number in [2, 2] {
        assert_eq!(topic().take_over(&store, OTHER).await.unwrap(), config(1));
        assert_eq!(topic().newest_config(&store).await.unwrap(), Some((number, config(1))));
    }
    let refused = topic().write_config(&store, CLUSTER, &config(2)).await;
    assert!(is_taken_over(&refused, OTHER), "{refused:?}");
    assert_eq!(topic().write_config(&store, OTHER, &config(2)).await.unwrap(), 3);
}

#[tokio::test]
async fn a_topic_is_removed_by_its_own_cluster_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(dir.path()).unwrap();
    assert_eq!(topic().remove(&store, CLUSTER).await.unwrap(), 0);
    archived(&store, 2, 3).await;
    topic().write_config(&store, CLUSTER, &config(1)).await.unwrap();
    let everything = async || store.list("topics", 100).await.unwrap();
    let before = everything().await;
    assert_eq!(before.len(), 3 + 3 + 1);

    let refused = topic().remove(&store, OTHER).await;
    assert!(is_taken_over(&refused, CLUSTER), "{refused:?}");
    topic().take_over(&store, OTHER).await.unwrap();
    let refused = topic().remove(&store, CLUSTER).await;
    assert!(is_taken_over(&refused, OTHER), "by its config: {refused:?}");
    topic().take_over_partitions(&store, OTHER, 1, |_| ()).await.unwrap();
    let refused = topic().remove(&store, CLUSTER).await;
    assert!(is_taken_over(&refused, OTHER), "by its manifests: {refused:?}");
    let after = everything().await;
    let kept = before.iter().all(|object| after.iter().any(|it| it.key == object.key));
    assert!(kept, "{after:?}");

    // Begun, and gone on with: nobody restores what is half removed.
    topic().bury(&store, OTHER).await.unwrap();
    let refused = topic().take_over(&store, CLUSTER).await;
    assert!(matches!(refused, Err(TopicError::Gone { .. })), "{refused:?}");
    let refused = topic().write_config(&store, OTHER, &config(1)).await;
    assert!(matches!(refused, Err(TopicError::Gone { .. })), "{refused:?}");
    assert_eq!(topic().newest_config(&store).await.unwrap(), None);
    // The range's three objects and their manifests, what took over, two configs and the last.
    assert_eq!(topic().remove(&store, OTHER).await.unwrap(), 3 + 3 + 3 + 2 + 1);
    assert_eq!(everything().await, []);
}
