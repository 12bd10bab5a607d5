//! Two clusters over one bucket: one has archived a topic, the other restores it.

use bytes::Bytes;
use millstream_types::{ClusterId, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};
use proptest::prelude::Rng as _;

use crate::faults::{batch_at, contents, identity, range, rng, store};
use crate::{
    ArchiveError, ArchivedTopic, ConfigMap, Head, Identity, ManifestError, PartitionArchive, Store,
};

const OTHER: ClusterId = ClusterId::from_bytes([9; 16]);

fn other() -> Identity {
    Identity { cluster: OTHER, ..identity() }
}

/// The archive as the cluster sees it that made it.
async fn open(store: &Store, head: Option<&Head>) -> PartitionArchive {
    PartitionArchive::open(store.clone(), identity(), head).await.unwrap()
}

async fn take_over(store: &Store) -> Result<PartitionArchive, ArchiveError> {
    PartitionArchive::take_over(store.clone(), other()).await
}

fn end_of(archive: &PartitionArchive) -> i64 {
    archive.head().map_or(0, |head| head.end)
}

/// Three ranges.
async fn grown(store: &Store) -> PartitionArchive {
    let mut archive = open(store, None).await;
    for attempt in 0..3 {
        archive.append(LeaderEpoch(5), &range(end_of(&archive), 2), attempt).await.unwrap();
    }
    archive
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ArchiveError>, by: ClusterId) {
    let is_refused = matches!(
        &result,
        Err(ArchiveError::Manifest(ManifestError::TakenOver { cluster })) if *cluster == by
    );
    assert!(is_refused, "{result:?}");
}

/// However long ago: the take-over's number stays taken.
#[tokio::test]
async fn whoever_lost_an_archive_long_ago_changes_nothing_either() {
    let (store, _) = store(1, false);
    let mut appends = grown(&store).await;
    let (head, held) = (*appends.head().unwrap(), contents(&appends).await);
    let mut trims = open(&store, Some(&head)).await;
    let mut new = take_over(&store).await.unwrap();
    for attempt in 0..200 {
        new.append(LeaderEpoch(7), &range(end_of(&new), 1), attempt).await.unwrap();
    }
    new.collect(TimestampMs(i64::MAX), 0).await.unwrap();
    let second = Offset::new(new.entries().nth(1).unwrap().base).unwrap();
    refused(appends.append(LeaderEpoch(9), &range(head.end, 1), 1000).await, OTHER);
    refused(trims.trim(LeaderEpoch(9), second).await, OTHER);
    let again = open(&store, Some(&head)).await;
    assert_eq!((again.head(), contents(&again).await), (Some(&head), held));
}

#[tokio::test]
async fn whoever_lost_an_archive_reads_it_and_changes_nothing() {
    let (store, _) = store(1, false);
    let mut old = grown(&store).await;
    let (before, held) = (*old.head().unwrap(), contents(&old).await);
    let mut new = take_over(&store).await.unwrap();
    assert_eq!((end_of(&new), new.head().unwrap().leader_epoch), (before.end, 6));
    assert_eq!(contents(&new).await, held);
    new.append(LeaderEpoch(7), &range(before.end, 1), 10).await.unwrap();
    let second = Offset::new(new.entries().nth(1).unwrap().base).unwrap();
    new.trim(LeaderEpoch(7), second).await.unwrap();
    let kept = store.list("topics", 100).await.unwrap();

    // In whatever epoch: epochs of two clusters say nothing of each other.
    let far = LeaderEpoch(1_000);
    refused(old.append(far, &range(before.end, 2), 11).await, OTHER);
    refused(old.trim(far, second).await, OTHER);
    refused(old.collect(TimestampMs(i64::MAX), 0).await, OTHER);
    assert_eq!(old.head(), Some(&before), "what the other wrote is not adopted");
    // As after a restart, with what the metadata has or without.
    for head in [Some(&before), None] {
        let mut again = open(&store, head).await;
        assert_eq!(again.head(), Some(&before), "{head:?}");
        refused(again.check_owner(), OTHER);
        refused(again.collect(TimestampMs(i64::MAX), 0).await, OTHER);
        assert_eq!(contents(&again).await, held);
        for entry in again.entries() {
            again.verify(entry).await.unwrap();
        }
    }
    let left = store.list("topics", 100).await.unwrap();
    let orphans = left.len() - kept.len();
    assert!(kept.iter().all(|object| left.contains(object)) && orphans <= 1, "{left:?}");
    // The new owner's retention decides, and its collection.
    assert_eq!(new.collect(TimestampMs(i64::MAX), 0).await.unwrap(), 1 + orphans);
    // And back, once the first cluster restores it again.
    let back = PartitionArchive::take_over(store.clone(), identity()).await.unwrap();
    assert_eq!((end_of(&back), back.entries().len()), (end_of(&new), 3));
    refused(new.append(far, &range(end_of(&new), 1), 12).await, identity().cluster);
}

/// A restore that dies at any call is run again, and finds what it did.
#[tokio::test]
async fn an_archive_is_taken_over_once_however_often_it_is_tried() {
    let mut whole_tries = 0;
    for dies_after in 0..20 {
        let (store, faults) = store(dies_after, false);
        let old = grown(&store).await;
        faults.lock().unwrap().dies_after = Some(dies_after);
        whole_tries += u32::from(take_over(&store).await.is_ok());
        faults.lock().unwrap().dies_after = None;
        let expected = old.head().unwrap().number + 1;
        for _ in 0..2 {
            let new = take_over(&store).await.unwrap();
            assert_eq!(new.head().unwrap().number, expected, "after {dies_after} calls");
            assert_eq!(end_of(&new), end_of(&old));
        }
    }
    assert!((1..20).contains(&whole_tries), "{whole_tries} tries got through");
}

