//! Writes and syncs: what the callers' threads and the disk's own share.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;

use super::node::{Handle, Handles, Node, OpenFile};
use super::pool::ReadPool;
use super::queue::WorkQueue;
use super::{FileDiskConfig, FileDiskStats, os};
use crate::disk::path::{io_error, not_open, parent};
use crate::disk::{DiskError, DiskResult, FileId, OpToken};
use crate::{lock, read_lock};

/// The state of a [`super::FileDisk`]. Locks nest in the order: names, a node's place, handles; a
/// node's sync lock is taken with none of them held. Completions run with no lock held.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) root: PathBuf,
    pub(super) inline_write_bytes_max: usize,
    queue_ops_max: usize,
    pub(super) fence: Fence,
    pub(super) counters: Counters,
    pub(super) ids: AtomicU64,
    pub(super) files: RwLock<BTreeMap<FileId, Arc<OpenFile>>>,
    pub(super) names: Mutex<BTreeMap<PathBuf, Arc<Node>>>,
    pub(super) handles: Mutex<Handles>,
    reads: Arc<ReadPool>,
    writes: WorkQueue<WriteJob>,
    syncs: WorkQueue<Arc<Node>>,
    /// Sync requests waiting.
    sync_ops: AtomicUsize,
    #[cfg(test)]
    pub(super) fail_next_sync: AtomicBool,
}

/// A write that is too large for the caller's thread.
#[derive(Debug)]
pub(super) struct WriteJob {
    pub(super) file: Arc<OpenFile>,
    pub(super) position: u64,
    pub(super) data: Vec<Bytes>,
    pub(super) bytes: usize,
    pub(super) token: OpToken,
}

/// Closes for ever at the first failed sync.
#[derive(Debug, Default)]
pub(super) struct Fence {
    reason: OnceLock<Arc<str>>,
}

/// See [`FileDiskStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    writes: AtomicU64,
    bytes_written: AtomicU64,
    pub(super) sync_requests: AtomicU64,
    syncs: AtomicU64,
    sync_ns_sum: AtomicU64,
    sync_ns_max: AtomicU64,
}

impl Fence {
    pub(super) fn reason(&self) -> Option<Arc<str>> {
        self.reason.get().cloned()
    }

    pub(super) fn check(&self) -> DiskResult<()> {
        match self.reason.get() {
            None => Ok(()),
            Some(reason) => Err(DiskError::Fenced(Arc::clone(reason))),
        }
    }

    /// Closes the fence because the sync of `path` failed. The first reason stays.
    pub(super) fn latch(&self, path: &Path, error: &io::Error) -> DiskError {
        let reason = self.reason.get_or_init(|| {
            tracing::error!(path = %path.display(), %error, "sync failed: the disk is fenced");
            format!("sync of {}: {error}", path.display()).into()
        });
        DiskError::Fenced(Arc::clone(reason))
    }
}

impl Engine {
    pub(super) fn new(root: PathBuf, config: &FileDiskConfig) -> Self {
        Self {
            root,
            inline_write_bytes_max: config.inline_write_bytes_max,
            queue_ops_max: config.queue_ops_max,
            fence: Fence::default(),
            reads: Arc::default(),
            counters: Counters::default(),
            ids: AtomicU64::new(1),
            files: RwLock::default(),
            names: Mutex::default(),
            handles: Mutex::new(Handles::new(config.open_files_max)),
            writes: WorkQueue::new(config.queue_ops_max),
            syncs: WorkQueue::new(config.queue_ops_max),
            sync_ops: AtomicUsize::new(0),
            #[cfg(test)]
            fail_next_sync: AtomicBool::new(false),
        }
    }

