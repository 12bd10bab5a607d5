//! What the archive needs now and then: topics' configs beside their objects, total retention,
//! objects that nothing names any more, and what deleted topics left behind.
//!
//! Retention needs no request where it has nothing to give up. Listing what lies in the store does,
//! many for a large partition, and finds something only after ranges were given up or attempts
//! failed: so it is rare, and partitions have their turns spread over time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_env::clock::Monotonic;
use millstream_meta::{Command, CommandBody, CommandId, MetaState, Topic, TopicConfig};
use millstream_service::ServiceError;
use millstream_tiered::{ArchiveError, ArchivedTopic, ConfigMap, Entry, PartitionArchive};
use millstream_types::{Offset, PartitionIndex, TimestampMs, TopicId, TopicPartition};
use tokio::task::{Id, JoinError, JoinSet};

use super::Archives;
use super::offload::OffloadError;
use super::slot::Slot;
use crate::admin::propose;
use crate::handle::PartitionHandle;
use crate::ids::Ids;
use crate::partitions::Partitions;

/// How often a partition's retention is looked at, and a topic's removal tried again.
const ROUND: Duration = Duration::from_secs(30);
/// How often a partition's objects are listed at least, and a quarter of it at most.
const LISTING: Duration = Duration::from_secs(3600);
/// After a topic's config could not be written.
const CONFIG_RETRY: Duration = Duration::from_secs(5);
/// What is done at once, of each kind, so that none keeps another waiting.
const CONFIGS_MAX: usize = 4;
const TIDIES_MAX: usize = 8;
const REMOVALS_MAX: usize = 2;
/// Partitions of one topic at once.
const TOPIC_TIDIES_MAX: usize = 4;
/// How far down its line is looked for a partition of another topic.
const LOOK_DOWN: usize = 64;

/// One thing to do.
#[derive(Debug)]
enum Work {
    Config(Arc<Topic>),
    Tidy {
        topic: Arc<Topic>,
        slot: Arc<Slot>,
        handle: Arc<PartitionHandle>,
        list: bool,
    },
    /// With the time since it was deleted.
    Remove {
        topic: TopicId,
        name: String,
        age_ms: u64,
    },
}

/// What it is done to, while it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Job {
    Config(TopicId),
    Tidy(TopicPartition),
    Remove(TopicId),
}

/// What became of it.
#[derive(Debug)]
enum Ended {
    Config(Arc<Topic>),
    Tidied {
        trimmed: bool,
        listed: bool,
    },
    /// The topic is forgotten.
    Removed,
    /// Something may come yet.
    LookAgain,
    Failed,
}

/// When a partition has its turns.
#[derive(Debug)]
struct Care {
    check_at: Monotonic,
    list_at: Monotonic,
    listed_at: Option<Monotonic>,
}

/// What upkeep remembers between two looks.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// The topics whose config stands in the store.
    written: BTreeMap<TopicId, Arc<Topic>>,
    /// Topics whose config or removal failed, and when it is tried again.
    retries: BTreeMap<TopicId, Monotonic>,
    cares: BTreeMap<TopicPartition, Care>,
    forgotten_at: Monotonic,
    tasks: JoinSet<Ended>,
    running: Vec<(Id, Job)>,
}

