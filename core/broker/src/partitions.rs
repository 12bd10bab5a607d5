//! The partitions that this broker leads, kept in step with the metadata: opened when a topic
//! appears, configured when it changes, stopped and removed when it goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use millstream_env::clock::Clock;
use millstream_env::disk::Disk;
use millstream_log::{Beginning, Begins, Context, LogConfig, LogShared, PartitionLog};
use millstream_meta::{ArchiveHead, MetaState, Topic, TopicChange, TopicConfig};
use millstream_partition::{Partition, PartitionConfig, RecoverError, TimestampPolicy};
use millstream_replica::{Durability, ReplicaConfig};
use millstream_service::ServiceError;
use millstream_types::{BrokerId, ErrorCode, Offset, PartitionIndex, TopicId, TopicPartition};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::archive::Archives;
use crate::fence::Fence;
use crate::handle::{CompletionRelay, PartitionHandle};

/// Where topics' data lies below the data directory.
const TOPICS_DIR: &str = "topics";
/// How long the opening of a partition waits for the archive before it is put off.
const BEGINNING_TIMEOUT: Duration = Duration::from_secs(5);
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
    /// Waits for the archive on behalf of the threads that open partitions.
    pub(crate) runtime: Handle,
    pub(crate) shared: Arc<LogShared>,
    pub(crate) tail_partition_bytes: u64,
    /// Read every batch again before a partition serves, as after a failed sync.
    pub(crate) verify: bool,
    /// Threads that open partitions at start.
    pub(crate) open_threads: usize,
}

/// Every partition that this broker leads.
#[derive(Debug)]
pub(crate) struct Partitions {
    config: PartitionsConfig,
    open: RwLock<BTreeMap<TopicPartition, Arc<PartitionHandle>>>,
    /// The metadata that `open` reflects. Held while it is being brought up to date.
    reflected: Mutex<Arc<MetaState>>,
}

impl Partitions {
    /// Without any partition yet.
    pub(crate) fn new(config: PartitionsConfig) -> Self {
        Self {
            config,
            open: RwLock::default(),
            reflected: Mutex::new(Arc::new(MetaState::default())),
        }
    }

