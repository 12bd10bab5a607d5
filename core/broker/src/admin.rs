//! Unary calls about topics, brokers and producers. Changes go through the metadata quorum and
//! are answered once this broker acts on them.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream_meta::{Applied, Command, CommandBody, CommandId, MetaState, Topic, TopicConfig};
use millstream_quorum::Quorum;
use millstream_service::ServiceError;
use millstream_types::{ErrorCode, Offset, PartitionIndex, ProducerEpoch, TopicId, TopicPartition};
use millstream_wire::api::{
    AlterTopicRequest, AlterTopicResponse, BrokerMetadata, BrokerStatusResponse, ConfigEntry,
    ConfigSource, CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse,
    DescribeTopicsRequest, DescribeTopicsResponse, InitProducerRequest, InitProducerResponse,
    MetadataRequest, MetadataResponse, PartitionDescription, PartitionMetadata, ProducerIdentity,
    TopicDescription, TopicMetadata,
};

use crate::ids::Ids;
use crate::partitions::Partitions;
use crate::replies::{About, Asked, select};
use crate::service::BrokerService;

/// Partitions of a topic that asks for no number: Kafka's `num.partitions`.
const PARTITIONS_DEFAULT: u32 = 1;
/// Replicas of a topic that asks for no number, once there are as many brokers.
const REPLICATION_FACTOR_DEFAULT: u16 = 3;

/// Puts a command to the quorum.
pub(crate) async fn propose(quorum: &Quorum, command: Command) -> Result<Applied, ServiceError> {
    let outcome = quorum.propose(command).await;
    let outcome = outcome.map_err(|error| ServiceError::new(error.code(), error.to_string()))?;
    outcome.map_err(|refused| ServiceError::new(refused.code(), refused.to_string()))
}

impl BrokerService {
    pub(crate) async fn metadata(
        &self,
        request: MetadataRequest,
    ) -> Result<MetadataResponse, ServiceError> {
        let state = self.quorum.state();
        let bytes = About::Metadata.bytes_max(&state, request.topics.as_deref());
        self.build(bytes, move || metadata(&state, request.topics.as_deref())).await?
    }

    pub(crate) async fn create_topic(
        &self,
        request: CreateTopicRequest,
    ) -> Result<CreateTopicResponse, ServiceError> {
        let partitions = match request.partitions {
            0 => PARTITIONS_DEFAULT,
            partitions => partitions,
        };
        let factor = match request.replication_factor {
            0 => self.default_replication_factor(),
            factor => factor,
        };
        let body = CommandBody::CreateTopic {
            name: request.name.clone(),
            topic: TopicId::from_bytes(Ids::random()?),
            partitions,
            replication_factor: factor,
            configs: request.configs.clone(),
        };
        let applied = self.change(request.command.0, body).await;
        let state = self.quorum.state();
        let topic = state.topic_named(&request.name);
        match (applied, topic) {
            (Ok(_), Some(topic)) => Ok(created(topic, true)),
            (Err(error), Some(topic)) if error.code == ErrorCode::TopicExists => {
                if request.if_not_exists || is_as_asked(topic, partitions, factor, &request) {
                    return Ok(created(topic, false));
                }
                let message = format!("topic `{}` exists with other settings", request.name);
                Err(ServiceError::new(ErrorCode::TopicExists, message))
            }
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(ServiceError::new(
                ErrorCode::UnknownTopic,
                format!("topic `{}` was made and deleted again meanwhile", request.name),
            )),
        }
    }

