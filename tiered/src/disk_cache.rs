//! Parts of a bucket's objects in files of the broker's own disk, so that what was read once is not
//! fetched again when it has left the memory.
//!
//! Nothing depends on these files: each says what it holds and has a checksum, and one that is
//! anything but whole is dropped and fetched again. So none is ever synced, and a cache that cannot
//! write stops being one, with a warning, and fails nobody's read. A file is open only while it is
//! read or written.
//!
//! ```text
//! "MSAC"  version u32  crc32c u32  start u64  key length u32  key  the object's bytes from start
//! ```
//!
//! Numbers are little-endian; the checksum is of everything behind it.

use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use lru::LruCache;
use millstream_wire::crc32c;
use tokio::sync::Semaphore;

use crate::manifest::sha256;

const MAGIC: &[u8; 4] = b"MSAC";
const VERSION: u32 = 1;
/// The header's bytes before the key, and those before what the checksum is of.
const HEADER_BYTES: usize = 24;
const UNCHECKED_BYTES: usize = 12;
/// The longest key that is kept.
const KEY_BYTES_MAX: usize = 4096;
/// Files, whatever their size; some 100 bytes of memory each.
const FILES_MAX: NonZeroUsize = match NonZeroUsize::new(65_536) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};
/// Ranges being written at once. What comes meanwhile is not kept.
const WRITES_MAX: usize = 4;
/// What a file takes on the disk is a multiple of this.
const BLOCK_BYTES: u64 = 4096;
/// How a file is called until it is whole.
const UNFINISHED: &str = "tmp";

/// What the cache did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCacheCounters {
    /// Ranges that were read from a file.
    pub hits: u64,
    /// Ranges that no file held.
    pub misses: u64,
    /// Bytes of objects read from files.
    pub read_bytes: u64,
    /// Bytes of objects written to files.
    pub written_bytes: u64,
    /// Bytes that files take now.
    pub held_bytes: u64,
}

/// A file's name: it follows from the object's and the range.
type Name = u128;

#[derive(Debug)]
struct Index {
    /// What each file takes on the disk.
    files: LruCache<Name, u64>,
    bytes: u64,
    /// Of files that are being written; they are not in `files` yet.
    reserved: u64,
    /// Writes so far, which keeps unfinished files apart.
    writes: u64,
}

/// Files below one directory, which nobody else writes to. The longest unused go first.
#[derive(Debug)]
pub struct DiskCache {
    dir: PathBuf,
    bytes_max: u64,
    index: Mutex<Index>,
    writing: Arc<Semaphore>,
    off: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

impl DiskCache {
    /// Files of at most `bytes_max` bytes in `dir`, which is made if it is not there. What an
    /// earlier run left there counts, the oldest as the longest unused. Blocks.
    #[must_use]
    pub fn open(dir: &Path, bytes_max: u64) -> Arc<Self> {
        let files = LruCache::new(FILES_MAX);
        let cache = Self {
            dir: dir.to_owned(),
            bytes_max,
            index: Mutex::new(Index { files, bytes: 0, reserved: 0, writes: 0 }),
            writing: Arc::new(Semaphore::new(WRITES_MAX)),
            off: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
        };
        if let Err(error) = cache.take_up() {
            cache.turn_off(&error);
        }
        Arc::new(cache)
    }

