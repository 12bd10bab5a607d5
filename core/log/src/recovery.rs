//! Opening a log: what is there, what of it was durable, and what was torn by a crash.
//!
//! A mark or a seal in a segment vouches for everything before it, in the segment and in all
//! earlier ones. Damage below is corruption: recovery reports it and changes nothing. Above, a
//! batch that is cut off, or any that cannot follow the one before it, is a torn tail. A segment
//! with a torn tail is not appended to again: it is sealed at its last whole batch, and the next
//! append starts a new segment, so that no stale batch can ever follow a new one.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use millstream_env::disk::{DiskError, FileId, OpenMode};
use millstream_types::{Offset, TimestampMs};
use millstream_wire::BatchHeader;

use crate::epoch::EpochHistory;
use crate::error::OpenError;
use crate::file::{OpenFile, SegmentFile, parse_file_name};
use crate::format::{
    FormatError, HEADER_BLOCK_BYTES, HeaderBlock, SegmentHeader, SegmentTimes, parse_header_block,
};
use crate::index::IndexBuilder;
use crate::log::{Beginning, Begins, Contents, Context, Sealed};
use crate::scan::{Found, Point, Scanner};
use crate::shared::read_footer;
use crate::unsealed::{Recovered, Unsealed};

/// What the owner needs to restore the producers' state, in order: at most one snapshot, then
/// every batch after it.
#[derive(Debug)]
pub enum Replay<'a> {
    /// The owner's snapshot from the newest segment that was sealed with one.
    ProducerSnapshot(Bytes),
    /// A batch after the snapshot.
    Batch(&'a BatchHeader),
}

/// One segment file as it was found.
#[derive(Debug)]
struct Segment {
    file: Arc<SegmentFile>,
    open: Arc<OpenFile>,
    id: FileId,
    len: u64,
    block: HeaderBlock,
}

impl Segment {
    fn base(&self) -> Offset {
        self.file.base()
    }

    /// How far the segment itself says it is durable.
    fn vouched(&self) -> Option<Point> {
        let seal = self.block.seal.map(|seal| Point {
            position: seal.data_end,
            offset: seal.end_offset,
            chain: seal.chain,
        });
        let mark = self.block.mark.map(|mark| Point {
            position: mark.position,
            offset: mark.end_offset,
            chain: mark.chain,
        });
        seal.or(mark)
    }
}

