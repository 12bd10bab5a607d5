//! Moves ranges of partitions into the archive: read from the log, encoded, put, named by the next
//! manifest, and last told to the cluster's metadata. A crash between any two loses nothing: what
//! no manifest names is nothing, and what one names is found again when the archive is opened.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use millstream_env::clock::Monotonic;
use millstream_log::{Cursor, ReadPlan};
use millstream_meta::{Command, CommandBody, CommandId, MetaState, MovedHead};
use millstream_partition::{Partition, RangeState};
use millstream_service::ServiceError;
use millstream_tiered::{
    ArchiveError, EncodeError, EncodedObject, Encoder, Head, Identity, PartitionArchive, RangeEnd,
    workers,
};
use millstream_types::{
    ErrorCode, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicPartition,
};
use millstream_wire::Batch;
use tokio::task::JoinSet;

use super::backlog::Waiting;
use super::slot::{Busy, Slot};
use super::values::{self, TypedValues};
use super::{Archives, to_meta, to_store, upkeep};
use crate::admin::propose;
use crate::handle::{PartitionHandle, read_error};
use crate::ids::Ids;
use crate::partitions::{PRODUCER_EXPIRATION_MS, Partitions};

/// Bytes read from the log at once.
const READ_BYTES: usize = 1024 * 1024;

/// Ranges of one partition before others have their turn.
const RANGES_A_TURN: usize = 4;

/// Why a range was not archived.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OffloadError {
    /// The store or its manifests.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The range's batches.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The log, or the metadata quorum.
    #[error("{}", .0.message)]
    Service(ServiceError),
    /// The log does not go on where the archive ends, which nothing of ours can bring about.
    #[error(
        "the archive ends at offset {archived} but the log holds {start} to {end}: records are \
         missing; is this the data directory that the archive is of?"
    )]
    Gap {
        /// Where the archive ends.
        archived: i64,
        /// Where the log starts.
        start: Offset,
        /// Where it ends.
        end: Offset,
    },
}

