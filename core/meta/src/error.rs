//! Why a command was refused.

use millstream_types::{BrokerId, ClusterId, ErrorCode, TopicId};
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::form;

/// Why a command was refused. A refused command changed nothing, on any node; refusals are part of
/// the replicated history, so that a retried command gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum MetaError {
    /// The cluster has no identity yet.
    #[error("the cluster has not been initialised")]
    NotInitialised,
    /// The cluster has another identity, or was made with other rules.
    #[error("this is cluster {ours}, already initialised")]
    ClusterMismatch {
        /// The identity that the metadata holds.
        #[serde(with = "form::text")]
        ours: ClusterId,
    },
    /// The rules' version is not one that this build knows.
    #[error("metadata format {format} is not known here; the newest known is {newest}")]
    UnknownFormat {
        /// The version asked for.
        format: u32,
        /// The newest that this build knows.
        newest: u32,
    },
    /// No such broker is registered.
    #[error("broker {broker} is not registered")]
    UnknownBroker {
        /// The broker that was named.
        #[serde(with = "form::broker")]
        broker: BrokerId,
    },
    /// A broker's registration is malformed.
    #[error("broker {broker}: {reason}")]
    InvalidBroker {
        /// The broker that was named.
        #[serde(with = "form::broker")]
        broker: BrokerId,
        /// What is wrong with it.
        reason: String,
    },
    /// No topic has this id.
    #[error("no topic has id {topic}")]
    UnknownTopic {
        /// The id that was named.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// A topic of that name exists, whatever its settings.
    #[error("topic `{name}` exists already")]
    TopicExists {
        /// The name.
        name: String,
        /// The existing topic's id.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// The id for a new topic is nil or in use.
    #[error("{topic} cannot be a new topic's id: it is nil or in use")]
    InvalidTopicId {
        /// The id.
        #[serde(with = "form::text")]
        topic: TopicId,
    },
    /// The name breaks Kafka's rules for topic names.
    #[error("`{name}` is no topic name: {reason}")]
    InvalidTopicName {
        /// The name, cut if long.
        name: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// The number of partitions is out of range.
    #[error("{asked} partitions: {reason}")]
    InvalidPartitions {
        /// The number asked for.
        asked: u32,
        /// The rule that it breaks.
        reason: String,
    },
    /// The replication factor is 0 or exceeds the registered brokers.
    #[error("replication factor {asked} is not between 1 and the number of brokers, {brokers}")]
    InvalidReplicationFactor {
        /// The factor asked for.
        asked: u16,
        /// How many brokers are registered.
        brokers: u64,
    },
    /// A topic config is unknown or its value out of range.
    #[error(transparent)]
    InvalidConfig(#[from] ConfigError),
    /// The size of a block of producer ids is out of range.
    #[error("a block of {asked} producer ids is not between 1 and {max}")]
    InvalidProducerIdBlock {
        /// The size asked for.
        asked: u32,
        /// The largest block.
        max: u32,
    },
    /// A bound of the cluster is reached.
    #[error("the cluster takes no more than {max} {what}")]
    ClusterFull {
        /// What there are too many of.
        what: String,
        /// How many there may be.
        max: u64,
    },
}

impl MetaError {
    /// The code that crosses the wire for it.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotInitialised => ErrorCode::Unavailable,
            Self::UnknownFormat { .. } => ErrorCode::UnsupportedVersion,
            Self::UnknownTopic { .. } => ErrorCode::UnknownTopic,
            Self::TopicExists { .. } => ErrorCode::TopicExists,
            Self::InvalidTopicName { .. } => ErrorCode::InvalidTopicName,
            Self::InvalidConfig(_) => ErrorCode::InvalidConfig,
            Self::ClusterFull { .. } => ErrorCode::LimitExceeded,
            Self::ClusterMismatch { .. }
            | Self::UnknownBroker { .. }
            | Self::InvalidBroker { .. }
            | Self::InvalidTopicId { .. }
            | Self::InvalidPartitions { .. }
            | Self::InvalidReplicationFactor { .. }
            | Self::InvalidProducerIdBlock { .. } => ErrorCode::InvalidRequest,
        }
    }
}

/// The longest piece of a caller's text that an error repeats, in characters. Outcomes are kept
/// for retries, so what they hold is bounded.
const CLIP_CHARS_MAX: usize = 255;

/// `text`, cut to what an error may hold.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(CLIP_CHARS_MAX).collect()
}
