//! What the metadata knows of the archive: one head per partition, deleted topics whose objects are
//! still there, and restores that have not come to their end.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_types::{Digest, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};
use serde::{Deserialize, Serialize};

use crate::error::MetaError;
use crate::form;
use crate::machine::{Applied, Outcome};
use crate::restore::{RestoredPartition, Restores};
use crate::state::MetaState;

/// The most heads that one command moves, or brings back.
pub const ARCHIVE_HEADS_MAX: usize = 1_000;
/// The most deleted topics whose objects wait to be removed.
pub const DELETED_TOPICS_MAX: usize = 100_000;

/// How far a partition is archived: what its newest manifest says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveHead {
    /// The newest manifest's number.
    pub number: u64,
    /// Its digest.
    #[serde(with = "form::text")]
    pub digest: Digest,
    /// The first offset that the archive holds.
    #[serde(with = "form::offset")]
    pub start: Offset,
    /// The offset after the last.
    #[serde(with = "form::offset")]
    pub end: Offset,
    /// The leadership that wrote the manifest.
    #[serde(with = "form::epoch")]
    pub leader_epoch: LeaderEpoch,
}

impl ArchiveHead {
    pub(crate) const fn is_whole(&self) -> bool {
        self.start.value() <= self.end.value() && self.leader_epoch.0 >= 0
    }

    /// Whether `next` may stand where this stands: a later manifest, which keeps what was archived
    /// or gives up the oldest, and is not of an earlier leadership.
    fn admits(&self, next: &Self) -> bool {
        next.number > self.number
            && next.start >= self.start
            && next.end >= self.end
            && next.leader_epoch >= self.leader_epoch
    }
}

/// A partition's new head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MovedHead {
    /// The topic.
    #[serde(with = "form::text")]
    pub topic: TopicId,
    /// The partition.
    #[serde(with = "form::partition")]
    pub partition: PartitionIndex,
    /// The head.
    pub head: ArchiveHead,
}

/// A topic that was deleted while the archive held objects of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeletedTopic {
    /// Its name, under which its objects lie.
    pub name: Arc<str>,
    /// When it was deleted, by the proposer's clock.
    pub deleted: TimestampMs,
}

/// The heads of one topic's partitions.
pub type TopicHeads = BTreeMap<PartitionIndex, ArchiveHead>;

/// The archive's part of the metadata. Images share what did not change between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ArchiveState {
    pub(crate) heads: Arc<BTreeMap<TopicId, Arc<TopicHeads>>>,
    pub(crate) deleted: Arc<BTreeMap<TopicId, DeletedTopic>>,
    pub(crate) restoring: Arc<Restores>,
}

impl MetaState {
    /// How far a partition is archived; `None` where nothing ever was.
    #[must_use]
    pub fn archive_head(&self, topic: TopicId, partition: PartitionIndex) -> Option<&ArchiveHead> {
        self.archive.heads.get(&topic)?.get(&partition)
    }

    /// Topics that were deleted while the archive held objects of them, by id.
    pub fn deleted_topics(&self) -> impl Iterator<Item = (TopicId, &DeletedTopic)> {
        self.archive.deleted.iter().map(|(id, deleted)| (*id, deleted))
    }

    /// Moves heads. One that cannot follow the head that stands, or is of a partition that is gone,
    /// is passed over: the store's manifests decide who was first, and whoever lost learns it
    /// there.
    pub(crate) fn move_archive_heads(&mut self, moved: &[MovedHead]) -> Outcome {
        if moved.len() > ARCHIVE_HEADS_MAX {
            let max = ARCHIVE_HEADS_MAX as u64;
            return Err(MetaError::ClusterFull { what: "heads at once".to_owned(), max });
        }
        let mut count = 0;
        for one in moved {
            let known = self.topics.get(&one.topic);
            let known = known.is_some_and(|topic| topic.partition(one.partition).is_some());
            let standing = self.archive_head(one.topic, one.partition);
            if !known || !one.head.is_whole() || standing.is_some_and(|it| !it.admits(&one.head)) {
                continue;
            }
            let heads = Arc::make_mut(&mut self.archive.heads);
            let heads = Arc::make_mut(heads.entry(one.topic).or_default());
            heads.insert(one.partition, one.head);
            count += 1;
        }
        Ok(Applied::ArchiveHeadsMoved { count })
    }

    /// Takes over the heads of a topic that is made from the archive.
    pub(crate) fn restore_heads(&mut self, topic: TopicId, partitions: &[RestoredPartition]) {
        let heads = (0..).map(PartitionIndex).zip(partitions);
        let heads: TopicHeads =
            heads.filter_map(|(index, partition)| Some((index, partition.head?))).collect();
        if !heads.is_empty() {
            Arc::make_mut(&mut self.archive.heads).insert(topic, Arc::new(heads));
        }
    }

    /// Remembers a deleted topic whose objects are to be removed.
    pub(crate) fn bury(&mut self, topic: TopicId, name: Arc<str>, deleted: TimestampMs) {
        Arc::make_mut(&mut self.archive.heads).remove(&topic);
        let buried = DeletedTopic { name, deleted };
        Arc::make_mut(&mut self.archive.deleted).insert(topic, buried);
    }

    /// Forgets a deleted topic: its objects are gone.
    pub(crate) fn forget_deleted_topic(&mut self, topic: TopicId) -> Outcome {
        if self.archive.deleted.contains_key(&topic) {
            Arc::make_mut(&mut self.archive.deleted).remove(&topic);
        }
        Ok(Applied::DeletedTopicForgotten { topic })
    }

    /// The rule that what the state holds of the archive breaks, if any.
    pub(crate) fn archive_fault(&self) -> Option<&'static str> {
        for (id, heads) in self.archive.heads.iter() {
            let Some(topic) = self.topics.get(id) else {
                return Some("archive heads are of topics that exist");
            };
            if heads.keys().any(|index| topic.partition(*index).is_none()) {
                return Some("archive heads are of partitions that exist");
            }
            if !heads.values().all(ArchiveHead::is_whole) {
                return Some("an archive starts before it ends");
            }
        }
        let buried = |id: &TopicId| self.topics.contains_key(id);
        if self.archive.deleted.keys().any(buried) {
            return Some("a deleted topic does not exist");
        }
        if self.archive.deleted.len() > DELETED_TOPICS_MAX {
            return Some("deleted topics are within the limit");
        }
        self.restores_fault()
    }
}