impl From<ServiceError> for OffloadError {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

/// A partition that has something to archive.
struct Due {
    slot: Arc<Slot>,
    handle: Arc<PartitionHandle>,
    /// Have it synced first: it waits for its lag alone, and nobody else may sync it.
    sync: bool,
}

/// What a partition's log says of its place against the archive.
struct Standing {
    waiting: bool,
    /// Whether something is committed that a power cut could take.
    unsynced: bool,
    backlog_bytes: u64,
}

/// Archives what is due, and keeps the archive in order, until it is aborted. Neither waits for
/// the other: a store that is slow in one call must not hide how much waits.
pub(crate) async fn run(archives: Arc<Archives>, partitions: Arc<Partitions>) {
    tokio::join!(offloads(&archives, &partitions), upkeeps(&archives, &partitions));
}

async fn upkeeps(archives: &Arc<Archives>, partitions: &Arc<Partitions>) {
    let interval = Duration::from_millis(archives.config.interval_ms);
    let mut upkeep = upkeep::Upkeep::default();
    loop {
        tokio::time::sleep(interval).await;
        let state = archives.quorum.state();
        partitions.reopen_waiting();
        upkeep.run(archives, partitions, &state).await;
    }
}

/// Looks at every partition each interval. Those whose turn has come wait in line, the longest
/// waiting first, for one of `archive.uploads_max` places.
async fn offloads(archives: &Arc<Archives>, partitions: &Arc<Partitions>) {
    let interval = Duration::from_millis(archives.config.interval_ms);
    let mut looked_at = archives.clock.monotonic();
    let mut line: VecDeque<Due> = VecDeque::new();
    let mut tasks = JoinSet::new();
    loop {
        let next_look = looked_at.saturating_add(interval);
        let sleep = next_look.saturating_sub(archives.clock.monotonic());
        tokio::select! {
            () = tokio::time::sleep(sleep) => {
                looked_at = archives.clock.monotonic();
                line = archives.due(&archives.quorum.state(), partitions).into();
            }
            Some(_ended) = tasks.join_next() => {}
        }
        while tasks.len() < archives.config.uploads_max
            && let Some(due) = line.pop_front()
        {
            // It may have had its turn since the last look.
            if !due.slot.may_try(archives.clock.monotonic()) || due.slot.is_held() {
                continue;
            }
            let (archives, busy) = (Arc::clone(archives), Busy::new(&due.slot));
            tasks.spawn(async move {
                archives.offload(&due).await;
                drop(busy);
            });
        }
    }
}

/// Whether a partition's next range should be archived now: it is large enough, or has waited long
/// enough.
fn is_due(waited: Duration, backlog_bytes: u64, range_bytes: u64, lag_max: Duration) -> bool {
    backlog_bytes >= range_bytes || waited >= lag_max
}

impl Archives {
    /// The partitions whose turn has come, and how far each is behind.
    fn due(&self, state: &MetaState, partitions: &Partitions) -> Vec<Due> {
        let now = self.clock.monotonic();
        let mut due: Vec<(Monotonic, Due)> = Vec::new();
        let mut behind = Vec::new();
        for topic in state.topics().filter(|topic| topic.config.remote_storage_enable) {
            let mut waiting = Waiting::new(topic.id);
            let lag_max = Duration::from_millis(topic.config.archive_lag_max_ms);
            for index in 0..u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX) {
                let id = TopicPartition { topic: topic.id, partition: PartitionIndex(index) };
                let Some(handle) = partitions.get(id) else { continue };
                let Ok(standing) = handle.with(standing) else { continue };
                let slot = self.slot(topic, id);
                let turn = self.turn(now, lag_max, &slot, &standing);
                let status = slot.status();
                let waited =
                    status.waiting_since.map_or(Duration::ZERO, |at| now.saturating_sub(at));
                let (bytes, failure) = (standing.backlog_bytes, status.last_error.as_ref());
                waiting.add(id.partition, bytes, waited, lag_max, failure);
                drop(status);
                if let Some((since, sync)) = turn {
                    due.push((since, Due { slot, handle, sync }));
                }
            }
            behind.push(waiting);
        }
        self.note_backlog(state, behind);
        due.sort_by_key(|(since, _)| *since);
        due.into_iter().map(|(_, due)| due).collect()
    }

    /// If it is the partition's turn, since when it has waited, and whether for its lag alone.
    fn turn(
        &self,
        now: Monotonic,
        lag_max: Duration,
        slot: &Slot,
        at: &Standing,
    ) -> Option<(Monotonic, bool)> {
        let mut status = slot.status();
        if !at.waiting {
            status.waiting_since = None;
            return None;
        }
        let since = *status.waiting_since.get_or_insert(now);
        let waited = now.saturating_sub(since);
        drop(status);
        let range_bytes = self.config.range_bytes_max;
        let due = is_due(waited, at.backlog_bytes, range_bytes, lag_max) && slot.may_try(now);
        due.then_some((since, at.backlog_bytes < range_bytes || at.unsynced))
    }

    /// Archives what a partition has, range by range, until what is left is not worth one or
    /// others should have their turn.
    async fn offload(&self, due: &Due) {
        let mut sync = due.sync;
        for _ in 0..RANGES_A_TURN {
            let done = self.offload_range(due, sync).await;
            let now = self.clock.monotonic();
            match done {
                Ok(true) => {
                    due.slot.succeeded();
                    // Whatever is left has come meanwhile.
                    due.slot.status().waiting_since = Some(now);
                }
                Ok(false) => return due.slot.succeeded(),
                Err(error) => {
                    self.counters.failures.fetch_add(1, Ordering::Relaxed);
                    let at = due.slot.id();
                    tracing::warn!(partition = %at, %error, "a range could not be archived");
                    return due.slot.failed(now, error.to_string());
                }
            }
            sync = false;
            let behind = due.handle.with(|partition| standing(partition).backlog_bytes);
            if behind.unwrap_or(0) < self.config.range_bytes_max {
                return;
            }
        }
    }

