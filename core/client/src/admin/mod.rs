//! Administration: topics, offsets and the cluster. Every call is idempotent: after an error
//! that says to retry, call again.

mod archive;

use std::collections::BTreeMap;

use millstream_types::{
    BrokerId, ClusterId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId,
};
use millstream_wire::api;

use crate::client::Client;
use crate::error::AdminError;

pub use archive::{
    ArchiveStatus, ArchivedPartition, ArchivedTopic, RestoredPartition, RestoredTopic,
    VerifiedRange,
};

/// A topic to be created. Unset numbers take the cluster's defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTopic {
    /// Its name: 1 to 249 of `[a-zA-Z0-9._-]`.
    pub name: String,
    /// How many partitions; 0 takes the cluster's default.
    pub partitions: u32,
    /// How many replicas each partition has; 0 takes the cluster's default.
    pub replication_factor: u16,
    /// Topic configs, with Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Whether an existing topic of this name is success, whatever its settings.
    pub if_not_exists: bool,
}

impl NewTopic {
    /// A topic with the cluster's defaults.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            partitions: 0,
            replication_factor: 0,
            configs: BTreeMap::new(),
            if_not_exists: false,
        }
    }

    /// The same topic with so many partitions.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// The same topic with so many replicas of each partition.
    #[must_use]
    pub fn replication_factor(mut self, replication_factor: u16) -> Self {
        self.replication_factor = replication_factor;
        self
    }

    /// The same topic with one more config, such as `retention.ms`.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(name.into(), value.into());
        self
    }

    /// The same topic; an existing topic of its name is success, whatever its settings.
    #[must_use]
    pub fn if_not_exists(mut self) -> Self {
        self.if_not_exists = true;
        self
    }
}

/// What [`Admin::create_topic`] made or found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CreatedTopic {
    /// The topic's identity.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// How many replicas each has.
    pub replication_factor: u16,
    /// Whether the call made it; false when it was there before.
    pub created: bool,
}

/// Changes to a topic. What is not named stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AlterTopic {
    /// Configs to set, or with `None` to return to the default.
    pub configs: BTreeMap<String, Option<String>>,
    /// The new number of partitions; it can only grow, and keys then move.
    pub partitions: Option<u32>,
}

/// One topic in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSummary {
    /// Its name.
    pub name: String,
    /// Its identity; a topic created again under its name has another.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
}

/// A topic in full.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its identity; a topic created again under its name has another.
    pub id: TopicId,
    /// How many replicas each partition has.
    pub replication_factor: u16,
    /// Its configs, defaults included, by name.
    pub configs: Vec<TopicConfig>,
    /// Its partitions, in order from 0.
    pub partitions: Vec<PartitionDescription>,
}

/// One config of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicConfig {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether nobody set it.
    pub is_default: bool,
}

/// Where a partition lives and what it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionDescription {
    /// Its index within the topic.
    pub partition: u32,
    /// Why the offsets and sizes are not known and read 0; `None` when they are known.
    pub error: Option<ErrorCode>,
    /// The broker that leads it; `None` while there is none.
    pub leader: Option<u32>,
    /// Counts its leaderships.
    pub leader_epoch: i32,
    /// The brokers that hold it.
    pub replicas: Vec<u32>,
    /// Those of them that are in sync.
    pub in_sync: Vec<u32>,
    /// The first offset that it still has.
    pub log_start: i64,
    /// The offset after its last committed record.
    pub high_watermark: i64,
    /// The offset after its last record.
    pub log_end: i64,
    /// Bytes of batches on the leader's disk.
    pub size_bytes: u64,
    /// Segments on the leader's disk.
    pub segments: u32,
}

/// One broker of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerInfo {
    /// Its id.
    pub id: u32,
    /// Where its QUIC front is reached, as host:port.
    pub endpoint: String,
}

/// The cluster as one broker sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterDescription {
    /// The cluster's identity.
    pub id: ClusterId,
    /// The brokers, by id.
    pub brokers: Vec<BrokerInfo>,
}

