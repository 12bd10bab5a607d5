//! The real disk: a directory of the operating system's.
//!
//! Small writes go to the page cache in the caller's thread, since to wake another thread costs
//! more than the write; large ones go to a writer thread. Syncs always go to the syncer threads.
//! No submission waits for room in a queue: one that finds it full does the work itself, so that a
//! completion may submit again, and whoever submits too much is slowed down.

mod engine;
mod names;
mod node;
mod os;
mod pool;
mod queue;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use self::engine::{Engine, WriteJob};
use super::path::{LOCK_NAME, check_dir_path, check_file_path};
use super::{Completions, DirEntry, Disk, DiskResult, FileId, OpToken, OpenMode};
use crate::lock;

/// The knobs of a [`FileDisk`].
#[derive(Clone, Debug)]
pub struct FileDiskConfig {
    /// Descriptors kept open. Those in use, and those of removed files still open, come on top.
    pub open_files_max: usize,
    /// A write of at most so many bytes is done in the caller's thread.
    pub inline_write_bytes_max: usize,
    /// Threads for larger writes, at least one.
    pub writer_threads: usize,
    /// Threads for syncs, at least one.
    ///
    /// Several, because the file system commits the metadata of concurrent syncs together. 1,000
    /// new files with 4 to 16 KiB each in preallocated room, on ext4 (`thousand_dirty_files`):
    /// 2,400 to 6,200 ms with one thread, 130 to 190 with two, 75 to 105 with four, 60 to 80 with
    /// eight, 45 to 55 with sixteen. Starting all writeback first (`sync_file_range`) is no better
    /// than eight; `syncfs` took 28, but waits for every other file's bytes too.
    pub syncer_threads: usize,
    /// Writes waiting for a thread, and sync requests waiting, at most, each.
    pub queue_ops_max: usize,
}

impl Default for FileDiskConfig {
    fn default() -> Self {
        Self {
            open_files_max: 512,
            inline_write_bytes_max: 64 * 1024,
            writer_threads: 1,
            syncer_threads: 8,
            queue_ops_max: 16 * 1024,
        }
    }
}

/// Why a [`FileDisk`] could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum FileDiskError {
    /// Another process, or another disk in this one, owns the directory.
    #[error("{root} is in use by another process")]
    Locked {
        /// The directory.
        root: PathBuf,
    },
    /// The operating system refused.
    #[error("{root}: {source}")]
    Io {
        /// The directory.
        root: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

/// What a [`FileDisk`] has done since it was opened. Values of one reading may be moments apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileDiskStats {
    /// Writes that succeeded.
    pub writes: u64,
    /// Bytes they wrote.
    pub bytes_written: u64,
    /// Sync requests; those that share a sync or find nothing to do included.
    pub sync_requests: u64,
    /// Syncs of files made, successful or not, those before closing a descriptor included.
    pub syncs: u64,
    /// Nanoseconds spent in them.
    pub sync_ns_sum: u64,
    /// Nanoseconds the longest took.
    pub sync_ns_max: u64,
    /// Descriptors kept open now.
    pub files_open: u64,
}

/// A [`Disk`] on a directory, which it locks against other processes. Dropping it finishes what was
/// submitted and syncs what is unsynced.
pub struct FileDisk {
    engine: Arc<Engine>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Closing it gives up the lock on the directory.
    _lock: File,
}

impl FileDisk {
    /// Opens the directory `root`, made if missing, and locks it.
    ///
    /// # Errors
    /// [`FileDiskError::Locked`] if another disk has it, else [`FileDiskError::Io`].
    pub fn open_root(root: &Path, config: &FileDiskConfig) -> Result<Self, FileDiskError> {
        let failed = |source| FileDiskError::Io { root: root.to_path_buf(), source };
        make_root(root).map_err(failed)?;
        let lock = lock_root(root)?;
        let engine = Arc::new(Engine::new(root.to_path_buf(), config));
        let disk = Self { engine, threads: Mutex::default(), _lock: lock };
        for n in 0..config.writer_threads.max(1) {
            disk.spawn(format!("disk-write-{n}"), Engine::run_writer).map_err(failed)?;
        }
        for n in 0..config.syncer_threads.max(1) {
            disk.spawn(format!("disk-sync-{n}"), Engine::run_syncer).map_err(failed)?;
        }
        Ok(disk)
    }

