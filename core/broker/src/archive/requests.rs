//! What operators ask about the archive.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use millstream_meta::{MetaState, Topic};
use millstream_service::ServiceError;
use millstream_tiered::{ArchiveError, ArchivedTopic, StoreError};
use millstream_types::{ErrorCode, Offset, PartitionIndex, TopicId, TopicPartition};
use millstream_wire::api::{
    ARCHIVE_PARTITIONS_MAX, ArchivePartitionStatus, ArchiveStatusRequest, ArchiveStatusResponse,
    ArchivedTopicEntry, ArchivedTopicsResponse, ERROR_MESSAGE_BYTES_MAX, RestoreTopicResponse,
    RestoredRange,
};

use super::{Archives, service_error};
use crate::handle::PartitionHandle;
use crate::partitions::Partitions;
use crate::replies::{ARCHIVE_ROWS_BYTES_MAX, ARCHIVED_BYTES};
use crate::service::BrokerService;

/// How long an answer about the archive waits for the store.
const STORE_LOOK: Duration = Duration::from_secs(2);

impl BrokerService {
    pub(crate) async fn archive_status(
        &self,
        request: &ArchiveStatusRequest,
    ) -> ArchiveStatusResponse {
        let state = self.quorum.state();
        let names = request.topics.as_ref();
        let names = names.map(|names| names.iter().map(String::as_str).collect::<BTreeSet<_>>());
        let wanted = |topic: &&Arc<Topic>| {
            let named = names.as_ref().is_none_or(|names| names.contains(&*topic.name));
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
        let led: Vec<_> = led.skip(skip).take(ARCHIVE_PARTITIONS_MAX).collect();
        // So many rows always fit, but not with the longest errors.
        let rows_bytes = led.iter().map(|(topic, _)| ARCHIVED_BYTES + topic.name.len());
        let mut errors_bytes = ARCHIVE_ROWS_BYTES_MAX.saturating_sub(rows_bytes.sum());
        let mut partitions = Vec::with_capacity(led.len());
        for (topic, handle) in led {
            // Most rows need not wait for anything.
            tokio::task::consume_budget().await;
            let mut row = self.partition_status(topic, &handle, store_error.is_none()).await;
            row.error = cut_to(&row.error, errors_bytes);
            errors_bytes -= row.error.len();
            partitions.push(row);
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

    /// What a topic that was restored holds.
    pub(super) async fn restored(
        &self,
        topic: TopicId,
    ) -> Result<RestoreTopicResponse, ServiceError> {
        let state = self.quorum.state();
        let count = state.topic(topic).map_or(0, |topic| topic.partitions.len());
        let indexes = 0..u32::try_from(count).unwrap_or(u32::MAX);
        let partitions = Arc::clone(&self.partitions);
        let build = move || {
            let ranges = indexes.map(|index| restored_range(&partitions, topic, index));
            RestoreTopicResponse { topic, partitions: ranges.collect() }
        };
        self.build(count * size_of::<RestoredRange>(), build).await
    }
}

fn restored_range(partitions: &Partitions, topic: TopicId, index: u32) -> RestoredRange {
    let id = TopicPartition { topic, partition: PartitionIndex(index) };
    let nowhere = (Offset::ZERO, Offset::ZERO);
    let held = match partitions.get(id) {
        Some(handle) => handle.with(|it| (it.earliest(), it.positions().high_watermark)),
        None => Err(ServiceError::new(ErrorCode::NotLeader, "")),
    };
    let error = held.as_ref().err().map_or(ErrorCode::None, |error| error.code);
    let (start, end) = held.unwrap_or(nowhere);
    RestoredRange { error, start, end }
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

    pub(super) async fn list(&self) -> Result<Vec<ArchivedTopic>, ServiceError> {
        let opened = self.opened().await.map_err(|error| store_error(&error))?;
        ArchivedTopic::list(&opened.store).await.map_err(|error| store_error(&error))
    }
}

pub(super) fn store_error(error: &StoreError) -> ServiceError {
    service_error(&ArchiveError::from(error.clone()))
}

/// What a reply can say of an error.
pub(super) fn cut(text: &str) -> String {
    cut_to(text, ERROR_MESSAGE_BYTES_MAX)
}

fn cut_to(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
