//! The log itself: sealed segments, those on their way to being sealed, the active one, and the
//! operations over them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millstream_env::disk::{Completions, Disk, DiskError, DiskResult, FileId, OpToken};
use millstream_types::{Offset, TimestampMs, TopicPartition};
use millstream_wire::Batch;

use crate::config::LogConfig;
use crate::epoch::EpochHistory;
use crate::error::{AppendError, LogError, OpenError};
use crate::file::SegmentFile;
use crate::format::{HEADER_BLOCK_BYTES, SealRecord, SegmentHeader, SegmentTimes, TRAILER_BYTES};
use crate::proof::FoundSeal;
use crate::recovery::{self, Replay};
use crate::shared::LogShared;
use crate::tail::{Tail, TailBatch};
use crate::unsealed::{Io, Refusal, Unsealed};

/// Where a log lives and whom it belongs to.
#[derive(Debug, Clone)]
pub struct Context {
    /// The disk that holds it.
    pub disk: Arc<dyn Disk>,
    /// The log's own directory, relative to the disk's root. Made with the first batch.
    pub dir: PathBuf,
    /// Whose log it is; every file says the same.
    pub identity: TopicPartition,
    /// How it rolls, indexes, caches and forgets.
    pub config: LogConfig,
    /// Takes the completions of what the log submits; they come back by
    /// [`PartitionLog::complete`].
    pub completions: Arc<dyn Completions>,
    /// What all logs of the broker share.
    pub shared: Arc<LogShared>,
}

/// Where a log starts that has no records of its own yet: one that goes on where another copy of
/// the partition ended, such as its archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beginning {
    /// The log's first offset.
    pub offset: Offset,
    /// The leader epochs before it.
    pub epochs: EpochHistory,
    /// The owner's snapshot of the producers' state there.
    pub producer_snapshot: Bytes,
}

/// What a log's files say of where it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begins {
    /// There is none: it begins wherever its first opening says.
    Nowhere,
    /// At offset 0, or they carry what there was before.
    Known,
    /// At this offset, and they say nothing of what there was before: see [`Beginning`].
    Unknown(Offset),
}

/// How far a log is, after a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// See [`PartitionLog::written_end`].
    pub written_end: Offset,
    /// See [`PartitionLog::durable_end`].
    pub durable_end: Offset,
}

/// One partition's log. Its offsets stand in one chain:
/// `start <= durable_end <= written_end <= end`.
#[derive(Debug)]
pub struct PartitionLog {
    pub(crate) io: Io,
    pub(crate) dir: Arc<Path>,
    pub(crate) identity: TopicPartition,
    pub(crate) config: LogConfig,
    completions: Arc<dyn Completions>,
    pub(crate) shared: Arc<LogShared>,
    /// See [`LogShared::number_log`].
    pub(crate) number: u64,
    pub(crate) start: Offset,
    pub(crate) sealed: VecDeque<Sealed>,
    /// Only the last can be active; those before it are on their way to being sealed.
    pub(crate) unsealed: VecDeque<Box<Unsealed>>,
    pub(crate) epochs: EpochHistory,
    /// The base of the newest sealed segment that carries the producers' state.
    pub(crate) snapshot: Option<Offset>,
    /// The newest seal of the opening, until it is durable; all others are.
    pub(crate) unproven: Option<FoundSeal>,
    pub(crate) tail: Tail,
    /// The first failure; nothing is submitted after it.
    failed: Option<DiskError>,
}

/// A sealed segment: what reads and retention need without its footer.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) end: Offset,
    pub(crate) data_end: u32,
    pub(crate) footer_bytes: u32,
    pub(crate) times: SegmentTimes,
}

impl Sealed {
    pub(crate) fn new(file: Arc<SegmentFile>, record: &SealRecord) -> Self {
        Self {
            file,
            end: record.end_offset,
            data_end: record.data_end,
            footer_bytes: record.footer_bytes,
            times: record.times,
        }
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        u64::from(self.data_end) + u64::from(self.footer_bytes) + TRAILER_BYTES as u64
    }
}

