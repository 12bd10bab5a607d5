//! Applies commands. Total: every command on every state gives an outcome and never panics; a
//! refused command changes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use millstream_types::limits::{NAME_BYTES_MAX, TOPIC_PARTITIONS_MAX};
use millstream_types::{
    BrokerId, ClusterId, DirectoryId, LeaderEpoch, ProducerId, TimestampMs, TopicId,
};
use serde::{Deserialize, Serialize};

use crate::FORMAT_VERSION;
use crate::archive::DELETED_TOPICS_MAX;
use crate::command::{Command, CommandBody, CommandId, Endpoint};
use crate::config::{ConfigError, TopicConfig, canonical};
use crate::error::{MetaError, clip};
use crate::form;
use crate::name::{collision_key, validate_topic_name};
use crate::placement::place;
use crate::restore::Source;
use crate::state::{Broker, MetaState, Partition, Topic};

/// The most brokers that one cluster may have.
pub const BROKERS_MAX: usize = 1_000;
/// The most topics that one cluster may have.
pub const CLUSTER_TOPICS_MAX: usize = 100_000;
/// The most partitions that one cluster may have.
pub const CLUSTER_PARTITIONS_MAX: u64 = 1_000_000;
/// The most producer ids in one block.
pub const PRODUCER_ID_BLOCK_MAX: u32 = 1_000_000;
/// How many of the latest commands are recognised when they come again.
pub const APPLIED_COMMANDS_KEPT: usize = 4096;
/// The most endpoints, and the most data directories, of one broker.
const BROKER_ENTRIES_MAX: usize = 64;

const _: () = assert!(TOPIC_PARTITIONS_MAX as u64 <= CLUSTER_PARTITIONS_MAX);

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// The cluster has its identity, now or since before.
    ClusterInitialised,
    /// The broker is registered.
    BrokerRegistered {
        /// The registration's epoch.
        epoch: u64,
    },
    /// The topic was made.
    TopicCreated {
        /// Its id.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// The topic was removed.
    TopicDeleted {
        /// Its id.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// The topic's configs are as asked.
    TopicConfigsAltered {
        /// Its id.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// The topic has grown.
    PartitionsAdded {
        /// Its id.
        #[serde(with = "form::text")]
        topic: TopicId,
        /// How many partitions it has now.
        total: u32,
    },
    /// The heads that could move have moved.
    ArchiveHeadsMoved {
        /// How many.
        count: u64,
    },
    /// The topic was made of what the archive holds of it.
    TopicRestored {
        /// Its id.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// What has come of a topic's partitions is kept until it is restored.
    RestoredPartitionsKept {
        /// The topic's id.
        #[serde(with = "form::text")]
        topic: TopicId,
        /// How many have come.
        count: u64,
    },
    /// A deleted topic is forgotten.
    DeletedTopicForgotten {
        /// Its id.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// The broker owns the numbers of `count` producers from `first` on.
    ProducerIdsAllocated {
        /// The block's first number.
        #[serde(with = "form::producer")]
        first: ProducerId,
        /// How many the block has.
        count: u32,
    },
}

/// What came of a command.
pub type Outcome = Result<Applied, MetaError>;

/// The state machine: the metadata, and the outcomes of the latest commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetaMachine {
    state: MetaState,
    applied: AppliedCommands,
}

impl MetaMachine {
    /// The machine of a cluster that has no identity yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) const fn from_parts(state: MetaState, applied: AppliedCommands) -> Self {
        Self { state, applied }
    }

    /// The metadata as it stands. Clone it to keep an image.
    #[must_use]
    pub const fn state(&self) -> &MetaState {
        &self.state
    }

    pub(crate) const fn applied(&self) -> &AppliedCommands {
        &self.applied
    }

    /// Applies one command. One that comes again under the same id, within the latest
    /// [`APPLIED_COMMANDS_KEPT`], changes nothing and gets its first outcome.
    ///
    /// # Errors
    /// [`MetaError`], with nothing changed but the memory of the refusal.
    pub fn apply(&mut self, command: Command) -> Outcome {
        if let Some(outcome) = self.applied.get(command.id) {
            return outcome.clone();
        }
        let outcome = self.state.apply_body(command.at_ms, command.body);
        if outcome.is_ok() {
            self.state.revision = self.state.revision.saturating_add(1);
        }
        self.applied.push(command.id, outcome.clone());
        outcome
    }
}

/// The outcomes of the latest commands, for those that come again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AppliedCommands {
    oldest_first: VecDeque<CommandId>,
    outcomes: BTreeMap<CommandId, Outcome>,
}

impl AppliedCommands {
    pub(crate) fn from_oldest_first(all: impl Iterator<Item = (CommandId, Outcome)>) -> Self {
        let mut kept = Self::default();
        all.for_each(|(id, outcome)| kept.push(id, outcome));
        kept
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&CommandId, &Outcome)> {
        self.oldest_first.iter().filter_map(|id| self.outcomes.get_key_value(id))
    }

    fn get(&self, id: CommandId) -> Option<&Outcome> {
        self.outcomes.get(&id)
    }

    fn push(&mut self, id: CommandId, outcome: Outcome) {
        if self.outcomes.insert(id, outcome).is_none() {
            self.oldest_first.push_back(id);
        }
        while self.oldest_first.len() > APPLIED_COMMANDS_KEPT {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.outcomes.remove(&oldest);
            }
        }
    }
}

