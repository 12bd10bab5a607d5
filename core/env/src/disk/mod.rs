//! Files, as the log and the metadata's write-ahead log need them: namespace and reads block;
//! writes and syncs are submitted and complete later, so that appends go on during a sync.
//!
//! The contract, which the real and the simulated disk both pass (`contract.rs`):
//!
//! - Paths are relative to the disk's root and never leave it.
//! - A write is in force for reads as soon as it completes; it is durable only once a sync of that
//!   file, submitted after the write completed, has completed without error.
//! - A completed sync makes durable the file's bytes, its length, and its directory entry.
//! - A cut ([`Disk::set_len`] to less) is never overtaken: a write submitted after it is durable
//!   only if the cut is. To this end the first write after an unsynced cut syncs the file.
//! - `rename` and `create_dir_all` are durable when they return; `remove_*` may come undone by a
//!   power cut until [`Disk::sync_dir`] returns.
//! - Operations on one file complete in any order; a sync covers the writes completed before it
//!   was submitted and may cover more.
//! - The first failed sync fences the disk: it and every later operation that would change the
//!   disk, those pending included, fail with [`DiskError::Fenced`], for ever. Reads go on. A failed
//!   sync is never retried, since a second try can falsely succeed.
//! - A [`FileId`] is not a descriptor: descriptors are opened on demand and bounded. One that has
//!   unsynced writes is synced before it is closed.
//! - Two open [`FileId`]s of one path are one file: both see a rename, and a sync of one covers the
//!   writes of the other.

#[cfg(test)]
mod contract;
mod file;
mod path;
mod sim;

pub use file::{FileDisk, FileDiskConfig, FileDiskError, FileDiskStats};
pub use sim::{BitFlip, FaultPlan, SimDisk, SimDiskConfig};

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

/// An open file's number, unique for the life of its disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u64);

/// Names one submitted operation to its submitter; echoed in the completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpToken(pub u64);

/// What a disk operation can fail with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiskError {
    /// The file or directory does not exist.
    #[error("{0}: not found")]
    NotFound(PathBuf),
    /// The file exists and was to be made new.
    #[error("{0}: exists already")]
    Exists(PathBuf),
    /// The disk is full. Nothing was fenced; the write may be tried again when there is room.
    #[error("no space left on the disk")]
    NoSpace,
    /// A sync failed, now or earlier. What is durable is unknown: stop, then repair.
    #[error("the disk is fenced after a failed sync: {0}")]
    Fenced(Arc<str>),
    /// The operating system refused for another reason.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory, relative to the disk's root.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
}

/// A disk operation's result.
pub type DiskResult<T> = Result<T, DiskError>;

/// Takes the completions of the operations submitted on one file.
///
/// Must not panic. Called once for each operation that [`Disk::submit_write`] or
/// [`Disk::submit_sync`] answered with [`Poll::Pending`], from a thread of the disk's, never from
/// within the submitting call.
pub trait Completions: Debug + Send + Sync {
    /// The operation named `token` on `file` ended with `result`.
    fn complete(&self, file: FileId, token: OpToken, result: DiskResult<()>);
}

/// How [`Disk::open`] treats an existing or missing file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// The file must not exist; an empty one is made.
    CreateNew,
    /// The file must exist.
    Existing,
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// The entry's own name.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A directory tree on one device. See the module for the contract.
pub trait Disk: Debug + Send + Sync {
    /// Makes a directory and its parents; durable on return; no error if it exists.
    ///
    /// # Errors
    /// [`DiskError::Io`], [`DiskError::NoSpace`], [`DiskError::Fenced`].
    fn create_dir_all(&self, path: &Path) -> DiskResult<()>;

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// [`DiskError::NotFound`], [`DiskError::Io`].
    fn list(&self, path: &Path) -> DiskResult<Vec<DirEntry>>;

    /// Removes a file. Open [`FileId`]s of it stay readable until closed.
    ///
    /// # Errors
    /// [`DiskError::NotFound`], [`DiskError::Io`], [`DiskError::Fenced`].
    fn remove_file(&self, path: &Path) -> DiskResult<()>;

    /// Removes a directory and all below it; no error if it does not exist.
    ///
    /// # Errors
    /// [`DiskError::Io`], [`DiskError::Fenced`].
    fn remove_dir_all(&self, path: &Path) -> DiskResult<()>;

    /// Renames a file over whatever file has the new name; durable on return. Its bytes are no more
    /// durable than before: sync it first. Open [`FileId`]s follow it to the new name.
    ///
    /// # Errors
    /// [`DiskError::NotFound`], [`DiskError::Io`] (also for a directory), [`DiskError::Fenced`].
    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()>;

    /// Makes creations, renames and removals in a directory durable.
    ///
    /// # Errors
    /// [`DiskError::NotFound`], [`DiskError::Io`] if the directory cannot be opened;
    /// [`DiskError::Fenced`], also for the failure that fences.
    fn sync_dir(&self, path: &Path) -> DiskResult<()>;

    /// Opens a file; its submitted operations complete into `completions`.
    ///
    /// # Errors
    /// [`DiskError::NotFound`], [`DiskError::Exists`], [`DiskError::NoSpace`], [`DiskError::Io`],
    /// [`DiskError::Fenced`] for a new file.
    fn open(
        &self,
        path: &Path,
        mode: OpenMode,
        completions: Arc<dyn Completions>,
    ) -> DiskResult<FileId>;

    /// Forgets a file once its operations in flight have completed. Unsynced writes are not lost
    /// by this, only not promised.
    fn close(&self, file: FileId);

    /// The file's length in bytes, preallocated room included.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    fn len(&self, file: FileId) -> DiskResult<u64>;

    /// Sets the length; new bytes read as zero. Not durable before a sync: until then a power cut
    /// can undo a cut as a whole. Bytes cut off never come back in any other way.
    ///
    /// # Errors
    /// [`DiskError::NoSpace`], [`DiskError::Fenced`], [`DiskError::Io`].
    fn set_len(&self, file: FileId, len: u64) -> DiskResult<()>;

    /// Grows the file to `len` if it is shorter and takes the room on the device now, so that
    /// later writes below `len` do not run out of it; new bytes read as zero.
    ///
    /// # Errors
    /// [`DiskError::NoSpace`], [`DiskError::Fenced`], [`DiskError::Io`].
    fn preallocate(&self, file: FileId, len: u64) -> DiskResult<()>;

    /// Reads up to `len` bytes at `position`; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    fn read_at(&self, file: FileId, position: u64, len: usize) -> DiskResult<Bytes>;

    /// Writes `data`, piece after piece, at `position`. Ready when done at once; pending when the
    /// result will come as a completion.
    fn submit_write(
        &self,
        file: FileId,
        position: u64,
        data: &[Bytes],
        token: OpToken,
    ) -> Poll<DiskResult<()>>;

    /// Makes the file durable; see the module. Ready or pending as for a write.
    fn submit_sync(&self, file: FileId, token: OpToken) -> Poll<DiskResult<()>>;
}