/// Reads a log's directory.
pub(crate) fn recover(
    context: &Context,
    dir: &Arc<Path>,
    beginning: Option<&Beginning>,
    now: TimestampMs,
    replay: &mut dyn FnMut(Replay<'_>),
) -> Result<Contents, OpenError> {
    let begins = beginning.map_or(Offset::ZERO, |beginning| beginning.offset);
    let mut segments = find_segments(context, dir)?;
    drop_headless(context, dir, &mut segments, begins)?;
    let sealed_count = segments.iter().take_while(|one| one.block.seal.is_some()).count();
    check_sealed(context, dir, &mut segments, sealed_count)?;
    let mut known = read_newest_footers(&segments[..sealed_count])?;
    let starts_there = segments.first().is_none_or(|first| first.base() == begins);
    let carrier = known.snapshot.as_ref().and(known.scan_from.checked_sub(1));
    let snapshot = carrier.and_then(|at| segments.get(at)).map(|one| one.file.base());
    if let Some(snapshot) = known.snapshot {
        replay(Replay::ProducerSnapshot(snapshot));
    } else if let Some(beginning) = beginning.filter(|_| starts_there) {
        known.epochs = beginning.epochs.clone();
        replay(Replay::ProducerSnapshot(beginning.producer_snapshot.clone()));
    }
    let (epochs, unsealed) = (known.epochs, VecDeque::new());
    let mut recovery = Recovery { context, dir, begins, now, replay, epochs, unsealed };
    let mut at = known.scan_from;
    while at < segments.len() {
        recovery.recover_segment(&mut segments, at, at < known.reseal_from)?;
        at += 1;
    }
    let Recovery { epochs, unsealed, .. } = recovery;
    let mut sealed = VecDeque::new();
    for one in segments.iter().take(known.reseal_from) {
        let Some(record) = one.block.seal.as_ref() else { continue };
        // The cut is sealing's last step and may have been lost; nothing depends on it.
        if one.len > record.file_bytes() {
            context.disk.set_len(one.id, record.file_bytes())?;
        }
        one.file.release();
        sealed.push_back(Sealed::new(Arc::clone(&one.file), record));
    }
    Ok(Contents { sealed, unsealed, epochs, snapshot })
}

/// What a log's files say of where it begins; changes nothing.
pub(crate) fn begins(context: &Context) -> Result<Begins, OpenError> {
    let dir: Arc<Path> = context.dir.as_path().into();
    let segments = find_segments(context, &dir)?;
    let Some(first) = segments.first().map(Segment::base) else { return Ok(Begins::Nowhere) };
    if first == Offset::ZERO {
        return Ok(Begins::Known);
    }
    let sealed = segments.iter().take_while(|one| one.block.seal.is_some()).count();
    let known = read_newest_footers(&segments[..sealed])?;
    Ok(if known.snapshot.is_some() { Begins::Known } else { Begins::Unknown(first) })
}

/// Opens every segment file and reads its header block, in order of offset.
fn find_segments(context: &Context, dir: &Arc<Path>) -> Result<Vec<Segment>, OpenError> {
    let entries = match context.disk.list(dir) {
        Ok(entries) => entries,
        Err(DiskError::NotFound(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut segments = Vec::new();
    for base in entries.iter().filter_map(|entry| parse_file_name(&entry.name)) {
        let file = Arc::new(SegmentFile::new(Arc::clone(&context.disk), Arc::clone(dir), base));
        let id = file.open_as(OpenMode::Existing, Arc::clone(&context.completions))?;
        let open = file.open()?;
        let len = open.len()?;
        let bytes = open.read_at(0, HEADER_BLOCK_BYTES as usize)?;
        let block = match parse_header_block(&bytes) {
            Ok(block) => block,
            Err(FormatError::Version { version }) => {
                return Err(OpenError::UnsupportedVersion { path: file.path(), version });
            }
            Err(error) => {
                return Err(file.corruption(0, "a header block", error.to_string()).into());
            }
        };
        if let Some(header) = block.header {
            check_identity(context, &file, &header)?;
        }
        segments.push(Segment { file, open, id, len, block });
    }
    segments.sort_by_key(Segment::base);
    Ok(segments)
}

fn check_identity(
    context: &Context,
    file: &SegmentFile,
    header: &SegmentHeader,
) -> Result<(), OpenError> {
    let (expected, actual) = (context.identity, header.log);
    if expected != actual {
        return Err(OpenError::WrongIdentity { path: file.path(), expected, actual });
    }
    if header.base_offset != file.base() {
        let (named, found) = (file.base(), header.base_offset);
        let (named, found) = (format!("base offset {named}"), format!("base offset {found}"));
        return Err(file.corruption(0, named, found).into());
    }
    Ok(())
}

/// Drops a segment whose header was never durable, and those after it. A header that something
/// vouches for is corrupt instead.
fn drop_headless(
    context: &Context,
    dir: &Path,
    segments: &mut Vec<Segment>,
    begins: Offset,
) -> Result<(), OpenError> {
    let Some(at) = segments.iter().position(|one| one.block.header.is_none()) else {
        return Ok(());
    };
    if any_vouched(&segments[at..]) {
        let file = &segments[at].file;
        return Err(file.corruption(0, "a segment header", "neither of its copies").into());
    }
    drop_from(context, dir, segments, at, begins)
}

/// Removes the segments from `at` on, the last one first and each durably before the next, so that
/// a power cut cannot leave a later one alone, at which the log would seem to start. Removing all
/// of a log that did not begin there would lose its start, so that is corruption: retention leaves
/// no such log.
fn drop_from(
    context: &Context,
    dir: &Path,
    segments: &mut Vec<Segment>,
    at: usize,
    begins: Offset,
) -> Result<(), OpenError> {
    if let Some(first) = segments.first().filter(|first| at == 0 && first.base() > begins) {
        let expected = "a durable record in the log's first segment";
        return Err(first.file.corruption(u64::from(HEADER_BLOCK_BYTES), expected, "none").into());
    }
    for gone in segments.drain(at..).rev() {
        let path = gone.file.path();
        tracing::info!(path = %path.display(), "removing a segment that was never durable");
        context.disk.remove_file(&path)?;
        context.disk.sync_dir(dir)?;
    }
    Ok(())
}

/// Checks that sealed segments are as long as their seals say and join what follows. A later
/// segment that does not join was never durable, or one before it is missing.
fn check_sealed(
    context: &Context,
    dir: &Path,
    segments: &mut Vec<Segment>,
    count: usize,
) -> Result<(), OpenError> {
    for at in 0..count {
        let segment = &segments[at];
        let Some(seal) = segment.block.seal else { continue };
        if segment.len < u64::from(seal.data_end) {
            let (expected, actual) = (format!("{} bytes", seal.data_end), "the end of the file");
            return Err(segment.file.corruption(segment.len, expected, actual).into());
        }
        let Some(next) = segments.get(at + 1).filter(|next| next.base() != seal.end_offset) else {
            continue;
        };
        if next.base() < seal.end_offset || any_vouched(&segments[at + 1..]) {
            let expected = format!("the segment that starts at offset {}", seal.end_offset);
            let actual = format!("one that starts at {}", next.base());
            return Err(next.file.corruption(0, expected, actual).into());
        }
        // Not the first, so that it matters not where the log began.
        return drop_from(context, dir, segments, at + 1, Offset::ZERO);
    }
    Ok(())
}

fn any_vouched(segments: &[Segment]) -> bool {
    segments.iter().any(|one| one.vouched().is_some())
}

/// What the newest footers tell.
#[derive(Debug)]
struct Known {
    snapshot: Option<Bytes>,
    epochs: EpochHistory,
    /// The first segment whose batches have to be replayed.
    scan_from: usize,
    /// The first segment that has to be sealed anew.
    reseal_from: usize,
}

/// Looks for the newest sealed segment with a snapshot. Footers can be rebuilt from the batches,
/// so a damaged one costs a scan and no data.
fn read_newest_footers(sealed: &[Segment]) -> Result<Known, OpenError> {
    let mut known = Known {
        snapshot: None,
        epochs: EpochHistory::default(),
        scan_from: 0,
        reseal_from: sealed.len(),
    };
    for (at, segment) in sealed.iter().enumerate().rev() {
        let Some(seal) = segment.block.seal else { continue };
        match read_footer(&segment.file, seal.data_end, seal.footer_bytes)? {
            Ok(footer) if footer.producer_snapshot.is_some() => {
                known.snapshot = footer.producer_snapshot;
                known.epochs = footer.epochs;
                known.scan_from = at + 1;
                break;
            }
            Ok(_) => {}
            Err(error) => {
                let path = segment.file.path();
                tracing::warn!(path = %path.display(), %error, "damaged footer: rebuilding it");
                if at + 1 == known.reseal_from {
                    known.reseal_from = at;
                }
            }
        }
    }
    Ok(known)
}

struct Recovery<'a> {
    context: &'a Context,
    dir: &'a Path,
    /// Where the log began.
    begins: Offset,
    now: TimestampMs,
    replay: &'a mut dyn FnMut(Replay<'_>),
    epochs: EpochHistory,
    unsealed: VecDeque<Box<Unsealed>>,
}

/// What a scan of a segment's batches found.
#[derive(Debug)]
struct Scanned {
    end: Point,
    index: IndexBuilder,
    times: SegmentTimes,
    /// Whether anything but zeros follows the last batch.
    torn: bool,
}

impl Recovery<'_> {
    /// Scans the segment at `at`, and unless its seal stands takes it as unsealed.
    fn recover_segment(
        &mut self,
        segments: &mut Vec<Segment>,
        at: usize,
        stays_sealed: bool,
    ) -> Result<(), OpenError> {
        let next_base = segments.get(at + 1).map(Segment::base);
        let segment = &segments[at];
        let Some(header) = segment.block.header else { return Ok(()) };
        let scanned = self.scan(segment, &header, next_base)?;
        if stays_sealed {
            return Ok(());
        }
        if next_base.is_some_and(|next| scanned.end.offset < next) {
            if any_vouched(&segments[at + 1..]) {
                let (position, offset) = (scanned.end.position, scanned.end.offset);
                let expected = format!("a batch at offset {offset}, durable before later ones");
                let error = segment.file.corruption(u64::from(position), expected, "no such batch");
                return Err(error.into());
            }
            drop_from(self.context, self.dir, segments, at + 1, self.begins)?;
        }
        let segment = &segments[at];
        let is_last = at + 1 == segments.len();
        if is_last && scanned.torn && scanned.end.offset == segment.base() {
            return drop_from(self.context, self.dir, segments, at, self.begins);
        }
        let durable = segment.vouched().unwrap_or(Point::nothing(segment.base()));
        let keeps_filling = is_last && !scanned.torn && segment.block.seal.is_none();
        if scanned.torn && segment.block.seal.is_none() {
            let (path, position) = (segment.file.path(), scanned.end.position);
            tracing::warn!(path = %path.display(), position, "cutting a torn tail");
        }
        let mut unsealed = Unsealed::from_recovered(Recovered {
            file: Arc::clone(&segment.file),
            id: segment.id,
            created_at: header.created_at,
            allocated: segment.len,
            end: scanned.end,
            durable,
            mark_sequence: segment.block.mark.map_or(0, |mark| mark.sequence),
            index: scanned.index,
            times: scanned.times,
        });
        if !keeps_filling {
            unsealed.begin_seal(None);
        }
        self.unsealed.push_back(Box::new(unsealed));
        Ok(())
    }

    /// Reads a segment's batches up to `next_base`, or as far as they go.
    fn scan(
        &mut self,
        segment: &Segment,
        header: &SegmentHeader,
        next_base: Option<Offset>,
    ) -> Result<Scanned, OpenError> {
        let start = Point::start(segment.base());
        let vouched = segment.vouched();
        let limit =
            segment.block.seal.map_or(segment.len, |seal| segment.len.min(seal.data_end.into()));
        let newest = self.epochs.latest();
        let mut scanner = Scanner::new(Arc::clone(&segment.open), limit, start, newest);
        let mut index = IndexBuilder::new(self.context.config.index_interval_bytes);
        let mut times = SegmentTimes::new(header.created_at);
        loop {
            let point = scanner.point();
            check_vouched(segment, vouched, point)?;
            if next_base.is_some_and(|next| point.offset >= next) {
                break;
            }
            match scanner.next()? {
                Found::Batch(batch) => {
                    let header = batch.header();
                    index.push(header, batch.bytes(), point.position);
                    times.note(header.base_timestamp, header.max_timestamp, self.now);
                    self.epochs.note(header.leader_epoch, header.base_offset);
                    (self.replay)(Replay::Batch(header));
                }
                Found::Nothing(actual) => {
                    if vouched.is_some_and(|vouched| point.position < vouched.position) {
                        let expected = format!("a durable batch at offset {}", point.offset);
                        let at = u64::from(point.position);
                        return Err(segment.file.corruption(at, expected, actual).into());
                    }
                    break;
                }
            }
        }
        let end = scanner.point();
        if let Some(next) = next_base.filter(|next| end.offset > *next) {
            let expected = format!("a segment that ends at offset {next}");
            let actual = format!("one that ends at {}", end.offset);
            return Err(segment.file.corruption(end.position.into(), expected, actual).into());
        }
        Ok(Scanned { end, index, times, torn: !scanner.rest_is_zero()? })
    }
}

/// Checks a place at or just past the vouched one: the durable batches must end exactly there.
fn check_vouched(segment: &Segment, vouched: Option<Point>, point: Point) -> Result<(), OpenError> {
    let Some(vouched) = vouched else { return Ok(()) };
    let crossed = point.position > vouched.position && point.offset <= vouched.offset;
    let differs = point.position == vouched.position && point != vouched;
    if crossed || differs {
        let expected = format!("the durable batches to end as recorded, {vouched:?}");
        let actual = format!("{point:?}");
        return Err(segment.file.corruption(vouched.position.into(), expected, actual).into());
    }
    Ok(())
}
