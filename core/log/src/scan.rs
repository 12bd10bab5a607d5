//! Walks the batches of one file from a known start, checking every byte.

#[cfg(fuzzing)]
pub(crate) mod fuzz;

use std::sync::Arc;

use bytes::Bytes;
use millstream_env::disk::DiskError;
use millstream_types::limits::BATCH_HEADER_BYTES;
use millstream_types::{LeaderEpoch, Offset};
use millstream_wire::{Batch, BatchHeader};

use crate::file::OpenFile;
use crate::format::{HEADER_BLOCK_BYTES, extend_crc};

/// Bytes that a scan reads at once; few in fuzzing, whose inputs are short.
const READ_BYTES: usize = if cfg!(fuzzing) { 128 } else { 1024 * 1024 };
/// Bytes of a batch that its own CRC does not cover and the chain does: base offset, length and
/// leader epoch.
const CHAINED_BYTES: usize = 16;

/// A place between two batches of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Point {
    pub(crate) position: u32,
    pub(crate) offset: Offset,
    /// See [`Mark::chain`](crate::format::Mark::chain).
    pub(crate) chain: u32,
}

impl Point {
    /// Before the first batch.
    pub(crate) fn start(base: Offset) -> Self {
        Self { position: HEADER_BLOCK_BYTES, offset: base, chain: 0 }
    }

    /// Before the header block: nothing of the file is there yet.
    pub(crate) fn nothing(base: Offset) -> Self {
        Self { position: 0, offset: base, chain: 0 }
    }

    /// After the batch of `bytes` that starts here; `None` when positions would not fit.
    pub(crate) fn after(&self, header: &BatchHeader, bytes: &[u8]) -> Option<Self> {
        let length = u32::try_from(bytes.len()).ok()?;
        let prefix = bytes.get(..CHAINED_BYTES)?;
        Some(Self {
            position: self.position.checked_add(length)?,
            offset: header.next_offset(),
            chain: extend_crc(self.chain, prefix),
        })
    }
}

/// Reads a file batch by batch; each is whole, its CRC right, and it follows the one before.
#[derive(Debug)]
pub(crate) struct Scanner {
    file: Arc<OpenFile>,
    limit: u64,
    point: Point,
    newest_epoch: Option<LeaderEpoch>,
    window: Bytes,
    window_at: u64,
}

/// What stands at a scan's place.
#[derive(Debug)]
pub(crate) enum Found {
    /// A batch.
    Batch(Batch),
    /// No batch that could follow; why.
    Nothing(String),
}

impl Scanner {
    /// Starts at `point`. The file counts as ending at `limit`.
    pub(crate) fn new(
        file: Arc<OpenFile>,
        limit: u64,
        point: Point,
        newest_epoch: Option<LeaderEpoch>,
    ) -> Self {
        Self { file, limit, point, newest_epoch, window: Bytes::new(), window_at: 0 }
    }

    /// Where the scan stands.
    pub(crate) fn point(&self) -> Point {
        self.point
    }

    /// Looks at what follows, and steps over it if it is a batch.
    pub(crate) fn next(&mut self) -> Result<Found, DiskError> {
        let at = u64::from(self.point.position);
        let head = self.bytes_at(at, BATCH_HEADER_BYTES)?;
        let header = match BatchHeader::parse(&head) {
            Ok(header) => header,
            Err(error) => return Ok(Found::Nothing(error.to_string())),
        };
        if header.base_offset != self.point.offset {
            let (found, expected) = (header.base_offset, self.point.offset);
            return Ok(Found::Nothing(format!("a batch at offset {found}, not {expected}")));
        }
        if self.newest_epoch.is_some_and(|newest| header.leader_epoch < newest) {
            return Ok(Found::Nothing(format!("older leader epoch {}", header.leader_epoch)));
        }
        let bytes = self.bytes_at(at, header.total_bytes())?;
        let batch = match Batch::validate(bytes) {
            Ok(batch) => batch,
            Err(error) => return Ok(Found::Nothing(error.to_string())),
        };
        let Some(after) = self.point.after(batch.header(), batch.bytes()) else {
            return Ok(Found::Nothing("a batch beyond the largest position".to_owned()));
        };
        self.newest_epoch = Some(header.leader_epoch);
        self.point = after;
        Ok(Found::Batch(batch))
    }

    /// Whether only zeros follow.
    pub(crate) fn rest_is_zero(&mut self) -> Result<bool, DiskError> {
        let mut at = u64::from(self.point.position);
        while at < self.limit {
            let bytes = self.bytes_at(at, READ_BYTES)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }

    /// Up to `len` bytes at `at`; fewer only where the file ends.
    fn bytes_at(&mut self, at: u64, len: usize) -> Result<Bytes, DiskError> {
        let left = usize::try_from(self.limit.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let from = at.checked_sub(self.window_at).and_then(|from| usize::try_from(from).ok());
        if let Some(from) = from
            && let Some(to) = from.checked_add(len)
            && to <= self.window.len()
        {
            return Ok(self.window.slice(from..to));
        }
        self.window = self.file.read_at(at, len.max(READ_BYTES.min(left)))?;
        self.window_at = at;
        Ok(self.window.slice(..len.min(self.window.len())))
    }
}
