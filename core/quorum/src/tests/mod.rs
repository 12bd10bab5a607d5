//! The storage under openraft's own suite, under power cuts, and under damage.

mod crash;
mod damage;
mod golden;
mod history;
mod suite;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use millstream_env::disk::{
    Completions, DirEntry, Disk, DiskError, DiskResult, FaultPlan, FileId, OpToken, OpenMode,
    SimDisk, SimDiskConfig,
};
use millstream_types::BrokerId;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;

use crate::error::StorageFault;
use crate::store::LogStore;
use crate::types::{Entry, LogId, RaftTypes};
use crate::wal::{self, Recovered};

pub(super) const NODE: BrokerId = BrokerId(0);
pub(super) const DIRECTORY: &str = "meta";

/// A simulated disk that does everything at once and, when its power is off, says so instead of
/// never answering, so that the threads that wait for it end.
#[derive(Debug)]
pub(super) struct PoweredDisk(pub(super) SimDisk);

impl PoweredDisk {
    pub(super) fn new(seed: u64, faults: FaultPlan) -> Arc<Self> {
        Arc::new(Self(SimDisk::new(seed, SimDiskConfig { ready_per_cent: 100, faults })))
    }

    /// Loses what was not durable and comes back.
    pub(super) fn power_cycle(&self) {
        self.0.crash();
        self.0.restart();
    }
}

fn powered(answer: Poll<DiskResult<()>>) -> Poll<DiskResult<()>> {
    match answer {
        Poll::Pending => Poll::Ready(Err(DiskError::Io {
            path: PathBuf::new(),
            source: Arc::new(std::io::Error::other("the power is off")),
        })),
        ready => ready,
    }
}

impl Disk for PoweredDisk {
    fn create_dir_all(&self, path: &Path) -> DiskResult<()> {
        self.0.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> DiskResult<Vec<DirEntry>> {
        self.0.list(path)
    }
    fn remove_file(&self, path: &Path) -> DiskResult<()> {
        self.0.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> DiskResult<()> {
        self.0.remove_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()> {
        self.0.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> DiskResult<()> {
        self.0.sync_dir(path)
    }
    fn open(
        &self,
        path: &Path,
        mode: OpenMode,
        completions: Arc<dyn Completions>,
    ) -> DiskResult<FileId> {
        self.0.open(path, mode, completions)
    }
    fn close(&self, file: FileId) {
        self.0.close(file);
    }
    fn len(&self, file: FileId) -> DiskResult<u64> {
        self.0.len(file)
    }
    fn set_len(&self, file: FileId, len: u64) -> DiskResult<()> {
        self.0.set_len(file, len)
    }
    fn preallocate(&self, file: FileId, len: u64) -> DiskResult<()> {
        self.0.preallocate(file, len)
    }
    fn read_at(&self, file: FileId, position: u64, len: usize) -> DiskResult<Bytes> {
        self.0.read_at(file, position, len)
    }
    fn submit_write(
        &self,
        file: FileId,
        position: u64,
        data: &[Bytes],
        token: OpToken,
    ) -> Poll<DiskResult<()>> {
        powered(self.0.submit_write(file, position, data, token))
    }
    fn submit_sync(&self, file: FileId, token: OpToken) -> Poll<DiskResult<()>> {
        powered(self.0.submit_sync(file, token))
    }
}

/// A log store whose thread is joined at the end, so that nothing writes behind a test's back.
pub(super) struct Opened {
    pub(super) store: LogStore,
    pub(super) recovered: Recovered,
    thread: std::thread::JoinHandle<()>,
}

impl Opened {
    pub(super) fn new(disk: &Arc<dyn Disk>, segment_bytes_max: u64) -> Result<Self, StorageFault> {
        let (writer, recovered) =
            wal::recover(disk, Path::new(DIRECTORY), NODE, segment_bytes_max)?;
        let (store, thread) = LogStore::start(writer, recovered.clone())?;
        Ok(Self { store, recovered, thread })
    }

    pub(super) fn end(self) {
        drop(self.store);
        self.thread.join().unwrap();
    }

    /// Appends and waits until the entries are durable.
    pub(super) async fn append(&mut self, entries: Vec<Entry>) -> std::io::Result<()> {
        let (done, durable) = RaftTypes::oneshot();
        self.store.append(entries, IOFlushed::signal(done)).await?;
        durable.await.unwrap()
    }
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    let leader: openraft::type_config::alias::LeaderIdOf<RaftTypes> =
        RaftLeaderId::new(term, u64::from(NODE.0));
    LogId::new(leader, index)
}

pub(super) fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: log_id(term, index), payload: openraft::EntryPayload::Blank }
}
