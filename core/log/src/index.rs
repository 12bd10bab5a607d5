//! The sparse index of a segment: which block of batches holds an offset or a time.

use millstream_types::{Offset, TimestampMs};
use millstream_wire::BatchHeader;

use crate::format::{HEADER_BLOCK_BYTES, IndexEntry, extend_crc};

/// Builds the index while batches are appended or recovered. The last block is open.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    closed: Vec<IndexEntry>,
    open: Option<IndexEntry>,
    interval_bytes: u32,
}

impl IndexBuilder {
    pub(crate) fn new(interval_bytes: u32) -> Self {
        Self { closed: Vec::new(), open: None, interval_bytes }
    }

    /// Adds the batch of `bytes` at `position`.
    pub(crate) fn push(&mut self, header: &BatchHeader, bytes: &[u8], position: u32) {
        // A batch is below 16 MiB and a segment below 4 GiB, so no length saturates.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Some(open) = self.open.take_if(|open| open.length >= self.interval_bytes) {
            self.closed.push(open);
        }
        let open = self.open.get_or_insert(IndexEntry {
            base_offset: header.base_offset,
            position,
            length: 0,
            max_timestamp: header.max_timestamp,
            crc: 0,
            leader_epoch: header.leader_epoch,
        });
        open.length = open.length.saturating_add(length);
        open.max_timestamp = open.max_timestamp.max(header.max_timestamp);
        open.crc = extend_crc(open.crc, bytes);
    }

    /// All blocks, the open one included.
    pub(crate) fn entries(&self) -> Vec<IndexEntry> {
        self.closed.iter().chain(&self.open).copied().collect()
    }

    /// The start of the block that holds `offset`.
    pub(crate) fn by_offset(&self, offset: Offset) -> BlockStart {
        match &self.open {
            Some(open) if open.base_offset <= offset => BlockStart::from(open),
            _ => by_offset(&self.closed, offset),
        }
    }

    /// The start of the first block with a timestamp not before `timestamp`.
    pub(crate) fn by_timestamp(&self, timestamp: TimestampMs) -> Option<BlockStart> {
        by_timestamp(&self.closed, timestamp).or_else(|| {
            self.open.as_ref().filter(|open| open.max_timestamp >= timestamp).map(BlockStart::from)
        })
    }
}

/// Where a block starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockStart {
    pub(crate) position: u32,
    pub(crate) base_offset: Offset,
    /// Bytes of the block, so that one read reaches the batch that is looked for; 0 if unknown.
    pub(crate) length: u32,
}

impl BlockStart {
    /// The first batch of a segment, when no index tells more.
    pub(crate) fn of_segment(base_offset: Offset) -> Self {
        Self { position: HEADER_BLOCK_BYTES, base_offset, length: 0 }
    }
}

impl From<&IndexEntry> for BlockStart {
    fn from(entry: &IndexEntry) -> Self {
        let IndexEntry { position, base_offset, length, .. } = *entry;
        Self { position, base_offset, length }
    }
}

/// The start of the last block that starts at or before `offset`; without one, of the segment
/// that `offset` itself starts.
pub(crate) fn by_offset(entries: &[IndexEntry], offset: Offset) -> BlockStart {
    let after = entries.partition_point(|entry| entry.base_offset <= offset);
    after
        .checked_sub(1)
        .and_then(|at| entries.get(at))
        .map_or(BlockStart::of_segment(offset), BlockStart::from)
}

/// The start of the first block with a timestamp not before `timestamp`. Timestamps need not
/// grow, so the blocks are searched one by one.
pub(crate) fn by_timestamp(entries: &[IndexEntry], timestamp: TimestampMs) -> Option<BlockStart> {
    entries.iter().find(|entry| entry.max_timestamp >= timestamp).map(BlockStart::from)
}
