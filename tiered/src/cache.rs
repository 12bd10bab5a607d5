//! What readers of the archive share: footers and row groups, each fetched once however many ask
//! for it at once, and kept in bounded memory.
//!
//! What readers fetch ahead of their consumers has one budget over all of them, half of that
//! memory, and is the last to be evicted: with several readers the longest unused row group is
//! often the one that somebody needs next.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use millstream_types::Offset;
use millstream_wire::Batch;
use tokio::sync::{AcquireError, OnceCell, Semaphore};

use crate::archive::{ArchiveError, load_footer};
use crate::decode::ObjectReader;
use crate::disk_cache::DiskCache;
use crate::encode::ROW_GROUP_BYTES;
use crate::manifest::Entry;
use crate::store::Store;
use crate::workers;

/// Footers kept; some tens of kilobytes each.
const FOOTERS_KEPT: NonZeroUsize = at_least_one(256);
/// Row groups kept, whatever their size: what bounds the slots of those still being fetched.
const PARTS_KEPT: NonZeroUsize = at_least_one(4096);
/// Row groups fetched from the store and decoded at once, and as many from files: which is what
/// bounds the memory beside the cache.
const LOADS_MAX: usize = 8;
const LOCAL_LOADS_MAX: usize = 4;
/// What a row group is taken to weigh until it is there: the batch that fills it comes on top.
const PART_BYTES: usize = ROW_GROUP_BYTES + ROW_GROUP_BYTES / 8;
/// Row groups that all readers load until one that was fetched ahead before them, and not come to,
/// is given up: its consumer has stopped, and others could use its room.
const AHEAD_LOADS_MAX: u64 = 256;

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
    /// No two slots share it, also not those of one row group that came again.
    id: u64,
    cell: Cell<Part>,
    /// Of the batches; 0 until they are there.
    bytes: usize,
    /// Readers that had it fetched ahead and have not passed it.
    ahead: usize,
    /// Loads before one of them last did.
    ahead_since: u64,
}

#[derive(Debug)]
struct Parts {
    slots: LruCache<PartKey, Slot>,
    bytes: usize,
    /// What slots that were fetched ahead count for, as [`Slot::weight`] has it.
    ahead_bytes: usize,
    /// Slots so far.
    made: u64,
    /// Row groups that came from the store so far.
    loads: u64,
}

/// A row group that is fetched ahead of its reader, until this is dropped.
#[derive(Debug)]
pub(crate) struct Ahead {
    cache: Arc<ReadCache>,
    at: PartKey,
    slot: u64,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.cache.parts().pass(&self.at, self.slot);
    }
}

/// Row groups and footers in memory, for all readers of one store.
#[derive(Debug)]
pub struct ReadCache {
    store: Store,
    disk: Option<Arc<DiskCache>>,
    bytes_max: usize,
    footers: Mutex<LruCache<Arc<str>, Cell<ObjectReader>>>,
    parts: Mutex<Parts>,
    loads: Semaphore,
    /// Of files alone: what is here does not wait for a store.
    local_loads: Semaphore,
}

impl ReadCache {
    /// Keeps at most `bytes_max` bytes of batches; the longest unused go first.
    #[must_use]
    pub fn new(store: Store, bytes_max: usize) -> Arc<Self> {
        Self::with_disk(store, bytes_max, None)
    }

    /// [`ReadCache::new`], in front of files of row groups as the store has them.
    #[must_use]
    pub fn with_disk(store: Store, bytes_max: usize, disk: Option<Arc<DiskCache>>) -> Arc<Self> {
        Arc::new(Self {
            store,
            disk,
            bytes_max,
            footers: Mutex::new(LruCache::new(FOOTERS_KEPT)),
            parts: Mutex::new(Parts::new()),
            loads: Semaphore::new(LOADS_MAX),
            local_loads: Semaphore::new(LOCAL_LOADS_MAX),
        })
    }

