//! Topics that are made of what the archive holds of them.
//!
//! One command holds so many partitions. A topic of more comes in parts, which are kept here until
//! the command that makes the topic of all of them: until then there is no topic, so that nobody
//! meets half of one. A broker restores one topic in parts at a time, and has none under way when
//! it starts: a restore that a crash cut begins again, and so do its parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_types::limits::TOPIC_PARTITIONS_MAX;
use millstream_types::{BrokerId, LeaderEpoch, ProducerId, TimestampMs, TopicId};
use serde::{Deserialize, Serialize};

use crate::archive::{ARCHIVE_HEADS_MAX, ArchiveHead};
use crate::command::CommandId;
use crate::error::MetaError;
use crate::form;
use crate::machine::{Applied, NewTopic, Outcome};
use crate::state::MetaState;

/// A partition as the archive alone tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoredPartition {
    /// The leadership that it continues from.
    #[serde(with = "form::epoch")]
    pub leader_epoch: LeaderEpoch,
    /// How far it is archived; `None` where nothing ever was.
    pub head: Option<ArchiveHead>,
}

/// Names a restore whose partitions come in parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreName {
    /// The broker that restores.
    #[serde(with = "form::broker")]
    pub broker: BrokerId,
    /// Which of its restores it is, chosen by the proposer at random.
    #[serde(with = "form::text")]
    pub restore: CommandId,
}

/// What has come of a broker's restore in parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Restoring {
    pub(crate) restore: CommandId,
    pub(crate) topic: TopicId,
    /// The topic's first partitions, in order of their index.
    pub(crate) partitions: Vec<RestoredPartition>,
}

/// By the broker that restores: one each.
pub(crate) type Restores = BTreeMap<BrokerId, Restoring>;

/// What a topic is restored of, beside its config.
pub(crate) struct Source<'a> {
    /// The partitions that came in parts before.
    pub(crate) parts: Option<RestoreName>,
    /// Those behind them.
    pub(crate) partitions: &'a [RestoredPartition],
    pub(crate) producers_from: ProducerId,
    pub(crate) other_producers: &'a [ProducerId],
}

impl MetaState {
    /// How many partitions of a restore in parts have come; `None` if it is not under way.
    #[must_use]
    pub fn restore_parts(&self, name: RestoreName) -> Option<usize> {
        self.kept(name).map(|restoring| restoring.partitions.len())
    }

    fn kept(&self, name: RestoreName) -> Option<&Restoring> {
        self.archive.restoring.get(&name.broker).filter(|kept| kept.restore == name.restore)
    }

    /// Keeps the partitions of a topic from the `first` on. A restore's first part takes the place
    /// of the broker's restore before; a part that came already takes its own place, and that of
    /// those behind it.
    pub(crate) fn keep_restored(
        &mut self,
        name: RestoreName,
        topic: TopicId,
        first: u32,
        mut partitions: Vec<RestoredPartition>,
    ) -> Outcome {
        let RestoreName { broker, restore } = name;
        if !self.brokers.contains_key(&broker) {
            return Err(MetaError::UnknownBroker { broker });
        }
        if topic == TopicId::NIL || self.topics.contains_key(&topic) {
            return Err(MetaError::InvalidTopicId { topic });
        }
        let count = partitions.len();
        let invalid = |reason: &str| MetaError::InvalidPartitions {
            asked: u32::try_from(count).unwrap_or(u32::MAX),
            reason: reason.to_owned(),
        };
        if count == 0 || count > ARCHIVE_HEADS_MAX {
            return Err(invalid("a part of a restore has 1 to 1,000"));
        }
        if let Some(reason) = partitions_fault(&partitions) {
            return Err(invalid(reason));
        }
        let before = usize::try_from(first).unwrap_or(usize::MAX);
        let came = self.kept(name).filter(|kept| kept.topic == topic);
        if before > came.map_or(0, |kept| kept.partitions.len()) {
            return Err(invalid("the parts of a restore before these have not come"));
        }
        let total = before.saturating_add(count);
        if u32::try_from(total).map_or(true, |total| total > TOPIC_PARTITIONS_MAX) {
            return Err(invalid("with those before, they are more than a topic has"));
        }
        let all = Arc::make_mut(&mut self.archive.restoring);
        let fresh = || Restoring { restore, topic, partitions: Vec::new() };
        let kept = all.entry(broker).or_insert_with(fresh);
        if kept.restore != restore || kept.topic != topic {
            *kept = fresh();
        }
        kept.partitions.truncate(before);
        kept.partitions.append(&mut partitions);
        Ok(Applied::RestoredPartitionsKept { topic, count: total as u64 })
    }

