//! What the archive needs now and then: topics' configs beside their objects, total retention,
//! objects that nothing names any more, and what deleted topics left behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_env::clock::Monotonic;
use millstream_meta::{Command, CommandBody, CommandId, MetaState, Topic, TopicConfig};
use millstream_service::ServiceError;
use millstream_tiered::{ArchiveError, ArchivedTopic, ConfigMap, Entry, PartitionArchive};
use millstream_types::{Offset, PartitionIndex, TimestampMs, TopicId, TopicPartition};

use super::Archives;
use super::offload::OffloadError;
use super::slot::Slot;
use crate::admin::propose;
use crate::handle::PartitionHandle;
use crate::ids::Ids;
use crate::partitions::Partitions;

/// How often every partition's archive is looked at.
const ROUND: Duration = Duration::from_secs(30);
/// After a topic's config could not be written.
const CONFIG_RETRY: Duration = Duration::from_secs(5);

/// What upkeep remembers between two looks.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// The topics whose config stands in the store.
    written: BTreeMap<TopicId, Arc<Topic>>,
    configs_at: Monotonic,
    round_at: Monotonic,
}

impl Upkeep {
    pub(crate) async fn run(
        &mut self,
        archives: &Arc<Archives>,
        partitions: &Partitions,
        state: &MetaState,
    ) {
        let now = archives.clock.monotonic();
        if now >= self.configs_at && self.write_configs(archives, state).await.is_err() {
            self.configs_at = now.saturating_add(CONFIG_RETRY);
        }
        if now < self.round_at {
            return;
        }
        let round = ROUND.min(Duration::from_millis(archives.config.grace_ms));
        self.round_at = now.saturating_add(round);
        self.written.retain(|id, _| state.topic(*id).is_some());
        archives.forget_slots(state);
        for topic in state.topics().filter(|topic| topic.config.remote_storage_enable) {
            archives.tidy_topic(topic, partitions).await;
        }
        for (id, deleted) in state.deleted_topics() {
            let age = archives.clock.wall().since_ms(deleted.deleted);
            if age >= archives.config.grace_ms
                && let Err(error) = archives.remove_topic(id, &deleted.name).await
            {
                tracing::warn!(topic = %deleted.name, %error,
                    "a deleted topic's objects could not be removed; trying again");
            }
        }
    }

    /// Writes the configs of topics that are new or have changed.
    async fn write_configs(&mut self, archives: &Archives, state: &MetaState) -> Result<(), ()> {
        let mut done = Ok(());
        for topic in state.topics().filter(|topic| topic.config.remote_storage_enable) {
            if self.written.get(&topic.id).is_some_and(|known| Arc::ptr_eq(known, topic)) {
                continue;
            }
            if let Err(error) = archives.write_config(topic).await {
                tracing::warn!(topic = %topic.name, %error, "its config is not in the archive yet");
                done = Err(());
                continue;
            }
            self.written.insert(topic.id, Arc::clone(topic));
        }
        done
    }
}

impl Archives {
    async fn write_config(&self, topic: &Topic) -> Result<(), String> {
        let opened = self.opened().await.map_err(|error| error.to_string())?;
        let archived = ArchivedTopic::new(topic.name.to_string(), topic.id);
        let written = self.put_config(&archived, &opened.store, &config_map(topic)).await;
        written.map_err(|error| error.to_string())
    }

    fn forget_slots(&self, state: &MetaState) {
        self.slots().retain(|id, _| {
            state.topic(id.topic).is_some_and(|topic| topic.partition(id.partition).is_some())
        });
    }

