//! Reading batches: from memory at the tail, otherwise as a detached read of one file.

use std::sync::Arc;

use bytes::Bytes;
use millstream_env::disk::DiskError;
use millstream_types::Offset;
use millstream_types::limits::BATCH_HEADER_BYTES;
use millstream_wire::{Batch, BatchHeader};

use crate::epoch::EpochHistory;
use crate::error::{Corruption, ReadError};
use crate::file::{OpenFile, SegmentFile};
use crate::format::HEADER_BLOCK_BYTES;
use crate::index::{BlockStart, by_offset};
use crate::log::{PartitionLog, Sealed};
use crate::shared::{LogShared, SealedKey};
use crate::unsealed::Unsealed;

/// Bytes that a lookup may read before the batch that it looks for: a block of the index as usual.
const LOOKUP_BYTES: u32 = 64 * 1024;

/// Where to read: an offset, and from an earlier read of the same log also its place on disk, so
/// that reading on needs no lookup. A place that is gone or was never right costs nothing but the
/// lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    offset: Offset,
    place: Option<Place>,
}

/// A batch's segment and position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    segment: Offset,
    position: u32,
}

impl Cursor {
    /// The offset that is read next.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    pub(crate) fn at(offset: Offset, segment: Offset, position: u32) -> Self {
        Self { offset, place: Some(Place { segment, position }) }
    }
}

impl From<Offset> for Cursor {
    fn from(offset: Offset) -> Self {
        Self { offset, place: None }
    }
}

/// How to get the batches at a cursor.
#[derive(Debug)]
pub enum ReadPlan {
    /// They are here, as the very bytes that were appended; at least one.
    Memory {
        /// The batches in order. The first may start before the cursor's offset.
        batches: Vec<Bytes>,
        /// Where they end.
        next: Cursor,
    },
    /// They are in a file.
    File(FileRead),
    /// There is nothing between the cursor and the given end yet.
    Empty,
}

/// What came of a load within given room.
#[derive(Debug, Clone)]
pub enum Load {
    /// It fitted.
    Done(Loaded),
    /// A single batch needs so many bytes: load again with that room.
    Needs(usize),
}

/// Batches that were read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Whole batches back to back, in one allocation; empty if the log held none below the end.
    pub batches: Bytes,
    /// Where they end.
    pub next: Cursor,
}

/// Which batches of a file are wanted, and where to look. Detached from its log: it stays valid
/// while the log goes on, rolls, seals, or removes the segment.
#[derive(Debug)]
pub struct FileRead {
    source: Source,
    from: Start,
    offset: Offset,
    up_to: Offset,
    max_bytes: usize,
    /// Of the offsets that may be read: a batch's epoch is not covered by its CRC.
    epochs: EpochHistory,
    verify_crc: bool,
}

/// The readable part of one segment's file.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) file: Arc<SegmentFile>,
    shared: Arc<LogShared>,
    log: u64,
    /// The end of the batches that may be read.
    limit: u32,
    /// The offset there.
    end: Offset,
    /// Bytes of the footer, for sealed segments.
    footer_bytes: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Start {
    /// The block or batch to start at is known.
    Block(BlockStart),
    /// The index in the file's footer has to tell.
    Index,
}

impl PartitionLog {
    /// How to read from `from`: whole batches that end at or before `up_to` (the high watermark,
    /// say), of at most `max_bytes` together, but at least one. Does not block.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] for an offset outside of the log.
    pub fn read(
        &self,
        from: Cursor,
        up_to: Offset,
        max_bytes: usize,
    ) -> Result<ReadPlan, ReadError> {
        let (offset, start, end) = (from.offset, self.start(), self.end());
        if offset < start || offset > end {
            return Err(ReadError::OutOfRange { offset, start, end });
        }
        if offset >= up_to || offset == end {
            return Ok(ReadPlan::Empty);
        }
        if let Some(found) = self.tail.read(offset, up_to, max_bytes) {
            let Some(last) = found.last() else { return Ok(ReadPlan::Empty) };
            // A batch of the tail lies below 4 GiB in its file, so its end does too.
            let length = u32::try_from(last.bytes.len()).unwrap_or(u32::MAX);
            let position = last.position.saturating_add(length);
            let next = Cursor::at(last.next, last.segment, position);
            let batches = found.iter().map(|batch| batch.bytes.clone()).collect();
            return Ok(ReadPlan::Memory { batches, next });
        }
        let Some((source, index)) =
            self.source_of(offset).filter(|(source, _)| offset < source.end)
        else {
            return Ok(ReadPlan::Empty);
        };
        let place = from.place.filter(|place| {
            place.segment == source.file.base()
                && place.position >= HEADER_BLOCK_BYTES
                && place.position < source.limit
        });
        let from = match place {
            Some(Place { position, .. }) => {
                Start::Block(BlockStart { position, base_offset: offset, length: 0 })
            }
            None => index,
        };
        let epochs = self.epochs.within(offset, source.end.min(up_to));
        let verify_crc = false;
        let read = FileRead { source, from, offset, up_to, max_bytes, epochs, verify_crc };
        Ok(ReadPlan::File(read))
    }

