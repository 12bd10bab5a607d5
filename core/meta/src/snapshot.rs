//! The whole machine as JSON, which snapshots keep: a later build reads every form that an earlier
//! one wrote. Keys of partitions are single letters because there are so many of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_types::{
    BrokerId, ClusterId, DirectoryId, LeaderEpoch, PartitionIndex, ProducerId, TimestampMs, TopicId,
};
use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveHead, ArchiveState, DeletedTopic};
use crate::command::{CommandId, Endpoint};
use crate::config::{ConfigError, TopicConfig};
use crate::form;
use crate::machine::{AppliedCommands, MetaMachine, Outcome};
use crate::name::collision_key;
use crate::restore::{RestoreName, RestoredPartition, Restoring};
use crate::state::{Broker, InvariantError, MetaState, Partition, Topic};

/// The version of the form that this build writes, and the only one that it reads so far.
const SNAPSHOT_VERSION: u32 = 1;

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is not in the form of a snapshot.
    #[error("the snapshot is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It was written by a later build.
    #[error("snapshot version {0} is not known to this build, which knows 1")]
    UnknownVersion(u32),
    /// A topic's config is not valid.
    #[error("the snapshot holds an invalid config: {0}")]
    InvalidConfig(#[from] ConfigError),
    /// What it holds is not a valid state.
    #[error(transparent)]
    Invariant(#[from] InvariantError),
}

#[derive(Deserialize)]
struct VersionForm {
    v: u32,
}

#[derive(Serialize, Deserialize)]
struct SnapshotForm {
    v: u32,
    format: u32,
    cluster: Option<String>,
    revision: u64,
    registrations: u64,
    placed: u64,
    #[serde(with = "form::producer")]
    producer_id_next: ProducerId,
    /// The largest known id of each other cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "form::producers")]
    other_producers: Vec<ProducerId>,
    brokers: Vec<BrokerForm>,
    topics: Vec<TopicForm>,
    /// Deleted topics that the archive still holds objects of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deleted: Vec<DeletedForm>,
    /// Restores in parts that have not come to their end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    restoring: Vec<RestoringForm>,
    applied: Vec<AppliedForm>,
}

#[derive(Serialize, Deserialize)]
struct BrokerForm {
    #[serde(with = "form::broker")]
    id: BrokerId,
    epoch: u64,
    endpoints: Vec<Endpoint>,
    #[serde(with = "form::texts")]
    directories: Vec<DirectoryId>,
}

#[derive(Serialize, Deserialize)]
struct TopicForm {
    #[serde(with = "form::text")]
    id: TopicId,
    name: String,
    #[serde(with = "form::timestamp")]
    created_ms: TimestampMs,
    replication_factor: u16,
    configs: BTreeMap<String, String>,
    partitions: Vec<PartitionForm>,
    /// The archive's heads of those partitions that have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    archive: Vec<HeadForm>,
}

#[derive(Serialize, Deserialize)]
struct HeadForm {
    #[serde(with = "form::partition")]
    partition: PartitionIndex,
    head: ArchiveHead,
}

#[derive(Serialize, Deserialize)]
struct DeletedForm {
    #[serde(with = "form::text")]
    id: TopicId,
    name: String,
    #[serde(with = "form::timestamp")]
    deleted_ms: TimestampMs,
}

#[derive(Serialize, Deserialize)]
struct RestoringForm {
    of: RestoreName,
    #[serde(with = "form::text")]
    topic: TopicId,
    partitions: Vec<RestoredPartition>,
}

/// Replicas, in-sync set, leader, leader epoch, partition epoch.
#[derive(Serialize, Deserialize)]
struct PartitionForm {
    r: Vec<u32>,
    i: Vec<u32>,
    l: Option<u32>,
    e: i32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct AppliedForm {
    #[serde(with = "form::text")]
    id: CommandId,
    outcome: Outcome,
}

impl MetaMachine {
    /// The machine as a snapshot: the state and the outcomes kept for retries.
    ///
    /// # Errors
    /// [`SnapshotError::Malformed`] when it cannot be written as JSON.
    pub fn to_snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        let state = self.state();
        let form = SnapshotForm {
            v: SNAPSHOT_VERSION,
            format: state.format,
            cluster: state.cluster.map(|cluster| cluster.to_string()),
            revision: state.revision,
            registrations: state.registrations,
            placed: state.placed,
            producer_id_next: ProducerId(state.producer_id_next),
            other_producers: state.other_producers().collect(),
            brokers: state.brokers.values().map(|broker| broker_form(broker)).collect(),
            topics: state.topics.values().map(|topic| topic_form(state, topic)).collect(),
            deleted: state.deleted_topics().map(deleted_form).collect(),
            restoring: state.archive.restoring.iter().map(restoring_form).collect(),
            applied: self
                .applied()
                .iter()
                .map(|(id, outcome)| AppliedForm { id: *id, outcome: outcome.clone() })
                .collect(),
        };
        Ok(serde_json::to_vec(&form)?)
    }

    /// The machine that a snapshot holds; what [`MetaMachine::to_snapshot`] wrote comes back equal.
    ///
    /// # Errors
    /// [`SnapshotError`], for any bytes that are not a valid snapshot.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let version: VersionForm = serde_json::from_slice(bytes)?;
        if version.v != SNAPSHOT_VERSION {
            return Err(SnapshotError::UnknownVersion(version.v));
        }
        let form: SnapshotForm = serde_json::from_slice(bytes)?;
        let cluster = form.cluster.as_deref().map(parse_cluster).transpose()?;
        let mut topics = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut archive = ArchiveState::default();
        for mut form in form.topics {
            let heads = std::mem::take(&mut form.archive);
            let topic = topic_of(form)?;
            if !heads.is_empty() {
                let heads = heads.into_iter().map(|form| (form.partition, form.head)).collect();
                Arc::make_mut(&mut archive.heads).insert(topic.id, Arc::new(heads));
            }
            names.insert(collision_key(&topic.name), topic.id);
            topics.insert(topic.id, Arc::new(topic));
        }
        let deleted = form.deleted.into_iter().map(deleted_of);
        archive.deleted = Arc::new(deleted.collect());
        archive.restoring = Arc::new(form.restoring.into_iter().map(restoring_of).collect());
        let others = form.other_producers.iter().map(|id| (id.origin(), id.number()));
        let brokers = form.brokers.into_iter().map(|form| (form.id, Arc::new(broker_of(form))));
        let state = MetaState {
            format: form.format,
            cluster,
            revision: form.revision,
            registrations: form.registrations,
            placed: form.placed,
            partitions: topics.values().map(|topic| topic.partitions.len() as u64).sum(),
            producer_id_next: form.producer_id_next.0,
            other_producers: Arc::new(others.collect()),
            brokers: Arc::new(brokers.collect()),
            topics: Arc::new(topics),
            names: Arc::new(names),
            archive,
        };
        state.check()?;
        let applied = form.applied.into_iter().map(|form| (form.id, form.outcome));
        Ok(Self::from_parts(state, AppliedCommands::from_oldest_first(applied)))
    }
}

