//! The commands that change the metadata, and their JSON form, which the write-ahead log keeps:
//! a later build reads every form that an earlier one wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use millstream_types::{BrokerId, ClusterId, DirectoryId, TimestampMs, TopicId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::form;

/// The version of the commands' JSON form that this build writes.
pub const COMMAND_VERSION: u32 = 1;

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
    #[serde(rename = "v")]
    version: Version,
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
    /// A command of this build's version.
    #[must_use]
    pub const fn new(id: CommandId, at_ms: TimestampMs, body: CommandBody) -> Self {
        Self { version: Version, id, at_ms, body }
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
    /// Hands a broker a block of producer ids that nobody else has or will get.
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
            Self::AllocateProducerIds { .. } => "allocate-producer-ids",
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

/// Stands for [`COMMAND_VERSION`] in the JSON form; reading any other fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(COMMAND_VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u32::deserialize(from)? {
            COMMAND_VERSION => Ok(Self),
            other => Err(serde::de::Error::custom(format_args!(
                "command version {other} is not known to this build, which knows {COMMAND_VERSION}"
            ))),
        }
    }
}
