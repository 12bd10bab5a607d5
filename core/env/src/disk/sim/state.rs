//! The simulated machine: names, files, operations in flight, and the power.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::inode::{FILE_BYTES_MAX, Inode};
use super::{FaultPlan, SimDiskConfig};
use crate::disk::path::{not_open, other, parent};
use crate::disk::{Completions, DirEntry, DiskError, DiskResult, FileId, OpToken, OpenMode};
use crate::rng::Rng;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Dir,
    File(u64),
}

#[derive(Debug)]
struct OpenFile {
    inode: u64,
    completions: Arc<dyn Completions>,
}

/// A submitted operation.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) file: FileId,
    pub(super) token: OpToken,
    pub(super) completions: Arc<dyn Completions>,
    inode: u64,
    kind: OpKind,
}

#[derive(Debug)]
enum OpKind {
    Write {
        position: u64,
        data: Bytes,
    },
    /// Covers the first so many changes of the file, at least.
    Sync {
        count: u64,
    },
}

/// The state of a [`super::SimDisk`].
#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: Rng,
    ready_per_cent: u8,
    pub(super) faults: FaultPlan,
    crashed: bool,
    pub(super) fence: Option<Arc<str>>,
    inodes: BTreeMap<u64, Inode>,
    /// Names as a running process sees them, and as a power cut would surely leave them.
    names: BTreeMap<PathBuf, Entry>,
    durable_names: BTreeMap<PathBuf, Entry>,
    files: BTreeMap<FileId, OpenFile>,
    pub(super) queue: Vec<Op>,
    last_id: u64,
    /// Changes and syncs done, of files and names.
    pub(super) ops: u64,
    pub(super) syncs: u64,
}

