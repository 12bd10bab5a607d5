//! A partition as the rest of the broker sees it: a lock held for short, synchronous sections, and
//! a watch by which sessions and subscriptions learn how far the partition has come.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use millstream_env::clock::Clock;
use millstream_env::disk::{Completions, DiskError, DiskResult, FileId, OpToken};
use millstream_log::{Cursor, LogError, ReadError, ReadPlan, Removed};
use millstream_meta::ArchiveHead;
use millstream_partition::{Partition, PartitionConfig, Placed};
use millstream_service::ServiceError;
use millstream_types::limits::BATCH_BYTES_MAX;
use millstream_types::{ErrorCode, LeaderEpoch, Offset, TopicPartition};
use millstream_wire::{BatchHeader, Codec, IncomingBatch};
use tokio::sync::watch;

use crate::archive::Archives;
use crate::fence::Fence;
use crate::produce::in_doubt;

/// How often a sync that nobody tells of is looked for.
const SYNC_LOOK: Duration = Duration::from_millis(20);
/// How often at most.
const SYNC_LOOKS: usize = 250;
/// Records of an uncompressed batch that are checked on the network's thread.
const RECORDS_CHECKED_INLINE: u32 = 16 * 1024;

/// How far a partition has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The first offset kept.
    pub(crate) start: Offset,
    /// What consumers may read up to.
    pub(crate) high_watermark: Offset,
    /// What the leader itself has written.
    pub(crate) written: Offset,
    /// Why the partition serves nobody, if it does not.
    pub(crate) stopped: Option<ServiceError>,
}

/// Where batches are.
#[derive(Debug)]
pub(crate) enum Source {
    /// In the log, or nowhere yet.
    Log(ReadPlan),
    /// In the archive alone.
    Archive,
}

/// What is behind the lock.
#[derive(Debug)]
enum State {
    Open(Box<Partition>),
    /// Deleted, shut down, or damaged; the error says which.
    Stopped(ServiceError),
}

/// One partition that this broker leads.
#[derive(Debug)]
pub(crate) struct PartitionHandle {
    id: TopicPartition,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    clock: Arc<dyn Clock>,
    fence: Fence,
}

/// Passes the disk's completions to a partition whose log needs them before it is open itself:
/// recovery submits a sync, which may complete at once.
#[derive(Debug, Default)]
pub(crate) struct CompletionRelay {
    target: OnceLock<Weak<PartitionHandle>>,
    /// What completed before there was a target. A log submits one sync for each of its unsealed
    /// segments while it is opened, so this stays short.
    early: Mutex<Vec<(FileId, OpToken, DiskResult<()>)>>,
}

impl CompletionRelay {
    /// Delivers what has completed so far, and from now on everything.
    fn attach(&self, handle: &Arc<PartitionHandle>) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        // The relay is fresh: nobody else sets it.
        let _set = self.target.set(Arc::downgrade(handle));
        for (file, token, result) in early.drain(..) {
            handle.complete(file, token, result);
        }
    }
}

impl Completions for CompletionRelay {
    fn complete(&self, file: FileId, token: OpToken, result: DiskResult<()>) {
        if self.target.get().is_none() {
            let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
            // Looked at again under the lock under which it is set.
            if self.target.get().is_none() {
                early.push((file, token, result));
                return;
            }
        }
        if let Some(handle) = self.target.get().and_then(Weak::upgrade) {
            handle.complete(file, token, result);
        }
    }
}

impl PartitionHandle {
    /// Wraps an open partition; `relay` is what it was opened with.
    pub(crate) fn open(
        id: TopicPartition,
        partition: Partition,
        relay: &CompletionRelay,
        clock: Arc<dyn Clock>,
        fence: Fence,
    ) -> Arc<Self> {
        let progress = progress_of(&partition);
        let handle = Self::new(id, State::Open(Box::new(partition)), progress, clock, fence);
        relay.attach(&handle);
        handle
    }

    /// Stands for a partition that could not be opened; every use of it gets `error`.
    pub(crate) fn stopped(
        id: TopicPartition,
        error: ServiceError,
        clock: Arc<dyn Clock>,
        fence: Fence,
    ) -> Arc<Self> {
        let progress = Progress {
            start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            written: Offset::ZERO,
            stopped: Some(error.clone()),
        };
        Self::new(id, State::Stopped(error), progress, clock, fence)
    }