    /// Archives one range; false if there was none.
    async fn offload_range(&self, due: &Due, sync: bool) -> Result<bool, OffloadError> {
        let Due { slot, handle, .. } = due;
        let epoch = handle.leading()?;
        let mut held = slot.lock(self).await?;
        let Some(archive) = held.as_mut() else { return Ok(false) };
        let done = self.archive_next(slot, handle, archive, epoch, sync).await;
        if done.is_err() {
            // How far it got, the store knows: the next try opens the archive anew.
            *held = None;
        }
        done
    }

    async fn archive_next(
        &self,
        slot: &Slot,
        handle: &Arc<PartitionHandle>,
        archive: &mut PartitionArchive,
        epoch: LeaderEpoch,
        sync: bool,
    ) -> Result<bool, OffloadError> {
        // Before a range is read and encoded for nothing.
        archive.check_owner()?;
        // A crash may have come between a manifest and the metadata.
        self.move_head(slot, handle, archive.head().copied()).await?;
        archive.check_room()?;
        if sync {
            handle.sync().await?;
        }
        let before = archive.range_end().await?.unwrap_or_default();
        let archived = archive.head().map(|head| head.end);
        let Some(range) = range(handle, archived)? else { return Ok(false) };
        let topic = self.quorum.state().topic(slot.id().topic).cloned();
        let values = topic.and_then(|topic| values::of(&topic.config));
        let (handle_, identity) = (Arc::clone(handle), slot.identity().clone());
        let (bytes_max, now) = (self.config.range_bytes_max, self.clock.wall());
        let encoding = move || encode(&handle_, identity, &range, before, values, bytes_max, now);
        let encoded = workers::run(encoding).await;
        let encoded = encoded.map_err(|error| {
            ServiceError::new(ErrorCode::Internal, format!("encoding ended: {error}"))
        })??;
        let attempt = u128::from_be_bytes(Ids::random()?);
        let head = archive.append(epoch, &encoded, attempt).await?;
        slot.publish(archive, self.opened().await.map_err(ArchiveError::from)?);
        self.move_head(slot, handle, Some(head)).await?;
        let (log, object) = (encoded.summary.log_bytes, encoded.bytes.len() as u64);
        self.counters.ranges.fetch_add(1, Ordering::Relaxed);
        self.counters.log_bytes.fetch_add(log, Ordering::Relaxed);
        self.counters.object_bytes.fetch_add(object, Ordering::Relaxed);
        self.counters.unfit_values.fetch_add(encoded.summary.unfit_values, Ordering::Relaxed);
        tracing::debug!(partition = %slot.id(), end = head.end, log, object, "a range is archived");
        Ok(true)
    }

    /// Tells the metadata how far a partition is archived, and the partition once that is known:
    /// only then may its local copy go.
    pub(super) async fn move_head(
        &self,
        slot: &Slot,
        handle: &PartitionHandle,
        head: Option<Head>,
    ) -> Result<(), OffloadError> {
        let Some(head) = head else { return Ok(()) };
        // What a log that is too short took since is not what is archived, and must stay.
        let (start, end) = handle.with(|it| (it.log().start(), it.log().end()))?;
        if head.end > end.value() {
            return Err(OffloadError::Gap { archived: head.end, start, end });
        }
        let TopicPartition { topic, partition } = slot.id();
        let known = |state: &MetaState| state.archive_head(topic, partition).map(to_store);
        if known(&self.quorum.state()).is_none_or(|known| known.number < head.number) {
            let moved = MovedHead { topic, partition, head: to_meta(&head) };
            let body = CommandBody::MoveArchiveHeads { heads: vec![moved] };
            let id = CommandId(u128::from_be_bytes(Ids::random()?));
            propose(&self.quorum, Command::new(id, self.clock.wall(), body)).await?;
        }
        // What the metadata has, which may be another's if the topic is gone.
        if let Some(known) = known(&self.quorum.state()) {
            handle.set_archive(to_meta(&known));
        }
        Ok(())
    }
}

