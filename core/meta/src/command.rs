//! The commands that change the metadata, and their JSON form, which the write-ahead log keeps:
//! a later build reads every form that an earlier one wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use millstream_types::{BrokerId, ClusterId, DirectoryId, ProducerId, TimestampMs, TopicId};
use serde::{Deserialize, Serialize};

use crate::archive::MovedHead;
use crate::form;
use crate::restore::{RestoreName, RestoredPartition};

/// The newest version of the commands' JSON form that this build reads. A command is written in
/// the oldest that has it, so that an older build fails on nothing that it could read.
pub const COMMAND_VERSION: u32 = 5;

/// Names one intent to change the metadata. A caller that does not know whether its command was
/// applied sends it again under the same id and gets the first application's outcome.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommandId(pub u128);

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for CommandId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// One change to the metadata, with everything that its effect depends on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command {
    /// The version of the JSON form.
    #[serde(rename = "v", with = "version")]
    version: u32,
    /// Which intent this is.
    #[serde(with = "form::text")]
    pub id: CommandId,
    /// When it was proposed, by the proposer's clock.
    #[serde(with = "form::timestamp")]
    pub at_ms: TimestampMs,
    /// What is to change.
    #[serde(rename = "do")]
    pub body: CommandBody,
}

impl Command {
    /// A command in the version that its body needs.
    #[must_use]
    pub const fn new(id: CommandId, at_ms: TimestampMs, body: CommandBody) -> Self {
        Self { version: body.version(), id, at_ms, body }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.body.name(), self.id)
    }
}