    fn new(
        id: TopicPartition,
        state: State,
        progress: Progress,
        clock: Arc<dyn Clock>,
        fence: Fence,
    ) -> Arc<Self> {
        let (progress, _) = watch::channel(progress);
        Arc::new(Self { id, state: Mutex::new(state), progress, clock, fence })
    }

    /// Which partition it is.
    pub(crate) const fn id(&self) -> TopicPartition {
        self.id
    }

    /// Whether the partition could not be opened because the archive did not answer.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(&*self.lock(), State::Stopped(error) if error.code == ErrorCode::Unavailable)
    }

    /// Follows the partition's progress.
    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until all that recovery found is committed, or the partition stops.
    pub(crate) async fn settled(&self) {
        let Ok(end) = self.with(|partition| partition.positions().end) else { return };
        let mut progress = self.watch();
        // An error means that the partition is gone; then nobody waits for it.
        let _gone = progress
            .wait_for(|progress| progress.high_watermark >= end || progress.stopped.is_some())
            .await;
    }

    /// Takes a batch that was [checked](check).
    pub(crate) fn append(
        &self,
        batch: IncomingBatch,
        archives: &Archives,
    ) -> Result<Placed, ServiceError> {
        let now = self.clock.wall();
        self.with_open(|partition| {
            if partition.is_archived() {
                archives.check_room(self.id.topic)?;
            }
            let failed_before = partition.log().failure().is_some();
            partition.append(now, batch).map_err(|error| {
                if let Some(failed) = error.disk() {
                    self.note(failed);
                }
                let refused = ServiceError::new(error.code(), error.to_string());
                // A write that fails may have written; one that is not tried has not.
                if failed_before { refused } else { in_doubt(&refused) }
            })
        })?
    }

    /// Plans a read of committed batches.
    pub(crate) fn read(&self, from: Cursor, max_bytes: usize) -> Result<ReadPlan, ServiceError> {
        self.with(|partition| partition.read(from, max_bytes).map_err(|e| read_error(&e)))?
    }

    /// Where the next batches are to be read from.
    pub(crate) fn source(&self, from: Cursor, max_bytes: usize) -> Result<Source, ServiceError> {
        self.with(|partition| {
            let archive = partition.archive();
            let archived =
                from.offset() < partition.log().start() && archive.contains(&from.offset());
            if archived {
                return Ok(Source::Archive);
            }
            let plan = partition.read(from, max_bytes);
            plan.map(Source::Log).map_err(|error| read_error(&error))
        })?
    }

    /// Takes up how far the partition is archived.
    pub(crate) fn set_archive(&self, head: ArchiveHead) {
        // A stopped partition has no use for it.
        let _stopped = self.with_open(|partition| partition.set_archive(head.start..head.end));
    }

    /// Has everything written synced, and waits for that.
    pub(crate) async fn sync(&self) -> Result<(), ServiceError> {
        let mut progress = self.watch();
        let now = self.clock.wall();
        let end = self.with_open(|partition| {
            if let Err(error) = partition.sync(now) {
                self.note(&error);
            }
            partition.positions().written
        })?;
        let synced = || self.with(|partition| partition.log().durable_end() >= end);
        for _ in 0..SYNC_LOOKS {
            if synced()? {
                return Ok(());
            }
            // One that was under way has not taken what came since.
            let again = self.with_open(|partition| partition.sync(self.clock.wall()))?;
            if let Err(error) = again {
                self.note(&error);
            }
            let waited = tokio::time::timeout(SYNC_LOOK, progress.changed()).await;
            if let Ok(Err(_closed)) = waited {
                break;
            }
            if let Some(error) = &progress.borrow().stopped {
                return Err(error.clone());
            }
        }
        // What is not synced by now is archived another time.
        Ok(())
    }

    /// The epoch in which this broker leads the partition.
    pub(crate) fn leading(&self) -> Result<LeaderEpoch, ServiceError> {
        let not_leader =
            || ServiceError::new(ErrorCode::NotLeader, "this broker does not lead the partition");
        self.with(|partition| partition.leading().ok_or_else(not_leader))?
    }

    /// Looks at the partition.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Partition) -> T) -> Result<T, ServiceError> {
        match &*self.lock() {
            State::Open(partition) => Ok(look(partition)),
            State::Stopped(error) => Err(error.clone()),
        }
    }

    /// Rolls, applies retention, forgets idle producers.
    pub(crate) fn maintain(&self) -> Result<(), ServiceError> {
        let now = self.clock.wall();
        let noted = |result: Result<Option<Removed>, LogError>| {
            result.unwrap_or_else(|error| {
                self.note(&error);
                None
            })
        };
        self.with_open(|partition| noted(partition.maintain(now).map(|()| None)))?;
        // The network's thread waits for the lock: it is let go between two segments, and before
        // the bytes of one are given back.
        while self.with_open(|partition| noted(partition.forget_oldest(now)))?.is_some() {}
        Ok(())
    }

    /// Takes up changed settings.
    pub(crate) fn configure(&self, config: PartitionConfig) {
        let now = self.clock.wall();
        // A stopped partition has nothing to configure.
        let _stopped = self.with_open(|partition| {
            if let Err(error) = partition.configure(now, config) {
                self.note(&error);
            }
        });
    }

    /// Ends the partition's life on this broker: sessions and subscriptions get `error`. The log
    /// is closed so that its next opening knows how far it was durable.
    pub(crate) fn stop(&self, error: ServiceError) {
        let before = std::mem::replace(&mut *self.lock(), State::Stopped(error.clone()));
        if let State::Open(partition) = before {
            partition.close();
        }
        self.progress.send_modify(|progress| progress.stopped = Some(error));
    }

    fn complete(&self, file: FileId, token: OpToken, result: DiskResult<()>) {
        let now = self.clock.wall();
        // After a stop there is nobody to tell.
        let _stopped = self.with_open(|partition| {
            if let Err(error) = partition.complete(now, file, token, result) {
                self.note(&error);
            }
        });
    }

    /// Changes the partition, then publishes how far it has come.
    fn with_open<T>(&self, act: impl FnOnce(&mut Partition) -> T) -> Result<T, ServiceError> {
        let mut state = self.lock();
        let partition = match &mut *state {
            State::Open(partition) => partition,
            State::Stopped(error) => return Err(error.clone()),
        };
        let result = act(partition);
        let mut now = progress_of(partition);
        // A log that has failed takes nothing more and will answer nothing that waits.
        now.stopped = partition.log().failure().map(|error| failed(&error));
        // Published under the lock, so that progress is seen in order.
        self.progress.send_if_modified(|before| {
            let moved = *before != now;
            if moved {
                *before = now;
            }
            moved
        });
        Ok(result)
    }

    /// Logs a failure of the disk's, and stops the broker if the disk is fenced.
    fn note(&self, error: &LogError) {
        tracing::error!(partition = %self.id, %error, "the disk failed");
        if let DiskError::Fenced(reason) = &error.source {
            self.fence.raise(reason);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a section leaves the partition as it was before the step that failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks a batch as it came from a producer, all of it, before the partition's lock is taken: a
/// batch whose records cannot be read would stop every consumer. May take long; see [`is_costly`].
pub(crate) fn check(bytes: BytesMut) -> Result<IncomingBatch, ServiceError> {
    let mut batch = IncomingBatch::validate(bytes, BATCH_BYTES_MAX)
        .map_err(|error| ServiceError::new(error.code(), error.to_string()))?;
    batch.check_records().map_err(|error| ServiceError::new(error.code(), error.to_string()))?;
    Ok(batch)
}

/// Whether to check a batch takes longer than a network thread should be away: a few kilobytes may
/// decompress to 64 MiB, and a record takes some 10 ns.
pub(crate) fn is_costly(header: &BatchHeader) -> bool {
    header.attributes.codec() != Codec::None || header.record_count > RECORDS_CHECKED_INLINE
}

/// A failed log as clients see it.
fn failed(error: &DiskError) -> ServiceError {
    let message = format!(
        "the partition has stopped, since its disk failed: {error}. Restart the broker once the \
         disk works again"
    );
    ServiceError::new(ErrorCode::StorageFenced, message)
}

fn progress_of(partition: &Partition) -> Progress {
    let positions = partition.positions();
    Progress {
        start: partition.earliest(),
        high_watermark: positions.high_watermark,
        written: positions.written,
        stopped: None,
    }
}

/// A failed read as the client sees it.
pub(crate) fn read_error(error: &ReadError) -> ServiceError {
    let code = match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Corrupt(_) => ErrorCode::StorageFenced,
        ReadError::Disk(_) => ErrorCode::Internal,
    };
    ServiceError::new(code, error.to_string())
}