/// What recovery found in a log's directory.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) sealed: VecDeque<Sealed>,
    pub(crate) unsealed: VecDeque<Box<Unsealed>>,
    pub(crate) epochs: EpochHistory,
    /// The newest sealed segment that carries the producers' state.
    pub(crate) snapshot: Option<Offset>,
}

impl PartitionLog {
    /// Where the log at `context` begins. Blocks and changes nothing, unlike an opening, whose
    /// writes may still be under way when the next one reads: an owner that has to find a
    /// [`Beginning`] asks here and then opens once.
    ///
    /// # Errors
    /// [`OpenError`] for files that cannot be read.
    pub fn begins(context: &Context) -> Result<Begins, OpenError> {
        recovery::begins(context)
    }

    /// Opens a log, or an empty one where there is none. Reads every unsealed segment whole and
    /// blocks for it; `replay` gets what the owner needs to restore the producers' state.
    ///
    /// A torn tail is cut. What was found beyond the last mark is readable at once and counts as
    /// durable when the sync that this submits has completed, as after an append.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] for damage where data was durable; nothing is changed then.
    pub fn open(
        context: Context,
        now: TimestampMs,
        replay: &mut dyn FnMut(Replay<'_>),
    ) -> Result<Self, OpenError> {
        Self::open_at(context, None, now, replay)
    }

    /// [`PartitionLog::open`] of a log that starts at `beginning`, if it holds nothing from before.
    /// Until a segment is sealed with the owner's snapshot every opening needs the same beginning:
    /// [`PartitionLog::begins`] tells.
    ///
    /// # Errors
    /// As [`PartitionLog::open`].
    pub fn open_at(
        context: Context,
        beginning: Option<&Beginning>,
        now: TimestampMs,
        replay: &mut dyn FnMut(Replay<'_>),
    ) -> Result<Self, OpenError> {
        let dir: Arc<Path> = context.dir.as_path().into();
        let found = recovery::recover(&context, &dir, beginning, now, replay)?;
        let tail = Tail::new(context.config.tail_bytes_max, Arc::clone(&context.shared));
        let mut log = Self {
            io: Io::new(context.disk),
            dir,
            identity: context.identity,
            config: context.config,
            completions: context.completions,
            number: context.shared.number_log(),
            shared: context.shared,
            start: Offset::ZERO,
            unproven: found.sealed.back().map(|newest| FoundSeal::new(&newest.file)),
            sealed: found.sealed,
            unsealed: found.unsealed,
            epochs: found.epochs,
            snapshot: found.snapshot,
            tail,
            failed: None,
        };
        let begins = beginning.map_or(Offset::ZERO, |beginning| beginning.offset);
        log.start = log.first_base().unwrap_or(begins);
        log.epochs.trim_start(log.start);
        log.submit_syncs()?;
        log.pump()?;
        Ok(log)
    }

    /// The failure after which the log takes nothing more, if there was one.
    #[must_use]
    pub fn failure(&self) -> Option<DiskError> {
        self.failed.clone()
    }

    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> TopicPartition {
        self.identity
    }

    /// The first offset that the log holds or will hold.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The offset that the next record gets.
    #[must_use]
    pub fn end(&self) -> Offset {
        let sealed_end = self.sealed.back().map_or(self.start, |sealed| sealed.end);
        self.unsealed.back().map_or(sealed_end, |segment| segment.end.offset)
    }

    /// The end of the batches whose writes have completed, without a gap.
    #[must_use]
    pub fn written_end(&self) -> Offset {
        self.contiguous(|segment| segment.written.offset)
    }

    /// The end of the batches that survive a power cut, without a gap.
    #[must_use]
    pub fn durable_end(&self) -> Offset {
        self.contiguous(|segment| segment.durable.offset)
    }

    /// Bytes of batches that a power cut could take.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.unsealed.iter().map(|segment| segment.unsynced_bytes()).sum()
    }

    /// About how many bytes of batches lie at and behind `from`: a segment that `from` lies within
    /// counts by its share of offsets.
    #[must_use]
    pub fn bytes_behind(&self, from: Offset) -> u64 {
        let data = |end: u32| u64::from(end.saturating_sub(HEADER_BLOCK_BYTES));
        let sealed = self
            .sealed
            .iter()
            .map(|segment| (segment.file.base(), segment.end, data(segment.data_end)));
        let unsealed = self
            .unsealed
            .iter()
            .map(|segment| (segment.base(), segment.end.offset, data(segment.end.position)));
        let behind = |(base, end, bytes): (Offset, Offset, u64)| {
            let span = end.value() - base.value();
            let rest = end.value() - from.value().clamp(base.value(), end.value());
            let share = u128::from(bytes) * u128::from(rest.unsigned_abs());
            let share = share / u128::from(span.unsigned_abs().max(1));
            u64::try_from(share).unwrap_or(bytes)
        };
        sealed.chain(unsealed).map(behind).sum()
    }

    /// Which leader epoch each range of offsets is of.
    #[must_use]
    pub fn epochs(&self) -> &EpochHistory {
        &self.epochs
    }

    /// Bytes of all segments; room taken but not used does not count.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(Sealed::file_bytes).sum();
        let unsealed: u64 =
            self.unsealed.iter().map(|segment| u64::from(segment.end.position)).sum();
        sealed + unsealed
    }

