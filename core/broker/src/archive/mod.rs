//! The archive as this broker uses it: its store, and what it knows of each partition that is
//! archived. `offload` moves ranges into it, `upkeep` takes out what retention and deletion give
//! up, `feed` reads from it.

mod backlog;
mod feed;
mod offload;
mod opening;
mod owner;
mod pace;
mod requests;
mod restore;
mod slot;
mod upkeep;
mod values;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream_env::clock::Clock;
use millstream_log::Beginning;
use millstream_meta::{ArchiveHead, MetaState, Topic};
use millstream_partition::RangeState;
use millstream_quorum::Quorum;
use millstream_service::ServiceError;
use millstream_tiered::{ArchiveError, DiskCache, Head, Identity, RangeEnd, StoreError};
use millstream_types::{ClusterId, ErrorCode, LeaderEpoch, Offset, TopicId, TopicPartition};

use backlog::{Backlog, Waiting};
pub(crate) use feed::Feed;
pub(crate) use offload::run;
use opening::{Location, Opened, Opening};
pub(crate) use pace::{PIECE_BYTES, Pace};
pub(crate) use restore::Restores;
use slot::Slot;

use crate::config::ArchiveSection;

/// What the archive did so far.
#[derive(Debug, Default)]
struct Counters {
    ranges: AtomicU64,
    log_bytes: AtomicU64,
    object_bytes: AtomicU64,
    failures: AtomicU64,
    removed: AtomicU64,
    read_bytes: AtomicU64,
    /// Records of whose value something is in no typed column that it should be in.
    unfit_values: AtomicU64,
}

/// Everything that the archive's parts share.
#[derive(Debug)]
pub(crate) struct Archives {
    cluster: ClusterId,
    location: Location,
    config: ArchiveSection,
    clock: Arc<dyn Clock>,
    quorum: Arc<Quorum>,
    opening: Arc<Opening>,
    /// Of replays beside producers.
    pub(crate) pace: Pace,
    slots: Mutex<BTreeMap<TopicPartition, Arc<Slot>>>,
    backlog: Backlog,
    counters: Counters,
}

impl Archives {
    pub(crate) fn new(
        config: &ArchiveSection,
        dir: &Path,
        cluster: ClusterId,
        clock: Arc<dyn Clock>,
        quorum: Arc<Quorum>,
        pace: Pace,
    ) -> Self {
        let location = Location::new(&config.location, dir);
        let opening = Opening::new(location.clone(), config, dir, Arc::clone(&clock));
        Self {
            cluster,
            location,
            config: config.clone(),
            clock,
            quorum,
            opening,
            pace,
            slots: Mutex::default(),
            backlog: Backlog::default(),
            counters: Counters::default(),
        }
    }

