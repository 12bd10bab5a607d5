//! Paths inside a disk's root, and how the operating system's errors become [`DiskError`]s.

use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{DiskError, DiskResult, FileId};

/// The file in a root that the owner of the directory holds locked; no path may name it.
pub(super) const LOCK_NAME: &str = "LOCK";

/// Accepts a directory's path: plain components only. The empty path is the root.
pub(super) fn check_dir_path(path: &Path) -> DiskResult<()> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain { Ok(()) } else { Err(invalid(path, "not a plain relative path")) }
}

/// Accepts a file's path: as [`check_dir_path`], and neither the root nor its lock.
pub(super) fn check_file_path(path: &Path) -> DiskResult<()> {
    check_dir_path(path)?;
    if path.as_os_str().is_empty() || path == Path::new(LOCK_NAME) {
        return Err(invalid(path, "not a file of this disk"));
    }
    Ok(())
}

/// The directory that holds `path`; the root's is the root.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Names `path` in an error of the operating system.
pub(super) fn io_error(path: &Path, source: io::Error) -> DiskError {
    match source.kind() {
        ErrorKind::NotFound => DiskError::NotFound(path.to_path_buf()),
        ErrorKind::AlreadyExists => DiskError::Exists(path.to_path_buf()),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskError::NoSpace,
        _ => DiskError::Io { path: path.to_path_buf(), source: Arc::new(source) },
    }
}

/// A request that makes no sense for `path`.
pub(super) fn invalid(path: &Path, why: &'static str) -> DiskError {
    other(path, ErrorKind::InvalidInput, why)
}

/// An error of `kind` that does not come from the operating system.
pub(super) fn other(path: &Path, kind: ErrorKind, why: &'static str) -> DiskError {
    let source = Arc::new(io::Error::new(kind, why));
    DiskError::Io { path: path.to_path_buf(), source }
}

/// A [`FileId`] that was never given out, or was closed.
pub(super) fn not_open(file: FileId) -> DiskError {
    let path = PathBuf::from(format!("file id {}", file.0));
    other(&path, ErrorKind::InvalidInput, "not open")
}
