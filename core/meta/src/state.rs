//! What the metadata holds: an image that the broker reads. Cloning it copies a few pointers, and
//! two images share whatever did not change between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_types::limits::TOPIC_PARTITIONS_MAX;
use millstream_types::{
    BrokerId, ClusterId, DirectoryId, LeaderEpoch, PartitionIndex, TimestampMs, TopicId,
};

use crate::archive::ArchiveState;
use crate::command::Endpoint;
use crate::config::TopicConfig;
use crate::name::{collision_key, validate_topic_name};

/// One image of the cluster's metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetaState {
    pub(crate) format: u32,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) revision: u64,
    pub(crate) registrations: u64,
    pub(crate) placed: u64,
    pub(crate) partitions: u64,
    /// The number of the next producer that is given an id.
    pub(crate) producer_id_next: i64,
    /// The largest number that is known of each other cluster's producers, by origin.
    pub(crate) other_producers: Arc<BTreeMap<u32, i64>>,
    pub(crate) brokers: Arc<BTreeMap<BrokerId, Arc<Broker>>>,
    pub(crate) topics: Arc<BTreeMap<TopicId, Arc<Topic>>>,
    /// Topics by [`collision_key`] of their name, which is unique.
    pub(crate) names: Arc<BTreeMap<Arc<str>, TopicId>>,
    pub(crate) archive: ArchiveState,
}

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its identity.
    pub id: BrokerId,
    /// Counts registrations in the cluster: a later registration, of any broker, has a larger one.
    /// Fences what an earlier process of this broker may still send.
    pub epoch: u64,
    /// Where clients and brokers reach it.
    pub endpoints: Vec<Endpoint>,
    /// Its data directories.
    pub directories: Vec<DirectoryId>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// When it was made, by the proposer's clock.
    pub created: TimestampMs,
    /// How many replicas each partition was placed with.
    pub replication_factor: u16,
    /// The configs that were set, by name, in canonical spelling.
    pub overrides: BTreeMap<String, String>,
    /// The same with defaults filled in.
    pub config: TopicConfig,
    /// Its partitions, in order of their index.
    pub partitions: Vec<Partition>,
}

/// A partition's place in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The brokers that hold it, the preferred leader first.
    pub replicas: Arc<[BrokerId]>,
    /// The replicas that hold every committed record.
    pub in_sync: Arc<[BrokerId]>,
    /// Who leads it; `None` while nobody does.
    pub leader: Option<BrokerId>,
    /// Counts leaderships.
    pub leader_epoch: LeaderEpoch,
    /// Counts changes of this record.
    pub partition_epoch: u32,
}

/// What became of one topic between two images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicChange {
    /// It was made.
    Created(Arc<Topic>),
    /// Its configs or partitions changed.
    Changed {
        /// As it was.
        old: Arc<Topic>,
        /// As it is.
        new: Arc<Topic>,
    },
    /// It was removed.
    Deleted(Arc<Topic>),
}

impl MetaState {
    /// The version of the rules that the cluster runs; 0 before it is initialised.
    #[must_use]
    pub const fn format(&self) -> u32 {
        self.format
    }

    /// The cluster's identity; `None` before it is initialised.
    #[must_use]
    pub const fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Counts the commands that changed the metadata.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// A registered broker.
    #[must_use]
    pub fn broker(&self, broker: BrokerId) -> Option<&Arc<Broker>> {
        self.brokers.get(&broker)
    }

    /// The registered brokers, by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// A topic by its id.
    #[must_use]
    pub fn topic(&self, topic: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&topic)
    }

    /// A topic by its name.
    #[must_use]
    pub fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topic_colliding(name).filter(|topic| *topic.name == *name)
    }

    /// The topic whose name differs from `name` at most in `.` and `_`.
    pub(crate) fn topic_colliding(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topic(*self.names.get(&collision_key(name))?)
    }

    /// The topics, by id.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// How many topics there are.
    #[must_use]
    pub fn topics_len(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions there are in all.
    #[must_use]
    pub const fn partitions_len(&self) -> u64 {
        self.partitions
    }

    /// What became of each topic from `older` to here, by topic id. Topics that both images share
    /// cost one comparison of pointers.
    #[must_use]
    pub fn changes_since(&self, older: &Self) -> Vec<TopicChange> {
        if Arc::ptr_eq(&self.topics, &older.topics) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (id, old) in older.topics.iter() {
            match self.topics.get(id) {
                None => changes.push(TopicChange::Deleted(Arc::clone(old))),
                Some(new) if Arc::ptr_eq(old, new) || old == new => {}
                Some(new) => {
                    let (old, new) = (Arc::clone(old), Arc::clone(new));
                    changes.push(TopicChange::Changed { old, new });
                }
            }
        }
        let created = self.topics.iter().filter(|(id, _)| !older.topics.contains_key(id));
        changes.extend(created.map(|(_, topic)| TopicChange::Created(Arc::clone(topic))));
        changes
    }
}