    /// Probes the store before the broker takes requests, if it has one in use or was given one. A
    /// store that does not answer is tried again later.
    ///
    /// # Errors
    /// The store's, where no later try could end better: it cannot hold an archive.
    pub(crate) async fn start(&self) -> Result<(), StoreError> {
        if !self.is_in_use(&self.quorum.state()) {
            return Ok(());
        }
        match self.opened().await {
            // What no later try can mend; credentials may yet come.
            Err(error @ (StoreError::Racy { .. } | StoreError::Location { .. })) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the archive's store cannot be used yet; trying again");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// Whether a topic is archived, or the operator named a store.
    fn is_in_use(&self, state: &MetaState) -> bool {
        let named = !self.config.location.is_empty();
        named || state.topics().any(|topic| topic.config.remote_storage_enable)
    }

    /// The store, opened and probed by the first who asks.
    pub(crate) async fn opened(&self) -> Result<&Opened, StoreError> {
        self.opening.get().await
    }

    /// The cluster's metadata.
    pub(crate) fn state(&self) -> Arc<MetaState> {
        self.quorum.state()
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a topic that is archived may be appended to. Not so where more waits of it than its
    /// share of a bound that is passed: says what keeps it from being archived.
    pub(crate) fn check_room(&self, topic: TopicId) -> Result<(), ServiceError> {
        if self.backlog.bytes() <= self.config.backlog_bytes_max {
            return Ok(());
        }
        match self.backlog.refusal(topic) {
            Some(message) => Err(ServiceError::new(ErrorCode::NoSpace, message)),
            None => Ok(()),
        }
    }

    /// Notes how much waits to be archived, and who takes no more for it.
    fn note_backlog(&self, state: &MetaState, mut topics: Vec<Waiting>) {
        let (behind, max) = (backlog::total(&topics), self.config.backlog_bytes_max);
        let mut refused = BTreeMap::new();
        for (id, refusal) in backlog::refused(&mut topics, max, self.config.range_bytes_max) {
            let Some(topic) = state.topic(id) else { continue };
            refused.insert(id, refusal.message(topic.name.as_ref(), max));
        }
        let messages: Vec<_> = refused.iter().map(|(id, why)| (*id, why.clone())).collect();
        let (before, refused_before) = self.backlog.note(behind, refused);
        for (_, why) in messages.iter().filter(|(id, _)| !refused_before.contains_key(id)) {
            tracing::error!(%why, "a topic takes no more until some of it is archived");
        }
        if before <= max / 2 && behind > max / 2 {
            tracing::warn!(behind, max, "half of what may wait to be archived does");
        }
    }

    /// What is known of a partition's archive. The slot of one that was deleted is dropped by
    /// upkeep.
    pub(crate) fn slot(&self, topic: &Topic, id: TopicPartition) -> Arc<Slot> {
        let mut slots = self.slots();
        let slot = slots.entry(id).or_insert_with(|| {
            let identity = Identity {
                cluster: self.cluster,
                topic: topic.name.to_string(),
                topic_id: id.topic,
                partition: id.partition,
            };
            Arc::new(Slot::new(id, identity))
        });
        Arc::clone(slot)
    }

    /// A partition's slot, if its topic exists.
    fn find(&self, state: &MetaState, id: TopicPartition) -> Option<Arc<Slot>> {
        let topic = state.topic(id.topic)?;
        topic.partition(id.partition)?;
        Some(self.slot(topic, id))
    }

    /// What a partition knew at `at`, where its log begins. `None` if no range ends there.
    pub(crate) async fn beginning(
        &self,
        topic: &Topic,
        id: TopicPartition,
        at: Offset,
    ) -> Result<Option<Beginning>, ArchiveError> {
        let slot = self.slot(topic, id);
        let mut archive = slot.lock(self).await?;
        let Some(archive) = archive.as_mut() else { return Ok(None) };
        let Some(head) = archive.head().copied() else { return Ok(None) };
        // Retention gave up every range, and what they knew: the producers begin anew.
        if archive.entries().len() == 0 && at.value() == head.end {
            return Ok(RangeState::default().beginning(at));
        }
        let Some(end) = archive.end_of_range(at).await? else { return Ok(None) };
        // Never without it: the partition would take its producers for new ones.
        beginning(at, &end).map(Some)
    }

    /// Counters by name, for the broker's metrics.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.counters;
        let disk = self.disk_cache().map(|disk| disk.counters()).unwrap_or_default();
        let mut all: Vec<(&'static str, u64)> = [
            ("archive_ranges_total", &counters.ranges),
            ("archive_log_bytes_total", &counters.log_bytes),
            ("archive_object_bytes_total", &counters.object_bytes),
            ("archive_failures_total", &counters.failures),
            ("archive_objects_removed_total", &counters.removed),
            ("archive_read_bytes_total", &counters.read_bytes),
            ("archive_unfit_values_total", &counters.unfit_values),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
        .to_vec();
        all.extend([
            ("archive_disk_cache_hits_total", disk.hits),
            ("archive_disk_cache_misses_total", disk.misses),
            ("archive_disk_cache_read_bytes_total", disk.read_bytes),
            ("archive_disk_cache_written_bytes_total", disk.written_bytes),
        ]);
        all
    }

    /// Gauges by name.
    pub(crate) fn gauges(&self) -> Vec<(&'static str, u64)> {
        let backlog = self.backlog.bytes();
        let partitions = self.slots().len() as u64;
        let held = self.disk_cache().map_or(0, |disk| disk.counters().held_bytes);
        vec![
            ("archive_backlog_bytes", backlog),
            ("archive_partitions", partitions),
            ("archive_disk_cache_bytes", held),
        ]
    }

    fn disk_cache(&self) -> Option<&DiskCache> {
        self.opening.peek()?.disk.as_deref()
    }
}

/// The store's word on a partition's state as its log begins with it.
fn beginning(offset: Offset, end: &RangeEnd) -> Result<Beginning, ArchiveError> {
    let unreadable = |reason: String| {
        ArchiveError::Decode(format!("what was known at offset {offset} is unreadable: {reason}"))
    };
    let state = RangeState::resume(&end.epochs, &end.producers);
    let state = state.map_err(|error| unreadable(error.to_string()))?;
    state
        .beginning(offset)
        .ok_or_else(|| unreadable("its leader epochs are in disorder".to_owned()))
}

/// A head as the metadata keeps it.
pub(crate) fn to_meta(head: &Head) -> ArchiveHead {
    ArchiveHead {
        number: head.number,
        digest: head.digest,
        start: Offset::new(head.start).unwrap_or(Offset::ZERO),
        end: Offset::new(head.end).unwrap_or(Offset::ZERO),
        leader_epoch: LeaderEpoch(head.leader_epoch),
    }
}

/// A head as the store's manifests have it.
pub(crate) fn to_store(head: &ArchiveHead) -> Head {
    Head {
        number: head.number,
        digest: head.digest,
        start: head.start.value(),
        end: head.end.value(),
        leader_epoch: head.leader_epoch.0,
    }
}

/// An archive's error as a client sees it.
pub(crate) fn service_error(error: &ArchiveError) -> ServiceError {
    let code = match error {
        ArchiveError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        error if error.is_retriable() => ErrorCode::Unavailable,
        // Credentials that have expired, a bucket's policy: whoever reads waits for the operator.
        ArchiveError::Store(_) => ErrorCode::Unavailable,
        // As of a damaged segment: asking again does not help.
        ArchiveError::Object { .. }
        | ArchiveError::Changed { .. }
        | ArchiveError::Manifest(_)
        | ArchiveError::Diverged { .. } => ErrorCode::StorageFenced,
        ArchiveError::Superseded { .. } | ArchiveError::Decode(_) => ErrorCode::Internal,
    };
    ServiceError::new(code, error.to_string())
}