    /// Bytes of batches that are kept now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts().bytes
    }

    /// What is fetched ahead counts for so much now.
    #[cfg(test)]
    pub(crate) fn ahead_bytes(&self) -> usize {
        self.parts().ahead_bytes
    }

    /// As if as many row groups were on their way from the store as may, while this is held.
    #[cfg(test)]
    pub(crate) async fn stalled(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.loads.acquire_many(u32::try_from(LOADS_MAX).unwrap()).await.unwrap()
    }

    /// As if so many row groups had been loaded that whoever has not gone on has stopped.
    #[cfg(test)]
    pub(crate) fn pass_time(&self) {
        self.parts().loads += AHEAD_LOADS_MAX + 1;
    }

    /// Room for a row group that is about to be fetched ahead; `None` where others have it all.
    pub(crate) fn ahead(self: &Arc<Self>, key: &Arc<str>, part: usize) -> Option<Ahead> {
        let at = (Arc::clone(key), part);
        let slot = self.parts().ahead(&at, self.bytes_max / 2)?;
        Some(Ahead { cache: Arc::clone(self), at, slot })
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
        let ended = |error: AcquireError| ArchiveError::Decode(error.to_string());
        let span = object.span(part);
        let disk = self.disk.as_ref().filter(|_| !span.is_empty());
        if let Some(disk) = disk {
            let _permit = self.local_loads.acquire().await.map_err(ended)?;
            if let Some(bytes) = disk.get(key, &span).await
                && let Ok(part) = decode(key, object, part, bytes).await
            {
                return Ok(part);
            }
        }
        let _permit = self.loads.acquire().await.map_err(ended)?;
        let bytes = self.store.get_range(key, span.clone()).await?;
        let decoded = decode(key, object, part, bytes.clone()).await?;
        // Only now: its checksum in the footer has held.
        if let Some(disk) = disk {
            disk.put(key, span.start, bytes);
        }
        Ok(decoded)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn decode(
    key: &Arc<str>,
    object: &Arc<ObjectReader>,
    part: usize,
    bytes: Bytes,
) -> Result<Arc<Part>, ArchiveError> {
    let object = Arc::clone(object);
    let decoded = workers::run(move || {
        let batches: Vec<Bytes> = object.replay(part, bytes)?;
        let bytes = batches.iter().map(Bytes::len).sum();
        let batches = batches.into_iter().map(Batch::validate).collect::<Result<_, _>>()?;
        Ok(Arc::new(Part { batches, bytes }))
    });
    let decoded = decoded.await.map_err(|error| ArchiveError::Decode(error.to_string()))?;
    decoded.map_err(|source| ArchiveError::Object { object: key.to_string(), source })
}

impl Slot {
    /// What it takes of the budget for fetching ahead: until it is there, what most take.
    const fn weight(&self) -> usize {
        if self.bytes == 0 { PART_BYTES } else { self.bytes }
    }
}

impl Parts {
    fn new() -> Self {
        Self { slots: LruCache::new(PARTS_KEPT), bytes: 0, ahead_bytes: 0, made: 0, loads: 0 }
    }

    fn slot(&mut self, at: &PartKey) -> &mut Slot {
        if !self.slots.contains(at) {
            self.made += 1;
            if self.slots.len() == self.slots.cap().get()
                && let Some(evicted) = self.pop()
            {
                self.evicted(&evicted);
            }
        }
        let id = self.made;
        let make = || Slot { id, cell: Cell::default(), bytes: 0, ahead: 0, ahead_since: 0 };
        self.slots.get_or_insert_mut(at.clone(), make)
    }

    fn cell(&mut self, at: &PartKey) -> Cell<Part> {
        Arc::clone(&self.slot(at).cell)
    }

    /// Takes room for a row group out of the budget for fetching ahead; its slot, if there is any.
    fn ahead(&mut self, at: &PartKey, bytes_max: usize) -> Option<u64> {
        let known = self.slots.peek(at);
        let more = match known {
            Some(slot) if slot.ahead > 0 => 0,
            Some(slot) => slot.weight(),
            None => PART_BYTES,
        };
        if self.ahead_bytes + more > bytes_max {
            self.give_up_stalled();
            if self.ahead_bytes + more > bytes_max {
                return None;
            }
        }
        let loads = self.loads;
        let slot = self.slot(at);
        slot.ahead += 1;
        slot.ahead_since = loads;
        let id = slot.id;
        self.ahead_bytes += more;
        Some(id)
    }

    /// Takes back the room of row groups that nobody has come to for long.
    fn give_up_stalled(&mut self) {
        let before = self.loads.saturating_sub(AHEAD_LOADS_MAX);
        for (_, slot) in &mut self.slots {
            if slot.ahead > 0 && slot.ahead_since < before {
                slot.ahead = 0;
                self.ahead_bytes -= slot.weight();
            }
        }
    }

    /// A reader has passed what it had fetched ahead, or needs it no more.
    fn pass(&mut self, at: &PartKey, id: u64) {
        if let Some(slot) = self.slots.peek_mut(at)
            && slot.id == id
            && slot.ahead > 0
        {
            slot.ahead -= 1;
            if slot.ahead == 0 {
                self.ahead_bytes -= slot.weight();
            }
        }
    }

    /// Counts what was loaded, once, and lets go of what is too much.
    fn weigh(&mut self, at: &PartKey, cell: &Cell<Part>, bytes: usize, bytes_max: usize) {
        if let Some(slot) = self.slots.get_mut(at)
            && slot.bytes == 0
            && Arc::ptr_eq(&slot.cell, cell)
        {
            let expected = slot.weight();
            slot.bytes = bytes;
            self.bytes += bytes;
            self.loads += 1;
            if slot.ahead > 0 {
                self.ahead_bytes = self.ahead_bytes - expected + slot.weight();
            }
        }
        while self.bytes > bytes_max {
            let Some(evicted) = self.pop() else { break };
            self.evicted(&evicted);
        }
    }

    /// The slot to evict next: the longest unused, of those that were fetched ahead only if there
    /// is no other.
    fn pop(&mut self) -> Option<Slot> {
        for _ in 0..self.slots.len() {
            let (at, slot) = self.slots.pop_lru()?;
            if slot.ahead == 0 {
                return Some(slot);
            }
            // Its turn comes again once all others had theirs.
            self.slots.push(at, slot);
        }
        self.slots.pop_lru().map(|(_, slot)| slot)
    }

    fn evicted(&mut self, slot: &Slot) {
        self.bytes -= slot.bytes;
        if slot.ahead > 0 {
            self.ahead_bytes -= slot.weight();
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
