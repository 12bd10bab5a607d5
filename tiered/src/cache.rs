//! What readers of the archive share: footers and row groups, each fetched once however many ask
//! for it at once, and kept in bounded memory.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use millstream_types::Offset;
use millstream_wire::Batch;
use tokio::sync::{OnceCell, Semaphore};

use crate::archive::{ArchiveError, load_footer};
use crate::decode::ObjectReader;
use crate::manifest::Entry;
use crate::store::Store;
use crate::workers;

/// Footers kept; some tens of kilobytes each.
const FOOTERS_KEPT: NonZeroUsize = at_least_one(256);
/// Row groups kept, whatever their size: what bounds the slots of those still being fetched.
const PARTS_KEPT: NonZeroUsize = at_least_one(4096);
/// Row groups fetched and decoded at once, which is what bounds the memory beside the cache.
const LOADS_MAX: usize = 8;

const fn at_least_one(count: usize) -> NonZeroUsize {
    match NonZeroUsize::new(count) {
        Some(count) => count,
        None => NonZeroUsize::MIN,
    }
}

/// One row group's batches, checked.
#[derive(Debug)]
pub(crate) struct Part {
    /// In order of offset; never compressed unless a batch is too large otherwise.
    pub(crate) batches: Vec<Batch>,
    bytes: usize,
}

/// Which row group: the object's name, which no two objects share, and its place there.
type PartKey = (Arc<str>, usize);
type Cell<T> = Arc<OnceCell<Arc<T>>>;

#[derive(Debug)]
struct Slot {
    cell: Cell<Part>,
    /// Of the batches; 0 until they are there.
    bytes: usize,
}

#[derive(Debug)]
struct Parts {
    slots: LruCache<PartKey, Slot>,
    bytes: usize,
}

/// Row groups and footers in memory, for all readers of one store.
#[derive(Debug)]
pub struct ReadCache {
    store: Store,
    bytes_max: usize,
    footers: Mutex<LruCache<Arc<str>, Cell<ObjectReader>>>,
    parts: Mutex<Parts>,
    loads: Semaphore,
}

impl ReadCache {
    /// Keeps at most `bytes_max` bytes of batches; the longest unused go first.
    #[must_use]
    pub fn new(store: Store, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            store,
            bytes_max,
            footers: Mutex::new(LruCache::new(FOOTERS_KEPT)),
            parts: Mutex::new(Parts { slots: LruCache::new(PARTS_KEPT), bytes: 0 }),
            loads: Semaphore::new(LOADS_MAX),
        })
    }

    /// Bytes of batches that are kept now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts().bytes
    }

    /// An object's footer. Whoever asks while it is being fetched waits for that.
    pub(crate) async fn footer(
        &self,
        key: &Arc<str>,
        entry: &Entry,
    ) -> Result<Arc<ObjectReader>, ArchiveError> {
        let cell = {
            let mut footers = self.footers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(footers.get_or_insert(Arc::clone(key), Cell::default))
        };
        let load = || async { load_footer(&self.store, key, entry).await.map(Arc::new) };
        cell.get_or_try_init(load).await.map(Arc::clone)
    }

    /// A row group's batches. Whoever asks while they are being fetched waits for that; if it
    /// fails or is given up, the next tries.
    pub(crate) async fn part(
        &self,
        key: &Arc<str>,
        object: &Arc<ObjectReader>,
        part: usize,
    ) -> Result<Arc<Part>, ArchiveError> {
        let at = (Arc::clone(key), part);
        let cell = self.parts().cell(&at);
        let loaded = cell.get_or_try_init(|| self.load(key, object, part)).await.map(Arc::clone)?;
        self.parts().weigh(&at, &cell, loaded.bytes, self.bytes_max);
        Ok(loaded)
    }

    async fn load(
        &self,
        key: &Arc<str>,
        object: &Arc<ObjectReader>,
        part: usize,
    ) -> Result<Arc<Part>, ArchiveError> {
        let ended = |error: String| ArchiveError::Decode(error);
        let _permit = self.loads.acquire().await.map_err(|error| ended(error.to_string()))?;
        let bytes = self.store.get_range(key, object.span(part)).await?;
        let object = Arc::clone(object);
        let decoded = workers::run(move || {
            let batches: Vec<Bytes> = object.replay(part, bytes)?;
            let bytes = batches.iter().map(Bytes::len).sum();
            let batches = batches.into_iter().map(Batch::validate).collect::<Result<_, _>>()?;
            Ok(Arc::new(Part { batches, bytes }))
        });
        let decoded = decoded.await.map_err(|error| ended(error.to_string()))?;
        decoded.map_err(|source| ArchiveError::Object { object: key.to_string(), source })
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    fn cell(&mut self, at: &PartKey) -> Cell<Part> {
        if let Some(slot) = self.slots.get(at) {
            return Arc::clone(&slot.cell);
        }
        let cell = Cell::default();
        let slot = Slot { cell: Arc::clone(&cell), bytes: 0 };
        if let Some((_, evicted)) = self.slots.push(at.clone(), slot) {
            self.bytes -= evicted.bytes;
        }
        cell
    }

    /// Counts what was loaded, once, and lets go of what is too much.
    fn weigh(&mut self, at: &PartKey, cell: &Cell<Part>, bytes: usize, bytes_max: usize) {
        if let Some(slot) = self.slots.get_mut(at)
            && slot.bytes == 0
            && Arc::ptr_eq(&slot.cell, cell)
        {
            slot.bytes = bytes;
            self.bytes += bytes;
        }
        while self.bytes > bytes_max {
            let Some((_, evicted)) = self.slots.pop_lru() else { break };
            self.bytes -= evicted.bytes;
        }
    }
}

impl Part {
    /// The batches from the one that holds `offset` on.
    pub(crate) fn from(&self, offset: Offset) -> &[Batch] {
        let at = self.batches.partition_point(|batch| batch.header().next_offset() <= offset);
        self.batches.get(at..).unwrap_or_default()
    }
}