impl Upkeep {
    /// Does what is due. Returns once all of it is begun, or it is time to look again; what has
    /// begun goes on.
    pub(crate) async fn run(
        &mut self,
        archives: &Arc<Archives>,
        partitions: &Partitions,
        state: &MetaState,
    ) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.ended(archives, ended);
        }
        self.forget(archives, state);
        let mut line = self.due(archives, partitions, state);
        let again = tokio::time::sleep(Duration::from_millis(archives.config.interval_ms));
        tokio::pin!(again);
        loop {
            self.begin(archives, &mut line);
            if line.is_empty() {
                return;
            }
            tokio::select! {
                () = &mut again => return,
                Some(ended) = self.tasks.join_next_with_id() => self.ended(archives, ended),
            }
        }
    }

    /// Forgets what is no more.
    fn forget(&mut self, archives: &Archives, state: &MetaState) {
        let now = archives.clock.monotonic();
        if now < self.forgotten_at {
            return;
        }
        self.forgotten_at = now.saturating_add(round(archives));
        self.written.retain(|id, _| state.topic(*id).is_some());
        self.retries.retain(|_, at| now < *at);
        self.cares.retain(|id, _| state.topic(id.topic).is_some());
        archives.forget_slots(state);
    }

    /// What is due, the longest due first.
    fn due(
        &mut self,
        archives: &Archives,
        partitions: &Partitions,
        state: &MetaState,
    ) -> VecDeque<Work> {
        let now = archives.clock.monotonic();
        let mut line = VecDeque::new();
        let mut tidies = Vec::new();
        for topic in state.topics().filter(|topic| topic.config.remote_storage_enable) {
            let written = self.written.get(&topic.id);
            let is_written = written.is_some_and(|known| Arc::ptr_eq(known, topic));
            if !is_written && self.may_try(topic.id, now) && !self.is_running(Job::Config(topic.id))
            {
                line.push_back(Work::Config(Arc::clone(topic)));
            }
            self.due_partitions(archives, partitions, topic, &mut tidies);
        }
        for (id, deleted) in state.deleted_topics() {
            let age = archives.clock.wall().since_ms(deleted.deleted);
            let due = age >= archives.config.grace_ms && self.may_try(id, now);
            if due && !self.is_running(Job::Remove(id)) {
                line.push_back(Work::Remove {
                    topic: id,
                    name: deleted.name.to_string(),
                    age_ms: age,
                });
            }
        }
        tidies.sort_by_key(|(since, _)| *since);
        line.extend(tidies.into_iter().map(|(_, work)| work));
        line
    }

    fn due_partitions(
        &mut self,
        archives: &Archives,
        partitions: &Partitions,
        topic: &Arc<Topic>,
        due: &mut Vec<(Monotonic, Work)>,
    ) {
        let now = archives.clock.monotonic();
        let gives_up =
            topic.config.retention_ms.is_some() || topic.config.retention_bytes.is_some();
        for index in 0..u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX) {
            let id = TopicPartition { topic: topic.id, partition: PartitionIndex(index) };
            let Some(handle) = partitions.get(id) else { continue };
            let idle = handle.with(|partition| partition.archive().end == Offset::ZERO);
            if idle.unwrap_or(true) {
                continue;
            }
            let care = self.cares.entry(id).or_insert_with(|| Care {
                check_at: now.saturating_add(phase(id, round(archives))),
                list_at: now.saturating_add(phase(id, listing(archives))),
                listed_at: None,
            });
            let list = now >= care.list_at;
            let since = if gives_up { care.check_at.min(care.list_at) } else { care.list_at };
            if now < since || self.is_running(Job::Tidy(id)) {
                continue;
            }
            let slot = archives.slot(topic, id);
            if slot.may_try(now) {
                due.push((since, Work::Tidy { topic: Arc::clone(topic), slot, handle, list }));
            }
        }
    }

    /// Begins what there are places for.
    fn begin(&mut self, archives: &Arc<Archives>, line: &mut VecDeque<Work>) {
        let mut put_off = Vec::new();
        while put_off.len() < LOOK_DOWN
            && let Some(work) = line.pop_front()
        {
            let job = work.job();
            let running = |of: &dyn Fn(&Job) -> bool| {
                self.running.iter().filter(|(_, running)| of(running)).count()
            };
            let has_place = match job {
                Job::Config(_) => running(&|it| matches!(it, Job::Config(_))) < CONFIGS_MAX,
                Job::Remove(_) => running(&|it| matches!(it, Job::Remove(_))) < REMOVALS_MAX,
                Job::Tidy(id) => {
                    let of_topic =
                        |it: &Job| matches!(it, Job::Tidy(other) if other.topic == id.topic);
                    running(&|it| matches!(it, Job::Tidy(_))) < TIDIES_MAX
                        && running(&of_topic) < TOPIC_TIDIES_MAX
                }
            };
            if !has_place {
                put_off.push(work);
                continue;
            }
            let archives = Arc::clone(archives);
            let task = self.tasks.spawn(async move { archives.work(work).await });
            self.running.push((task.id(), job));
        }
        put_off.into_iter().rev().for_each(|work| line.push_front(work));
    }

    fn may_try(&self, topic: TopicId, now: Monotonic) -> bool {
        self.retries.get(&topic).is_none_or(|at| now >= *at)
    }

    fn is_running(&self, job: Job) -> bool {
        self.running.iter().any(|(_, running)| *running == job)
    }

    fn ended(&mut self, archives: &Archives, ended: Result<(Id, Ended), JoinError>) {
        let (id, ended) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a part of the archive's upkeep ended early");
                (error.id(), Ended::Failed)
            }
        };
        let Some(at) = self.running.iter().position(|(running, _)| *running == id) else { return };
        let (_, job) = self.running.swap_remove(at);
        let now = archives.clock.monotonic();
        match (job, ended) {
            (_, Ended::Config(topic)) => {
                self.written.insert(topic.id, topic);
            }
            (Job::Tidy(id), ended) => {
                let Some(care) = self.cares.get_mut(&id) else { return };
                care.check_at = now.saturating_add(round(archives));
                if let Ended::Tidied { trimmed, listed } = ended {
                    care.tidied(now, listing(archives), trimmed, listed);
                }
            }
            (_, Ended::Removed | Ended::Tidied { .. }) => {}
            (Job::Config(topic), Ended::Failed | Ended::LookAgain) => {
                self.retries.insert(topic, now.saturating_add(CONFIG_RETRY));
            }
            (Job::Remove(topic), Ended::LookAgain) => {
                let grace = Duration::from_millis(archives.config.grace_ms);
                self.retries.insert(topic, now.saturating_add(grace));
            }
            (Job::Remove(topic), Ended::Failed) => {
                self.retries.insert(topic, now.saturating_add(round(archives)));
            }
        }
    }
}