/// What one broker says about itself.
#[derive(Clone, PartialEq, Debug)]
pub struct BrokerStatus {
    /// Its metrics, by name.
    pub metrics: Vec<Metric>,
}

/// One metric of a broker.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// Its name, with its unit.
    pub name: String,
    /// Its value.
    pub value: MetricValue,
}

pub use api::MetricValue;

/// Which offset of a partition is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetSpec {
    /// The first that is held.
    Earliest,
    /// The one that the next committed record will get.
    Latest,
    /// That of the first record at or after so many milliseconds since the Unix epoch.
    Timestamp(i64),
}

/// An answer to [`Admin::list_offsets`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionOffset {
    /// The partition.
    pub partition: u32,
    /// The offset; `None` when no record is that late.
    pub offset: Option<i64>,
    /// The timestamp of the record there, in milliseconds, where one was looked up.
    pub timestamp: Option<i64>,
}

/// Administrative calls on one client's connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a topic. Creating it again with the same settings succeeds.
    ///
    /// # Errors
    /// `TopicExists` when it exists with other settings; `InvalidTopicName`, `InvalidConfig`;
    /// or the brokers cannot be reached.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<CreatedTopic, AdminError> {
        let request = api::CreateTopicRequest {
            name: topic.name,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            configs: topic.configs,
            if_not_exists: topic.if_not_exists,
            command: self.client.new_command(),
        };
        match self.client.cluster.call(request.into()).await? {
            api::Response::CreateTopic(made) => Ok(CreatedTopic {
                id: made.topic,
                partitions: made.partitions,
                replication_factor: made.replication_factor,
                created: made.created,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a topic and its records, and returns whether there was one. Deleting it again
    /// succeeds, so that the call can be repeated when its answer was lost; a topic that somebody
    /// made under the name meanwhile goes as well.
    ///
    /// # Errors
    /// The brokers cannot be reached, or refuse.
    pub async fn delete_topic(&self, name: &str) -> Result<bool, AdminError> {
        let request = api::DeleteTopicRequest {
            name: name.to_owned(),
            if_exists: true,
            command: self.client.new_command(),
        };
        match self.client.cluster.call(request.into()).await? {
            api::Response::DeleteTopic(deleted) => {
                self.client.cluster.forget(name);
                Ok(deleted.topic.is_some())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Changes a topic's configs or number of partitions. Returns how many it has then.
    ///
    /// # Errors
    /// `UnknownTopic`, `InvalidConfig`; or the brokers cannot be reached.
    pub async fn alter_topic(&self, name: &str, change: AlterTopic) -> Result<u32, AdminError> {
        let mut set = BTreeMap::new();
        let mut remove = Vec::new();
        for (config, value) in change.configs {
            match value {
                Some(value) => drop(set.insert(config, value)),
                None => remove.push(config),
            }
        }
        let request = api::AlterTopicRequest {
            name: name.to_owned(),
            set,
            remove,
            partitions: change.partitions,
            command: self.client.new_command(),
        };
        match self.client.cluster.call(request.into()).await? {
            api::Response::AlterTopic(altered) => {
                self.client.cluster.forget(name);
                Ok(altered.partitions)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Describes the named topics, in the order asked.
    ///
    /// # Errors
    /// `UnknownTopic` when one does not exist; or the brokers cannot be reached.
    pub async fn describe_topics(
        &self,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Vec<TopicDescription>, AdminError> {
        let names = names.into_iter().map(Into::into).collect();
        let request = api::DescribeTopicsRequest { topics: Some(names) };
        let response = match self.client.cluster.call(request.into()).await? {
            api::Response::DescribeTopics(response) => response,
            other => return Err(unexpected(&other)),
        };
        response.topics.into_iter().map(describe).collect()
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// The brokers cannot be reached.
    pub async fn list_topics(&self) -> Result<Vec<TopicSummary>, AdminError> {
        let metadata = self.client.cluster.metadata(None).await?;
        let mut topics = Vec::with_capacity(metadata.topics.len());
        for topic in metadata.topics {
            topics.push(TopicSummary {
                partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
                name: topic.name,
                id: topic.topic,
            });
        }
        Ok(topics)
    }

    /// The cluster's id and brokers.
    ///
    /// # Errors
    /// The brokers cannot be reached.
    pub async fn cluster(&self) -> Result<ClusterDescription, AdminError> {
        let metadata = self.client.cluster.metadata(Some(Vec::new())).await?;
        let mut brokers: Vec<_> = metadata
            .brokers
            .into_iter()
            .map(|broker| BrokerInfo { id: broker.broker.0, endpoint: broker.endpoint })
            .collect();
        brokers.sort_by_key(|broker| broker.id);
        Ok(ClusterDescription { id: metadata.cluster, brokers })
    }

    /// One offset of each of the wanted partitions of a topic, or of all where none is named, in
    /// order of the partitions. The others' state does not matter.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`; a partition without a leader, or one that serves nobody;
    /// or the brokers cannot be reached.
    pub async fn list_offsets(
        &self,
        topic: &str,
        partitions: &[u32],
        spec: OffsetSpec,
    ) -> Result<Vec<PartitionOffset>, AdminError> {
        let spec = match spec {
            OffsetSpec::Earliest => api::OffsetSpec::Earliest,
            OffsetSpec::Latest => api::OffsetSpec::Latest,
            OffsetSpec::Timestamp(ms) => api::OffsetSpec::Timestamp(TimestampMs(ms)),
        };
        let mut answers = self.client.cluster.list_offsets(topic, partitions, spec).await?;
        answers.sort_by_key(|answer| answer.partition);
        Ok(answers.iter().map(partition_offset).collect())
    }

    /// What the broker that answers says about itself.
    ///
    /// # Errors
    /// The brokers cannot be reached.
    pub async fn broker_status(&self) -> Result<BrokerStatus, AdminError> {
        let request = api::BrokerStatusRequest {};
        match self.client.cluster.call(request.into()).await? {
            api::Response::BrokerStatus(status) => Ok(BrokerStatus {
                metrics: status
                    .metrics
                    .into_iter()
                    .map(|metric| Metric { name: metric.name, value: metric.value })
                    .collect(),
            }),
            other => Err(unexpected(&other)),
        }
    }
}

/// The error for an answer that belongs to another request.
pub(crate) fn unexpected(response: &api::Response) -> AdminError {
    AdminError::Protocol { reason: format!("a response of kind {:?}", response.api()) }
}

fn partition_offset(answer: &api::PartitionOffset) -> PartitionOffset {
    let timestamp = (answer.timestamp != TimestampMs::NONE).then_some(answer.timestamp.0);
    PartitionOffset {
        partition: answer.partition.0,
        offset: answer.offset.map(Offset::value),
        timestamp,
    }
}

fn describe(topic: api::TopicDescription) -> Result<TopicDescription, AdminError> {
    if topic.error != ErrorCode::None {
        let message = format!("topic {}", topic.name);
        return Err(AdminError::Service { code: topic.error, message });
    }
    let configs = topic.configs.into_iter().map(|config| TopicConfig {
        name: config.name,
        value: config.value,
        is_default: config.source == api::ConfigSource::Default,
    });
    Ok(TopicDescription {
        name: topic.name,
        id: topic.topic,
        replication_factor: topic.replication_factor,
        configs: configs.collect(),
        partitions: topic.partitions.iter().map(describe_partition).collect(),
    })
}

fn describe_partition(partition: &api::PartitionDescription) -> PartitionDescription {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.0).collect();
    let PartitionIndex(index) = partition.partition;
    let LeaderEpoch(leader_epoch) = partition.leader_epoch;
    PartitionDescription {
        partition: index,
        error: (partition.error != ErrorCode::None).then_some(partition.error),
        leader: partition.leader.map(|broker| broker.0),
        leader_epoch,
        replicas: ids(&partition.replicas),
        in_sync: ids(&partition.in_sync),
        log_start: partition.log_start.value(),
        high_watermark: partition.high_watermark.value(),
        log_end: partition.log_end.value(),
        size_bytes: partition.bytes,
        segments: partition.segments,
    }
}