/// What is to change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CommandBody {
    /// Gives the cluster its identity; the first command of every cluster.
    InitCluster {
        /// The cluster's identity.
        #[serde(with = "form::text")]
        cluster: ClusterId,
        /// The version of the rules, [`crate::FORMAT_VERSION`].
        format: u32,
    },
    /// A broker process has started. Every registration begins a new leadership of each partition
    /// that the broker leads, so that offsets written before and after a restart can be told
    /// apart by their leader epoch.
    RegisterBroker {
        /// The broker.
        #[serde(with = "form::broker")]
        broker: BrokerId,
        /// Where clients and brokers reach it.
        endpoints: Vec<Endpoint>,
        /// The identities of its data directories.
        #[serde(with = "form::texts")]
        directories: Vec<DirectoryId>,
    },
    /// Makes a topic.
    CreateTopic {
        /// The topic's name.
        name: String,
        /// The topic's identity, chosen by the proposer at random.
        #[serde(with = "form::text")]
        topic: TopicId,
        /// How many partitions.
        partitions: u32,
        /// How many replicas each partition has.
        replication_factor: u16,
        /// Configs that differ from the defaults, by name.
        configs: BTreeMap<String, String>,
    },
    /// Removes a topic and its records.
    DeleteTopic {
        /// The topic.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// Changes a topic's configs, all of them or none.
    AlterTopicConfigs {
        /// The topic.
        #[serde(with = "form::text")]
        topic: TopicId,
        /// Configs to set, by name.
        set: BTreeMap<String, String>,
        /// Configs to return to their defaults; setting and removing one is refused.
        remove: BTreeSet<String>,
    },
    /// Grows a topic.
    AddPartitions {
        /// The topic.
        #[serde(with = "form::text")]
        topic: TopicId,
        /// How many partitions it is to have in all; more than it has.
        total: u32,
    },
    /// Changes a topic's configs and grows it, both or neither. Since version 2.
    AlterTopic {
        /// The topic.
        #[serde(with = "form::text")]
        topic: TopicId,
        /// Configs to set, by name.
        set: BTreeMap<String, String>,
        /// Configs to return to their defaults; setting and removing one is refused.
        remove: BTreeSet<String>,
        /// How many partitions it is to have in all; no fewer than it has.
        total: u32,
    },
    /// Moves the archive's heads of partitions. Those that cannot follow the head that stands, or
    /// are of partitions that are gone, are passed over. Since version 3.
    MoveArchiveHeads {
        /// The heads, at most [`crate::ARCHIVE_HEADS_MAX`].
        heads: Vec<MovedHead>,
    },
    /// Makes a topic of what the archive holds of it, under the identity that it had. Since
    /// version 3.
    RestoreTopic {
        /// The topic's name.
        name: String,
        /// The topic's identity.
        #[serde(with = "form::text")]
        topic: TopicId,
        /// How many replicas each partition has.
        replication_factor: u16,
        /// Configs that differ from the defaults, by name.
        configs: BTreeMap<String, String>,
        /// Its partitions, in order of their index; behind those that came in parts.
        partitions: Vec<RestoredPartition>,
        /// No number below this is given to a new producer from now on: those of the topic's
        /// producers that this cluster, or an early build, gave an id to may go on.
        #[serde(with = "form::producer")]
        producers_from: ProducerId,
        /// The largest id of the topic's producers for each other cluster that gave them out. Since
        /// version 4.
        #[serde(default, skip_serializing_if = "Vec::is_empty", with = "form::producers")]
        other_producers: Vec<ProducerId>,
        /// The restore whose parts are the topic's first partitions. Since version 5.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parts: Option<RestoreName>,
    },
    /// Keeps a part of what a topic is to be restored of, for the [`CommandBody::RestoreTopic`]
    /// that names the same restore. Parts come in order; the first takes the place of the broker's
    /// restore before, and a broker that registers has none. Since version 5.
    RestorePartitions {
        /// The restore.
        of: RestoreName,
        /// The topic's identity.
        #[serde(with = "form::text")]
        topic: TopicId,
        /// The index of the first of these partitions.
        first: u32,
        /// The partitions, at most [`crate::ARCHIVE_HEADS_MAX`].
        partitions: Vec<RestoredPartition>,
    },
    /// Forgets a deleted topic whose objects are gone from the archive. Since version 3.
    ForgetDeletedTopic {
        /// The topic.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// Hands a broker a block of numbers of producers that nobody else has or will get;
    /// [`crate::MetaState::producer_id`] makes ids of them.
    AllocateProducerIds {
        /// The broker.
        #[serde(with = "form::broker")]
        broker: BrokerId,
        /// How many ids.
        count: u32,
    },
}

impl CommandBody {
    /// The command's name in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::InitCluster { .. } => "init-cluster",
            Self::RegisterBroker { .. } => "register-broker",
            Self::CreateTopic { .. } => "create-topic",
            Self::DeleteTopic { .. } => "delete-topic",
            Self::AlterTopicConfigs { .. } => "alter-topic-configs",
            Self::AddPartitions { .. } => "add-partitions",
            Self::AlterTopic { .. } => "alter-topic",
            Self::MoveArchiveHeads { .. } => "move-archive-heads",
            Self::RestoreTopic { .. } => "restore-topic",
            Self::RestorePartitions { .. } => "restore-partitions",
            Self::ForgetDeletedTopic { .. } => "forget-deleted-topic",
            Self::AllocateProducerIds { .. } => "allocate-producer-ids",
        }
    }

    /// The version of the JSON form that brought it.
    const fn version(&self) -> u32 {
        match self {
            Self::RestorePartitions { .. } | Self::RestoreTopic { parts: Some(_), .. } => 5,
            Self::RestoreTopic { other_producers, .. } if !other_producers.is_empty() => 4,
            Self::MoveArchiveHeads { .. }
            | Self::RestoreTopic { .. }
            | Self::ForgetDeletedTopic { .. } => 3,
            Self::AlterTopic { .. } => 2,
            Self::InitCluster { .. }
            | Self::RegisterBroker { .. }
            | Self::CreateTopic { .. }
            | Self::DeleteTopic { .. }
            | Self::AlterTopicConfigs { .. }
            | Self::AddPartitions { .. }
            | Self::AllocateProducerIds { .. } => 1,
        }
    }
}

/// Where a broker listens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// The front: `quic`, `kafka`, `http`.
    pub front: String,
    /// A host name or address that clients can reach.
    pub host: String,
    /// The port, UDP or TCP by the front.
    pub port: u16,
}

/// The version in the JSON form; reading one that is not known fails.
mod version {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::COMMAND_VERSION;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(version: &u32, to: S) -> Result<S::Ok, S::Error> {
        version.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        match u32::deserialize(from)? {
            known @ 1..=COMMAND_VERSION => Ok(known),
            other => Err(serde::de::Error::custom(format_args!(
                "command version {other} is not known to this build, which knows 1 to \
                 {COMMAND_VERSION}"
            ))),
        }
    }
}
