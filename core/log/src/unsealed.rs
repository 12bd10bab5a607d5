//! A segment that is not sealed: the active one, or one on its way to being sealed.
//!
//! Its places stand in one chain: `durable <= written <= end`. Writes may complete in any order;
//! `written` is the end of those completed without a gap before them. Sealing goes in steps, each
//! begun when the one before has completed: all batches durable, footer written, seal record
//! written, file cut to its exact size, all of that durable. A crash between any two leaves a
//! segment that recovery seals anew, since only the seal record says that a footer counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use millstream_env::disk::{Completions, Disk, DiskError, DiskResult, FileId, OpToken, OpenMode};
use millstream_types::limits::SEGMENT_BYTES_MAX;
use millstream_types::{Offset, TimestampMs};
use millstream_wire::Batch;

use crate::config::LogConfig;
use crate::epoch::EpochHistory;
use crate::file::SegmentFile;
use crate::format::{
    Footer, HEADER_BLOCK_BYTES, MARK_POSITIONS, Mark, SEAL_POSITION, SealRecord, SegmentHeader,
    SegmentTimes, TRAILER_BYTES, encode_footer, encode_header_block, encode_mark, encode_seal,
    extend_crc,
};
use crate::index::IndexBuilder;
use crate::scan::Point;

/// The length that a new file takes; it then doubles.
const PREALLOCATE_FIRST_BYTES: u64 = 16 * 1024;
/// The most that a file grows by at once.
const PREALLOCATE_STEP_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The disk, and names for what is submitted to it.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) disk: Arc<dyn Disk>,
    next_token: u64,
}

impl Io {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, next_token: 0 }
    }

    fn token(&mut self) -> OpToken {
        self.next_token += 1;
        OpToken(self.next_token)
    }

    /// Submits a write; `Some` token when it is still under way.
    fn write(&mut self, id: FileId, at: u64, data: Bytes) -> DiskResult<Option<OpToken>> {
        let token = self.token();
        pending(self.disk.submit_write(id, at, &[data], token), token)
    }

    /// Submits a sync; `Some` token when it is still under way.
    pub(crate) fn sync(&mut self, id: FileId) -> DiskResult<Option<OpToken>> {
        let token = self.token();
        pending(self.disk.submit_sync(id, token), token)
    }
}

fn pending(poll: Poll<DiskResult<()>>, token: OpToken) -> DiskResult<Option<OpToken>> {
    match poll {
        Poll::Ready(result) => result.map(|()| None),
        Poll::Pending => Ok(Some(token)),
    }
}

/// Why an append did not happen; the segment is as it was.
#[derive(Debug)]
pub(crate) enum Refusal {
    Full,
    Disk(DiskError),
}

#[derive(Debug)]
pub(crate) struct Unsealed {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) id: FileId,
    pub(crate) created_at: TimestampMs,
    /// Bytes of the file that are taken on the device.
    allocated: u64,
    pub(crate) end: Point,
    pub(crate) written: Point,
    pub(crate) durable: Point,
    /// Writes not yet part of `written`, in the order of their places.
    writes: VecDeque<WriteOp>,
    sync: Option<(OpToken, Point)>,
    mark: MarkState,
    pub(crate) index: IndexBuilder,
    pub(crate) times: SegmentTimes,
    seal: Option<Box<Sealing>>,
}

#[derive(Debug)]
struct WriteOp {
    /// `None` once completed.
    token: Option<OpToken>,
    to: Point,
}

#[derive(Debug, Default)]
struct MarkState {
    sequence: u64,
    /// The position that the newest mark names.
    recorded: u32,
    writing: Option<OpToken>,
}

#[derive(Debug)]
struct Sealing {
    /// Whether the footer has the producers' state.
    carries_snapshot: bool,
    snapshot: Option<Bytes>,
    stage: Stage,
    record: Option<SealRecord>,
    /// The disk was full; waits for [`Unsealed::retry_seal`].
    stalled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Draining,
    WritingFooter(OpToken),
    FooterWritten,
    WritingRecord(OpToken),
    RecordWritten,
    Syncing(OpToken),
    Done,
}

/// What recovery knows of a segment that it found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) id: FileId,
    pub(crate) created_at: TimestampMs,
    pub(crate) allocated: u64,
    pub(crate) end: Point,
    /// What a mark or a seal vouches for.
    pub(crate) durable: Point,
    pub(crate) mark_sequence: u64,
    pub(crate) index: IndexBuilder,
    pub(crate) times: SegmentTimes,
}