impl Topic {
    /// A partition.
    #[must_use]
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }
}

/// The invariant that an image breaks, as its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata breaks the rule that {0}")]
pub struct InvariantError(pub &'static str);

impl MetaState {
    /// Verifies every invariant of the image; for snapshots as they are read, and for tests.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<(), InvariantError> {
        let blank = self.topics.is_empty() && self.brokers.is_empty() && self.revision == 0;
        rule(self.cluster.is_some() || blank, "only an initialised cluster holds anything")?;
        if let Some(broken) = self.producers_fault() {
            return Err(InvariantError(broken));
        }
        rule(self.names.len() == self.topics.len(), "each topic has one name")?;
        let partitions: u64 = self.topics.values().map(|t| t.partitions.len() as u64).sum();
        rule(self.partitions == partitions, "the partitions are counted")?;
        rule(self.partitions <= self.placed, "each partition was placed")?;
        if let Some(broken) = self.archive_fault() {
            return Err(InvariantError(broken));
        }
        self.check_brokers()?;
        self.topics.iter().try_for_each(|(id, topic)| self.check_topic(*id, topic))
    }

    fn check_brokers(&self) -> Result<(), InvariantError> {
        let mut directories = BTreeSet::new();
        let mut epochs = BTreeSet::new();
        for (id, broker) in self.brokers.iter() {
            rule(*id == broker.id, "a broker stands under its own id")?;
            rule(broker.epoch < self.registrations, "registrations are counted")?;
            rule(epochs.insert(broker.epoch), "each registration has its own epoch")?;
            let distinct = broker.directories.iter().all(|id| directories.insert(*id));
            rule(distinct, "a directory belongs to one broker")?;
        }
        Ok(())
    }

    fn check_topic(&self, id: TopicId, topic: &Topic) -> Result<(), InvariantError> {
        rule(id == topic.id, "a topic stands under its own id")?;
        rule(validate_topic_name(&topic.name).is_ok(), "topic names are valid")?;
        let named = self.names.get(&collision_key(&topic.name));
        rule(named == Some(&id), "a topic is found by its name")?;
        let config = TopicConfig::from_overrides(&topic.overrides);
        rule(config.as_ref() == Ok(&topic.config), "a topic's config is what was set")?;
        rule(
            topic.config.min_insync_replicas <= topic.replication_factor,
            "min.insync.replicas is at most the replication factor",
        )?;
        let partitions_max = usize::try_from(TOPIC_PARTITIONS_MAX).unwrap_or(usize::MAX);
        rule(
            (1..=partitions_max).contains(&topic.partitions.len()),
            "a topic's partitions are within the limit",
        )?;
        topic.partitions.iter().try_for_each(|partition| self.check_partition(topic, partition))
    }

    fn check_partition(&self, topic: &Topic, partition: &Partition) -> Result<(), InvariantError> {
        let replicas: BTreeSet<_> = partition.replicas.iter().collect();
        let in_sync: BTreeSet<_> = partition.in_sync.iter().collect();
        rule(
            partition.replicas.len() == usize::from(topic.replication_factor),
            "a partition has as many replicas as its topic says",
        )?;
        rule(replicas.len() == partition.replicas.len(), "replicas are distinct")?;
        rule(in_sync.len() == partition.in_sync.len(), "in-sync replicas are distinct")?;
        rule(in_sync.is_subset(&replicas), "in-sync replicas are replicas")?;
        rule(replicas.iter().all(|id| self.brokers.contains_key(id)), "replicas are registered")?;
        let led = partition.leader.is_none_or(|leader| in_sync.contains(&leader));
        rule(led, "the leader is in sync")?;
        rule(partition.leader_epoch.0 >= 0, "leader epochs are not negative")
    }
}

fn rule(holds: bool, rule: &'static str) -> Result<(), InvariantError> {
    if holds { Ok(()) } else { Err(InvariantError(rule)) }
}