    /// Whether a sync has failed; see [`Self::fence_reason`].
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.engine.fence.reason().is_some()
    }

    /// Why the disk is fenced: which sync failed, and how. The broker must then exit.
    #[must_use]
    pub fn fence_reason(&self) -> Option<Arc<str>> {
        self.engine.fence.reason()
    }

    /// Makes the system forget what it has cached of every file, so that the next reads come from
    /// the device: after a failed sync the cache may hold what the device never got. Call it before
    /// anything is written.
    ///
    /// # Errors
    /// [`FileDiskError::Io`] where a directory or file cannot be opened.
    pub fn drop_page_cache(&self) -> Result<(), FileDiskError> {
        let root = self.engine.root.clone();
        os::drop_page_cache(&root).map_err(|source| FileDiskError::Io { root, source })
    }

    /// What the disk has done.
    #[must_use]
    pub fn stats(&self) -> FileDiskStats {
        self.engine.stats()
    }

    fn spawn(&self, name: String, run: fn(&Engine)) -> io::Result<()> {
        let engine = Arc::clone(&self.engine);
        let thread = thread::Builder::new().name(name).spawn(move || run(&engine))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Makes the next sync of a file fail, as a broken device would.
    #[cfg(test)]
    pub(super) fn fail_next_sync(&self) {
        self.engine.fail_next_sync.store(true, Ordering::Release);
    }
}

impl fmt::Debug for FileDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDisk")
            .field("root", &self.engine.root)
            .field("fenced", &self.fence_reason())
            .finish_non_exhaustive()
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        self.engine.close_queues();
        for thread in lock(&self.threads).drain(..) {
            // A completion may hold the last reference, and a thread cannot wait for itself.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!(root = %self.engine.root.display(), "a disk thread panicked");
            }
        }
        self.engine.sync_dirty_handles();
    }
}

fn make_root(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(root)?;
    match root.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => os::open_dir(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn lock_root(root: &Path) -> Result<File, FileDiskError> {
    use rustix::fs::{FlockOperation, flock};
    let failed = |source| FileDiskError::Io { root: root.to_path_buf(), source };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(root.join(LOCK_NAME))
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(FileDiskError::Locked { root: root.to_path_buf() })
        }
        Err(error) => Err(failed(error.into())),
    }
}

impl Disk for FileDisk {
    fn create_dir_all(&self, path: &Path) -> DiskResult<()> {
        check_dir_path(path)?;
        self.engine.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> DiskResult<Vec<DirEntry>> {
        check_dir_path(path)?;
        self.engine.list(path)
    }

    fn remove_file(&self, path: &Path) -> DiskResult<()> {
        check_file_path(path)?;
        self.engine.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> DiskResult<()> {
        check_file_path(path)?;
        self.engine.remove_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()> {
        check_file_path(from)?;
        check_file_path(to)?;
        self.engine.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> DiskResult<()> {
        check_dir_path(path)?;
        self.engine.sync_dir(path)
    }

    fn open(
        &self,
        path: &Path,
        mode: OpenMode,
        completions: Arc<dyn Completions>,
    ) -> DiskResult<FileId> {
        check_file_path(path)?;
        self.engine.open(path, mode, completions)
    }

    fn close(&self, file: FileId) {
        self.engine.close(file);
    }

    fn len(&self, file: FileId) -> DiskResult<u64> {
        self.engine.len(&self.engine.file(file)?.node)
    }

    fn set_len(&self, file: FileId, len: u64) -> DiskResult<()> {
        self.engine.set_len(&self.engine.file(file)?.node, len)
    }

    fn preallocate(&self, file: FileId, len: u64) -> DiskResult<()> {
        self.engine.preallocate(&self.engine.file(file)?.node, len)
    }

    fn read_at(&self, file: FileId, position: u64, len: usize) -> DiskResult<Bytes> {
        self.engine.read_at(&self.engine.file(file)?.node, position, len)
    }

    fn submit_write(
        &self,
        file: FileId,
        position: u64,
        data: &[Bytes],
        token: OpToken,
    ) -> Poll<DiskResult<()>> {
        let engine = &self.engine;
        let file = match engine.file(file) {
            Ok(file) => file,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let bytes = data.iter().map(Bytes::len).sum();
        if bytes <= engine.inline_write_bytes_max {
            return Poll::Ready(engine.write(&file.node, position, data, bytes));
        }
        engine.submit_job(WriteJob { file, position, data: data.to_vec(), bytes, token })
    }

    fn submit_sync(&self, file: FileId, token: OpToken) -> Poll<DiskResult<()>> {
        self.engine.counters.sync_requests.fetch_add(1, Ordering::Relaxed);
        match self.engine.file(file) {
            Ok(file) => self.engine.submit_sync(file, token),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests;