    /// How many segment files the log has.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.sealed.len() + self.unsealed.len()
    }

    /// Changes how the log rolls, caches and forgets from now on. The index interval and the
    /// tail's bound apply from the next segment and the next opening.
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// Appends `batch`, whose base offset must be [`PartitionLog::end`]: submits its write, to the
    /// active segment or a new one. The batch is readable at once.
    ///
    /// # Errors
    /// [`AppendError`]; the log is as it was, and after [`AppendError::Failed`] takes no more.
    pub fn append(&mut self, now: TimestampMs, batch: Batch) -> Result<(), AppendError> {
        self.check_failed()?;
        let header = *batch.header();
        let expected = self.end();
        if header.base_offset != expected {
            return Err(AppendError::OffsetMismatch { expected, actual: header.base_offset });
        }
        if let Some(newest) = self.epochs.latest().filter(|newest| header.leader_epoch < *newest) {
            return Err(AppendError::OlderEpoch { newest, actual: header.leader_epoch });
        }
        if let Err(refusal) = self.append_to_active(now, &batch) {
            return Err(match refusal {
                Refusal::Full => AppendError::SegmentFull,
                Refusal::Disk(DiskError::NoSpace) => AppendError::NoSpace,
                Refusal::Disk(error) => AppendError::Failed(self.fail(error)),
            });
        }
        self.epochs.note(header.leader_epoch, header.base_offset);
        if let Some(active) = self.unsealed.back() {
            let segment = active.base();
            let bytes = batch.into_bytes();
            // A segment's positions fit 32 bits, and so does a batch's length.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let position = active.end.position.saturating_sub(length);
            let (base, next) = (header.base_offset, header.next_offset());
            self.tail.push(TailBatch { base, next, segment, position, bytes });
        }
        Ok(())
    }

    /// Whether the segment should be rolled before a batch of `next_bytes` is appended: it would
    /// grow beyond its size, or it is older than its time. An owner may ask with 0 from time to
    /// time, so that idle segments can be forgotten.
    #[must_use]
    pub fn needs_roll(&self, now: TimestampMs, next_bytes: usize) -> bool {
        self.active().is_some_and(|active| {
            let full = active.data_bytes() + next_bytes as u64 > self.config.segment_bytes;
            let old = now.since_ms(active.created_at) >= self.config.segment_ms;
            !active.is_empty() && (full || old)
        })
    }

    /// Ends the active segment and starts sealing it; the next append makes a new one. Sealing
    /// goes on by completions while appends go on. `producer_snapshot` is the producers' state at
    /// [`PartitionLog::end`]. Without records in the active segment nothing happens.
    ///
    /// # Errors
    /// [`LogError`], latched.
    pub fn roll(&mut self, producer_snapshot: Bytes) -> Result<(), LogError> {
        self.check_failed()?;
        if let Some(active) = self.active_mut().filter(|active| !active.is_empty()) {
            active.begin_seal(Some(producer_snapshot));
        }
        self.retry_seals();
        self.pump().map_err(|error| self.fail(error))
    }

    /// Submits a sync of everything written. At most one is under way in each segment, and only
    /// the active segment's lasts. False when nothing was new or one is under way: call again
    /// after its completion.
    ///
    /// # Errors
    /// [`LogError`], latched.
    pub fn sync(&mut self) -> Result<bool, LogError> {
        self.check_failed()?;
        let done = self.submit_syncs().and_then(|started| self.pump().map(|()| started));
        done.map_err(|error| self.fail(error))
    }

    /// Applies a completion that the log's [`Completions`] received. One of a file that the log
    /// no longer writes is ignored.
    ///
    /// # Errors
    /// [`LogError`], latched, when the operation failed or an earlier one had.
    pub fn complete(
        &mut self,
        file: FileId,
        token: OpToken,
        result: DiskResult<()>,
    ) -> Result<Progress, LogError> {
        self.check_failed()?;
        if let Some(found) = self.unproven.take_if(|found| found.is_proven_by(file, token)) {
            found.release();
            result.map_err(|error| self.fail(error))?;
        } else if let Some(segment) = self.unsealed.iter_mut().find(|segment| segment.id == file)
            && let Err(error) = segment.complete(token, result)
        {
            return Err(self.fail(error));
        }
        self.pump().map_err(|error| self.fail(error))?;
        Ok(Progress { written_end: self.written_end(), durable_end: self.durable_end() })
    }

    /// Records what is durable without waiting for the next sync, so that damage to the last
    /// group commit of an idle log is told from a torn tail. Cheap; call it now and then.
    ///
    /// # Errors
    /// [`LogError`], latched.
    pub fn refresh_mark(&mut self) -> Result<(), LogError> {
        self.check_failed()?;
        let vouched = self.durable_end();
        let Some(active) = self.unsealed.back_mut() else { return Ok(()) };
        // Only when everything before the active segment is durable too.
        if active.is_active() && vouched == active.durable.offset {
            let written = active.write_mark(&mut self.io);
            written.map_err(|error| self.fail(error))?;
        }
        Ok(())
    }

    /// Lets go of the batches kept for readers at the tail, as for a log that became idle.
    pub fn drop_tail(&mut self) {
        self.tail.clear();
    }

    /// Ends the log's use in good order: leaves a final mark and gives back unused room, so that
    /// the next opening finds any damage and has nothing to sync. Best effort; for full effect,
    /// sync and wait until [`PartitionLog::durable_end`] is [`PartitionLog::end`] before.
    pub fn close(mut self) {
        let durable = self.durable_end() == self.end();
        if let Some(last) = self.unsealed.back_mut().filter(|_| durable && self.failed.is_none()) {
            last.finish(&mut self.io);
        }
    }

    /// Checks what always holds; for tests and simulation.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), String> {
        let chain = [self.start(), self.durable_end(), self.written_end(), self.end()];
        if !chain.is_sorted() {
            return Err(format!("start, durable, written, end out of order: {chain:?}"));
        }
        let mut expected = self.start;
        let sealed = self.sealed.iter().map(|sealed| (sealed.file.base(), sealed.end));
        let unsealed = self.unsealed.iter().map(|segment| (segment.base(), segment.end.offset));
        for (base, end) in sealed.chain(unsealed) {
            if base != expected {
                return Err(format!(
                    "a segment starts at {base}, the one before ends at {expected}"
                ));
            }
            expected = end;
        }
        let (last, others) = (self.unsealed.len().saturating_sub(1), &self.unsealed);
        if others.iter().take(last).any(|segment| segment.is_active()) {
            return Err("an active segment is not the last".to_owned());
        }
        self.unsealed.iter().try_for_each(|segment| segment.check())
    }

    pub(crate) fn check_failed(&self) -> Result<(), LogError> {
        match &self.failed {
            None => Ok(()),
            Some(source) => Err(LogError { log: self.identity, source: source.clone() }),
        }
    }

    /// Latches a failure.
    pub(crate) fn fail(&mut self, error: DiskError) -> LogError {
        let source = self.failed.get_or_insert(error).clone();
        LogError { log: self.identity, source }
    }

    pub(crate) fn retry_seals(&mut self) {
        self.unsealed.iter_mut().for_each(|segment| segment.retry_seal());
    }

    /// Takes the steps of sealing that can be taken now, oldest segment first.
    pub(crate) fn pump(&mut self) -> DiskResult<()> {
        if self.unsealed.front().is_some_and(|first| !first.is_active()) && !self.prove_seals()? {
            return Ok(());
        }
        while let Some(first) = self.unsealed.front_mut() {
            let Some(record) = first.advance_seal(&mut self.io, &self.epochs)? else { break };
            if let Some(done) = self.unsealed.pop_front() {
                if done.carries_snapshot() {
                    self.snapshot = Some(done.base());
                }
                done.file.release();
                self.sealed.push_back(Sealed::new(done.file, &record));
            }
        }
        Ok(())
    }

    /// Whether every seal is durable; submits what is missing.
    pub(crate) fn prove_seals(&mut self) -> DiskResult<bool> {
        let Some(found) = &mut self.unproven else { return Ok(true) };
        let proven = found.prove(&mut self.io, &self.completions)?;
        if proven {
            self.unproven = None;
        }
        Ok(proven)
    }

    /// The base of the log's first segment.
    pub(crate) fn first_base(&self) -> Option<Offset> {
        let sealed = self.sealed.front().map(|sealed| sealed.file.base());
        sealed.or_else(|| self.unsealed.front().map(|segment| segment.base()))
    }

    fn submit_syncs(&mut self) -> DiskResult<bool> {
        let mut started = false;
        let mut vouch = true;
        for segment in &mut self.unsealed {
            started |= segment.start_sync(&mut self.io, vouch)?;
            vouch &= segment.is_durable();
        }
        Ok(started)
    }

    fn append_to_active(&mut self, now: TimestampMs, batch: &Batch) -> Result<(), Refusal> {
        if self.active().is_none() {
            self.start_segment(now).map_err(Refusal::Disk)?;
        }
        match self.unsealed.back_mut() {
            Some(active) => active.append(&mut self.io, &self.config, now, batch),
            None => Ok(()),
        }
    }

    fn start_segment(&mut self, now: TimestampMs) -> DiskResult<()> {
        let base_offset = self.end();
        if self.segment_count() == 0 {
            self.io.disk.create_dir_all(&self.dir)?;
        }
        // A power cut must not lose the name of a segment and keep that of a later one: the log
        // would seem to start there. The first sync of a segment makes its name durable.
        if self.unsealed.back().is_some_and(|last| !last.was_synced()) {
            self.io.disk.sync_dir(&self.dir)?;
        }
        let (disk, dir) = (Arc::clone(&self.io.disk), Arc::clone(&self.dir));
        let file = Arc::new(SegmentFile::new(disk, dir, base_offset));
        let header = SegmentHeader { log: self.identity, base_offset, created_at: now };
        let completions = Arc::clone(&self.completions);
        let segment = Unsealed::create(&mut self.io, file, &header, completions, &self.config)?;
        self.unsealed.push_back(Box::new(segment));
        Ok(())
    }

    fn active(&self) -> Option<&Unsealed> {
        self.unsealed.back().map(Box::as_ref).filter(|last| last.is_active())
    }

    fn active_mut(&mut self) -> Option<&mut Unsealed> {
        self.unsealed.back_mut().map(Box::as_mut).filter(|last| last.is_active())
    }

    /// The end of what `place` says over all segments, up to the first that it ends within.
    fn contiguous(&self, place: impl Fn(&Unsealed) -> Offset) -> Offset {
        let mut reached = self.sealed.back().map_or(self.start, |sealed| sealed.end);
        for segment in &self.unsealed {
            reached = place(segment);
            if reached < segment.end.offset {
                break;
            }
        }
        reached
    }
}