    /// The segment that holds `offset`, and where to start in it.
    fn source_of(&self, offset: Offset) -> Option<(Source, Start)> {
        let after = self.unsealed.partition_point(|segment| segment.base() <= offset);
        if let Some(segment) = after.checked_sub(1).and_then(|at| self.unsealed.get(at)) {
            let source = self.unsealed_source(segment);
            let from = Start::Block(segment.index.by_offset(offset));
            return Some((source, from));
        }
        let at = self.sealed.partition_point(|sealed| sealed.end <= offset);
        let sealed = self.sealed.get(at)?;
        Some((self.sealed_source(sealed), Start::Index))
    }

    pub(crate) fn unsealed_source(&self, segment: &Unsealed) -> Source {
        Source {
            file: Arc::clone(&segment.file),
            shared: Arc::clone(&self.shared),
            log: self.number,
            limit: segment.written.position,
            end: segment.written.offset,
            footer_bytes: None,
        }
    }

    pub(crate) fn sealed_source(&self, sealed: &Sealed) -> Source {
        Source {
            file: Arc::clone(&sealed.file),
            shared: Arc::clone(&self.shared),
            log: self.number,
            limit: sealed.data_end,
            end: sealed.end,
            footer_bytes: Some(sealed.footer_bytes),
        }
    }
}

impl Source {
    /// The index of a sealed segment; empty for one whose start was known from memory.
    pub(crate) fn index(&self) -> Result<Arc<[crate::format::IndexEntry]>, DiskError> {
        let Some(footer_bytes) = self.footer_bytes else { return Ok(Arc::new([])) };
        let (log, file, data_end) = (self.log, &self.file, self.limit);
        self.shared.index(SealedKey { log, file, data_end, footer_bytes })
    }

    /// A walk over the batches from a known place.
    pub(crate) fn walk(&self, from: BlockStart) -> Result<Walk<'_>, ReadError> {
        Ok(Walk {
            source: self,
            file: self.file.open()?,
            position: from.position,
            expected: from.base_offset,
            window: Bytes::new(),
            window_at: from.position,
        })
    }

    fn is_sealed(&self) -> bool {
        self.footer_bytes.is_some()
    }
}

impl FileRead {
    /// Also checks each batch's CRC while loading. Off by default: consumers check it.
    #[must_use]
    pub fn verify_crc(mut self, verify: bool) -> Self {
        self.verify_crc = verify;
        self
    }

    /// The room in memory that a load needs, unless a single batch is larger than was asked for.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        let (position, lookup_bytes) = match self.from {
            Start::Block(block) => (block.position, block.length.min(LOOKUP_BYTES)),
            Start::Index => (HEADER_BLOCK_BYTES, LOOKUP_BYTES),
        };
        let left = self.source.limit.saturating_sub(position) as usize;
        self.max_bytes.saturating_add(lookup_bytes as usize).min(left).max(BATCH_HEADER_BYTES)
    }

    /// Reads the batches. Blocks: call it where that is allowed.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] where the file does not hold the batches that follow one another,
    /// [`ReadError::Disk`] where it cannot be read.
    pub fn load(&self) -> Result<Loaded, ReadError> {
        Ok(match self.load_within(usize::MAX)? {
            Load::Done(loaded) => loaded,
            // Nothing needs more than all the room there is.
            Load::Needs(_) => Loaded { batches: Bytes::new(), next: Cursor::from(self.offset) },
        })
    }

    /// Reads as many of the batches as fit `room_bytes` of memory, but at least one, or tells how
    /// much one needs. Blocks: call it where that is allowed.
    ///
    /// # Errors
    /// As for [`FileRead::load`].
    pub fn load_within(&self, room_bytes: usize) -> Result<Load, ReadError> {
        let block = self.first_block()?;
        let mut walk = self.source.walk(block)?;
        let read_bytes = self.max_bytes.saturating_add(block.length as usize).min(room_bytes);
        let mut start = None;
        while let Some(header) = walk.peek(read_bytes, start.is_none())? {
            let needs = Load::Needs(header.total_bytes());
            let fits = start.is_some() || header.total_bytes() <= room_bytes;
            if header.next_offset() > self.up_to {
                if start.is_none() {
                    if !fits {
                        return Ok(needs);
                    }
                    // An end between two batches is the rule: see that the header does not lie.
                    walk.validated(&header)?;
                }
                break;
            }
            if header.last_offset() < self.offset {
                walk.step(&header);
                continue;
            }
            let from = start.unwrap_or(walk.position);
            let total = header.total_bytes() + (walk.position - from) as usize;
            if start.is_some() && total > self.max_bytes {
                break;
            }
            if !fits {
                return Ok(needs);
            }
            let Some(bytes) = walk.whole(&header, read_bytes, start.is_none())? else { break };
            // The first batch may start before the first offset that was asked for.
            let expected = self.epochs.epoch_at(header.base_offset.max(self.offset));
            if expected != Some(header.leader_epoch) {
                let actual = format!("leader epoch {}", header.leader_epoch);
                return Err(walk.corruption(&header, actual).into());
            }
            if self.verify_crc {
                let checked = Batch::validate(bytes);
                checked.map_err(|error| walk.corruption(&header, error.to_string()))?;
            }
            start = Some(from);
            walk.step(&header);
        }
        let from = start.unwrap_or(walk.position);
        let next = self.cursor_after(&walk, start.is_some());
        Ok(Load::Done(Loaded { batches: walk.slice(from), next }))
    }

    fn first_block(&self) -> Result<BlockStart, ReadError> {
        let Start::Block(block) = self.from else {
            let index = self.source.index()?;
            return Ok(if index.is_empty() {
                BlockStart::of_segment(self.source.file.base())
            } else {
                by_offset(&index, self.offset)
            });
        };
        Ok(block)
    }

    fn cursor_after(&self, walk: &Walk<'_>, found: bool) -> Cursor {
        if !found {
            return Cursor::from(self.offset);
        }
        if self.source.is_sealed() && walk.position == self.source.limit {
            return Cursor::at(walk.expected, walk.expected, HEADER_BLOCK_BYTES);
        }
        Cursor::at(walk.expected, self.source.file.base(), walk.position)
    }
}

