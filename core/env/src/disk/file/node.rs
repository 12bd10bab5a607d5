//! One file of the disk, however many [`FileId`]s name it, and the bounded set of descriptors.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lru::LruCache;

use crate::disk::{Completions, FileId, OpToken};

/// A [`FileId`]'s file and the submitter to answer.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) id: FileId,
    pub(super) node: Arc<Node>,
    pub(super) completions: Arc<dyn Completions>,
}

/// A file. `cut <= changes` and `synced <= changes`; it is dirty while `synced < changes`.
#[derive(Debug)]
pub(super) struct Node {
    /// Unique for the life of the disk.
    pub(super) id: u64,
    pub(super) place: Mutex<Place>,
    /// Open [`FileId`]s and operations in flight.
    pub(super) holders: AtomicUsize,
    /// Held during a sync, so that no sync overlooks the failure of another.
    pub(super) sync: Mutex<()>,
    pub(super) waiters: Mutex<Waiters>,
    /// Changes of content or length made so far, counted once each is done.
    changes: AtomicU64,
    /// Of those, how many a completed sync covers.
    synced: AtomicU64,
    /// `changes` after the last cut.
    cut: AtomicU64,
    /// Whether a sync has succeeded since the file was opened. Before, what an earlier process
    /// wrote may still be in memory only.
    proven: AtomicBool,
    entry_durable: AtomicBool,
}

/// Where the file is to be found.
#[derive(Debug)]
pub(super) struct Place {
    /// Relative to the root; the last one it had if it is removed.
    pub(super) path: PathBuf,
    /// The descriptor of a removed file, which could not be opened again.
    pub(super) pinned: Option<Arc<File>>,
}

/// Sync requests that the next sync of the file answers.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    pub(super) queued: bool,
    pub(super) requests: Vec<(Arc<OpenFile>, OpToken)>,
}

impl Node {
    pub(super) fn new(id: u64, path: PathBuf) -> Self {
        Self {
            id,
            place: Mutex::new(Place { path, pinned: None }),
            holders: AtomicUsize::new(0),
            sync: Mutex::new(()),
            waiters: Mutex::default(),
            changes: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            proven: AtomicBool::new(false),
            entry_durable: AtomicBool::new(false),
        }
    }

    /// Notes a change that is done, before it is reported as done.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// As [`Self::changed`], for a change that later writes must not overtake.
    pub(super) fn changed_by_cut(&self) {
        let count = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
        self.cut.fetch_max(count, Ordering::AcqRel);
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.synced.load(Ordering::Acquire) < self.changes()
    }

    pub(super) fn has_unsynced_cut(&self) -> bool {
        self.synced.load(Ordering::Acquire) < self.cut.load(Ordering::Acquire)
    }

    /// A sync that began when `changes` was `count` has succeeded.
    pub(super) fn synced(&self, count: u64) {
        self.synced.fetch_max(count, Ordering::AcqRel);
        self.proven.store(true, Ordering::Release);
    }

    pub(super) fn entry_is_durable(&self) -> bool {
        self.entry_durable.load(Ordering::Acquire)
    }

    pub(super) fn set_entry_durable(&self) {
        self.entry_durable.store(true, Ordering::Release);
    }

    /// Whether a sync would find nothing to do.
    pub(super) fn is_durable(&self) -> bool {
        self.proven.load(Ordering::Acquire) && self.entry_is_durable() && !self.is_dirty()
    }
}

/// The open descriptors of files that can be opened again, least recently used first to go.
#[derive(Debug)]
pub(super) struct Handles {
    lru: LruCache<u64, Handle>,
    open_max: usize,
}

/// An open descriptor.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) node: Arc<Node>,
    pub(super) file: Arc<File>,
}

impl Handles {
    pub(super) fn new(open_max: usize) -> Self {
        Self { lru: LruCache::unbounded(), open_max }
    }

    pub(super) fn get(&mut self, node: &Node) -> Option<Arc<File>> {
        self.lru.get(&node.id).map(|handle| Arc::clone(&handle.file))
    }

    pub(super) fn insert(&mut self, node: &Arc<Node>, file: Arc<File>) {
        let handle = Handle { node: Arc::clone(node), file };
        self.lru.put(node.id, handle);
    }

    pub(super) fn remove(&mut self, node: &Node) -> Option<Arc<File>> {
        self.lru.pop(&node.id).map(|handle| handle.file)
    }

    pub(super) fn len(&self) -> usize {
        self.lru.len()
    }

    pub(super) fn dirty(&self) -> Vec<Handle> {
        let mut found = Vec::new();
        for (_, Handle { node, file }) in &self.lru {
            if node.is_dirty() {
                found.push(Handle { node: Arc::clone(node), file: Arc::clone(file) });
            }
        }
        found
    }

    /// Takes out the handle to close while there are too many: an old clean one if there is one
    /// among the oldest, else the oldest. One that is being used stays.
    pub(super) fn take_excess(&mut self) -> Option<Handle> {
        /// Bounds the time under the lock when most handles are dirty.
        const LOOKED_AT_MAX: usize = 64;
        if self.lru.len() <= self.open_max {
            return None;
        }
        let mut chosen = None;
        for (&id, handle) in self.lru.iter_mut().rev().take(LOOKED_AT_MAX) {
            // Uses begin under this lock only; `get_mut` also orders their effects before us, so
            // that a write just ended is seen as dirt.
            if Arc::get_mut(&mut handle.file).is_none() {
                continue;
            }
            if !handle.node.is_dirty() {
                chosen = Some(id);
                break;
            }
            chosen = chosen.or(Some(id));
        }
        self.lru.pop(&chosen?)
    }
}
