//! Openraft's own storage suite, over the real disk and the simulated one.

use std::path::Path;
use std::sync::Arc;

use millstream_env::disk::{Disk, FaultPlan, FileDisk, FileDiskConfig};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use super::{DIRECTORY, NODE, PoweredDisk};
use crate::machine::MachineStore;
use crate::snapshot_file::SnapshotFiles;
use crate::store::LogStore;
use crate::types::RaftTypes;
use crate::wal;

fn stores(disk: Arc<dyn Disk>) -> (LogStore, MachineStore) {
    let directory = Path::new(DIRECTORY);
    // Small files, so that the suite rolls and removes them.
    let (writer, recovered) = wal::recover(&disk, directory, NODE, 256).unwrap();
    let files = SnapshotFiles::open(disk, directory, NODE, mpsc::channel(1).0).unwrap();
    let (log, _thread) = LogStore::start(writer, recovered).unwrap();
    let (images, _) = watch::channel(Arc::default());
    (log, MachineStore::new(Arc::new(files), images))
}

struct OnFiles;

impl StoreBuilder<RaftTypes, LogStore, MachineStore, TempDir> for OnFiles {
    async fn build(&self) -> Result<(TempDir, LogStore, MachineStore), StorageError<RaftTypes>> {
        let root = tempfile::tempdir().unwrap();
        let disk = FileDisk::open_root(root.path(), &FileDiskConfig::default()).unwrap();
        let (log, machine) = stores(Arc::new(disk));
        Ok((root, log, machine))
    }
}

struct OnSimulation;

impl StoreBuilder<RaftTypes, LogStore, MachineStore> for OnSimulation {
    async fn build(&self) -> Result<((), LogStore, MachineStore), StorageError<RaftTypes>> {
        let (log, machine) = stores(PoweredDisk::new(1, FaultPlan::default()));
        Ok(((), log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_accepts_the_storage_on_files() {
    Suite::test_all(OnFiles).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_accepts_the_storage_on_the_simulated_disk() {
    Suite::test_all(OnSimulation).await.unwrap();
}