impl Unsealed {
    /// Makes a segment's file and submits its header block. Without room nothing is left behind.
    pub(crate) fn create(
        io: &mut Io,
        file: Arc<SegmentFile>,
        header: &SegmentHeader,
        completions: Arc<dyn Completions>,
        config: &LogConfig,
    ) -> DiskResult<Self> {
        let id = file.open_as(OpenMode::CreateNew, completions)?;
        let mut segment = Self::from_recovered(Recovered {
            file,
            id,
            created_at: header.created_at,
            allocated: 0,
            end: Point::nothing(header.base_offset),
            durable: Point::nothing(header.base_offset),
            mark_sequence: 0,
            index: IndexBuilder::new(config.index_interval_bytes),
            times: SegmentTimes::new(header.created_at),
        });
        let made = segment.ensure_room(io, u64::from(HEADER_BLOCK_BYTES), config).and_then(|()| {
            let to = Point::start(header.base_offset);
            segment.submit(io, 0, encode_header_block(header), to)
        });
        if let Err(error) = made {
            segment.file.release();
            io.disk.remove_file(&segment.file.path())?;
            return Err(error);
        }
        Ok(segment)
    }

    /// A segment as recovery found it; everything in it counts as written.
    pub(crate) fn from_recovered(found: Recovered) -> Self {
        Self {
            file: found.file,
            id: found.id,
            created_at: found.created_at,
            allocated: found.allocated,
            end: found.end,
            written: found.end,
            durable: found.durable,
            writes: VecDeque::new(),
            sync: None,
            mark: MarkState {
                sequence: found.mark_sequence,
                recorded: found.durable.position,
                writing: None,
            },
            index: found.index,
            times: found.times,
            seal: None,
        }
    }

    pub(crate) fn base(&self) -> Offset {
        self.file.base()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end.offset == self.base()
    }

    /// Bytes of batches.
    pub(crate) fn data_bytes(&self) -> u64 {
        u64::from(self.end.position.saturating_sub(HEADER_BLOCK_BYTES))
    }

    /// Bytes of batches that are not durable yet.
    pub(crate) fn unsynced_bytes(&self) -> u64 {
        u64::from(self.end.position.saturating_sub(self.durable.position.max(HEADER_BLOCK_BYTES)))
    }

    /// Whether batches may be appended: it has not been rolled.
    pub(crate) fn is_active(&self) -> bool {
        self.seal.is_none()
    }

