//! Directories and names, and which [`Node`] each name stands for.

use std::fs;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::engine::{Engine, retain};
use super::node::{Node, OpenFile};
use super::os;
use crate::disk::path::{LOCK_NAME, io_error, other, parent};
use crate::disk::{Completions, DirEntry, DiskError, DiskResult, FileId, OpenMode};
use crate::{lock, write_lock};

impl Engine {
    pub(super) fn create_dir_all(&self, path: &Path) -> DiskResult<()> {
        self.fence.check()?;
        let mut dir = PathBuf::new();
        for part in path {
            let above = dir.clone();
            dir.push(part);
            let full = self.root.join(&dir);
            match fs::create_dir(&full) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if !full.is_dir() {
                        return Err(other(&dir, ErrorKind::NotADirectory, "not a directory"));
                    }
                }
                result => result.map_err(|error| io_error(&dir, error))?,
            }
            // Also when it exists: who made it may have died before syncing.
            self.sync_dir(&above)?;
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> DiskResult<Vec<DirEntry>> {
        let failed = |error| io_error(path, error);
        let is_root = path.as_os_str().is_empty();
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.root.join(path)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_root && name == LOCK_NAME {
                continue;
            }
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            entries.push(DirEntry { name, is_dir });
        }
        entries.sort_unstable();
        Ok(entries)
    }

    pub(super) fn sync_dir(&self, path: &Path) -> DiskResult<()> {
        self.fence.check()?;
        let dir = os::open_dir(&self.root.join(path)).map_err(|error| io_error(path, error))?;
        dir.sync_all().map_err(|error| self.fence.latch(path, &error))
    }

    pub(super) fn open(
        &self,
        path: &Path,
        mode: OpenMode,
        completions: Arc<dyn Completions>,
    ) -> DiskResult<FileId> {
        let create_new = mode == OpenMode::CreateNew;
        if create_new {
            self.fence.check()?;
        }
        let mut names = lock(&self.names);
        // Held, so that the descriptor just opened is not the one that is closed for it.
        let mut opened = None;
        let node = match names.get(path) {
            Some(_) if create_new => return Err(DiskError::Exists(path.to_path_buf())),
            Some(node) => Arc::clone(node),
            None => {
                let file = os::open_file(&self.root.join(path), create_new);
                let file = Arc::new(file.map_err(|error| io_error(path, error))?);
                opened = Some(Arc::clone(&file));
                let id = self.ids.fetch_add(1, Ordering::Relaxed);
                let node = Arc::new(Node::new(id, path.to_path_buf()));
                lock(&self.handles).insert(&node, file);
                names.insert(path.to_path_buf(), Arc::clone(&node));
                node
            }
        };
        retain(&node);
        drop(names);
        self.close_excess_handles();
        drop(opened);
        let id = FileId(self.ids.fetch_add(1, Ordering::Relaxed));
        write_lock(&self.files).insert(id, Arc::new(OpenFile { id, node, completions }));
        Ok(id)
    }

    pub(super) fn close(&self, file: FileId) {
        let closed = write_lock(&self.files).remove(&file);
        if let Some(file) = closed {
            self.release(&file.node);
        }
    }

    pub(super) fn remove_file(&self, path: &Path) -> DiskResult<()> {
        self.fence.check()?;
        let mut names = lock(&self.names);
        let node = names.get(path).cloned();
        if let Some(node) = &node {
            self.pin(node)?;
        }
        if let Err(error) = fs::remove_file(self.root.join(path)) {
            if let Some(node) = &node {
                self.unpin(node);
            }
            return Err(io_error(path, error));
        }
        names.remove(path);
        Ok(())
    }

    pub(super) fn remove_dir_all(&self, path: &Path) -> DiskResult<()> {
        self.fence.check()?;
        let mut names = lock(&self.names);
        let from = (Bound::Included(path.to_path_buf()), Bound::Unbounded);
        let below: Vec<Arc<Node>> = names
            .range(from)
            .take_while(|(name, _)| name.starts_with(path))
            .map(|(_, node)| Arc::clone(node))
            .collect();
        for (done, node) in below.iter().enumerate() {
            if let Err(error) = self.pin(node) {
                below.iter().take(done).for_each(|node| self.unpin(node));
                return Err(error);
            }
        }
        let result = fs::remove_dir_all(self.root.join(path));
        for node in &below {
            let name = lock(&node.place).path.clone();
            // After a failure some files may be gone and some not.
            if result.is_ok() || fs::symlink_metadata(self.root.join(&name)).is_err() {
                names.remove(&name);
            } else {
                self.unpin(node);
            }
        }
        match result {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error(path, error)),
            _ => Ok(()),
        }
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> DiskResult<()> {
        self.fence.check()?;
        self.rename_now(from, to)?;
        self.sync_dir(parent(to))?;
        if parent(from) != parent(to) {
            self.sync_dir(parent(from))?;
        }
        Ok(())
    }

    fn rename_now(&self, from: &Path, to: &Path) -> DiskResult<()> {
        let mut names = lock(&self.names);
        let source = self.root.join(from);
        let metadata = fs::symlink_metadata(&source).map_err(|error| io_error(from, error))?;
        if metadata.is_dir() {
            return Err(other(from, ErrorKind::IsADirectory, "a directory"));
        }
        if from == to {
            return Ok(());
        }
        let replaced = names.get(to).cloned();
        if let Some(node) = &replaced {
            self.pin(node)?;
        }
        let moved = names.get(from).cloned();
        // Whoever opens the file again must find it under one name or the other.
        let place = moved.as_ref().map(|node| lock(&node.place));
        if let Err(error) = fs::rename(&source, self.root.join(to)) {
            if let Some(node) = &replaced {
                self.unpin(node);
            }
            return Err(io_error(from, error));
        }
        names.remove(to);
        if let Some(mut place) = place {
            place.path = to.to_path_buf();
        }
        if let Some(node) = &moved {
            names.remove(from);
            names.insert(to.to_path_buf(), Arc::clone(node));
        }
        Ok(())
    }

    /// Keeps the descriptor of a file that is about to lose its name.
    fn pin(&self, node: &Arc<Node>) -> DiskResult<()> {
        let mut place = lock(&node.place);
        let file = match lock(&self.handles).remove(node) {
            Some(file) => file,
            None => {
                let opened = os::open_file(&self.root.join(&place.path), false);
                Arc::new(opened.map_err(|error| io_error(&place.path, error))?)
            }
        };
        place.pinned = Some(file);
        Ok(())
    }

    /// Undoes [`Self::pin`] when the file keeps its name after all.
    fn unpin(&self, node: &Arc<Node>) {
        let mut place = lock(&node.place);
        if let Some(file) = place.pinned.take() {
            lock(&self.handles).insert(node, file);
        }
    }
}
