//! The partitions that this broker leads, kept in step with the metadata: opened when a topic
//! appears, configured when it changes, stopped and removed when it goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use millstream_env::clock::Clock;
use millstream_env::disk::Disk;
use millstream_log::{Beginning, Begins, Context, LogConfig, LogShared, PartitionLog};
use millstream_meta::{ArchiveHead, MetaState, Topic, TopicChange, TopicConfig};
use millstream_partition::{Partition, PartitionConfig, RecoverError, TimestampPolicy};
use millstream_replica::{Durability, ReplicaConfig};
use millstream_service::ServiceError;
use millstream_types::{BrokerId, ErrorCode, Offset, PartitionIndex, TopicId, TopicPartition};
use tokio::sync::watch;

mod late;
#[cfg(test)]
mod tests;

use crate::archive::Archives;
use crate::fence::Fence;
use crate::handle::{CompletionRelay, PartitionHandle};

/// Where topics' data lies below the data directory.
const TOPICS_DIR: &str = "topics";
/// Kafka's `producer.id.expiration.ms`.
pub(crate) const PRODUCER_EXPIRATION_MS: u64 = 24 * 60 * 60 * 1000;

/// What opening a partition needs.
#[derive(Debug, Clone)]
pub(crate) struct PartitionsConfig {
    pub(crate) broker: BrokerId,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) fence: Fence,
    pub(crate) archives: Arc<Archives>,
    pub(crate) shared: Arc<LogShared>,
    pub(crate) tail_partition_bytes: u64,
    /// Read every batch again before a partition serves, as after a failed sync.
    pub(crate) verify: bool,
    /// Partitions that are opened at once.
    pub(crate) open_threads: usize,
}

/// Every partition that this broker leads.
#[derive(Debug)]
pub(crate) struct Partitions {
    config: PartitionsConfig,
    open: RwLock<Open>,
    /// The metadata that `open` reflects. Held while it is being brought up to date, and by those
    /// who open a partition late, so that neither a deletion nor a change comes between.
    reflected: tokio::sync::RwLock<Arc<MetaState>>,
    wanted: Mutex<Wanted>,
    /// The revision up to which everything is done.
    done: watch::Sender<u64>,
    late: late::Late,
}

#[derive(Debug, Default)]
struct Open {
    handles: BTreeMap<TopicPartition, Arc<PartitionHandle>>,
    /// Why none is opened any more, once that is so.
    closed: Option<ServiceError>,
}

/// What `reflected` is to become, and whether a task is at it.
#[derive(Debug, Default)]
struct Wanted {
    state: Arc<MetaState>,
    is_under_way: bool,
}

impl Partitions {
    /// Without any partition yet.
    pub(crate) fn new(config: PartitionsConfig) -> Self {
        Self {
            config,
            open: RwLock::default(),
            reflected: tokio::sync::RwLock::default(),
            wanted: Mutex::default(),
            done: watch::Sender::new(0),
            late: late::Late::default(),
        }
    }

    /// The handle of a partition that this broker leads.
    pub(crate) fn get(&self, id: TopicPartition) -> Option<Arc<PartitionHandle>> {
        self.opened().handles.get(&id).cloned()
    }

    /// How many partitions this broker leads.
    pub(crate) fn len(&self) -> usize {
        self.opened().handles.len()
    }

    /// Why each partition that serves nobody does so.
    pub(crate) fn stopped(&self) -> Vec<ServiceError> {
        self.all().iter().filter_map(|handle| handle.with(|_| ()).err()).collect()
    }

    /// Every handle, in order of topic id and partition.
    pub(crate) fn all(&self) -> Vec<Arc<PartitionHandle>> {
        self.opened().handles.values().cloned().collect()
    }

    fn opened(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has handles take the place of those before.
    fn insert(&self, opened: impl IntoIterator<Item = Arc<PartitionHandle>>) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        for handle in opened {
            if let Some(error) = &open.closed {
                handle.stop(error.clone());
            }
            open.handles.insert(handle.id(), handle);
        }
    }