    /// Removes what an earlier run left in `dir`, where no cache is wanted any more. Blocks.
    pub fn clear(dir: &Path) {
        if let Err(error) = std::fs::remove_dir_all(dir)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error,
                "what the archive's disk cache left could not be removed");
        }
    }

    /// What it did so far.
    #[must_use]
    pub fn counters(&self) -> DiskCacheCounters {
        DiskCacheCounters {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            held_bytes: self.index().bytes,
        }
    }

    /// Whether an error has turned it off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// A range of an object, if a file holds it.
    pub(crate) async fn get(self: &Arc<Self>, key: &str, range: &Range<u64>) -> Option<Bytes> {
        if self.is_off() {
            return None;
        }
        let name = name_of(key, range);
        let found = if self.index().files.get(&name).is_some() {
            let (this, key, range) = (Arc::clone(self), key.to_owned(), range.clone());
            let read = tokio::task::spawn_blocking(move || this.read(name, &key, &range));
            read.await.ok().flatten()
        } else {
            None
        };
        match &found {
            Some(bytes) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            None => {
                self.misses.fetch_add(1, Ordering::Relaxed);
            }
        }
        found
    }

    /// Keeps a range of an object, once a thread comes to it. Nobody waits for that, and while as
    /// many wait as may it is not kept.
    pub(crate) fn put(self: &Arc<Self>, key: &str, start: u64, bytes: Bytes) {
        if self.is_off() || key.len() > KEY_BYTES_MAX {
            return;
        }
        let Ok(permit) = Arc::clone(&self.writing).try_acquire_owned() else { return };
        let (this, key) = (Arc::clone(self), key.to_owned());
        // Not awaited: it ends by itself, and says what it has to say.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = this.write(&key, start, &bytes) {
                this.turn_off(&error);
            }
            drop(permit);
        }));
    }

    /// Waits until nothing is being written.
    #[cfg(test)]
    pub(crate) async fn written(&self) {
        let all = u32::try_from(WRITES_MAX).unwrap();
        drop(self.writing.acquire_many(all).await.unwrap());
    }

    fn read(&self, name: Name, key: &str, range: &Range<u64>) -> Option<Bytes> {
        let expected = (HEADER_BYTES + key.len()) as u64 + (range.end - range.start);
        let path = self.path(name);
        // A file of another length is not ours, and may be of any.
        let length = std::fs::metadata(&path).map(|found| found.len());
        let read = length.and_then(|length| {
            if length == expected { std::fs::read(&path).map(Some) } else { Ok(None) }
        });
        match read {
            Ok(Some(file)) => {
                if let Some(bytes) = payload(&file, key, range.start) {
                    return Some(Bytes::from(file).slice(bytes));
                }
            }
            Ok(None) => {}
            // It was evicted meanwhile, or somebody tidied up.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                self.turn_off(&error);
                return None;
            }
        }
        self.forget(name);
        let _gone = std::fs::remove_file(&path);
        None
    }

    fn write(&self, key: &str, start: u64, bytes: &Bytes) -> std::io::Result<()> {
        let name = name_of(key, &(start..start + bytes.len() as u64));
        let takes = on_disk((HEADER_BYTES + key.len() + bytes.len()) as u64);
        let Some((evicted, number)) = self.reserve(name, takes) else { return Ok(()) };
        let unfinished = self.dir.join(format!("{number}.{UNFINISHED}"));
        let written = self.remove(&evicted).and_then(|()| {
            std::fs::write(&unfinished, file_of(key, start, bytes))?;
            std::fs::rename(&unfinished, self.path(name))
        });
        let mut index = self.index();
        index.reserved -= takes;
        if let Err(error) = written {
            drop(index);
            let _gone = std::fs::remove_file(&unfinished);
            return Err(error);
        }
        // Another may have written the same meanwhile; it is one file all the same.
        let before = index.files.put(name, takes);
        index.bytes = index.bytes + takes - before.unwrap_or(0);
        drop(index);
        self.written_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Makes room for a file: which ones are to go, and this write's number. `None` if it is there
    /// or there is no room.
    fn reserve(&self, name: Name, takes: u64) -> Option<(Vec<Name>, u64)> {
        let mut index = self.index();
        if index.files.contains(&name) || index.reserved + takes > self.bytes_max {
            return None;
        }
        let mut evicted = Vec::new();
        while index.bytes + index.reserved + takes > self.bytes_max
            || index.files.len() + WRITES_MAX >= FILES_MAX.get()
        {
            let (oldest, bytes) = index.files.pop_lru()?;
            index.bytes -= bytes;
            evicted.push(oldest);
        }
        index.reserved += takes;
        index.writes += 1;
        Some((evicted, index.writes))
    }

    fn forget(&self, name: Name) {
        let mut index = self.index();
        if let Some(bytes) = index.files.pop(&name) {
            index.bytes -= bytes;
        }
    }

    fn remove(&self, names: &[Name]) -> std::io::Result<()> {
        for name in names {
            match std::fs::remove_file(self.path(*name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Learns of the files that an earlier run left, and removes what is none of them or too much.
    fn take_up(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().filter(|name| name.len() == 32);
            let name = name.and_then(|name| Name::from_str_radix(name, 16).ok());
            let (Some(name), true) = (name, found.len() < FILES_MAX.get() - WRITES_MAX) else {
                // A write that a crash cut off, or nothing of ours.
                std::fs::remove_file(entry.path())?;
                continue;
            };
            let told = entry.metadata()?;
            let age = told.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            found.push((age, name, on_disk(told.len())));
        }
        found.sort_unstable();
        let mut index = self.index();
        let mut evicted = Vec::new();
        for (_, name, bytes) in found {
            index.files.put(name, bytes);
            index.bytes += bytes;
        }
        while index.bytes > self.bytes_max {
            let Some((oldest, bytes)) = index.files.pop_lru() else { break };
            index.bytes -= bytes;
            evicted.push(oldest);
        }
        drop(index);
        self.remove(&evicted)
    }

    /// Stops being a cache, and gives back what it can of a disk that may be full.
    fn turn_off(&self, error: &std::io::Error) {
        if self.off.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(dir = %self.dir.display(), %error,
            "the archive's disk cache is off until the next start");
        let mut index = self.index();
        index.bytes = 0;
        let names: Vec<Name> = index.files.iter().map(|(name, _)| *name).collect();
        index.files.clear();
        drop(index);
        for name in names {
            let _gone = std::fs::remove_file(self.path(name));
        }
    }

    fn path(&self, name: Name) -> PathBuf {
        self.dir.join(format!("{name:032x}"))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name_of(key: &str, range: &Range<u64>) -> Name {
    let named = format!("{key}\n{}\n{}", range.start, range.end);
    let digest = sha256(named.as_bytes());
    // Half of its digits; all of them are hexadecimal.
    digest.get(..32).and_then(|half| Name::from_str_radix(half, 16).ok()).unwrap_or_default()
}

const fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

fn file_of(key: &str, start: u64, bytes: &Bytes) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEADER_BYTES + key.len() + bytes.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&start.to_le_bytes());
    // Longer ones are not kept.
    file.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
    file.extend_from_slice(key.as_bytes());
    file.extend_from_slice(bytes);
    let crc = crc32c(&file[UNCHECKED_BYTES..]);
    file[8..UNCHECKED_BYTES].copy_from_slice(&crc.to_le_bytes());
    file
}

/// Where in a file the object's bytes are, if it holds what it should.
fn payload(file: &[u8], key: &str, start: u64) -> Option<Range<usize>> {
    let number = |at: Range<usize>| file.get(at)?.try_into().ok().map(u32::from_le_bytes);
    let starts = file.get(12..20)?.try_into().ok().map(u64::from_le_bytes)?;
    let key_bytes = usize::try_from(number(20..HEADER_BYTES)?).ok()?;
    let behind = HEADER_BYTES.checked_add(key_bytes)?;
    let is_ours = file.get(..4)? == MAGIC
        && number(4..8)? == VERSION
        && number(8..UNCHECKED_BYTES)? == crc32c(file.get(UNCHECKED_BYTES..)?)
        && starts == start
        && file.get(HEADER_BYTES..behind)? == key.as_bytes();
    is_ours.then_some(behind..file.len())
}

#[cfg(test)]
mod tests;