/// What is archived next, at most: from where the archive ends to what is committed and durable.
fn range(
    handle: &PartitionHandle,
    archived: Option<i64>,
) -> Result<Option<std::ops::Range<Offset>>, OffloadError> {
    let place = |partition: &Partition| {
        (partition.log().start(), partition.log().end(), partition.archivable_end())
    };
    let (start, end, until) = handle.with(place)?;
    let from = archived.and_then(Offset::new).unwrap_or(start);
    if from < start || from > end {
        return Err(OffloadError::Gap { archived: from.value(), start, end });
    }
    Ok((from < until).then_some(from..until))
}

fn standing(partition: &Partition) -> Standing {
    let from = partition.archive().end.max(partition.log().start());
    let committed = partition.positions().high_watermark;
    Standing {
        waiting: committed > from,
        unsynced: partition.archivable_end() < committed,
        backlog_bytes: partition.log().bytes_behind(from),
    }
}

/// Reads a range of the log into an object of about `bytes_max` bytes of batches. `before` is what
/// the partition knew where the range begins. Blocks.
fn encode(
    handle: &PartitionHandle,
    identity: Identity,
    range: &std::ops::Range<Offset>,
    before: RangeEnd,
    values: Option<TypedValues>,
    bytes_max: u64,
    now: TimestampMs,
) -> Result<EncodedObject, OffloadError> {
    let resumed = RangeState::resume(&before.epochs, &before.producers);
    let mut state = resumed.map_err(|error| {
        let message = format!("the producers' state in the archive: {error}");
        ServiceError::new(ErrorCode::Internal, message)
    })?;
    state.expire_producers(TimestampMs(now.0.saturating_sub_unsigned(PRODUCER_EXPIRATION_MS)));
    let mut value_columns = before.value_columns;
    let mut encoder = match values {
        None => Encoder::new(identity, range.start)?,
        Some(values) => {
            let new = values.add_to(&mut value_columns, identity.partition);
            Encoder::with_values(identity, range.start, value_columns.clone(), new)?
        }
    };
    let mut at = Cursor::from(range.start);
    while encoder.next_offset() < range.end && !is_whole(&encoder, bytes_max) {
        let (pieces, next) = load(handle, at)?;
        for mut rest in pieces {
            while !rest.is_empty() && !is_whole(&encoder, bytes_max) {
                let (batch, behind) = Batch::split_first(&rest)
                    .map_err(|error| ServiceError::new(error.code(), error.to_string()))?;
                rest = behind;
                // A read may begin before where it was asked to, and end behind what is durable.
                if batch.header().base_offset < encoder.next_offset() {
                    continue;
                }
                if batch.header().next_offset() > range.end {
                    break;
                }
                state.stored(batch.header(), now);
                encoder.push(&batch)?;
            }
        }
        at = next;
    }
    let (epochs, producers) = (state.epochs().to_vec(), state.producers());
    Ok(encoder.finish(&RangeEnd { epochs, producers, value_columns })?)
}

/// Whether a range should end before its next batch.
fn is_whole(encoder: &Encoder, bytes_max: u64) -> bool {
    encoder.log_bytes() >= bytes_max || encoder.is_full()
}

/// Batches from `at` on, and where to read on.
fn load(handle: &PartitionHandle, at: Cursor) -> Result<(Vec<Bytes>, Cursor), OffloadError> {
    match handle.read(at, READ_BYTES)? {
        ReadPlan::Memory { batches, next } => Ok((batches, next)),
        ReadPlan::File(read) => {
            let loaded = read.load().map_err(|error| read_error(&error))?;
            Ok((vec![loaded.batches], loaded.next))
        }
        ReadPlan::Empty => {
            let message = format!("nothing can be read at offset {}", at.offset());
            Err(ServiceError::new(ErrorCode::Internal, message).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_due_by_size_or_by_waiting() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        assert!(!is_due(second, 99, 100, minute));
        assert!(is_due(second, 100, 100, minute));
        assert!(is_due(minute, 1, 100, minute));
    }
}