/// Whatever the old cluster was told to be archived, the new one has; and it is told so no more
/// once the new one goes on.
#[tokio::test]
async fn a_take_over_loses_nothing_that_was_archived_before() {
    let (mut after, mut before) = (0, 0);
    for seed in 0..60 {
        let (store, faults) = store(seed, false);
        let mut dice = rng(seed ^ 0x5eed);
        let mut old = grown(&store).await;
        {
            let mut faults = faults.lock().unwrap();
            faults.fail_per_cent = dice.next_u64() % 20;
            faults.lost_reply_per_cent = dice.next_u64() % 20;
        }
        let is_over = std::cell::Cell::new(false);
        let until_taken = async {
            // Somewhere among the other's steps.
            let begins = store.counters().requests + dice.next_u64() % 16;
            while store.counters().requests < begins && !is_over.get() {
                tokio::task::yield_now().await;
            }
            loop {
                match take_over(&store).await {
                    Ok(new) => break new,
                    Err(error) => assert!(error.is_retriable(), "seed {seed}: {error}"),
                }
            }
        };
        let until_refused = async {
            let mut told = end_of(&old);
            for attempt in 100..106 {
                let object = range(end_of(&old), 2);
                let mut result = old.append(LeaderEpoch(5), &object, attempt).await;
                while result.as_ref().is_err_and(ArchiveError::is_retriable) {
                    result = old.append(LeaderEpoch(5), &object, attempt).await;
                }
                match result {
                    Ok(head) => told = head.end,
                    other => {
                        refused(other, OTHER);
                        break;
                    }
                }
                tokio::task::yield_now().await;
            }
            is_over.set(true);
            told
        };
        let (new, told) = tokio::join!(until_taken, until_refused);
        {
            let mut faults = faults.lock().unwrap();
            (faults.fail_per_cent, faults.lost_reply_per_cent) = (0, 0);
        }
        let late = old.append(LeaderEpoch(5), &range(end_of(&old), 2), 200).await;
        refused(late, OTHER);
        assert!(end_of(&new) >= told, "seed {seed}: {told} was archived, {:?} is", new.head());
        let mut expected = 0;
        for batch in contents(&new).await {
            assert_eq!(batch, batch_at(expected), "seed {seed} at {expected}");
            expected = batch.header().next_offset().value();
        }
        assert_eq!(expected, end_of(&new), "seed {seed}");
        let ranges = new.entries().len();
        (before, after) = (before + u32::from(ranges == 3), after + u32::from(ranges > 3));
    }
    assert!(before > 0 && after > 0, "{before} of the races were won at once, {after} later");
}

/// A partition that nothing is archived of is taken over all the same, so that nobody begins it.
#[tokio::test]
async fn one_cluster_begins_a_partition() {
    let (store, _) = store(1, false);
    let mut old = open(&store, None).await;
    let mut new = take_over(&store).await.unwrap();
    refused(old.append(LeaderEpoch(5), &range(0, 2), 1).await, OTHER);
    assert_eq!(old.head(), None);
    new.append(LeaderEpoch(1), &range(0, 3), 2).await.unwrap();
    let mut again = open(&store, None).await;
    assert_eq!(again.head(), None);
    refused(again.append(LeaderEpoch(6), &range(0, 2), 3).await, OTHER);
    assert_eq!(take_over(&store).await.unwrap().head(), new.head());
}

/// One that the topic has got since is of whoever the topic is of.
#[tokio::test]
async fn a_partition_is_not_begun_by_whom_the_topic_is_not_of() {
    let (store, _) = store(1, false);
    let Identity { topic, topic_id, .. } = identity();
    let topic = ArchivedTopic::new(topic, topic_id);
    let mut old = open(&store, None).await;
    topic.write_config(&store, OTHER, &ConfigMap::new()).await.unwrap();
    refused(old.append(LeaderEpoch(5), &range(0, 2), 1).await, OTHER);
    assert_eq!(store.list(old.folder(), 10).await.unwrap(), [], "nothing is put in vain");
    let mut new = PartitionArchive::open(store.clone(), other(), None).await.unwrap();
    new.append(LeaderEpoch(1), &range(0, 2), 2).await.unwrap();
}

/// As builds wrote it that did not say whose it was.
#[tokio::test]
async fn an_archive_that_is_nobodys_is_of_whoever_goes_on_with_it() {
    let golden = include_bytes!("../tests/testdata/manifest-v1.json");
    let partition = PartitionIndex(2);
    let (topic, topic_id) = ("t".to_owned(), TopicId::from_bytes([7; 16]));
    for taken_over in [false, true] {
        let (store, _) = store(1, false);
        let key = format!("topics/{topic}.{topic_id}/2/manifest/{:020}.json", 0);
        store.put(&key, Bytes::from_static(golden)).await.unwrap();
        let of = |cluster| Identity { cluster, topic: topic.clone(), topic_id, partition };
        let ours = of(identity().cluster);
        let mut old = PartitionArchive::open(store.clone(), ours, None).await.unwrap();
        let mut new = PartitionArchive::open(store.clone(), of(OTHER), None).await.unwrap();
        let end = Offset::new(10).unwrap();
        assert_eq!((old.head(), end_of(&old)), (new.head(), end.value()));
        if taken_over {
            PartitionArchive::take_over(store.clone(), of(OTHER)).await.unwrap();
        } else {
            new.trim(LeaderEpoch(3), end).await.unwrap();
        }
        refused(old.trim(LeaderEpoch(4), end).await, OTHER);
    }
}