    async fn tidy_topic(&self, topic: &Topic, partitions: &Partitions) {
        for index in 0..u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX) {
            let id = TopicPartition { topic: topic.id, partition: PartitionIndex(index) };
            let Some(handle) = partitions.get(id) else { continue };
            let slot = self.slot(topic, id);
            let idle = handle.with(|partition| partition.archive().end == Offset::ZERO);
            if idle.unwrap_or(true) || !slot.may_try(self.clock.monotonic()) {
                continue;
            }
            if let Err(error) = self.tidy(&topic.config, &slot, &handle).await {
                tracing::warn!(partition = %id, %error, "its archive could not be tidied up");
                slot.failed(self.clock.monotonic(), error.to_string());
            }
        }
    }

    /// Gives up what is past the topic's retention, and removes objects that nothing names.
    async fn tidy(
        &self,
        config: &TopicConfig,
        slot: &Slot,
        handle: &PartitionHandle,
    ) -> Result<(), OffloadError> {
        let epoch = handle.leading()?;
        let now = self.clock.wall();
        let unarchived = handle.with(|partition| {
            partition.log().bytes_behind(partition.archive().end.max(partition.log().start()))
        })?;
        let mut held = slot.lock(self).await?;
        let Some(archive) = held.as_mut() else { return Ok(()) };
        let mut done = Ok(());
        if let Some(start) = kept_from(archive, config, unarchived, now) {
            done = match archive.trim(epoch, start).await {
                Ok(head) => {
                    slot.publish(archive, self.opened().await.map_err(ArchiveError::from)?);
                    self.move_head(slot, handle, Some(head)).await.map_err(OffloadError::from)
                }
                Err(error) => Err(error.into()),
            };
        }
        if done.is_ok() {
            let removed = archive.collect(now, self.config.grace_ms).await;
            match removed {
                Ok(removed) => {
                    self.counters.removed.fetch_add(removed as u64, Ordering::Relaxed);
                }
                Err(error) => done = Err(error.into()),
            }
        }
        if done.is_err() {
            *held = None;
        }
        done
    }

    /// Removes what the store has of a deleted topic, then forgets the topic.
    async fn remove_topic(&self, id: TopicId, name: &str) -> Result<(), ServiceError> {
        let unavailable =
            |error: String| ServiceError::new(millstream_types::ErrorCode::Unavailable, error);
        let opened = self.opened().await.map_err(|error| unavailable(error.to_string()))?;
        let archived = ArchivedTopic::new(name.to_owned(), id);
        let removed = self.remove_objects(&archived, &opened.store).await;
        let removed = removed.map_err(|error| unavailable(error.to_string()))?;
        self.counters.removed.fetch_add(removed as u64, Ordering::Relaxed);
        let command = CommandId(u128::from_be_bytes(Ids::random()?));
        let body = CommandBody::ForgetDeletedTopic { topic: id };
        propose(&self.quorum, Command::new(command, self.clock.wall(), body)).await.map(drop)
    }
}

/// Where the archive should start, if that is not where it starts: behind the ranges that
/// `retention.ms` and `retention.bytes` give up, oldest first. `unarchived` bytes of the partition
/// come on top of the archive's.
fn kept_from(
    archive: &PartitionArchive,
    config: &TopicConfig,
    unarchived: u64,
    now: TimestampMs,
) -> Option<Offset> {
    let archived: u64 = archive.entries().map(|entry| entry.log_bytes).sum();
    let mut bytes = archived.saturating_add(unarchived);
    let mut start = None;
    for entry in archive.entries() {
        let rest = bytes.saturating_sub(entry.log_bytes);
        // As in Kafka, the partition keeps at least the configured size.
        let too_large = config.retention_bytes.is_some_and(|kept| rest >= kept);
        if !too_large && !is_too_old(entry, config, now) {
            break;
        }
        bytes = rest;
        start = Offset::new(entry.end);
    }
    start
}

/// A range without any timestamp is not known to be old.
fn is_too_old(entry: &Entry, config: &TopicConfig, now: TimestampMs) -> bool {
    let newest = TimestampMs(entry.max_timestamp_ms);
    newest != TimestampMs::NONE
        && config.retention_ms.is_some_and(|kept| now.since_ms(newest) > kept)
}

/// What a topic needs to be made again.
pub(crate) fn config_map(topic: &Topic) -> ConfigMap {
    let overrides =
        topic.overrides.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    let overrides: ConfigMap = overrides.collect();
    ConfigMap::from_iter([
        ("partitions".to_owned(), topic.partitions.len().into()),
        ("replication_factor".to_owned(), topic.replication_factor.into()),
        ("created_ms".to_owned(), topic.created.0.into()),
        ("configs".to_owned(), overrides.into()),
    ])
}
