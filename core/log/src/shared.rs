//! What the logs of one broker share, so that memory and handles do not grow with partitions:
//! the budget of bytes kept for readers at the tail, and the indices of sealed segments in use.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use millstream_env::disk::DiskError;
use millstream_types::Offset;

use crate::file::SegmentFile;
use crate::format::{
    Footer, FormatError, INDEX_ENTRY_BYTES, IndexEntry, TRAILER_BYTES, parse_footer,
};

/// Bounds over all logs of a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedLimits {
    /// Bytes of recent batches that all tails keep together.
    pub tail_bytes_max: u64,
    /// Sealed segments whose file and index are kept ready; at least 1.
    pub sealed_handles_max: usize,
    /// Bytes that their indices may take; the newest is kept even if larger.
    pub index_bytes_max: usize,
}

impl Default for SharedLimits {
    fn default() -> Self {
        Self {
            tail_bytes_max: 256 * 1024 * 1024,
            sealed_handles_max: 512,
            index_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// Shared by all logs of a broker.
#[derive(Debug)]
pub struct LogShared {
    pub(crate) tail: TailBudget,
    next_log: AtomicU64,
    handles: Mutex<Handles>,
}

impl LogShared {
    /// With nothing in it yet.
    #[must_use]
    pub fn new(limits: SharedLimits) -> Arc<Self> {
        let count = NonZeroUsize::new(limits.sealed_handles_max).unwrap_or(NonZeroUsize::MIN);
        Arc::new(Self {
            tail: TailBudget { bytes_max: limits.tail_bytes_max, used: AtomicU64::new(0) },
            next_log: AtomicU64::new(0),
            handles: Mutex::new(Handles {
                entries: LruCache::new(count),
                bytes: 0,
                bytes_max: limits.index_bytes_max,
            }),
        })
    }

    /// Bytes of batches that all tails hold now.
    #[must_use]
    pub fn tail_bytes(&self) -> u64 {
        self.tail.used.load(Ordering::Relaxed)
    }

    /// Sealed segments whose file and index are held now.
    #[must_use]
    pub fn sealed_handles(&self) -> usize {
        self.handles().entries.len()
    }

    /// A number for one open log, never used twice, so that what was kept for an earlier log of
    /// the same partition cannot be taken for its own.
    pub(crate) fn number_log(&self) -> u64 {
        self.next_log.fetch_add(1, Ordering::Relaxed)
    }

    /// The index of a sealed segment; an empty one when its footer is damaged, since the batches
    /// can be walked without it. Blocks when it has to be read.
    pub(crate) fn index(&self, key: SealedKey<'_>) -> Result<Arc<[IndexEntry]>, DiskError> {
        if let Some(found) = self.handles().entries.get(&(key.log, key.file.base())) {
            return Ok(Arc::clone(&found.index));
        }
        // Read without the lock: two readers may read the same footer, and both are right.
        let index: Arc<[IndexEntry]> = match read_footer(key.file, key.data_end, key.footer_bytes)?
        {
            Ok(footer) => footer.index.into(),
            Err(error) => {
                let path = key.file.path();
                tracing::warn!(path = %path.display(), %error, "footer damaged: reading without");
                Arc::new([])
            }
        };
        self.handles().insert(key.log, key.file, Arc::clone(&index));
        Ok(index)
    }

    /// Forgets a segment that was removed.
    pub(crate) fn forget(&self, log: u64, base: Offset) {
        self.handles().remove(log, base);
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names a sealed segment of an open log, and where its footer is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SealedKey<'a> {
    pub(crate) log: u64,
    pub(crate) file: &'a Arc<SegmentFile>,
    pub(crate) data_end: u32,
    pub(crate) footer_bytes: u32,
}

/// Reads and checks a footer. The outer error is the disk's, the inner one the content's.
pub(crate) fn read_footer(
    file: &SegmentFile,
    data_end: u32,
    footer_bytes: u32,
) -> Result<Result<Footer, FormatError>, DiskError> {
    let open = file.open()?;
    let room = open.len()?.saturating_sub(u64::from(data_end));
    let wanted = u64::from(footer_bytes) + TRAILER_BYTES as u64;
    let have = usize::try_from(room).unwrap_or(usize::MAX);
    let Some(len) = usize::try_from(wanted).ok().filter(|_| room >= wanted) else {
        return Ok(Err(FormatError::Truncated { have }));
    };
    let bytes = open.read_at(u64::from(data_end), len)?;
    Ok(match parse_footer(&bytes) {
        Ok((footer, found, _)) if found == data_end => Ok(footer),
        Ok(_) => Err(FormatError::Field { field: "data end" }),
        Err(error) => Err(error),
    })
}

#[derive(Debug)]
struct Handles {
    entries: LruCache<(u64, Offset), Handle>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Handle {
    file: Arc<SegmentFile>,
    index: Arc<[IndexEntry]>,
}

impl Handles {
    fn insert(&mut self, log: u64, file: &Arc<SegmentFile>, index: Arc<[IndexEntry]>) {
        self.bytes += index.len() * INDEX_ENTRY_BYTES;
        let handle = Handle { file: Arc::clone(file), index };
        if let Some((key, old)) = self.entries.push((log, file.base()), handle) {
            self.bytes -= old.index.len() * INDEX_ENTRY_BYTES;
            if key != (log, file.base()) {
                old.file.release();
            }
        }
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            let Some((_, old)) = self.entries.pop_lru() else { break };
            self.bytes -= old.index.len() * INDEX_ENTRY_BYTES;
            old.file.release();
        }
    }

    fn remove(&mut self, log: u64, base: Offset) {
        if let Some(old) = self.entries.pop(&(log, base)) {
            self.bytes -= old.index.len() * INDEX_ENTRY_BYTES;
            old.file.release();
        }
    }
}

/// Bytes that all tails may hold together.
#[derive(Debug)]
pub(crate) struct TailBudget {
    bytes_max: u64,
    used: AtomicU64,
}

impl TailBudget {
    /// Takes `bytes` if they are left.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|total| *total <= self.bytes_max)
        });
        taken.is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