    /// Makes a topic whose partitions go on where their archive ends. `wanted` tells all but their
    /// number.
    pub(crate) fn restore_topic(
        &mut self,
        at: TimestampMs,
        mut wanted: NewTopic,
        source: &Source<'_>,
    ) -> Outcome {
        let topic = wanted.topic;
        let mut partitions = Vec::new();
        if let Some(name) = source.parts {
            let kept = self.kept(name).filter(|kept| kept.topic == topic);
            partitions.extend_from_slice(&kept.ok_or_else(parts_missing)?.partitions);
        }
        partitions.extend_from_slice(source.partitions);
        wanted.partitions = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
        let fault = partitions_fault(&partitions).or_else(|| self.source_fault(source));
        if let Some(reason) = fault {
            let (asked, reason) = (wanted.partitions, reason.to_owned());
            return Err(MetaError::InvalidPartitions { asked, reason });
        }
        self.create_topic(at, wanted)?;
        if let Some(made) = Arc::make_mut(&mut self.topics).get_mut(&topic) {
            let made = Arc::make_mut(made);
            for (partition, restored) in made.partitions.iter_mut().zip(&partitions) {
                partition.leader_epoch = LeaderEpoch(restored.leader_epoch.0.saturating_add(1));
            }
        }
        self.restore_heads(topic, &partitions);
        self.producer_id_next = self.producer_id_next.max(source.producers_from.0);
        self.know_producers(source.other_producers);
        if let Some(name) = source.parts {
            self.forget_restore(name.broker);
        }
        Ok(Applied::TopicRestored { topic })
    }

    /// Forgets what has come of a broker's restore.
    pub(crate) fn forget_restore(&mut self, broker: BrokerId) {
        if self.archive.restoring.contains_key(&broker) {
            Arc::make_mut(&mut self.archive.restoring).remove(&broker);
        }
    }

    fn source_fault(&self, source: &Source<'_>) -> Option<&'static str> {
        let negative = (source.producers_from.0 < 0).then_some("producer ids are not negative");
        negative.or_else(|| self.others_fault(source.other_producers))
    }

    /// The rule that what is kept of restores breaks, if any.
    pub(crate) fn restores_fault(&self) -> Option<&'static str> {
        let restoring = &self.archive.restoring;
        if !restoring.keys().all(|broker| self.brokers.contains_key(broker)) {
            return Some("a registered broker restores");
        }
        let max = usize::try_from(TOPIC_PARTITIONS_MAX).unwrap_or(usize::MAX);
        for kept in restoring.values() {
            if kept.partitions.is_empty() || kept.partitions.len() > max {
                return Some("what is restored has as many partitions as a topic may have");
            }
            if let Some(fault) = partitions_fault(&kept.partitions) {
                return Some(fault);
            }
        }
        None
    }
}

fn parts_missing() -> MetaError {
    let reason = "the parts of the restore are not there; it has to begin again".to_owned();
    MetaError::InvalidPartitions { asked: 0, reason }
}

/// What no archive could have of its partitions.
fn partitions_fault(partitions: &[RestoredPartition]) -> Option<&'static str> {
    let whole = |one: &RestoredPartition| {
        one.leader_epoch.0 >= 0 && one.head.is_none_or(|head| head.is_whole())
    };
    (!partitions.iter().all(whole))
        .then_some("a restored partition starts before it ends, with an epoch that is not negative")
}
