//! The partition: takes batches, completions and the time; moves replica and log together.

use std::ops::Range;
use std::path::PathBuf;

use millstream_env::disk::{DiskResult, FileId, OpToken};
use millstream_log::{
    Beginning, Context, Cursor, LogError, OpenError, PartitionLog, ReadError, ReadPlan, Removed,
    Replay,
};
use millstream_replica::{
    Action, Admission, Durability, Input, Positions, ProducerTable, Refusal, Replica, SnapshotError,
};
use millstream_types::{ErrorCode, LeaderEpoch, Offset, TimestampMs};
use millstream_wire::batch::{BatchError, IncomingBatch, TimestampType};

use crate::config::{PartitionConfig, TimestampPolicy};

/// On replicated topics nobody waits for a sync, and a segment's whole 128 MiB at once would keep a
/// core busy for 50 ms when it is sealed: so much is synced at a time instead, which also bounds
/// what a power cut can take from a busy partition.
const UNSYNCED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Where a batch went. It may be acknowledged once the high watermark has reached `next_offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset after its last record.
    pub next_offset: Offset,
    /// The timestamp that the broker gave its records, on topics that take the broker's. A
    /// duplicate's is in the log, at `base_offset`.
    pub append_time: Option<TimestampMs>,
    /// Whether it was in the log already.
    pub duplicate: bool,
}

/// Why a batch was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The batch itself is at fault.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// It is of a kind that only brokers write, or that is not supported.
    #[error("{0}")]
    Unsupported(&'static str),
    /// It says that its timestamps are a broker's.
    #[error("a producer's batch has the producer's timestamps, not LogAppendTime")]
    TimestampType,
    /// Its timestamps are too far from the broker's clock, or cannot be kept.
    #[error("timestamp {timestamp} is out of the topic's range around the broker's time {now}")]
    Timestamp {
        /// The one that is too far off: the batch's largest, or the least of its records.
        timestamp: TimestampMs,
        /// The broker's clock.
        now: TimestampMs,
    },
    /// The replica refuses it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log cannot take it. After [`millstream_log::AppendError::Failed`] it takes nothing more
    /// and the batch may be in it.
    #[error(transparent)]
    Log(#[from] millstream_log::AppendError),
}

/// Why a partition cannot be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecoverError {
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// What the log says of its producers cannot be read.
    #[error("{}: {source}", dir.display())]
    Producers {
        /// The log's directory.
        dir: PathBuf,
        /// What is wrong.
        source: SnapshotError,
    },
    /// A batch that was read again is not what was written.
    #[error(transparent)]
    Damaged(#[from] ReadError),
}

impl AppendError {
    /// The code that the producer gets.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Batch(error) => error.code(),
            Self::Unsupported(_) => ErrorCode::UnsupportedBatch,
            Self::TimestampType | Self::Timestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::Refused(refusal) => refusal.code(),
            Self::Log(error) => match error {
                millstream_log::AppendError::NoSpace => ErrorCode::NoSpace,
                millstream_log::AppendError::Failed(_) => ErrorCode::StorageFenced,
                millstream_log::AppendError::OffsetMismatch { .. }
                | millstream_log::AppendError::OlderEpoch { .. }
                | millstream_log::AppendError::SegmentFull => ErrorCode::Internal,
            },
        }
    }

    /// The disk's failure behind it, if that is what it is.
    #[must_use]
    pub const fn disk(&self) -> Option<&LogError> {
        match self {
            Self::Log(millstream_log::AppendError::Failed(error)) => Some(error),
            _ => None,
        }
    }
}

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        Self::Log(error.into())
    }
}

/// One partition on one broker.
#[derive(Debug)]
pub struct Partition {
    config: PartitionConfig,
    replica: Replica,
    log: PartitionLog,
    /// What the archive holds, by the cluster's metadata; empty while nothing is archived.
    archive: Range<Offset>,
    /// Reused between steps; empty between calls.
    actions: Vec<Action>,
    /// The log's end when it was last maintained: one that has not moved is idle.
    end_at_maintenance: Offset,
}

impl Partition {
    /// Opens the partition's log, recovering whatever a crash left. The partition leads nothing
    /// until [`Partition::lead`], and what was found beyond the last durable mark commits with the
    /// sync that this submits. Blocks. `config.log` overrides the context's.
    ///
    /// # Errors
    /// [`RecoverError`]; a damaged log is an error that names the file, never an empty log.
    pub fn open(
        context: Context,
        config: PartitionConfig,
        now: TimestampMs,
    ) -> Result<Self, RecoverError> {
        Self::open_at(context, config, None, now)
    }

    /// [`Partition::open`] of one that goes on where its archive ends, if its log holds nothing
    /// from before; see [`PartitionLog::open_at`].
    ///
    /// # Errors
    /// As [`Partition::open`].
    pub fn open_at(
        context: Context,
        config: PartitionConfig,
        beginning: Option<&Beginning>,
        now: TimestampMs,
    ) -> Result<Self, RecoverError> {
        let mut producers = Ok(ProducerTable::default());
        let mut replay = |event: Replay<'_>| match event {
            Replay::ProducerSnapshot(bytes) => producers = ProducerTable::from_snapshot(&bytes),
            Replay::Batch(header) => {
                if let Ok(table) = &mut producers {
                    table.stored(header, now);
                }
            }
        };
        let dir = context.dir.clone();
        let context = Context { config: config.log, ..context };
        let log = PartitionLog::open_at(context, beginning, now, &mut replay)?;
        let producers = producers.map_err(|source| RecoverError::Producers { dir, source })?;
        let recovered = Positions {
            start: log.start(),
            high_watermark: log.start(),
            durable: log.durable_end(),
            written: log.written_end(),
            end: log.end(),
        };
        let replica = Replica::new(config.replica, recovered, producers);
        let archive = Offset::ZERO..Offset::ZERO;
        let (actions, end_at_maintenance) = (Vec::new(), Offset::MAX);
        Ok(Self { config, replica, log, archive, actions, end_at_maintenance })
    }

    /// Takes up the partition's leadership.
    pub fn lead(&mut self, now: TimestampMs, epoch: LeaderEpoch) {
        let mut actions = std::mem::take(&mut self.actions);
        self.replica.step(now, Input::Lead { epoch }, &mut actions);
        actions.clear();
        self.actions = actions;
    }

    /// Gives a batch its place and hands it to the log. It is acknowledged when the high watermark
    /// passes it. The batch's bytes were checked before, outside any lock.
    ///
    /// # Errors
    /// [`AppendError`]; nothing of the batch is then in the log, unless the log has failed.
    pub fn append(
        &mut self,
        now: TimestampMs,
        mut batch: IncomingBatch,
    ) -> Result<Placed, AppendError> {
        let (bytes, max) = (batch.header().total_bytes(), self.config.batch_bytes_max);
        if bytes > max {
            return Err(BatchError::TooLarge { bytes, max }.into());
        }
        let attributes = batch.header().attributes;
        if attributes.is_control() {
            return Err(AppendError::Unsupported("control batches are the brokers' own"));
        }
        if attributes.is_transactional() {
            return Err(AppendError::Unsupported("transactions are not supported yet"));
        }
        if attributes.timestamp_type() == TimestampType::LogAppendTime {
            return Err(AppendError::TimestampType);
        }
        let refused = self.config.timestamps.refused(&batch, now);
        let (base_offset, epoch) = match (self.replica.admit(batch.header()), refused) {
            // What is there stays acknowledged, however late it is sent again.
            (Ok(Admission::Duplicate { base_offset, next_offset }), _) => {
                return Ok(Placed { base_offset, next_offset, append_time: None, duplicate: true });
            }
            (_, Some(timestamp)) => return Err(AppendError::Timestamp { timestamp, now }),
            (Ok(Admission::Place { base_offset, epoch }), None) => (base_offset, epoch),
            (Err(refusal), None) => return Err(refusal.into()),
        };
        let append_time = match self.config.timestamps {
            TimestampPolicy::CreateTime { .. } => None,
            TimestampPolicy::LogAppendTime => {
                batch.set_log_append_time(now);
                Some(now)
            }
        };
        let batch = batch.assign(base_offset, epoch);
        let header = *batch.header();
        if self.log.needs_roll(now, header.total_bytes()) {
            self.roll()?;
            self.observe(now)?;
        }
        self.log.append(now, batch)?;
        self.drive(now, Input::Stored { header: &header })?;
        self.observe(now)?;
        let next_offset = header.next_offset();
        Ok(Placed { base_offset, next_offset, append_time, duplicate: false })
    }

    /// Applies a completion of the disk's.
    ///
    /// # Errors
    /// [`LogError`] when the operation failed; the log then takes nothing more.
    pub fn complete(
        &mut self,
        now: TimestampMs,
        file: FileId,
        token: OpToken,
        result: DiskResult<()>,
    ) -> Result<(), LogError> {
        self.log.complete(file, token, result)?;
        self.observe(now)
    }

    /// Where the partition stands.
    #[must_use]
    pub const fn positions(&self) -> Positions {
        self.replica.positions()
    }

    /// The first offset that can be read, here or from the archive.
    #[must_use]
    pub fn earliest(&self) -> Offset {
        let local = self.replica.positions().start;
        if self.archive.is_empty() { local } else { local.min(self.archive.start) }
    }

    /// Whether the partition's topic is archived.
    #[must_use]
    pub const fn is_archived(&self) -> bool {
        self.config.archived
    }

    /// What the archive holds, as far as [`Partition::set_archive`] told.
    #[must_use]
    pub const fn archive(&self) -> &Range<Offset> {
        &self.archive
    }

    /// Takes up what the archive holds: call it when the cluster's metadata says so. Up to its end
    /// the log may be forgotten.
    pub fn set_archive(&mut self, held: Range<Offset>) {
        self.archive = held;
    }

    /// Up to where records may be archived: what is committed and survives a power cut, so that
    /// the log never ends before its archive does.
    #[must_use]
    pub fn archivable_end(&self) -> Offset {
        let positions = self.replica.positions();
        positions.high_watermark.min(positions.durable)
    }

    /// Has everything written synced, where the topic's durability leaves that to chance.
    ///
    /// # Errors
    /// [`LogError`] from the disk.
    pub fn sync(&mut self, now: TimestampMs) -> Result<(), LogError> {
        self.log.sync()?;
        self.observe(now)
    }

    /// Up to where the log may be forgotten.
    fn forgettable_end(&self) -> Offset {
        let committed = self.replica.positions().high_watermark;
        if self.config.archived { committed.min(self.archive.end) } else { committed }
    }

    /// The epoch of the current leadership, if this broker leads.
    #[must_use]
    pub const fn leading(&self) -> Option<LeaderEpoch> {
        self.replica.leading()
    }

    /// Plans a read of committed batches, from `from` up to the high watermark.
    ///
    /// # Errors
    /// [`ReadError`]: the offset lies outside what is kept, or the log is damaged.
    pub fn read(&self, from: Cursor, max_bytes: usize) -> Result<ReadPlan, ReadError> {
        self.log.read(from, self.replica.positions().high_watermark, max_bytes)
    }

    /// The log, for what only looks at it.
    #[must_use]
    pub const fn log(&self) -> &PartitionLog {
        &self.log
    }

    /// Reads every batch of the log again and checks it. Blocks for the whole log.
    ///
    /// # Errors
    /// [`ReadError`] names the file and position of the first damage.
    pub fn verify(&self) -> Result<(), ReadError> {
        const READ_BYTES: usize = 1024 * 1024;
        let end = self.log.end();
        let mut at = Cursor::from(self.log.start());
        while at.offset() < end {
            let next = match self.log.read(at, end, READ_BYTES)? {
                ReadPlan::Memory { next, .. } => next,
                ReadPlan::File(read) => read.verify_crc(true).load()?.next,
                ReadPlan::Empty => break,
            };
            if next.offset() <= at.offset() {
                break;
            }
            at = next;
        }
        Ok(())
    }

    /// The largest batch taken, in bytes.
    #[must_use]
    pub const fn batch_bytes_max(&self) -> usize {
        self.config.batch_bytes_max
    }

    /// Whose clock stamps records now.
    #[must_use]
    pub const fn timestamps(&self) -> TimestampPolicy {
        self.config.timestamps
    }

    /// What time alone brings about: a segment old enough is sealed, producers idle too long are
    /// forgotten, and the memory that serves the tail is let go if nothing was appended since the
    /// last call.
    ///
    /// # Errors
    /// [`LogError`] from the disk.
    pub fn maintain(&mut self, now: TimestampMs) -> Result<(), LogError> {
        let expiration = i64::try_from(self.config.producer_expiration_ms).unwrap_or(i64::MAX);
        self.replica.expire_producers(TimestampMs(now.0.saturating_sub(expiration)));
        if self.log.needs_roll(now, 0) {
            self.roll()?;
            self.observe(now)?;
        }
        let end = self.log.end();
        if std::mem::replace(&mut self.end_at_maintenance, end) == end {
            self.log.drop_tail();
        }
        // What is due goes later, when another segment carries the producers' state for good.
        let forgets = self.log.would_forget_producers(now, self.forgettable_end());
        if forgets && !self.log.secure_producers()? {
            self.roll()?;
        }
        self.observe(now)
    }

    /// Removes the oldest segment if it is past retention; the one that went, if one did, so that
    /// another may be due: drop it without the partition's lock. One at a time, since each is two
    /// operations of the disk that nobody else can use the partition during. Call it after
    /// [`Partition::maintain`].
    ///
    /// # Errors
    /// [`LogError`] from the disk.
    pub fn forget_oldest(&mut self, now: TimestampMs) -> Result<Option<Removed>, LogError> {
        let limit = self.forgettable_end();
        if self.log.would_forget_producers(now, limit) {
            return Ok(None);
        }
        let mut removed = self.log.apply_retention(now, limit, 1)?;
        self.observe(now)?;
        let start = self.log.start();
        self.drive(now, Input::Trimmed { start })?;
        Ok(removed.pop())
    }

    /// Takes up changed settings. The log's take effect with its next batch or segment; where the
    /// topic turns to fsync, what it holds is synced first.
    ///
    /// # Errors
    /// [`LogError`] from the disk.
    pub fn configure(&mut self, now: TimestampMs, config: PartitionConfig) -> Result<(), LogError> {
        self.log.set_config(config.log);
        self.replica.configure(config.replica);
        self.config = config;
        self.observe(now)
    }

    /// Ends the partition's use, writing down how far its log is durable, so that the next start
    /// can tell damage from a torn tail to the last byte. For full effect the partition is idle.
    pub fn close(self) {
        self.log.close();
    }

    /// Whether operations on the disk are under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let positions = self.replica.positions();
        let synced = self.config.replica.durability == Durability::Replicated
            || positions.durable == positions.end;
        synced && positions.written == positions.end
    }

    fn roll(&mut self) -> Result<(), LogError> {
        let snapshot = self.replica.producers().to_snapshot();
        self.log.roll(snapshot.into())
    }

    /// Tells the replica how far the log has come, until nothing moves any more: a disk may be done
    /// with a sync within the call that submits it, and then no completion follows. Once the log
    /// has failed the replica is told nothing more, so that nothing is committed any more: also
    /// not what the log had learnt when it failed.
    fn observe(&mut self, now: TimestampMs) -> Result<(), LogError> {
        loop {
            if let Some(source) = self.log.failure() {
                return Err(LogError { log: self.log.identity(), source });
            }
            let (written, durable) = (self.log.written_end(), self.log.durable_end());
            let before = self.replica.positions();
            if written > before.written {
                self.drive(now, Input::Written { end: written })?;
            }
            if durable > before.durable {
                self.drive(now, Input::Synced { end: durable })?;
            }
            // Batches that came while a sync was under way wait for the next.
            let behind = durable < written;
            let syncs = match self.config.replica.durability {
                Durability::Fsync => true,
                Durability::Replicated => self.log.unsynced_bytes() >= UNSYNCED_BYTES_MAX,
            };
            let started = behind && syncs && self.log.sync()?;
            let moved = (self.log.written_end(), self.log.durable_end()) != (written, durable);
            if !started && !moved {
                return Ok(());
            }
        }
    }

    fn drive(&mut self, now: TimestampMs, input: Input<'_>) -> Result<(), LogError> {
        let mut actions = std::mem::take(&mut self.actions);
        self.replica.step(now, input, &mut actions);
        let sync = actions.contains(&Action::Sync);
        actions.clear();
        self.actions = actions;
        if sync {
            self.log.sync()?;
        }
        Ok(())
    }
}