impl State {
    pub(super) fn new(seed: u64, config: SimDiskConfig) -> Self {
        Self {
            rng: Rng::new(seed),
            ready_per_cent: config.ready_per_cent,
            faults: config.faults,
            crashed: false,
            fence: None,
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            files: BTreeMap::new(),
            queue: Vec::new(),
            last_id: 0,
            ops: 0,
            syncs: 0,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.crashed && self.faults.power_cut_after.is_none_or(|last| self.ops < last)
    }

    pub(super) fn check_power(&self, path: &Path) -> DiskResult<()> {
        if self.is_on() { Ok(()) } else { Err(power_off(path)) }
    }

    fn check_fence(&self) -> DiskResult<()> {
        match &self.fence {
            None => Ok(()),
            Some(reason) => Err(DiskError::Fenced(Arc::clone(reason))),
        }
    }

    /// Does a change at once. If the power is cut right after, the caller may or may not hear.
    pub(super) fn change<T>(
        &mut self,
        path: &Path,
        act: impl FnOnce(&mut Self) -> DiskResult<T>,
    ) -> DiskResult<T> {
        self.check_power(path)?;
        self.check_fence()?;
        let result = act(self);
        self.ops += 1;
        if self.is_on() || self.rng.chance(50) { result } else { Err(power_off(path)) }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    // Names.

    fn check_dir(&self, dir: &Path) -> DiskResult<()> {
        if dir.as_os_str().is_empty() {
            return Ok(());
        }
        match self.names.get(dir) {
            Some(Entry::Dir) => Ok(()),
            Some(Entry::File(_)) => Err(other(dir, ErrorKind::NotADirectory, "not a directory")),
            None => Err(DiskError::NotFound(dir.to_path_buf())),
        }
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> DiskResult<()> {
        let mut dir = PathBuf::new();
        for part in path {
            dir.push(part);
            if !self.names.contains_key(&dir) {
                self.names.insert(dir.clone(), Entry::Dir);
                // A directory of that name that is gone takes its files along for good.
                for old in below(&self.durable_names, &dir) {
                    self.durable_names.remove(&old);
                }
            }
            self.check_dir(&dir)?;
            self.durable_names.insert(dir.clone(), Entry::Dir);
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> DiskResult<Vec<DirEntry>> {
        self.check_dir(path)?;
        let mut entries = Vec::new();
        for name in below(&self.names, path) {
            if name != path && parent(&name) == path {
                let is_dir = self.names.get(&name) == Some(&Entry::Dir);
                let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
                entries.push(DirEntry { name, is_dir });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    /// The file that `path` names.
    fn file_at(&self, path: &Path) -> DiskResult<u64> {
        match self.names.get(path) {
            Some(&Entry::File(inode)) => Ok(inode),
            Some(Entry::Dir) => Err(other(path, ErrorKind::IsADirectory, "a directory")),
            None => Err(DiskError::NotFound(path.to_path_buf())),
        }
    }

    fn unlink(&mut self, path: &Path) {
        if let Some(Entry::File(inode)) = self.names.remove(path)
            && let Some(inode) = self.inodes.get_mut(&inode)
        {
            inode.path = None;
        }
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> DiskResult<()> {
        self.file_at(path)?;
        self.unlink(path);
        self.drop_unused();
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> DiskResult<()> {
        match self.check_dir(path) {
            Err(DiskError::NotFound(_)) => return Ok(()),
            result => result?,
        }
        for name in below(&self.names, path) {
            self.unlink(&name);
        }
        self.drop_unused();
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> DiskResult<()> {
        let inode = self.file_at(from)?;
        if from == to {
            return Ok(());
        }
        match self.check_dir(parent(to)) {
            Err(DiskError::NotFound(_)) => return Err(DiskError::NotFound(from.to_path_buf())),
            result => result?,
        }
        if self.names.get(to) == Some(&Entry::Dir) {
            return Err(other(from, ErrorKind::IsADirectory, "the new name is a directory"));
        }
        self.unlink(from);
        self.unlink(to);
        self.names.insert(to.to_path_buf(), Entry::File(inode));
        self.durable_names.remove(from);
        self.durable_names.insert(to.to_path_buf(), Entry::File(inode));
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.path = Some(to.to_path_buf());
        }
        self.drop_unused();
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> DiskResult<()> {
        self.check_dir(path)?;
        self.count_sync(path)?;
        for name in below(&self.durable_names, path) {
            if name == path {
                continue;
            }
            // Below a directory whose removal is now durable, nothing is left.
            let child = name.ancestors().find(|&above| parent(above) == path);
            if child.is_some_and(|child| !self.names.contains_key(child)) {
                self.durable_names.remove(&name);
            }
        }
        for name in below(&self.names, path) {
            if name != path
                && parent(&name) == path
                && let Some(&entry) = self.names.get(&name)
            {
                self.durable_names.insert(name, entry);
            }
        }
        self.drop_unused();
        Ok(())
    }

    // Files.

    pub(super) fn create(&mut self, path: &Path) -> DiskResult<()> {
        if self.names.contains_key(path) {
            return Err(DiskError::Exists(path.to_path_buf()));
        }
        match self.check_dir(parent(path)) {
            Err(DiskError::NotFound(_)) => return Err(DiskError::NotFound(path.to_path_buf())),
            result => result?,
        }
        let id = self.next_id();
        self.inodes.insert(id, Inode::new(path.to_path_buf()));
        self.names.insert(path.to_path_buf(), Entry::File(id));
        Ok(())
    }

    pub(super) fn open(
        &mut self,
        path: &Path,
        mode: OpenMode,
        completions: Arc<dyn Completions>,
    ) -> DiskResult<FileId> {
        match mode {
            OpenMode::CreateNew => self.change(path, |state| state.create(path))?,
            OpenMode::Existing => self.check_power(path)?,
        }
        let inode = self.file_at(path)?;
        let id = FileId(self.next_id());
        self.files.insert(id, OpenFile { inode, completions });
        Ok(id)
    }

    pub(super) fn close(&mut self, file: FileId) {
        let named = self.inode(file).is_ok_and(|inode| inode.path.is_some());
        self.files.remove(&file);
        if !named {
            self.drop_unused();
        }
    }

    pub(super) fn inode(&self, file: FileId) -> DiskResult<&Inode> {
        let open = self.files.get(&file).ok_or_else(|| not_open(file))?;
        self.inodes.get(&open.inode).ok_or_else(|| not_open(file))
    }

    fn inode_mut(&mut self, file: FileId) -> DiskResult<&mut Inode> {
        let open = self.files.get(&file).ok_or_else(|| not_open(file))?;
        self.inodes.get_mut(&open.inode).ok_or_else(|| not_open(file))
    }

    pub(super) fn set_len(&mut self, file: FileId, len: u64) -> DiskResult<()> {
        check_size(len)?;
        self.inode_mut(file)?.set_len(len);
        Ok(())
    }

    pub(super) fn preallocate(&mut self, file: FileId, len: u64) -> DiskResult<()> {
        check_size(len)?;
        let taken = self.inode(file)?.allocated;
        self.check_space(taken, len)?;
        self.inode_mut(file)?.preallocate(len);
        Ok(())
    }

    /// Whether there is room to let a file grow on the device from `taken` to `wanted` bytes.
    fn check_space(&self, taken: u64, wanted: u64) -> DiskResult<()> {
        let Some(space_bytes_max) = self.faults.space_bytes_max else { return Ok(()) };
        let more = wanted.saturating_sub(taken);
        if more == 0 {
            return Ok(());
        }
        let open: BTreeSet<u64> = self.files.values().map(|file| file.inode).collect();
        let mut used = 0u64;
        for (id, inode) in &self.inodes {
            if inode.path.is_some() || open.contains(id) {
                used = used.saturating_add(inode.allocated);
            }
        }
        if used.saturating_add(more) > space_bytes_max {
            return Err(DiskError::NoSpace);
        }
        Ok(())
    }

    // Operations in flight.

    pub(super) fn new_write(
        &self,
        file: FileId,
        position: u64,
        data: &[Bytes],
        token: OpToken,
    ) -> DiskResult<Op> {
        let mut joined = BytesMut::new();
        for piece in data {
            joined.extend_from_slice(piece);
        }
        check_size(position.saturating_add(joined.len() as u64))?;
        self.new_op(file, token, OpKind::Write { position, data: joined.freeze() })
    }

    pub(super) fn new_sync(&self, file: FileId, token: OpToken) -> DiskResult<Op> {
        let count = self.inode(file)?.change_count;
        self.new_op(file, token, OpKind::Sync { count })
    }

    fn new_op(&self, file: FileId, token: OpToken, kind: OpKind) -> DiskResult<Op> {
        self.check_fence()?;
        let open = self.files.get(&file).ok_or_else(|| not_open(file))?;
        let completions = Arc::clone(&open.completions);
        Ok(Op { file, token, completions, inode: open.inode, kind })
    }

    /// Whether the seed says that this operation ends at once.
    pub(super) fn draw_ready(&mut self) -> bool {
        self.rng.chance(self.ready_per_cent)
    }

    /// Takes one of the waiting operations, whichever the seed says.
    pub(super) fn draw_op(&mut self) -> Option<Op> {
        if self.queue.is_empty() {
            return None;
        }
        let chosen = self.rng.index(self.queue.len());
        Some(self.queue.remove(chosen))
    }

    /// Does an operation; `None` if the power was cut before its submitter could hear of it.
    pub(super) fn perform(&mut self, op: &Op) -> Option<DiskResult<()>> {
        if !self.is_on() {
            return None;
        }
        let result = self.check_fence().and_then(|()| self.apply(op));
        self.ops += 1;
        (self.is_on() || self.rng.chance(50)).then_some(result)
    }

    fn apply(&mut self, op: &Op) -> DiskResult<()> {
        let inode = self.inodes.get(&op.inode).ok_or_else(|| not_open(op.file))?;
        match &op.kind {
            OpKind::Write { position, data } => {
                if !data.is_empty() {
                    let end = position.saturating_add(data.len() as u64);
                    self.check_space(inode.allocated, end)?;
                }
            }
            OpKind::Sync { .. } => {
                let path = inode.path.clone().unwrap_or_default();
                self.count_sync(&path)?;
            }
        }
        let covers_all = self.rng.chance(50);
        let inode = self.inodes.get_mut(&op.inode).ok_or_else(|| not_open(op.file))?;
        match &op.kind {
            OpKind::Write { position, data } => inode.write(*position, data.clone()),
            OpKind::Sync { count } => {
                inode.sync(if covers_all { inode.change_count } else { *count });
                if let Some(path) = inode.path.clone() {
                    self.durable_names.insert(path, Entry::File(op.inode));
                }
            }
        }
        Ok(())
    }

    fn count_sync(&mut self, path: &Path) -> DiskResult<()> {
        self.syncs += 1;
        if self.faults.fail_sync == Some(self.syncs) {
            let reason = format!("sync {} ({}): as planned", self.syncs, path.display());
            self.fence = Some(reason.into());
        }
        self.check_fence()
    }

    // The end of a life, and the next.

    /// Some of the operations in flight have happened, though nobody was told.
    fn settle_queue(&mut self) {
        while let Some(op) = self.draw_op() {
            if self.rng.chance(50) {
                drop(self.check_fence().and_then(|()| self.apply(&op)));
            }
        }
        self.files.clear();
    }

    pub(super) fn crash(&mut self) {
        self.settle_queue();
        self.crashed = true;
        for inode in self.inodes.values_mut() {
            inode.crash(&mut self.rng);
        }
        let mut all: Vec<PathBuf> = self.names.keys().cloned().collect();
        all.extend(self.durable_names.keys().cloned());
        all.sort_unstable();
        all.dedup();
        let mut left = BTreeMap::new();
        for name in all {
            let (new, old) = (self.names.get(&name), self.durable_names.get(&name));
            let entry = if new == old || self.rng.chance(50) { new } else { old };
            let Some(&entry) = entry else { continue };
            let above: Vec<&Path> = name.ancestors().skip(1).collect();
            // A file took the place of the directory that this one was in.
            if above.iter().any(|dir| matches!(left.get(*dir), Some(Entry::File(_)))) {
                continue;
            }
            for dir in above.into_iter().filter(|dir| !dir.as_os_str().is_empty()) {
                left.insert(dir.to_path_buf(), Entry::Dir);
            }
            left.insert(name, entry);
        }
        self.durable_names.clone_from(&left);
        self.names = left;
        for inode in self.inodes.values_mut() {
            inode.path = None;
        }
        for (name, entry) in &self.names {
            if let Entry::File(inode) = entry
                && let Some(inode) = self.inodes.get_mut(inode)
            {
                inode.path = Some(name.clone());
            }
        }
        self.drop_unused();
    }

    pub(super) fn restart(&mut self) {
        self.settle_queue();
        self.crashed = false;
        self.fence = None;
        self.faults.fail_sync = None;
        self.faults.power_cut_after = None;
        for flip in std::mem::take(&mut self.faults.flips) {
            if let Ok(inode) = self.file_at(&flip.path)
                && let Some(inode) = self.inodes.get_mut(&inode)
            {
                inode.flip(flip.position, flip.bit);
            }
        }
        for _ in 0..std::mem::take(&mut self.faults.rot_bits) {
            self.rot_one_bit();
        }
        self.drop_unused();
    }

    /// Flips a bit of the device, each as likely as the next.
    fn rot_one_bit(&mut self) {
        let total: usize = self.inodes.values().map(Inode::durable_bytes).sum();
        let mut at = self.rng.index(total);
        let bit = u8::try_from(self.rng.below(8)).unwrap_or_default();
        for inode in self.inodes.values_mut() {
            if at < inode.durable_bytes() {
                inode.flip(at as u64, bit);
                return;
            }
            at -= inode.durable_bytes();
        }
    }

    /// Forgets files that have no name, not even one that may come back, and are not open.
    fn drop_unused(&mut self) {
        let mut used = BTreeSet::new();
        used.extend(self.files.values().map(|file| file.inode));
        used.extend(self.queue.iter().map(|op| op.inode));
        for entry in self.names.values().chain(self.durable_names.values()) {
            if let Entry::File(inode) = entry {
                used.insert(*inode);
            }
        }
        self.inodes.retain(|id, _| used.contains(id));
    }
}

/// `path` and all names below it.
fn below(names: &BTreeMap<PathBuf, Entry>, path: &Path) -> Vec<PathBuf> {
    let from = (Bound::Included(path.to_path_buf()), Bound::Unbounded);
    let found = names.range(from).take_while(|(name, _)| name.starts_with(path));
    found.map(|(name, _)| name.clone()).collect()
}

fn check_size(len: u64) -> DiskResult<()> {
    if len <= FILE_BYTES_MAX {
        return Ok(());
    }
    Err(other(Path::new(""), ErrorKind::FileTooLarge, "beyond what a simulated file holds"))
}

fn power_off(path: &Path) -> DiskError {
    other(path, ErrorKind::Other, "the power is off")
}
