//! A segment's file: its place, and its [`FileId`] while anyone uses it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use millstream_env::disk::{Completions, Disk, DiskResult, FileId, OpToken, OpenMode};
use millstream_types::Offset;

use crate::error::Corruption;

/// What a segment file's name ends with.
const SUFFIX: &str = ".seg";
/// Digits of the base offset in a name; the largest offset has 19.
const DIGITS: usize = 20;

/// A segment file by name. Opened when first needed; closed when the last user lets go.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    disk: Arc<dyn Disk>,
    dir: Arc<Path>,
    base: Offset,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Arc<OpenFile>>,
    /// Whether the name is gone, so that an open file must not be let go: it could not be opened
    /// again.
    removed: bool,
}

/// An open file, closed when dropped.
#[derive(Debug)]
pub(crate) struct OpenFile {
    disk: Arc<dyn Disk>,
    id: FileId,
}

/// For files on which nothing is submitted.
#[derive(Debug)]
struct NoCompletions;

impl Completions for NoCompletions {
    fn complete(&self, _: FileId, _: OpToken, _: DiskResult<()>) {}
}

impl SegmentFile {
    /// Names a file without touching it.
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: Arc<Path>, base: Offset) -> Self {
        Self { disk, dir, base, state: Mutex::default() }
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    /// Relative to the disk's root.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(file_name(self.base))
    }

    /// Opens the file for submitted operations.
    pub(crate) fn open_as(
        &self,
        mode: OpenMode,
        completions: Arc<dyn Completions>,
    ) -> DiskResult<FileId> {
        let id = self.disk.open(&self.path(), mode, completions)?;
        self.state().open = Some(Arc::new(OpenFile { disk: Arc::clone(&self.disk), id }));
        Ok(id)
    }

    /// The file, opened for reading if it is not open.
    pub(crate) fn open(&self) -> DiskResult<Arc<OpenFile>> {
        let mut state = self.state();
        if let Some(open) = &state.open {
            return Ok(Arc::clone(open));
        }
        let id = self.disk.open(&self.path(), OpenMode::Existing, Arc::new(NoCompletions))?;
        let open = Arc::new(OpenFile { disk: Arc::clone(&self.disk), id });
        state.open = Some(Arc::clone(&open));
        Ok(open)
    }

    /// Lets go of the open file; it closes once no read uses it.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        if !state.removed {
            state.open = None;
        }
    }

    /// Removes the name. The file is opened first, so that whoever shares `this` can read on, and
    /// so that this is quick: the bytes of an open file are given back when the last one lets go.
    pub(crate) fn remove(this: &Arc<Self>) -> DiskResult<()> {
        let opened = this.open();
        if Arc::strong_count(this) > 1 {
            opened?;
        }
        this.state().removed = true;
        this.disk.remove_file(&this.path())
    }

    pub(crate) fn corruption(
        &self,
        position: u64,
        expected: impl Into<String>,
        actual: impl Into<String>,
    ) -> Box<Corruption> {
        let (expected, actual) = (expected.into(), actual.into());
        Box::new(Corruption { path: self.path(), position, expected, actual })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenFile {
    pub(crate) fn read_at(&self, position: u64, len: usize) -> DiskResult<Bytes> {
        self.disk.read_at(self.id, position, len)
    }

    pub(crate) fn len(&self) -> DiskResult<u64> {
        self.disk.len(self.id)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.disk.close(self.id);
    }
}

/// The name of the segment file that starts at `base`.
pub(crate) fn file_name(base: Offset) -> String {
    format!("{:0width$}{SUFFIX}", base.value(), width = DIGITS)
}

/// The base offset that a file's name says; `None` for a file that is no segment.
pub(crate) fn parse_file_name(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(SUFFIX)?;
    if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Offset::new(digits.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_sort_as_their_offsets() {
        let small = Offset::new(7).unwrap();
        assert_eq!(file_name(small), "00000000000000000007.seg");
        assert!(file_name(small) < file_name(Offset::MAX));
        for offset in [Offset::ZERO, small, Offset::MAX] {
            assert_eq!(parse_file_name(&file_name(offset)), Some(offset));
        }
        for other in ["7.seg", "99999999999999999999.seg", "0000000000000000000a.seg", "x"] {
            assert_eq!(parse_file_name(other), None);
        }
    }
}