    /// Brings the partitions in step with `state`. Returns when they can be used, but for those
    /// that the archive keeps waiting. Goes on by itself if it is dropped.
    pub(crate) async fn reconcile(self: &Arc<Self>, state: Arc<MetaState>) {
        let revision = state.revision();
        let mut done = self.done.subscribe();
        self.want(state);
        // The sender is here as long as this is.
        let _open = done.wait_for(|done| *done >= revision).await;
    }

    /// Has one task work towards the newest state that anybody wants.
    fn want(self: &Arc<Self>, state: Arc<MetaState>) {
        let mut wanted = self.wanted();
        if state.revision() > wanted.state.revision() {
            wanted.state = state;
        }
        if !wanted.is_under_way && wanted.state.revision() > *self.done.borrow() {
            wanted.is_under_way = true;
            let this = Arc::clone(self);
            tokio::spawn(async move {
                while let Some(state) = this.next_wanted() {
                    let revision = state.revision();
                    this.bring_to(state).await;
                    this.done.send_replace(revision);
                }
            });
        }
    }

    fn next_wanted(&self) -> Option<Arc<MetaState>> {
        let mut wanted = self.wanted();
        wanted.is_under_way = wanted.state.revision() > *self.done.borrow();
        wanted.is_under_way.then(|| Arc::clone(&wanted.state))
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bring_to(self: &Arc<Self>, state: Arc<MetaState>) {
        let mut reflected = self.reflected.write().await;
        let changes = state.changes_since(&reflected);
        *reflected = state;
        if changes.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        let applied = tokio::task::spawn_blocking(move || {
            changes.iter().flat_map(|change| this.apply(change)).collect::<Vec<_>>()
        });
        let opened = applied.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the partitions could not be brought in step");
            Vec::new()
        });
        // A partition is of use only once it knows how far it was committed.
        for handle in &opened {
            handle.settled().await;
        }
        drop(reflected);
        if opened.iter().any(|handle| self.is_waiting(handle.id())) {
            self.wait_for_late().await;
        }
    }

    /// Removes the data of topics that the metadata no longer knows: a crash can come between a
    /// topic's deletion and that of its files. Blocks.
    pub(crate) fn remove_orphans(&self, state: &MetaState) {
        let Ok(entries) = self.config.disk.list(Path::new(TOPICS_DIR)) else {
            return;
        };
        for entry in entries {
            let known = entry.name.parse::<TopicId>().is_ok_and(|id| state.topic(id).is_some());
            if !known && entry.is_dir {
                self.remove(&Path::new(TOPICS_DIR).join(&entry.name));
            }
        }
    }

    /// Stops every partition, closing its log. None is opened any more.
    pub(crate) fn stop_all(&self, error: &ServiceError) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).closed = Some(error.clone());
        self.late.stop();
        for handle in self.all() {
            handle.stop(error.clone());
        }
    }

    /// Applies a change and returns the partitions that were opened.
    fn apply(&self, change: &TopicChange) -> Vec<Arc<PartitionHandle>> {
        match change {
            TopicChange::Created(topic) => self.open_topic(topic, 0),
            TopicChange::Changed { old, new } => {
                if old.config != new.config {
                    self.configure(new);
                }
                self.open_topic(new, old.partitions.len())
            }
            TopicChange::Deleted(topic) => {
                self.delete(topic);
                Vec::new()
            }
        }
    }

    /// Opens the topic's partitions from the `first` on, several at a time.
    fn open_topic(&self, topic: &Topic, first: usize) -> Vec<Arc<PartitionHandle>> {
        let ours = topic
            .partitions
            .iter()
            .enumerate()
            .skip(first)
            .filter(|(_, partition)| partition.leader == Some(self.config.broker));
        let indexes: Vec<u32> = ours.filter_map(|(index, _)| u32::try_from(index).ok()).collect();
        let share = indexes.len().div_ceil(self.config.open_threads.max(1)).max(1);
        let open = |indexes: &[u32]| -> Vec<_> {
            indexes.iter().map(|index| self.open_one(topic, PartitionIndex(*index))).collect()
        };
        let opened: Vec<Arc<PartitionHandle>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                indexes.chunks(share).map(|share| scope.spawn(move || open(share))).collect();
            // A share whose thread panicked stays closed: its partitions answer "not leader".
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        self.insert(opened.iter().cloned());
        opened
    }

    /// Opens a partition unless the archive has to be asked first: then it waits for that.
    fn open_one(&self, topic: &Topic, index: PartitionIndex) -> Arc<PartitionHandle> {
        let id = TopicPartition { topic: topic.id, partition: index };
        match self.begins_at(topic, id) {
            Ok(None) => self.open_with(topic, id, None),
            Ok(Some(_)) => self.stand_in(id, late::unavailable("it is being asked")),
            Err(error) => self.refuse(topic, id, error),
        }
    }

    /// Opens a partition's log; one that goes on where the archive ends, from what the archive
    /// knows there. It is opened once: a torn tail that an opening has cut must not be cut again.
    fn open_with(
        &self,
        topic: &Topic,
        id: TopicPartition,
        beginning: Option<&Beginning>,
    ) -> Arc<PartitionHandle> {
        let relay = Arc::new(CompletionRelay::default());
        let opened = self.open_log(topic, id, beginning, &relay).map_err(|error| fenced(&error));
        let state = self.config.archives.state();
        let opened = match state.archive_head(id.topic, id.partition) {
            Some(head) => opened.and_then(|partition| with_archive(partition, head)),
            None => opened,
        };
        match opened {
            Ok(partition) => {
                let (clock, fence) = (Arc::clone(&self.config.clock), self.config.fence.clone());
                PartitionHandle::open(id, partition, &relay, clock, fence)
            }
            Err(error) => self.refuse(topic, id, error),
        }
    }

    fn refuse(
        &self,
        topic: &Topic,
        id: TopicPartition,
        error: ServiceError,
    ) -> Arc<PartitionHandle> {
        tracing::error!(topic = %topic.name, partition = %id.partition, %error,
            "the partition cannot be opened and serves nobody");
        self.stand_in(id, error)
    }

    /// Stands for a partition that is not open.
    fn stand_in(&self, id: TopicPartition, error: ServiceError) -> Arc<PartitionHandle> {
        let (clock, fence) = (Arc::clone(&self.config.clock), self.config.fence.clone());
        PartitionHandle::stopped(id, error, clock, fence)
    }

    /// Where a partition's log begins, if the archive has to tell what was known there.
    fn begins_at(&self, topic: &Topic, id: TopicPartition) -> Result<Option<Offset>, ServiceError> {
        let state = self.config.archives.state();
        let Some(head) = state.archive_head(id.topic, id.partition) else { return Ok(None) };
        let relay = Arc::new(CompletionRelay::default());
        let begins = PartitionLog::begins(&self.context(topic, id, &relay));
        Ok(match begins.map_err(|error| fenced(&error))? {
            Begins::Known => None,
            Begins::Nowhere => Some(head.end),
            Begins::Unknown(at) => Some(at),
        })
    }

    fn open_log(
        &self,
        topic: &Topic,
        id: TopicPartition,
        beginning: Option<&Beginning>,
        relay: &Arc<CompletionRelay>,
    ) -> Result<Partition, RecoverError> {
        let now = self.config.clock.wall();
        let config = self.partition_config(&topic.config);
        let context = self.context(topic, id, relay);
        let mut partition = Partition::open_at(context, config, beginning, now)?;
        if self.config.verify {
            partition.verify()?;
        }
        if let Some(assigned) = topic.partition(id.partition) {
            partition.lead(now, assigned.leader_epoch);
        }
        Ok(partition)
    }

    fn context(&self, topic: &Topic, id: TopicPartition, relay: &Arc<CompletionRelay>) -> Context {
        Context {
            disk: Arc::clone(&self.config.disk),
            dir: partition_dir(id),
            identity: id,
            config: self.partition_config(&topic.config).log,
            completions: Arc::clone(relay) as _,
            shared: Arc::clone(&self.config.shared),
        }
    }

    fn configure(&self, topic: &Topic) {
        for index in 0..u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX) {
            let id = TopicPartition { topic: topic.id, partition: PartitionIndex(index) };
            if let Some(handle) = self.get(id) {
                handle.configure(self.partition_config(&topic.config));
            }
        }
    }

    fn delete(&self, topic: &Topic) {
        let gone = ServiceError::new(
            ErrorCode::UnknownTopic,
            format!("topic `{}` was deleted", topic.name),
        );
        for index in 0..u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX) {
            let id = TopicPartition { topic: topic.id, partition: PartitionIndex(index) };
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            let handle = open.handles.remove(&id);
            drop(open);
            if let Some(handle) = handle {
                handle.stop(gone.clone());
            }
        }
        self.remove(&topic_dir(topic.id));
    }

    fn remove(&self, dir: &Path) {
        if let Err(error) = self.config.disk.remove_dir_all(dir) {
            tracing::warn!(dir = %dir.display(), %error,
                "a deleted topic's data could not be removed; the next start tries again");
        }
    }

    fn partition_config(&self, topic: &TopicConfig) -> PartitionConfig {
        partition_config(&self.config, topic)
    }
}