impl MetaState {
    /// Whether a command would be refused as things stand; nothing changes.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_command(&self, command: Command) -> Result<(), MetaError> {
        self.clone().apply_body(command.at_ms, command.body).map(drop)
    }

    fn apply_body(&mut self, at: TimestampMs, body: CommandBody) -> Outcome {
        if let CommandBody::InitCluster { cluster, format } = body {
            return self.init_cluster(cluster, format);
        }
        if self.cluster.is_none() {
            return Err(MetaError::NotInitialised);
        }
        match body {
            // Answered above; a cluster that has its identity keeps it.
            CommandBody::InitCluster { .. } => Ok(Applied::ClusterInitialised),
            CommandBody::RegisterBroker { broker, endpoints, directories } => {
                self.register_broker(broker, endpoints, directories)
            }
            CommandBody::CreateTopic { name, topic, partitions, replication_factor, configs } => {
                let wanted = NewTopic { name, topic, partitions, replication_factor, configs };
                self.create_topic(at, wanted)
            }
            CommandBody::DeleteTopic { topic } => self.delete_topic(at, topic),
            CommandBody::MoveArchiveHeads { heads } => self.move_archive_heads(&heads),
            CommandBody::RestoreTopic {
                name,
                topic,
                replication_factor,
                configs,
                partitions,
                producers_from,
                other_producers,
                parts,
            } => {
                // What it is restored of says how many.
                let wanted = NewTopic { name, topic, partitions: 0, replication_factor, configs };
                let (partitions, other_producers) = (&*partitions, &*other_producers);
                let source = Source { parts, partitions, producers_from, other_producers };
                self.restore_topic(at, wanted, &source)
            }
            CommandBody::RestorePartitions { of, topic, first, partitions } => {
                self.keep_restored(of, topic, first, partitions)
            }
            CommandBody::ForgetDeletedTopic { topic } => self.forget_deleted_topic(topic),
            CommandBody::AlterTopicConfigs { topic, set, remove } => {
                self.alter_topic_configs(topic, set, &remove)
            }
            CommandBody::AddPartitions { topic, total } => self.add_partitions(topic, total),
            CommandBody::AlterTopic { topic, set, remove, total } => {
                self.alter_topic(topic, set, &remove, total)
            }
            CommandBody::AllocateProducerIds { broker, count } => {
                self.allocate_producer_ids(broker, count)
            }
        }
    }

    fn init_cluster(&mut self, cluster: ClusterId, format: u32) -> Outcome {
        if format == 0 || format > FORMAT_VERSION {
            return Err(MetaError::UnknownFormat { format, newest: FORMAT_VERSION });
        }
        match self.cluster {
            Some(ours) if ours != cluster || self.format != format => {
                Err(MetaError::ClusterMismatch { ours })
            }
            Some(_) => Ok(Applied::ClusterInitialised),
            None => {
                self.cluster = Some(cluster);
                self.format = format;
                Ok(Applied::ClusterInitialised)
            }
        }
    }

    fn register_broker(
        &mut self,
        broker: BrokerId,
        endpoints: Vec<Endpoint>,
        directories: Vec<DirectoryId>,
    ) -> Outcome {
        if let Some(reason) = self.registration_fault(broker, &endpoints, &directories) {
            return Err(MetaError::InvalidBroker { broker, reason: reason.to_owned() });
        }
        if !self.brokers.contains_key(&broker) && self.brokers.len() >= BROKERS_MAX {
            return Err(full("brokers", BROKERS_MAX as u64));
        }
        let epoch = self.registrations;
        self.registrations = epoch.saturating_add(1);
        let registered = Broker { id: broker, epoch, endpoints, directories };
        Arc::make_mut(&mut self.brokers).insert(broker, Arc::new(registered));
        self.begin_leaderships(broker);
        self.forget_restore(broker);
        Ok(Applied::BrokerRegistered { epoch })
    }

    /// What is wrong with a registration, if anything.
    fn registration_fault(
        &self,
        broker: BrokerId,
        endpoints: &[Endpoint],
        directories: &[DirectoryId],
    ) -> Option<&'static str> {
        if endpoints.len() > BROKER_ENTRIES_MAX || directories.len() > BROKER_ENTRIES_MAX {
            return Some("more than 64 endpoints or directories");
        }
        let named = |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX;
        if !endpoints.iter().all(|endpoint| named(&endpoint.front) && named(&endpoint.host)) {
            return Some("an endpoint's front and host have 1 to 255 bytes");
        }
        let distinct: BTreeSet<_> = directories.iter().collect();
        if distinct.len() < directories.len() || distinct.contains(&DirectoryId::NIL) {
            return Some("a directory is named twice or has no identity");
        }
        let mut others = self.brokers.values().filter(|other| other.id != broker);
        if others.any(|other| other.directories.iter().any(|id| distinct.contains(id))) {
            return Some("a directory belongs to another broker");
        }
        None
    }

    /// Starts a new leadership of every partition that `broker` leads.
    fn begin_leaderships(&mut self, broker: BrokerId) {
        let leads = |partition: &Partition| partition.leader == Some(broker);
        if !self.topics.values().any(|topic| topic.partitions.iter().any(leads)) {
            return;
        }
        for topic in Arc::make_mut(&mut self.topics).values_mut() {
            if !topic.partitions.iter().any(leads) {
                continue;
            }
            let topic = Arc::make_mut(topic);
            for partition in topic.partitions.iter_mut().filter(|partition| leads(partition)) {
                partition.leader_epoch = LeaderEpoch(partition.leader_epoch.0.saturating_add(1));
                partition.partition_epoch = partition.partition_epoch.saturating_add(1);
            }
        }
    }

    pub(crate) fn create_topic(&mut self, at: TimestampMs, wanted: NewTopic) -> Outcome {
        let NewTopic { name, topic, partitions, replication_factor, configs } = wanted;
        validate_topic_name(&name)?;
        if let Some(existing) = self.topic_colliding(&name) {
            if *existing.name == *name {
                return Err(MetaError::TopicExists { name, topic: existing.id });
            }
            let reason = format!("it differs from topic `{}` only in `.` and `_`", existing.name);
            return Err(MetaError::InvalidTopicName { name, reason });
        }
        let taken = self.topics.contains_key(&topic) || self.archive.deleted.contains_key(&topic);
        if topic == TopicId::NIL || taken {
            return Err(MetaError::InvalidTopicId { topic });
        }
        if self.topics.len() >= CLUSTER_TOPICS_MAX {
            return Err(full("topics", CLUSTER_TOPICS_MAX as u64));
        }
        let overrides = canonical_all(configs)?;
        let config = topic_config(&overrides, replication_factor)?;
        let placed = self.place_new(partitions, partitions, replication_factor)?;
        let name: Arc<str> = name.into();
        Arc::make_mut(&mut self.names).insert(collision_key(&name), topic);
        let created = Topic {
            id: topic,
            name,
            created: at,
            replication_factor,
            overrides,
            config,
            partitions: placed,
        };
        Arc::make_mut(&mut self.topics).insert(topic, Arc::new(created));
        Ok(Applied::TopicCreated { topic })
    }

    /// Places `count` new partitions of a topic that will have `total`, and counts them.
    fn place_new(
        &mut self,
        total: u32,
        count: u32,
        replication_factor: u16,
    ) -> Result<Vec<Partition>, MetaError> {
        if total == 0 || total > TOPIC_PARTITIONS_MAX {
            let reason = format!("a topic has 1 to {TOPIC_PARTITIONS_MAX}");
            return Err(MetaError::InvalidPartitions { asked: total, reason });
        }
        if self.partitions.saturating_add(u64::from(count)) > CLUSTER_PARTITIONS_MAX {
            return Err(full("partitions", CLUSTER_PARTITIONS_MAX));
        }
        let brokers: Vec<_> = self.brokers.keys().copied().collect();
        let placed = place(&brokers, self.placed, count, replication_factor);
        if placed.is_empty() {
            return Err(MetaError::InvalidReplicationFactor {
                asked: replication_factor,
                brokers: brokers.len() as u64,
            });
        }
        self.placed = self.placed.saturating_add(u64::from(count));
        self.partitions = self.partitions.saturating_add(u64::from(count));
        Ok(placed.into_iter().map(new_partition).collect())
    }

    fn delete_topic(&mut self, at: TimestampMs, topic: TopicId) -> Outcome {
        let Some(existing) = self.topics.get(&topic).map(Arc::clone) else {
            return Err(MetaError::UnknownTopic { topic });
        };
        // Before its first head moves, too: an object may be on its way. And whatever its config
        // says, if it was restored.
        let has_heads = self.archive.heads.contains_key(&topic);
        if existing.config.remote_storage_enable || has_heads {
            if self.archive.deleted.len() >= DELETED_TOPICS_MAX {
                return Err(full("deleted topics in the archive", DELETED_TOPICS_MAX as u64));
            }
            self.bury(topic, Arc::clone(&existing.name), at);
        }
        let key = collision_key(&existing.name);
        let partitions = existing.partitions.len() as u64;
        self.partitions = self.partitions.saturating_sub(partitions);
        Arc::make_mut(&mut self.names).remove(&key);
        Arc::make_mut(&mut self.topics).remove(&topic);
        Ok(Applied::TopicDeleted { topic })
    }

    fn alter_topic_configs(
        &mut self,
        topic: TopicId,
        set: BTreeMap<String, String>,
        remove: &BTreeSet<String>,
    ) -> Outcome {
        let existing = self.topics.get(&topic).ok_or(MetaError::UnknownTopic { topic })?;
        let altered = altered_configs(existing, set, remove)?;
        if let Some(changed) = Arc::make_mut(&mut self.topics).get_mut(&topic) {
            let changed = Arc::make_mut(changed);
            (changed.overrides, changed.config) = altered;
        }
        Ok(Applied::TopicConfigsAltered { topic })
    }

    fn add_partitions(&mut self, topic: TopicId, total: u32) -> Outcome {
        let existing = self.topics.get(&topic).ok_or(MetaError::UnknownTopic { topic })?;
        let factor = existing.replication_factor;
        let count = growth(existing, total)?;
        if count == 0 {
            return Err(cannot_grow(existing, total));
        }
        let mut placed = self.place_new(total, count, factor)?;
        if let Some(grown) = Arc::make_mut(&mut self.topics).get_mut(&topic) {
            Arc::make_mut(grown).partitions.append(&mut placed);
        }
        Ok(Applied::PartitionsAdded { topic, total })
    }

    fn alter_topic(
        &mut self,
        topic: TopicId,
        set: BTreeMap<String, String>,
        remove: &BTreeSet<String>,
        total: u32,
    ) -> Outcome {
        let existing = self.topics.get(&topic).ok_or(MetaError::UnknownTopic { topic })?;
        let factor = existing.replication_factor;
        let altered = altered_configs(existing, set, remove)?;
        // Placing is the last that can be refused, and the first that changes anything.
        let mut placed = match growth(existing, total)? {
            0 => Vec::new(),
            count => self.place_new(total, count, factor)?,
        };
        if let Some(changed) = Arc::make_mut(&mut self.topics).get_mut(&topic) {
            let changed = Arc::make_mut(changed);
            (changed.overrides, changed.config) = altered;
            changed.partitions.append(&mut placed);
        }
        Ok(Applied::PartitionsAdded { topic, total })
    }

    fn allocate_producer_ids(&mut self, broker: BrokerId, count: u32) -> Outcome {
        if !self.brokers.contains_key(&broker) {
            return Err(MetaError::UnknownBroker { broker });
        }
        if count == 0 || count > PRODUCER_ID_BLOCK_MAX {
            let max = PRODUCER_ID_BLOCK_MAX;
            return Err(MetaError::InvalidProducerIdBlock { asked: count, max });
        }
        let first = self.producer_id_next;
        let Some(next) = first.checked_add(i64::from(count)) else {
            return Err(full("producer ids", i64::MAX.unsigned_abs()));
        };
        self.producer_id_next = next;
        Ok(Applied::ProducerIdsAllocated { first: ProducerId(first), count })
    }
}