    pub(super) fn stats(&self) -> FileDiskStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        FileDiskStats {
            writes: of(&counters.writes),
            bytes_written: of(&counters.bytes_written),
            sync_requests: of(&counters.sync_requests),
            syncs: of(&counters.syncs),
            sync_ns_sum: of(&counters.sync_ns_sum),
            sync_ns_max: of(&counters.sync_ns_max),
            files_open: lock(&self.handles).len() as u64,
        }
    }

    pub(super) fn file(&self, id: FileId) -> DiskResult<Arc<OpenFile>> {
        read_lock(&self.files).get(&id).cloned().ok_or_else(|| not_open(id))
    }

    /// The file's descriptor, opened if it is not; older ones may be closed for it.
    pub(super) fn handle(&self, node: &Arc<Node>) -> DiskResult<Arc<File>> {
        if let Some(file) = lock(&self.handles).get(node) {
            return Ok(file);
        }
        let place = lock(&node.place);
        if let Some(file) = &place.pinned {
            return Ok(Arc::clone(file));
        }
        if let Some(file) = lock(&self.handles).get(node) {
            return Ok(file);
        }
        let opened = os::open_file(&self.root.join(&place.path), false);
        let file = Arc::new(opened.map_err(|error| io_error(&place.path, error))?);
        lock(&self.handles).insert(node, Arc::clone(&file));
        drop(place);
        self.close_excess_handles();
        Ok(file)
    }

    /// Closes descriptors until no more than allowed are open, after syncing what is unsynced.
    pub(super) fn close_excess_handles(&self) {
        loop {
            let Some(Handle { node, file }) = lock(&self.handles).take_excess() else { return };
            self.sync_before_close(&node, &file);
        }
    }

    /// A failure fences the disk, by which all who depend on the bytes learn of it.
    fn sync_before_close(&self, node: &Node, file: &File) {
        if node.is_dirty() && self.fence.check().is_ok() {
            drop(self.sync_handle(node, file));
        }
    }

    /// Syncs before the disk goes away, as before closing any descriptor.
    pub(super) fn sync_dirty_handles(&self) {
        let dirty = lock(&self.handles).dirty();
        for Handle { node, file } in dirty {
            self.sync_before_close(&node, &file);
        }
    }

    pub(super) fn write(
        &self,
        node: &Arc<Node>,
        position: u64,
        data: &[Bytes],
        bytes: usize,
    ) -> DiskResult<()> {
        self.fence.check()?;
        let file = self.handle(node)?;
        if node.has_unsynced_cut() {
            self.sync_handle(node, &file)?;
        }
        let result = os::write_all_at(&file, position, data);
        // A failed write may have written a part.
        node.changed();
        result.map_err(|error| self.error_of(node, error))?;
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn set_len(&self, node: &Arc<Node>, len: u64) -> DiskResult<()> {
        self.fence.check()?;
        let file = self.handle(node)?;
        if node.has_unsynced_cut() {
            self.sync_handle(node, &file)?;
        }
        let result = file.metadata().and_then(|old| {
            file.set_len(len)?;
            Ok(len < old.len())
        });
        match result {
            Ok(true) => node.changed_by_cut(),
            Ok(false) | Err(_) => node.changed(),
        }
        result.map(drop).map_err(|error| self.error_of(node, error))
    }

    pub(super) fn preallocate(&self, node: &Arc<Node>, len: u64) -> DiskResult<()> {
        self.fence.check()?;
        let file = self.handle(node)?;
        if node.has_unsynced_cut() {
            self.sync_handle(node, &file)?;
        }
        let result = os::preallocate(&file, len);
        node.changed();
        result.map_err(|error| self.error_of(node, error))
    }

    pub(super) fn len(&self, node: &Arc<Node>) -> DiskResult<u64> {
        let metadata = self.handle(node)?.metadata();
        Ok(metadata.map_err(|error| self.error_of(node, error))?.len())
    }

    pub(super) fn read_at(&self, node: &Arc<Node>, at: u64, len: usize) -> DiskResult<Bytes> {
        let read = os::read_at(&*self.handle(node)?, at, len, &self.reads);
        Ok(self.reads.share(read.map_err(|error| self.error_of(node, error))?))
    }

    fn error_of(&self, node: &Node, error: io::Error) -> DiskError {
        io_error(&lock(&node.place).path, error)
    }

    /// Hands a large write to a writer thread, or does it here if none has room.
    pub(super) fn submit_job(&self, job: WriteJob) -> Poll<DiskResult<()>> {
        retain(&job.file.node);
        match self.writes.push(job) {
            Ok(()) => Poll::Pending,
            Err(job) => {
                let result = self.write(&job.file.node, job.position, &job.data, job.bytes);
                self.release(&job.file.node);
                Poll::Ready(result)
            }
        }
    }

    /// Joins the file's waiting sync, queues one, or syncs here if the queue has no room.
    pub(super) fn submit_sync(&self, file: Arc<OpenFile>, token: OpToken) -> Poll<DiskResult<()>> {
        let node = Arc::clone(&file.node);
        if let Err(error) = self.fence.check() {
            return Poll::Ready(Err(error));
        }
        if node.is_durable() {
            return Poll::Ready(Ok(()));
        }
        if self.join_sync(file, token) { Poll::Pending } else { Poll::Ready(self.sync_node(&node)) }
    }

    fn join_sync(&self, file: Arc<OpenFile>, token: OpToken) -> bool {
        if self.sync_ops.fetch_add(1, Ordering::AcqRel) >= self.queue_ops_max {
            self.sync_ops.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        let node = Arc::clone(&file.node);
        let mut waiters = lock(&node.waiters);
        if !waiters.queued {
            retain(&node);
            if self.syncs.push(Arc::clone(&node)).is_err() {
                drop(waiters);
                self.sync_ops.fetch_sub(1, Ordering::AcqRel);
                self.release(&node);
                return false;
            }
            waiters.queued = true;
        }
        waiters.requests.push((file, token));
        true
    }

    fn sync_node(&self, node: &Arc<Node>) -> DiskResult<()> {
        let file = self.handle(node)?;
        self.sync_handle(node, &file)
    }

    /// Makes the file durable through `file`, with its directory entry the first time.
    fn sync_handle(&self, node: &Node, file: &File) -> DiskResult<()> {
        let _one_at_a_time = lock(&node.sync);
        self.fence.check()?;
        if node.is_durable() {
            return Ok(());
        }
        let count = node.changes();
        if let Err(error) = self.timed_sync(file) {
            let path = lock(&node.place).path.clone();
            return Err(self.fence.latch(&path, &error));
        }
        node.synced(count);
        if node.entry_is_durable() {
            return Ok(());
        }
        let place = lock(&node.place);
        let dir = parent(&place.path).to_path_buf();
        let removed = place.pinned.is_some();
        drop(place);
        if !removed {
            match self.sync_dir(&dir) {
                // The file was removed meanwhile, with its directory.
                Err(DiskError::NotFound(_)) => {}
                result => result?,
            }
        }
        node.set_entry_durable();
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "measures a real device; decides nothing")]
    fn timed_sync(&self, file: &File) -> io::Result<()> {
        let start = Instant::now();
        #[cfg(test)]
        if self.fail_next_sync.swap(false, Ordering::AcqRel) {
            return Err(io::Error::other("injected"));
        }
        let result = file.sync_data();
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.counters.sync_ns_sum.fetch_add(took, Ordering::Relaxed);
        self.counters.sync_ns_max.fetch_max(took, Ordering::Relaxed);
        result
    }

    /// A holder of the file is done with it; the last one to be closes its descriptor.
    pub(super) fn release(&self, node: &Arc<Node>) {
        if node.holders.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        loop {
            // What a removed file holds is lost anyway.
            let removed = lock(&node.place).pinned.is_some();
            let mut can_sync = !removed && self.fence.check().is_ok();
            if can_sync && node.is_dirty() {
                match self.handle(node) {
                    Ok(file) => self.sync_before_close(node, &file),
                    Err(_) => can_sync = false,
                }
            }
            let mut names = lock(&self.names);
            if node.holders.load(Ordering::Acquire) != 0 {
                return;
            }
            let place = lock(&node.place);
            if can_sync && node.is_dirty() && place.pinned.is_none() {
                continue;
            }
            if names.get(&place.path).is_some_and(|named| Arc::ptr_eq(named, node)) {
                names.remove(&place.path);
            }
            lock(&self.handles).remove(node);
            return;
        }
    }

    pub(super) fn close_queues(&self) {
        self.writes.close();
        self.syncs.close();
    }

    /// A writer thread's life.
    pub(super) fn run_writer(&self) {
        while let Some(job) = self.writes.pop() {
            let WriteJob { file, position, data, bytes, token } = job;
            let result = self.write(&file.node, position, &data, bytes);
            // The caller may want the memory back before it hears of the result.
            drop(data);
            file.completions.complete(file.id, token, result);
            self.release(&file.node);
        }
    }

    /// A syncer thread's life.
    pub(super) fn run_syncer(&self) {
        let mut requests = Vec::new();
        while let Some(node) = self.syncs.pop() {
            let mut waiters = lock(&node.waiters);
            waiters.queued = false;
            std::mem::swap(&mut waiters.requests, &mut requests);
            drop(waiters);
            self.sync_ops.fetch_sub(requests.len(), Ordering::AcqRel);
            let result = self.sync_node(&node);
            for (file, token) in requests.drain(..) {
                file.completions.complete(file.id, token, result.clone());
            }
            self.release(&node);
        }
    }
}

/// Keeps the file known while an operation is in flight; undone by [`Engine::release`].
pub(super) fn retain(node: &Node) {
    node.holders.fetch_add(1, Ordering::AcqRel);
}