fn fenced(error: &dyn std::fmt::Display) -> ServiceError {
    ServiceError::new(ErrorCode::StorageFenced, error.to_string())
}

fn topic_dir(topic: TopicId) -> PathBuf {
    Path::new(TOPICS_DIR).join(topic.to_string())
}

fn partition_dir(id: TopicPartition) -> PathBuf {
    topic_dir(id.topic).join(id.partition.to_string())
}

/// The partition, knowing what of it is archived. A log that ends before its archive would give
/// offsets out again.
fn with_archive(mut partition: Partition, head: &ArchiveHead) -> Result<Partition, ServiceError> {
    let end = partition.log().end();
    if end < head.end {
        let message = format!(
            "its log ends at offset {end}, but is archived up to {}: records are missing. Restore \
             its files from a copy; or move its directory away, and the partition goes on where \
             its archive ends",
            head.end
        );
        return Err(ServiceError::new(ErrorCode::StorageFenced, message));
    }
    partition.set_archive(head.start..head.end);
    Ok(partition)
}

/// A topic's config as one of its partitions needs it.
fn partition_config(config: &PartitionsConfig, topic: &TopicConfig) -> PartitionConfig {
    let timestamps = match topic.message_timestamp_type {
        millstream_meta::TimestampType::CreateTime => TimestampPolicy::CreateTime {
            before_max_ms: topic.message_timestamp_before_max_ms,
            after_max_ms: topic.message_timestamp_after_max_ms,
        },
        millstream_meta::TimestampType::LogAppendTime => TimestampPolicy::LogAppendTime,
    };
    let durability = match topic.durability {
        millstream_meta::Durability::Fsync => Durability::Fsync,
        millstream_meta::Durability::Replicated => Durability::Replicated,
    };
    // What is archived is given up there.
    let archived = topic.remote_storage_enable;
    let (retention_ms, retention_bytes) = if archived {
        (topic.local_retention_ms(), topic.local_retention_bytes())
    } else {
        (topic.retention_ms, topic.retention_bytes)
    };
    PartitionConfig {
        archived,
        log: LogConfig {
            segment_bytes: topic.segment_bytes,
            segment_ms: topic.segment_ms,
            retention_ms,
            retention_bytes,
            tail_bytes_max: config.tail_partition_bytes,
            ..LogConfig::default()
        },
        replica: ReplicaConfig {
            broker: config.broker,
            durability,
            min_in_sync: usize::from(topic.min_insync_replicas),
        },
        timestamps,
        batch_bytes_max: usize::try_from(topic.max_message_bytes).unwrap_or(usize::MAX),
        producer_expiration_ms: PRODUCER_EXPIRATION_MS,
    }
}