    /// Whether everything in it is durable.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable.offset == self.end.offset
    }

    /// Whether a sync has made the file's name and header durable.
    pub(crate) fn was_synced(&self) -> bool {
        self.durable.position > 0
    }

    /// Submits the write of a batch at the end.
    pub(crate) fn append(
        &mut self,
        io: &mut Io,
        config: &LogConfig,
        now: TimestampMs,
        batch: &Batch,
    ) -> Result<(), Refusal> {
        let bytes = batch.bytes();
        let to = self.end.after(batch.header(), bytes).ok_or(Refusal::Full)?;
        if !self.is_empty() && self.data_bytes() + bytes.len() as u64 > SEGMENT_BYTES_MAX {
            return Err(Refusal::Full);
        }
        self.ensure_room(io, u64::from(to.position), config).map_err(Refusal::Disk)?;
        let from = self.end;
        self.submit(io, u64::from(from.position), bytes.clone(), to).map_err(Refusal::Disk)?;
        self.index.push(batch.header(), bytes, from.position);
        let header = batch.header();
        self.times.note(header.base_timestamp, header.max_timestamp, now);
        Ok(())
    }

    /// Submits a sync of what is written, with a mark of what was durable before if `vouch`: that
    /// every earlier segment is durable as a whole. False when nothing is new or one is under way.
    pub(crate) fn start_sync(&mut self, io: &mut Io, vouch: bool) -> DiskResult<bool> {
        if self.sync.is_some() || self.written.offset <= self.durable.offset {
            return Ok(false);
        }
        if vouch {
            self.write_mark(io)?;
        }
        let target = self.written;
        match io.sync(self.id)? {
            Some(token) => self.sync = Some((token, target)),
            None => self.durable = target,
        }
        Ok(true)
    }

    /// Submits a mark of what is durable, unless the newest says so. At most one is under way, so
    /// that a power cut can tear one slot and never both. A full disk only costs the mark.
    pub(crate) fn write_mark(&mut self, io: &mut Io) -> DiskResult<()> {
        let Point { position, offset, chain } = self.durable;
        let new = position > HEADER_BLOCK_BYTES && position != self.mark.recorded;
        if !new || self.mark.writing.is_some() {
            return Ok(());
        }
        let sequence = self.mark.sequence + 1;
        let slot = MARK_POSITIONS[usize::from(!sequence.is_multiple_of(2))];
        let mark = Mark { sequence, position, end_offset: offset, chain };
        match io.write(self.id, slot, encode_mark(&mark)) {
            Ok(token) => self.mark = MarkState { sequence, recorded: position, writing: token },
            Err(DiskError::NoSpace) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Applies the completion of what was submitted as `token`.
    pub(crate) fn complete(&mut self, token: OpToken, result: DiskResult<()>) -> DiskResult<()> {
        if self.mark.writing == Some(token) {
            self.mark.writing = None;
            return match result {
                Err(DiskError::NoSpace) => Ok(()),
                other => other,
            };
        }
        if let Some((_, target)) = self.sync.take_if(|(sync, _)| *sync == token) {
            result?;
            self.durable = target;
            return Ok(());
        }
        if let Some(write) = self.writes.iter_mut().find(|write| write.token == Some(token)) {
            result?;
            write.token = None;
            self.settle();
            return Ok(());
        }
        self.complete_seal(token, result)
    }

    /// Whether no mark, sync or write is under way; the steps of sealing not counted.
    fn is_quiet(&self) -> bool {
        self.writes.is_empty() && self.sync.is_none() && self.mark.writing.is_none()
    }

    /// Ends the segment; [`Unsealed::advance_seal`] does the rest.
    pub(crate) fn begin_seal(&mut self, snapshot: Option<Bytes>) {
        let (stage, record, stalled) = (Stage::Draining, None, false);
        let carries_snapshot = snapshot.is_some();
        self.seal = Some(Box::new(Sealing { carries_snapshot, snapshot, stage, record, stalled }));
    }

    /// Whether the segment's footer has, or will have, the producers' state.
    pub(crate) fn carries_snapshot(&self) -> bool {
        self.seal.as_ref().is_some_and(|seal| seal.carries_snapshot)
    }

    /// Lets a seal that found the disk full be tried again.
    pub(crate) fn retry_seal(&mut self) {
        if let Some(seal) = &mut self.seal {
            seal.stalled = false;
        }
    }

    /// Takes the steps of sealing that can be taken now; the record once all are done. All
    /// earlier segments are sealed, and `epochs` reaches at least to this segment's end.
    pub(crate) fn advance_seal(
        &mut self,
        io: &mut Io,
        epochs: &EpochHistory,
    ) -> DiskResult<Option<SealRecord>> {
        loop {
            let Some(seal) = &self.seal else { return Ok(None) };
            let next = match seal.stage {
                _ if seal.stalled => return Ok(None),
                Stage::Draining if !self.is_durable() => {
                    if self.written.offset < self.end.offset || !self.start_sync(io, true)? {
                        return Ok(None);
                    }
                    Stage::Draining
                }
                Stage::Draining if !self.is_quiet() => return Ok(None),
                Stage::Draining => match self.write_footer(io, epochs) {
                    Ok(token) => token.map_or(Stage::FooterWritten, Stage::WritingFooter),
                    Err(DiskError::NoSpace) => return self.stall_seal(),
                    Err(error) => return Err(error),
                },
                Stage::FooterWritten => {
                    let token = self.write_seal_record(io)?;
                    token.map_or(Stage::RecordWritten, Stage::WritingRecord)
                }
                Stage::RecordWritten => self.cut_and_sync(io)?.map_or(Stage::Done, Stage::Syncing),
                Stage::Done => return Ok(seal.record),
                Stage::WritingFooter(_) | Stage::WritingRecord(_) | Stage::Syncing(_) => {
                    return Ok(None);
                }
            };
            if let Some(seal) = &mut self.seal {
                seal.stage = next;
            }
        }
    }

    fn stall_seal(&mut self) -> DiskResult<Option<SealRecord>> {
        if let Some(seal) = &mut self.seal {
            seal.stage = Stage::Draining;
            seal.stalled = true;
        }
        Ok(None)
    }

    fn complete_seal(&mut self, token: OpToken, result: DiskResult<()>) -> DiskResult<()> {
        let Some(seal) = &mut self.seal else { return result };
        match (seal.stage, result) {
            (Stage::WritingFooter(own), Err(DiskError::NoSpace)) if own == token => {
                self.stall_seal().map(|_| ())
            }
            (_, Err(error)) => Err(error),
            (stage, Ok(())) => {
                seal.stage = match stage {
                    Stage::WritingFooter(own) if own == token => Stage::FooterWritten,
                    Stage::WritingRecord(own) if own == token => Stage::RecordWritten,
                    Stage::Syncing(own) if own == token => Stage::Done,
                    other => other,
                };
                Ok(())
            }
        }
    }

    fn write_footer(&mut self, io: &mut Io, epochs: &EpochHistory) -> DiskResult<Option<OpToken>> {
        let Point { position, offset, chain } = self.end;
        let footer = Footer {
            times: self.times,
            index: self.index.entries(),
            epochs: epochs.within(Offset::ZERO, offset),
            producer_snapshot: self.seal.as_ref().and_then(|seal| seal.snapshot.clone()),
        };
        let bytes = encode_footer(&footer, position, offset);
        let body = &bytes[..bytes.len() - TRAILER_BYTES];
        let record = SealRecord {
            data_end: position,
            end_offset: offset,
            chain,
            // The trailer repeats it; a footer of 4 GiB would not parse, and be rebuilt.
            footer_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            footer_crc: extend_crc(0, body),
            times: self.times,
        };
        let size = u64::from(position) + bytes.len() as u64;
        if size > self.allocated {
            io.disk.preallocate(self.id, size)?;
            self.allocated = size;
        }
        if let Some(seal) = &mut self.seal {
            seal.record = Some(record);
        }
        io.write(self.id, u64::from(position), bytes)
    }

    fn write_seal_record(&mut self, io: &mut Io) -> DiskResult<Option<OpToken>> {
        let Some(record) = self.seal.as_ref().and_then(|seal| seal.record) else {
            return Ok(None);
        };
        io.write(self.id, SEAL_POSITION, encode_seal(&record))
    }

    /// Cuts the file to its exact size, last: a write after an unsynced cut would wait for it.
    fn cut_and_sync(&mut self, io: &mut Io) -> DiskResult<Option<OpToken>> {
        if let Some(record) = self.seal.as_ref().and_then(|seal| seal.record) {
            io.disk.set_len(self.id, record.file_bytes())?;
        }
        io.sync(self.id)
    }

    /// Writes the final mark and gives back the room that was not used. Best effort: what does
    /// not succeed costs only the next start some work.
    pub(crate) fn finish(&mut self, io: &mut Io) {
        if !self.is_active() || !self.is_quiet() || self.written.offset != self.end.offset {
            return;
        }
        let size = u64::from(self.end.position);
        let marked = self.write_mark(io);
        if let Err(error) = marked.and_then(|()| io.disk.set_len(self.id, size)) {
            let path = self.file.path();
            tracing::warn!(path = %path.display(), %error, "segment closed without a final mark");
        }
    }

    /// Submits a write that moves the end to `to`. After a failure for lack of space the bytes
    /// that may have been written are cut off, so that none can follow a later, shorter batch.
    fn submit(&mut self, io: &mut Io, at: u64, data: Bytes, to: Point) -> DiskResult<()> {
        match io.write(self.id, at, data) {
            Ok(token) => {
                self.writes.push_back(WriteOp { token, to });
                self.end = to;
                self.settle();
                Ok(())
            }
            Err(DiskError::NoSpace) => {
                io.disk.set_len(self.id, at)?;
                self.allocated = at;
                Err(DiskError::NoSpace)
            }
            Err(error) => Err(error),
        }
    }

    fn settle(&mut self) {
        while let Some(done) = self.writes.pop_front_if(|write| write.token.is_none()) {
            self.written = done.to;
        }
    }

    /// Takes room on the device in growing steps, so that many small logs stay small and a large
    /// one seldom asks.
    fn ensure_room(&mut self, io: &mut Io, needed: u64, config: &LogConfig) -> DiskResult<()> {
        if needed <= self.allocated {
            return Ok(());
        }
        let step = self.allocated.clamp(PREALLOCATE_FIRST_BYTES, PREALLOCATE_STEP_BYTES_MAX);
        let most = u64::from(HEADER_BLOCK_BYTES) + config.segment_bytes;
        let target = (self.allocated + step).min(most).max(needed);
        match io.disk.preallocate(self.id, target) {
            Ok(()) => self.allocated = target,
            Err(DiskError::NoSpace) if target > needed => {
                io.disk.preallocate(self.id, needed)?;
                self.allocated = needed;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Checks the chain of places; for tests and simulation.
    pub(crate) fn check(&self) -> Result<(), String> {
        let chain = [self.durable, self.written, self.end];
        let ordered = chain
            .windows(2)
            .all(|two| two[0].offset <= two[1].offset && two[0].position <= two[1].position);
        if !ordered || self.durable.offset < self.base() {
            return Err(format!("{}: places out of order: {chain:?}", self.file.path().display()));
        }
        if self.writes.is_empty() != (self.written == self.end) {
            return Err(format!(
                "{}: written {:?}, yet {} writes under way, end {:?}",
                self.file.path().display(),
                self.written,
                self.writes.len(),
                self.end
            ));
        }
        Ok(())
    }
}
