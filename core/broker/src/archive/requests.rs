//! What operators ask about the archive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_meta::{CommandBody, MetaState, RestoredPartition, Topic};
use millstream_replica::ProducerTable;
use millstream_service::ServiceError;
use millstream_tiered::{ArchiveError, ArchivedPartition, ArchivedTopic, ConfigMap, StoreError};
use millstream_types::{
    ErrorCode, LeaderEpoch, Offset, PartitionIndex, ProducerId, TopicId, TopicPartition,
};
use millstream_wire::api::{
    ARCHIVE_PARTITIONS_MAX, ArchivePartitionStatus, ArchiveStatusRequest, ArchiveStatusResponse,
    ArchivedTopicEntry, ArchivedTopicsResponse, ERROR_MESSAGE_BYTES_MAX, RestoreTopicRequest,
    RestoreTopicResponse, RestoredRange,
};

use super::{Archives, service_error, to_meta};
use crate::handle::PartitionHandle;
use crate::service::BrokerService;

/// How long an answer about the archive waits for the store.
const STORE_LOOK: Duration = Duration::from_secs(2);

impl BrokerService {
    pub(crate) async fn archive_status(
        &self,
        request: &ArchiveStatusRequest,
    ) -> ArchiveStatusResponse {
        let state = self.quorum.state();
        let wanted = |topic: &&Arc<Topic>| {
            let named = request.topics.as_ref();
            let named = named.is_none_or(|names| names.iter().any(|name| **name == *topic.name));
            named && topic.config.remote_storage_enable
        };
        let mut topics: Vec<&Arc<Topic>> = state.topics().filter(wanted).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        let all = topics.into_iter().flat_map(|topic| {
            let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
            (0..count).map(move |index| (topic, PartitionIndex(index)))
        });
        let led = all.filter_map(|(topic, partition)| {
            let handle = self.partitions.get(TopicPartition { topic: topic.id, partition })?;
            Some((topic, handle))
        });
        let skip = usize::try_from(request.skip).unwrap_or(usize::MAX);
        let store_error = self.archives.check_store(&state).await.err();
        let mut partitions = Vec::new();
        for (topic, handle) in led.skip(skip).take(ARCHIVE_PARTITIONS_MAX) {
            partitions.push(self.partition_status(topic, &handle, store_error.is_none()).await);
        }
        ArchiveStatusResponse {
            store: cut(&self.archives.store_name()),
            store_error: store_error.map(|error| cut(&error)).unwrap_or_default(),
            partitions,
        }
    }

    async fn partition_status(
        &self,
        topic: &Topic,
        handle: &PartitionHandle,
        store_answers: bool,
    ) -> ArchivePartitionStatus {
        let id = handle.id();
        let slot = self.archives.slot(topic, id);
        let status = slot.status().clone();
        let now = self.clock.monotonic();
        let waiting = status.waiting_since.map_or(0, |since| now.saturating_sub(since).as_millis());
        let mut row = ArchivePartitionStatus {
            name: topic.name.to_string(),
            topic: id.topic,
            partition: id.partition,
            start: Offset::ZERO,
            end: Offset::ZERO,
            local_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            backlog_bytes: 0,
            waiting_ms: u64::try_from(waiting).unwrap_or(u64::MAX),
            objects: 0,
            object_bytes: 0,
            log_bytes: 0,
            error: cut(&status.last_error.unwrap_or_default()),
        };
        let looked = handle.with(|partition| {
            let (archive, log) = (partition.archive(), partition.log());
            row.start = archive.start;
            row.end = archive.end;
            row.local_start = log.start();
            row.high_watermark = partition.positions().high_watermark;
            row.backlog_bytes = log.bytes_behind(archive.end.max(log.start()));
        });
        if let Err(error) = looked {
            row.error = cut(&error.message);
        } else if row.end > Offset::ZERO && store_answers {
            let reader = tokio::time::timeout(STORE_LOOK, slot.reader(&self.archives)).await;
            match reader {
                Ok(Ok(reader)) => {
                    let sizes = reader.sizes();
                    row.objects = sizes.objects;
                    row.object_bytes = sizes.object_bytes;
                    row.log_bytes = sizes.log_bytes;
                }
                Ok(Err(error)) => row.error = cut(&error.to_string()),
                Err(_elapsed) => "its manifests do not come".clone_into(&mut row.error),
            }
        }
        row
    }

    pub(crate) async fn archived_topics(&self) -> Result<ArchivedTopicsResponse, ServiceError> {
        let state = self.quorum.state();
        let topics = self.archives.list().await?.into_iter().map(|found| ArchivedTopicEntry {
            exists: state.topic(found.topic_id).is_some(),
            partitions: u32::try_from(found.partitions.len()).unwrap_or(u32::MAX),
            topic: found.topic_id,
            name: found.topic,
        });
        Ok(ArchivedTopicsResponse { topics: topics.collect() })
    }

    pub(crate) async fn restore_topic(
        &self,
        request: RestoreTopicRequest,
    ) -> Result<RestoreTopicResponse, ServiceError> {
        let found = choose(self.archives.list().await?, &request)?;
        let opened = self.archives.opened().await.map_err(|error| store_error(&error))?;
        let config = found.newest_config(&opened.store).await;
        let config = config.map_err(|error| {
            let retriable = error.is_retriable();
            let code = if retriable { ErrorCode::Unavailable } else { ErrorCode::StorageFenced };
            ServiceError::new(code, error.to_string())
        })?;
        let Some((_, config)) = config else {
            let message = format!(
                "the store has objects of topic `{}` but not its config: it was being deleted",
                found.topic
            );
            return Err(ServiceError::new(ErrorCode::UnknownTopic, message));
        };
        let cluster = self.archives.cluster;
        let partitions = found.partitions(&opened.store, cluster).await;
        let partitions = partitions.map_err(|error| service_error(&error))?;
        let body = restore_command(&found, &config, &partitions)?;
        self.change(request.command.0, body).await?;
        // Its producers' ids may lie in the block that this broker gives out.
        self.ids.forget_block().await;
        Ok(self.restored(found.topic_id))
    }