/// The fields of [`CommandBody::CreateTopic`].
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) topic: TopicId,
    pub(crate) partitions: u32,
    pub(crate) replication_factor: u16,
    pub(crate) configs: BTreeMap<String, String>,
}

/// A partition as it begins: every replica is in sync, for there is nothing to have yet.
fn new_partition(replicas: Arc<[BrokerId]>) -> Partition {
    Partition {
        leader: replicas.first().copied(),
        in_sync: Arc::clone(&replicas),
        replicas,
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
    }
}

/// How many partitions a topic lacks to have `total`.
fn growth(existing: &Topic, total: u32) -> Result<u32, MetaError> {
    let had = u32::try_from(existing.partitions.len()).unwrap_or(u32::MAX);
    total.checked_sub(had).ok_or_else(|| cannot_grow(existing, total))
}

fn cannot_grow(existing: &Topic, asked: u32) -> MetaError {
    let reason = format!("the topic has {} and can only grow", existing.partitions.len());
    MetaError::InvalidPartitions { asked, reason }
}

/// A topic's overrides and its config, with some set and others removed.
fn altered_configs(
    existing: &Topic,
    set: BTreeMap<String, String>,
    remove: &BTreeSet<String>,
) -> Result<(BTreeMap<String, String>, TopicConfig), ConfigError> {
    let mut overrides = existing.overrides.clone();
    for name in remove {
        if crate::config_table::definition(name).is_none() {
            return Err(ConfigError::Unknown { name: clip(name) });
        }
        if set.contains_key(name) {
            return Err(ConfigError::SetAndRemoved { name: clip(name) });
        }
        overrides.remove(name);
    }
    overrides.append(&mut canonical_all(set)?);
    let config = topic_config(&overrides, existing.replication_factor)?;
    if existing.config.remote_storage_enable && !config.remote_storage_enable {
        return Err(ConfigError::ArchiveStays);
    }
    Ok((overrides, config))
}

fn canonical_all(
    configs: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    configs
        .into_iter()
        .map(|(name, text)| canonical(&name, &text).map(|value| (name, value)))
        .collect()
}

fn topic_config(
    overrides: &BTreeMap<String, String>,
    factor: u16,
) -> Result<TopicConfig, ConfigError> {
    let config = TopicConfig::from_overrides(overrides)?;
    let min_insync_replicas = config.min_insync_replicas;
    if min_insync_replicas > factor {
        return Err(ConfigError::AboveReplicationFactor { min_insync_replicas, factor });
    }
    Ok(config)
}

fn full(what: &str, max: u64) -> MetaError {
    MetaError::ClusterFull { what: what.to_owned(), max }
}