    /// The handle of a partition that this broker leads.
    pub(crate) fn get(&self, id: TopicPartition) -> Option<Arc<PartitionHandle>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// How many partitions this broker leads.
    pub(crate) fn len(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Why each partition that serves nobody does so.
    pub(crate) fn stopped(&self) -> Vec<ServiceError> {
        self.all().iter().filter_map(|handle| handle.with(|_| ()).err()).collect()
    }

    /// Every handle, in order of topic id and partition.
    pub(crate) fn all(&self) -> Vec<Arc<PartitionHandle>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Brings the partitions in step with `state`. Returns when they can be used.
    pub(crate) async fn reconcile(self: &Arc<Self>, state: Arc<MetaState>) {
        let mut reflected = self.reflected.lock().await;
        if state.revision() <= reflected.revision() {
            return;
        }
        let changes = state.changes_since(&reflected);
        *reflected = state;
        if changes.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        let applied = tokio::task::spawn_blocking(move || {
            changes.iter().flat_map(|change| this.apply(change)).collect::<Vec<_>>()
        });
        match applied.await {
            // A partition is of use only once it knows how far it was committed.
            Ok(opened) => {
                for handle in opened {
                    handle.settled().await;
                }
            }
            Err(error) => tracing::error!(%error, "the partitions could not be brought in step"),
        }
    }

    /// Opens the partitions again that wait for the archive to say where they begin, until one
    /// still waits.
    pub(crate) async fn reopen_waiting(self: &Arc<Self>) {
        let waiting = self.all().into_iter().filter(|handle| handle.is_waiting());
        for id in waiting.map(|handle| handle.id()).collect::<Vec<_>>() {
            // Held so that neither a deletion nor a change can come between.
            let reflected = self.reflected.lock().await;
            let Some(topic) = reflected.topic(id.topic).map(Arc::clone) else { continue };
            let this = Arc::clone(self);
            let opened =
                tokio::task::spawn_blocking(move || this.open_one(&topic, id.partition)).await;
            let Ok((id, handle)) = opened else { return };
            if handle.is_waiting() {
                return;
            }
            handle.settled().await;
            tracing::info!(partition = %id, "the archive answered; the partition is open");
            self.open.write().unwrap_or_else(PoisonError::into_inner).insert(id, handle);
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

    /// Stops every partition, closing its log.
    pub(crate) fn stop_all(&self, error: &ServiceError) {
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
        let opened: Vec<(TopicPartition, Arc<PartitionHandle>)> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                indexes.chunks(share).map(|share| scope.spawn(move || open(share))).collect();
            // A share whose thread panicked stays closed: its partitions answer "not leader".
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        let handles = opened.iter().map(|(_, handle)| Arc::clone(handle)).collect();
        self.open.write().unwrap_or_else(PoisonError::into_inner).extend(opened);
        handles
    }

    fn open_one(
        &self,
        topic: &Topic,
        index: PartitionIndex,
    ) -> (TopicPartition, Arc<PartitionHandle>) {
        let id = TopicPartition { topic: topic.id, partition: index };
        let clock = Arc::clone(&self.config.clock);
        let fence = self.config.fence.clone();
        let relay = Arc::new(CompletionRelay::default());
        let handle = match self.open_archived(topic, id, &relay) {
            Ok(partition) => PartitionHandle::open(id, partition, &relay, clock, fence),
            Err(error) => {
                tracing::error!(topic = %topic.name, partition = %index, %error,
                    "the partition cannot be opened and serves nobody");
                PartitionHandle::stopped(id, error, clock, fence)
            }
        };
        (id, handle)
    }

    /// Opens a partition's log; one that goes on where the archive ends, from what the archive
    /// knows there. It is opened once: a torn tail that an opening has cut must not be cut again.
    fn open_archived(
        &self,
        topic: &Topic,
        id: TopicPartition,
        relay: &Arc<CompletionRelay>,
    ) -> Result<Partition, ServiceError> {
        let fenced = |error: &dyn std::fmt::Display| {
            ServiceError::new(ErrorCode::StorageFenced, error.to_string())
        };
        let state = self.config.archives.state();
        let Some(head) = state.archive_head(id.topic, id.partition) else {
            return self.open_log(topic, id, None, relay).map_err(|error| fenced(&error));
        };
        let begins = PartitionLog::begins(&self.context(topic, id, relay));
        let at = match begins.map_err(|error| fenced(&error))? {
            Begins::Known => None,
            Begins::Nowhere => Some(head.end),
            Begins::Unknown(at) => Some(at),
        };
        let beginning = match at {
            Some(at) => self.beginning(topic, id, at)?,
            None => None,
        };
        let opened = self.open_log(topic, id, beginning.as_ref(), relay);
        with_archive(opened.map_err(|error| fenced(&error))?, head)
    }

    /// What the archive knows of a partition at `at`. Blocks, for a while.
    fn beginning(
        &self,
        topic: &Topic,
        id: TopicPartition,
        at: Offset,
    ) -> Result<Option<Beginning>, ServiceError> {
        let unavailable = |reason: String| {
            let message = format!("where the partition begins is in the archive: {reason}");
            ServiceError::new(ErrorCode::Unavailable, message)
        };
        let asked = self.config.archives.beginning(topic, id, at);
        let answered = async { tokio::time::timeout(BEGINNING_TIMEOUT, asked).await };
        match self.config.runtime.block_on(answered) {
            Ok(Ok(beginning)) => Ok(beginning),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_elapsed) => Err(unavailable("its store does not answer".to_owned())),
        }
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
            let handle = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
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
