//! Small whole files on a [`Disk`], written durably.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use millstream_env::disk::{Completions, Disk, DiskError, DiskResult, FileId, OpToken, OpenMode};

/// The most that is read as a small file.
const SMALL_FILE_BYTES_MAX: usize = 1024 * 1024;

/// Waits for one operation at a time.
#[derive(Debug, Default)]
struct Waiter {
    done: Mutex<Option<DiskResult<()>>>,
    changed: Condvar,
}

impl Completions for Waiter {
    fn complete(&self, _file: FileId, _token: OpToken, result: DiskResult<()>) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.changed.notify_all();
    }
}

impl Waiter {
    fn wait(&self, submitted: Poll<DiskResult<()>>) -> DiskResult<()> {
        if let Poll::Ready(result) = submitted {
            return result;
        }
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = done.take() {
                return result;
            }
            done = self.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The file's bytes, or `None` if it does not exist. Blocks.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> DiskResult<Option<Bytes>> {
    let file = match disk.open(path, OpenMode::Existing, Arc::new(Waiter::default())) {
        Ok(file) => file,
        Err(DiskError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = disk.read_at(file, 0, SMALL_FILE_BYTES_MAX);
    disk.close(file);
    bytes.map(Some)
}

/// Puts `bytes` in place of the file, whole or not at all; durable on return. Blocks.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: Bytes) -> DiskResult<()> {
    let temporary = path.with_extension("new");
    match disk.remove_file(&temporary) {
        Ok(()) | Err(DiskError::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    let waiter = Arc::new(Waiter::default());
    let file = disk.open(&temporary, OpenMode::CreateNew, Arc::clone(&waiter) as _)?;
    let written = waiter
        .wait(disk.submit_write(file, 0, &[bytes], OpToken(0)))
        .and_then(|()| waiter.wait(disk.submit_sync(file, OpToken(1))));
    disk.close(file);
    written?;
    disk.rename(&temporary, path)
}
