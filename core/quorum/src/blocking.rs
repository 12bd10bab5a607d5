//! Disk operations one at a time, for threads that may block.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use millstream_env::disk::{Completions, Disk, DiskResult, FileId, OpToken, OpenMode};

/// An open file whose writes and syncs block until they are done. Closed when dropped.
#[derive(Debug)]
pub(crate) struct BlockingFile {
    disk: Arc<dyn Disk>,
    file: FileId,
    arrival: Arc<Arrival>,
}

impl BlockingFile {
    pub(crate) fn open(disk: &Arc<dyn Disk>, path: &Path, mode: OpenMode) -> DiskResult<Self> {
        let arrival = Arc::new(Arrival::default());
        let completions: Arc<dyn Completions> = Arc::<Arrival>::clone(&arrival);
        let file = disk.open(path, mode, completions)?;
        Ok(Self { disk: Arc::clone(disk), file, arrival })
    }

    /// The whole file.
    pub(crate) fn read_all(&self) -> DiskResult<Bytes> {
        let len = self.disk.len(self.file)?;
        self.disk.read_at(self.file, 0, usize::try_from(len).unwrap_or(usize::MAX))
    }

    pub(crate) fn set_len(&self, len: u64) -> DiskResult<()> {
        self.disk.set_len(self.file, len)
    }

    pub(crate) fn write(&mut self, position: u64, data: &[Bytes]) -> DiskResult<()> {
        match self.disk.submit_write(self.file, position, data, TOKEN) {
            Poll::Ready(result) => result,
            Poll::Pending => self.arrival.wait(),
        }
    }

    pub(crate) fn sync(&mut self) -> DiskResult<()> {
        match self.disk.submit_sync(self.file, TOKEN) {
            Poll::Ready(result) => result,
            Poll::Pending => self.arrival.wait(),
        }
    }
}

impl Drop for BlockingFile {
    fn drop(&mut self) {
        self.disk.close(self.file);
    }
}

/// `&mut self` keeps operations to one at a time, so their tokens need not differ.
const TOKEN: OpToken = OpToken(0);

/// Where the one operation in flight reports.
#[derive(Debug, Default)]
struct Arrival {
    result: Mutex<Option<DiskResult<()>>>,
    arrived: Condvar,
}

impl Arrival {
    fn wait(&self) -> DiskResult<()> {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            result = self.arrived.wait(result).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Completions for Arrival {
    fn complete(&self, _file: FileId, _token: OpToken, result: DiskResult<()>) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.arrived.notify_one();
    }
}