    pub(crate) async fn delete_topic(
        &self,
        request: DeleteTopicRequest,
    ) -> Result<DeleteTopicResponse, ServiceError> {
        let found = self.quorum.state().topic_named(&request.name).map(|topic| topic.id);
        // Without such a topic the command is put all the same, for no topic: where it is a retry,
        // the quorum knows it by its id and answers as it did at first.
        let topic = found.unwrap_or(TopicId::NIL);
        match self.change(request.command.0, CommandBody::DeleteTopic { topic }).await {
            Ok(Applied::TopicDeleted { topic }) => Ok(DeleteTopicResponse { topic: Some(topic) }),
            Ok(_) => Ok(DeleteTopicResponse { topic: found }),
            Err(error) if error.code == ErrorCode::UnknownTopic => {
                if request.if_exists {
                    return Ok(DeleteTopicResponse { topic: None });
                }
                Err(unknown_topic(&request.name))
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn alter_topic(
        &self,
        request: AlterTopicRequest,
    ) -> Result<AlterTopicResponse, ServiceError> {
        let state = self.quorum.state();
        let topic = state.topic_named(&request.name).ok_or_else(|| unknown_topic(&request.name))?;
        let (topic, had) = (topic.id, partition_count(topic));
        let total = request.partitions.unwrap_or(had);
        if total < had {
            let message = format!(
                "topic `{}` has {had} partitions and can only grow; ask for {had} or more",
                request.name
            );
            return Err(ServiceError::new(ErrorCode::InvalidRequest, message));
        }
        let set = request.set;
        let remove: BTreeSet<String> = request.remove.into_iter().collect();
        // One command, so that all of the request is done or nothing.
        let body = match (set.is_empty() && remove.is_empty(), total > had) {
            (true, false) => None,
            (true, true) => Some(CommandBody::AddPartitions { topic, total }),
            (false, false) => Some(CommandBody::AlterTopicConfigs { topic, set, remove }),
            (false, true) => Some(CommandBody::AlterTopic { topic, set, remove, total }),
        };
        if let Some(body) = body {
            self.change(request.command.0, body).await?;
        }
        Ok(AlterTopicResponse { topic, partitions: total })
    }

    pub(crate) async fn describe_topics(
        &self,
        request: DescribeTopicsRequest,
    ) -> Result<DescribeTopicsResponse, ServiceError> {
        let state = self.quorum.state();
        let bytes = About::Descriptions.bytes_max(&state, request.topics.as_deref());
        let partitions = Arc::clone(&self.partitions);
        let names = request.topics;
        self.build(bytes, move || descriptions(&partitions, &state, names.as_deref())).await?
    }

    pub(crate) async fn init_producer(
        &self,
        request: &InitProducerRequest,
    ) -> Result<InitProducerResponse, ServiceError> {
        let state = self.quorum.state();
        // An id that was never given out, or by another cluster, is not renewed: its producer
        // gets one of its own.
        let known = request.producer.filter(|known| state.has_allocated(known.id));
        let renewed = known.and_then(|known| {
            let epoch = known.epoch.0.checked_add(1)?;
            Some(ProducerIdentity { id: known.id, epoch: ProducerEpoch(epoch) })
        });
        let producer = match renewed {
            Some(producer) => producer,
            None => {
                let now = self.clock.wall();
                let id = self.ids.producer(&self.quorum, self.broker, now).await?;
                ProducerIdentity { id, epoch: ProducerEpoch(0) }
            }
        };
        Ok(InitProducerResponse { producer })
    }

    pub(crate) fn broker_status(&self) -> BrokerStatusResponse {
        BrokerStatusResponse {
            metrics: self.metrics.get().map(crate::stats::Metrics::collect).unwrap_or_default(),
        }
    }

    /// Puts a change to the quorum and waits until this broker acts on it.
    pub(crate) async fn change(
        &self,
        command: [u8; 16],
        body: CommandBody,
    ) -> Result<Applied, ServiceError> {
        let id = match u128::from_be_bytes(command) {
            0 => CommandId(u128::from_be_bytes(Ids::random()?)),
            id => CommandId(id),
        };
        let applied = propose(&self.quorum, Command::new(id, self.clock.wall(), body)).await?;
        self.partitions.reconcile(self.quorum.state()).await;
        Ok(applied)
    }

    /// Three, or as many as there are brokers.
    fn default_replication_factor(&self) -> u16 {
        let brokers = self.quorum.state().brokers().count();
        u16::try_from(brokers).unwrap_or(u16::MAX).clamp(1, REPLICATION_FACTOR_DEFAULT)
    }
}

pub(crate) fn metadata(
    state: &MetaState,
    names: Option<&[String]>,
) -> Result<MetadataResponse, ServiceError> {
    let topics = select(About::Metadata, state, names)?.into_iter().map(|asked| match asked {
        Asked::Known(topic) => topic_metadata(topic),
        Asked::Unknown(name) => unknown_metadata(name),
    });
    let brokers = state.brokers().map(|broker| BrokerMetadata {
        broker: broker.id,
        endpoint: broker
            .endpoints
            .first()
            .map(|at| format!("{}:{}", at.host, at.port))
            .unwrap_or_default(),
    });
    Ok(MetadataResponse {
        cluster: state.cluster().unwrap_or_default(),
        brokers: brokers.collect(),
        topics: topics.collect(),
    })
}

fn descriptions(
    partitions: &Partitions,
    state: &MetaState,
    names: Option<&[String]>,
) -> Result<DescribeTopicsResponse, ServiceError> {
    let topics = select(About::Descriptions, state, names)?.into_iter().map(|asked| match asked {
        Asked::Known(topic) => describe(partitions, topic),
        Asked::Unknown(name) => unknown_description(name),
    });
    Ok(DescribeTopicsResponse { topics: topics.collect() })
}

fn describe(partitions: &Partitions, topic: &Topic) -> TopicDescription {
    let configs = topic.config.describe_all().map(|(name, value)| {
        let set = topic.overrides.contains_key(name);
        let source = if set { ConfigSource::Topic } else { ConfigSource::Default };
        ConfigEntry { name: name.to_owned(), value, source }
    });
    let indexes = (0..partition_count(topic)).map(PartitionIndex);
    TopicDescription {
        error: ErrorCode::None,
        name: topic.name.to_string(),
        topic: topic.id,
        replication_factor: topic.replication_factor,
        configs: configs.collect(),
        partitions: indexes.filter_map(|index| describe_one(partitions, topic, index)).collect(),
    }
}

fn describe_one(
    partitions: &Partitions,
    topic: &Topic,
    index: PartitionIndex,
) -> Option<PartitionDescription> {
    let assigned = topic.partition(index)?;
    let mut description = PartitionDescription {
        partition: index,
        error: ErrorCode::None,
        leader: assigned.leader,
        leader_epoch: assigned.leader_epoch,
        replicas: assigned.replicas.to_vec(),
        in_sync: assigned.in_sync.to_vec(),
        log_start: Offset::ZERO,
        high_watermark: Offset::ZERO,
        log_end: Offset::ZERO,
        bytes: 0,
        segments: 0,
    };
    let id = TopicPartition { topic: topic.id, partition: index };
    let Some(handle) = partitions.get(id) else {
        description.error = ErrorCode::NotLeader;
        return Some(description);
    };
    let looked = handle.with(|partition| {
        let positions = partition.positions();
        let log = partition.log();
        let failed = log.failure().is_some();
        (positions, partition.earliest(), log.size_bytes(), log.segment_count(), failed)
    });
    match looked {
        Ok((positions, earliest, bytes, segments, failed)) => {
            if failed {
                description.error = ErrorCode::StorageFenced;
            }
            description.log_start = earliest;
            description.high_watermark = positions.high_watermark;
            description.log_end = positions.end;
            description.bytes = bytes;
            description.segments = u32::try_from(segments).unwrap_or(u32::MAX);
        }
        Err(error) => description.error = error.code,
    }
    Some(description)
}

fn topic_metadata(topic: &Topic) -> TopicMetadata {
    let partitions = topic.partitions.iter().zip(0..).map(|(partition, index)| PartitionMetadata {
        partition: PartitionIndex(index),
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        replicas: partition.replicas.to_vec(),
        in_sync: partition.in_sync.to_vec(),
    });
    TopicMetadata {
        error: ErrorCode::None,
        name: topic.name.to_string(),
        topic: topic.id,
        partitions: partitions.collect(),
    }
}

fn unknown_metadata(name: &str) -> TopicMetadata {
    TopicMetadata {
        error: ErrorCode::UnknownTopic,
        name: name.to_owned(),
        topic: TopicId::NIL,
        partitions: Vec::new(),
    }
}

fn unknown_description(name: &str) -> TopicDescription {
    TopicDescription {
        error: ErrorCode::UnknownTopic,
        name: name.to_owned(),
        topic: TopicId::NIL,
        replication_factor: 0,
        configs: Vec::new(),
        partitions: Vec::new(),
    }
}

fn unknown_topic(name: &str) -> ServiceError {
    let message = format!("no topic is named `{name}`; see `millstream topic list`");
    ServiceError::new(ErrorCode::UnknownTopic, message)
}

fn partition_count(topic: &Topic) -> u32 {
    u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX)
}

/// Whether creating the topic again would change nothing: creation is idempotent.
fn is_as_asked(topic: &Topic, partitions: u32, factor: u16, request: &CreateTopicRequest) -> bool {
    let asked = TopicConfig::from_overrides(&request.configs);
    partition_count(topic) == partitions
        && topic.replication_factor == factor
        && asked.as_ref() == Ok(&topic.config)
}

fn created(topic: &Topic, created: bool) -> CreateTopicResponse {
    CreateTopicResponse {
        topic: topic.id,
        partitions: partition_count(topic),
        replication_factor: topic.replication_factor,
        created,
    }
}