impl Care {
    /// What was given up is seen by the next listing, and removed by one after its grace.
    fn tidied(&mut self, now: Monotonic, every: Duration, trimmed: bool, listed: bool) {
        if listed {
            self.listed_at = Some(now);
            self.list_at = now.saturating_add(every);
        } else if trimmed {
            let soon = self.listed_at.map_or(now, |at| at.saturating_add(every / 4));
            self.list_at = self.list_at.min(soon.max(now));
        }
    }
}

impl Work {
    fn job(&self) -> Job {
        match self {
            Self::Config(topic) => Job::Config(topic.id),
            Self::Tidy { slot, .. } => Job::Tidy(slot.id()),
            Self::Remove { topic, .. } => Job::Remove(*topic),
        }
    }
}

/// How often a partition's retention is looked at.
fn round(archives: &Archives) -> Duration {
    ROUND.min(Duration::from_millis(archives.config.grace_ms))
}

/// How often its objects are listed.
fn listing(archives: &Archives) -> Duration {
    LISTING.min(Duration::from_millis(archives.config.grace_ms))
}

/// A part of `of` that differs from partition to partition.
fn phase(id: TopicPartition, of: Duration) -> Duration {
    let bytes = id.topic.to_bytes();
    let topic =
        bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let mixed = topic.wrapping_add(id.partition.0).wrapping_mul(0x9e37_79b1) >> 22;
    of * mixed / 1024
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

    async fn work(&self, work: Work) -> Ended {
        match work {
            Work::Config(topic) => match self.write_config(&topic).await {
                Ok(()) => Ended::Config(topic),
                Err(error) => {
                    let name = &topic.name;
                    tracing::warn!(topic = %name, %error, "its config is not in the archive yet");
                    Ended::Failed
                }
            },
            Work::Tidy { topic, slot, handle, list } => {
                match self.tidy(&topic.config, &slot, &handle, list).await {
                    Ok(trimmed) => Ended::Tidied { trimmed, listed: list },
                    Err(error) => {
                        let id = slot.id();
                        tracing::warn!(partition = %id, %error,
                            "its archive could not be tidied up");
                        slot.failed(self.clock.monotonic(), error.to_string());
                        Ended::Failed
                    }
                }
            }
            Work::Remove { topic, name, age_ms } => {
                match self.remove_topic(topic, &name, age_ms).await {
                    Ok(true) => Ended::Removed,
                    Ok(false) => Ended::LookAgain,
                    Err(error) => {
                        tracing::warn!(topic = %name, %error,
                        "a deleted topic's objects could not be removed; trying again");
                        Ended::Failed
                    }
                }
            }
        }
    }

    /// Gives up what is past the topic's retention, and has objects that nothing names removed if
    /// they are to be listed. Whether something was given up.
    async fn tidy(
        &self,
        config: &TopicConfig,
        slot: &Slot,
        handle: &PartitionHandle,
        list: bool,
    ) -> Result<bool, OffloadError> {
        let mut held = slot.lock(self).await?;
        let Some(archive) = held.as_mut() else { return Ok(false) };
        let done = self.tidy_held(config, slot, handle, archive, list).await;
        if done.is_err() {
            // How far it got, the store knows: the next try opens the archive anew.
            *held = None;
        }
        done
    }

    async fn tidy_held(
        &self,
        config: &TopicConfig,
        slot: &Slot,
        handle: &PartitionHandle,
        archive: &mut PartitionArchive,
        list: bool,
    ) -> Result<bool, OffloadError> {
        let epoch = handle.leading()?;
        let now = self.clock.wall();
        let unarchived = handle.with(|partition| {
            partition.log().bytes_behind(partition.archive().end.max(partition.log().start()))
        })?;
        // A crash may have come between a manifest and the metadata; nobody else looks at a
        // partition to which nothing is written.
        self.move_head(slot, handle, archive.head().copied()).await?;
        let given_up = kept_from(archive, config, unarchived, now);
        if let Some(start) = given_up {
            let head = archive.trim(epoch, start).await?;
            slot.publish(archive, self.opened().await.map_err(ArchiveError::from)?);
            self.move_head(slot, handle, Some(head)).await?;
        }
        if list {
            let removed = archive.collect(now, self.config.grace_ms).await?;
            self.counters.removed.fetch_add(removed as u64, Ordering::Relaxed);
        }
        Ok(given_up.is_some())
    }

    /// Removes what the store has of a topic that was deleted `age_ms` ago. Once nothing can come
    /// any more it forgets the topic, and says so.
    async fn remove_topic(
        &self,
        id: TopicId,
        name: &str,
        age_ms: u64,
    ) -> Result<bool, ServiceError> {
        let unavailable =
            |error: String| ServiceError::new(millstream_types::ErrorCode::Unavailable, error);
        let opened = self.opened().await.map_err(|error| unavailable(error.to_string()))?;
        let archived = ArchivedTopic::new(name.to_owned(), id);
        let removed = self.remove_objects(&archived, &opened.store).await;
        let removed = removed.map_err(|error| unavailable(error.to_string()))?;
        self.counters.removed.fetch_add(removed as u64, Ordering::Relaxed);
        if !may_forget(removed, age_ms, self.config.grace_ms) {
            return Ok(false);
        }
        let command = CommandId(u128::from_be_bytes(Ids::random()?));
        let body = CommandBody::ForgetDeletedTopic { topic: id };
        propose(&self.quorum, Command::new(command, self.clock.wall(), body)).await.map(|_| true)
    }
}