/// Steps over batches by their headers, reading as little as needed.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    source: &'a Source,
    file: Arc<OpenFile>,
    pub(crate) position: u32,
    expected: Offset,
    window: Bytes,
    window_at: u32,
}

impl Walk<'_> {
    /// The header of the next batch, checked to follow the one before. `None` at the end, or,
    /// unless it may `refill`, where the bytes in memory end.
    pub(crate) fn peek(
        &mut self,
        read_bytes: usize,
        refill: bool,
    ) -> Result<Option<BatchHeader>, ReadError> {
        if self.position >= self.source.limit {
            return Ok(None);
        }
        if self.have().len() < BATCH_HEADER_BYTES {
            if !refill {
                return Ok(None);
            }
            self.fill(read_bytes.max(BATCH_HEADER_BYTES))?;
        }
        let header = match BatchHeader::parse(self.have()) {
            Ok(header) => header,
            Err(error) => return Err(self.corrupt(error.to_string())),
        };
        if header.base_offset != self.expected {
            return Err(self.corrupt(format!("a batch at offset {}", header.base_offset)));
        }
        let end = self.position as usize + header.total_bytes();
        if end > self.source.limit as usize || header.next_offset() > self.source.end {
            return Err(self.corrupt("a batch beyond the end of the batches".to_owned()));
        }
        Ok(Some(header))
    }

    /// The bytes of the batch just peeked at. `None` unless they are in memory or it may `refill`.
    fn whole(
        &mut self,
        header: &BatchHeader,
        read_bytes: usize,
        refill: bool,
    ) -> Result<Option<Bytes>, ReadError> {
        let total = header.total_bytes();
        if self.have().len() < total {
            if !refill {
                return Ok(None);
            }
            self.fill(read_bytes.max(total))?;
        }
        if self.have().len() < total {
            return Err(self.corrupt("the end of the file".to_owned()));
        }
        let from = (self.position - self.window_at) as usize;
        Ok(Some(self.window.slice(from..from + total)))
    }

    /// Checks all of the batch just peeked at.
    fn validated(&mut self, header: &BatchHeader) -> Result<(), ReadError> {
        let Some(bytes) = self.whole(header, 0, true)? else { return Ok(()) };
        match Batch::validate(bytes) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.corruption(header, error.to_string()).into()),
        }
    }

    /// Goes on to the next batch.
    pub(crate) fn step(&mut self, header: &BatchHeader) {
        // `peek` has checked that the end lies at or before the limit, which fits.
        let total = u32::try_from(header.total_bytes()).unwrap_or(u32::MAX);
        self.position = self.position.saturating_add(total);
        self.expected = header.next_offset();
    }

    /// What lies in memory from `from` to here.
    fn slice(&self, from: u32) -> Bytes {
        if from == self.position {
            return Bytes::new();
        }
        let (from, to) = (from - self.window_at, self.position - self.window_at);
        self.window.slice(from as usize..to as usize)
    }

    fn have(&self) -> &[u8] {
        self.window.get((self.position - self.window_at) as usize..).unwrap_or_default()
    }

    fn fill(&mut self, bytes: usize) -> Result<(), ReadError> {
        let left = (self.source.limit - self.position) as usize;
        // Let go first: the two together would take twice the room.
        self.window = Bytes::new();
        self.window_at = self.position;
        self.window = self.file.read_at(u64::from(self.position), bytes.min(left))?;
        Ok(())
    }

    fn corrupt(&self, actual: String) -> ReadError {
        let expected = format!("a batch at offset {}", self.expected);
        ReadError::Corrupt(self.source.file.corruption(self.position.into(), expected, actual))
    }

    fn corruption(&self, header: &BatchHeader, actual: String) -> Box<Corruption> {
        let expected = format!("the batch at offset {}", header.base_offset);
        self.source.file.corruption(self.position.into(), expected, actual)
    }
}