    /// What a topic that was restored holds.
    fn restored(&self, topic: TopicId) -> RestoreTopicResponse {
        let state = self.quorum.state();
        let count = state.topic(topic).map_or(0, |topic| topic.partitions.len());
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let range = |index| {
            let id = TopicPartition { topic, partition: PartitionIndex(index) };
            let nowhere = (Offset::ZERO, Offset::ZERO);
            let held = match self.partitions.get(id) {
                Some(handle) => handle.with(|it| (it.earliest(), it.positions().high_watermark)),
                None => Err(ServiceError::new(ErrorCode::NotLeader, "")),
            };
            let error = held.as_ref().err().map_or(ErrorCode::None, |error| error.code);
            let (start, end) = held.unwrap_or(nowhere);
            RestoredRange { error, start, end }
        };
        RestoreTopicResponse { topic, partitions: (0..count).map(range).collect() }
    }
}

impl Archives {
    /// Where objects lie, in words.
    pub(crate) fn store_name(&self) -> String {
        match &self.location {
            super::Location::Directory(dir) => dir.display().to_string(),
            super::Location::S3(url) => url.clone(),
        }
    }

    /// Why the store cannot be used, if it is in use or was named.
    async fn check_store(&self, state: &MetaState) -> Result<(), String> {
        if !self.is_in_use(state) {
            return Ok(());
        }
        match tokio::time::timeout(STORE_LOOK, self.opened()).await {
            Ok(opened) => opened.map(drop).map_err(|error| error.to_string()),
            Err(_elapsed) => Err("the store does not answer".to_owned()),
        }
    }

    async fn list(&self) -> Result<Vec<ArchivedTopic>, ServiceError> {
        let opened = self.opened().await.map_err(|error| store_error(&error))?;
        ArchivedTopic::list(&opened.store).await.map_err(|error| store_error(&error))
    }
}

fn store_error(error: &StoreError) -> ServiceError {
    service_error(&ArchiveError::from(error.clone()))
}

/// The topic that is meant, if that is clear.
fn choose(
    all: Vec<ArchivedTopic>,
    request: &RestoreTopicRequest,
) -> Result<ArchivedTopic, ServiceError> {
    let mut named: Vec<ArchivedTopic> = all
        .into_iter()
        .filter(|found| found.topic == request.name)
        .filter(|found| request.topic.is_none_or(|id| found.topic_id == id))
        .collect();
    let message = match named.len() {
        1 => return Ok(named.remove(0)),
        0 => format!("the archive's store has no topic `{}`", request.name),
        count => {
            let ids: Vec<String> = named.iter().map(|found| found.topic_id.to_string()).collect();
            let name = &request.name;
            format!("the store has {count} topics `{name}`: name one by its id: {}", ids.join(", "))
        }
    };
    let code = if named.is_empty() { ErrorCode::UnknownTopic } else { ErrorCode::InvalidRequest };
    Err(ServiceError::new(code, message))
}

/// The command that makes the topic again.
fn restore_command(
    found: &ArchivedTopic,
    config: &ConfigMap,
    partitions: &BTreeMap<PartitionIndex, ArchivedPartition>,
) -> Result<CommandBody, ServiceError> {
    let broken = |what: &str| {
        let message = format!("the archived config of topic `{}`: {what}", found.topic);
        ServiceError::new(ErrorCode::Internal, message)
    };
    let number = |name| config.get(name).and_then(serde_json::Value::as_u64);
    let count = number("partitions").and_then(|count| u32::try_from(count).ok());
    let count = count.ok_or_else(|| broken("no number of partitions"))?;
    // The topic may have grown after its config was last written.
    let count = partitions.keys().map(|index| index.0.saturating_add(1)).fold(count, u32::max);
    let factor = number("replication_factor").and_then(|factor| u16::try_from(factor).ok());
    let configs = config.get("configs").and_then(serde_json::Value::as_object);
    let mut named = BTreeMap::new();
    for (name, value) in configs.ok_or_else(|| broken("no configs"))? {
        let text = value.as_str().ok_or_else(|| broken("a config that is no text"))?;
        named.insert(name.clone(), text.to_owned());
    }
    let mut producers_from = 0;
    for partition in partitions.values() {
        let Some(end) = &partition.end else { continue };
        let known = ProducerTable::from_snapshot(&end.producers);
        let known = known.map_err(|error| broken(&error.to_string()))?;
        producers_from =
            producers_from.max(known.largest_id().map_or(0, |id| id.0.saturating_add(1)));
    }
    let restored = (0..count).map(|index| match partitions.get(&PartitionIndex(index)) {
        Some(partition) => RestoredPartition {
            leader_epoch: LeaderEpoch(partition.head.leader_epoch),
            head: Some(to_meta(&partition.head)),
        },
        None => RestoredPartition { leader_epoch: LeaderEpoch(0), head: None },
    });
    Ok(CommandBody::RestoreTopic {
        name: found.topic.clone(),
        topic: found.topic_id,
        // One broker holds what one broker can.
        replication_factor: factor.unwrap_or(1),
        configs: named,
        partitions: restored.collect(),
        producers_from: ProducerId(producers_from),
    })
}

/// What a reply can say of an error.
pub(super) fn cut(text: &str) -> String {
    let mut end = text.len().min(ERROR_MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