fn parse_cluster(text: &str) -> Result<ClusterId, serde_json::Error> {
    text.parse().map_err(serde::de::Error::custom)
}

fn broker_form(broker: &Broker) -> BrokerForm {
    BrokerForm {
        id: broker.id,
        epoch: broker.epoch,
        endpoints: broker.endpoints.clone(),
        directories: broker.directories.clone(),
    }
}

fn broker_of(form: BrokerForm) -> Broker {
    Broker {
        id: form.id,
        epoch: form.epoch,
        endpoints: form.endpoints,
        directories: form.directories,
    }
}

fn deleted_form((id, topic): (TopicId, &DeletedTopic)) -> DeletedForm {
    DeletedForm { id, name: topic.name.as_ref().to_owned(), deleted_ms: topic.deleted }
}

fn deleted_of(form: DeletedForm) -> (TopicId, DeletedTopic) {
    (form.id, DeletedTopic { name: form.name.into(), deleted: form.deleted_ms })
}

fn restoring_form((broker, restoring): (&BrokerId, &Restoring)) -> RestoringForm {
    let Restoring { restore, topic, partitions } = restoring;
    let of = RestoreName { broker: *broker, restore: *restore };
    RestoringForm { of, topic: *topic, partitions: partitions.clone() }
}

fn restoring_of(form: RestoringForm) -> (BrokerId, Restoring) {
    let RestoringForm { of, topic, partitions } = form;
    (of.broker, Restoring { restore: of.restore, topic, partitions })
}

fn topic_form(state: &MetaState, topic: &Topic) -> TopicForm {
    let heads = state.archive.heads.get(&topic.id).into_iter().flat_map(|heads| heads.iter());
    TopicForm {
        id: topic.id,
        name: topic.name.as_ref().to_owned(),
        created_ms: topic.created,
        replication_factor: topic.replication_factor,
        configs: topic.overrides.clone(),
        partitions: topic.partitions.iter().map(partition_form).collect(),
        archive: heads.map(|(index, head)| HeadForm { partition: *index, head: *head }).collect(),
    }
}

fn topic_of(form: TopicForm) -> Result<Topic, ConfigError> {
    Ok(Topic {
        id: form.id,
        name: form.name.into(),
        created: form.created_ms,
        replication_factor: form.replication_factor,
        config: TopicConfig::from_overrides(&form.configs)?,
        overrides: form.configs,
        partitions: form.partitions.into_iter().map(partition_of).collect(),
    })
}

fn partition_form(partition: &Partition) -> PartitionForm {
    PartitionForm {
        r: partition.replicas.iter().map(|id| id.0).collect(),
        i: partition.in_sync.iter().map(|id| id.0).collect(),
        l: partition.leader.map(|id| id.0),
        e: partition.leader_epoch.0,
        p: partition.partition_epoch,
    }
}

fn partition_of(form: PartitionForm) -> Partition {
    let replicas: Arc<[BrokerId]> = form.r.into_iter().map(BrokerId).collect();
    let in_sync: Arc<[BrokerId]> = form.i.into_iter().map(BrokerId).collect();
    Partition {
        // Most partitions have all replicas in sync: one list serves both.
        in_sync: if in_sync == replicas { Arc::clone(&replicas) } else { in_sync },
        replicas,
        leader: form.l.map(BrokerId),
        leader_epoch: LeaderEpoch(form.e),
        partition_epoch: form.p,
    }
}