/// Whether a deleted topic may be forgotten: a look has found nothing, twice the grace after it was
/// deleted. What an upload that stalled then put after the first look would else stay for ever.
const fn may_forget(removed: usize, age_ms: u64, grace_ms: u64) -> bool {
    removed == 0 && age_ms >= grace_ms.saturating_mul(2)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_partition_is_listed_rarely_and_soon_after_something_was_given_up() {
        let at = Duration::from_secs;
        let every = at(4_000);
        let mut care = Care { check_at: at(0), list_at: at(3_000), listed_at: None };
        care.tidied(at(10), every, false, false);
        assert_eq!(care.list_at, at(3_000), "retention had nothing to do");
        care.tidied(at(20), every, true, false);
        assert_eq!(care.list_at, at(20), "it was never listed");
        care.tidied(at(30), every, false, true);
        assert_eq!(care.list_at, at(4_030));
        care.tidied(at(40), every, true, false);
        assert_eq!(care.list_at, at(1_030), "at most four times as often");
        care.tidied(at(50), every, true, false);
        assert_eq!(care.list_at, at(1_030));
        care.tidied(at(2_000), every, true, true);
        assert_eq!(care.list_at, at(6_000));
    }

    #[test]
    fn a_topic_is_forgotten_once_a_later_look_finds_nothing() {
        assert!(!may_forget(0, 1_000, 1_000), "the first look");
        assert!(!may_forget(3, 2_000, 1_000), "something came late");
        assert!(may_forget(0, 2_000, 1_000));
        assert!(may_forget(0, 0, 0));
    }

    #[test]
    fn partitions_have_their_turns_spread_over_time() {
        let of = Duration::from_secs(3_600);
        let ids = (0..1_000).map(|index| TopicPartition {
            topic: TopicId::from_bytes([7; 16]),
            partition: PartitionIndex(index),
        });
        let phases: Vec<Duration> = ids.map(|id| phase(id, of)).collect();
        assert!(phases.iter().all(|phase| *phase < of));
        let minutes: BTreeSet<u64> = phases.iter().map(|phase| phase.as_secs() / 60).collect();
        assert_eq!(minutes.len(), 60);
    }
}
