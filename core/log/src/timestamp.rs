//! Finding where to start reading for a time.

use millstream_types::{Offset, TimestampMs};

use crate::error::ReadError;
use crate::index::{BlockStart, by_timestamp};
use crate::log::PartitionLog;
use crate::read::{Cursor, Source};

/// Bytes read at once while walking a block.
const READ_BYTES: usize = 128 * 1024;

/// The first batch that holds a record at or after a time, to the batch's own word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimestampHit {
    /// The batch's base offset. Which of its records it is, the records tell.
    pub offset: Offset,
    /// The batch's largest timestamp.
    pub max_timestamp: TimestampMs,
    /// Where to read the batch.
    pub cursor: Cursor,
}

/// A lookup by time, detached from its log as a [`FileRead`](crate::FileRead) is.
#[derive(Debug)]
pub struct TimestampLookup {
    source: Source,
    /// `None` when the footer's index has to tell.
    from: Option<BlockStart>,
    timestamp: TimestampMs,
    up_to: Offset,
}

impl PartitionLog {
    /// How to find the first batch whose largest timestamp is not before `timestamp`. `None` when
    /// the log has no such batch. Does not block.
    #[must_use]
    pub fn offset_for_timestamp(
        &self,
        timestamp: TimestampMs,
        up_to: Offset,
    ) -> Option<TimestampLookup> {
        let sealed = self.sealed.iter().find(|one| one.times.max_timestamp >= timestamp);
        if let Some(sealed) = sealed {
            let source = self.sealed_source(sealed);
            return Some(TimestampLookup { source, from: None, timestamp, up_to });
        }
        let unsealed = self.unsealed.iter().find(|one| one.times.max_timestamp >= timestamp)?;
        let from = unsealed.index.by_timestamp(timestamp)?;
        let source = self.unsealed_source(unsealed);
        Some(TimestampLookup { source, from: Some(from), timestamp, up_to })
    }
}

impl TimestampLookup {
    /// Looks the batch up; `None` when it lies beyond the end that was given. Blocks: call it
    /// where that is allowed.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] where the file does not hold the batches that follow one another,
    /// [`ReadError::Disk`] where it cannot be read.
    pub fn load(&self) -> Result<Option<TimestampHit>, ReadError> {
        let from = match self.from {
            Some(from) => from,
            None => by_timestamp(&self.source.index()?, self.timestamp)
                .unwrap_or(BlockStart::of_segment(self.source.file.base())),
        };
        let mut walk = self.source.walk(from)?;
        while let Some(header) = walk.peek(READ_BYTES, true)? {
            let (offset, max_timestamp) = (header.base_offset, header.max_timestamp);
            if header.next_offset() > self.up_to {
                break;
            }
            if max_timestamp >= self.timestamp {
                let cursor = Cursor::at(offset, self.source.file.base(), walk.position);
                return Ok(Some(TimestampHit { offset, max_timestamp, cursor }));
            }
            walk.step(&header);
        }
        Ok(None)
    }
}
