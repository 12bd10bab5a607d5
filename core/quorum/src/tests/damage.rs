//! Damage below the durable mark is refused and names the file; a torn tail is cut.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millstream_env::disk::{BitFlip, Disk, FaultPlan, OpenMode};
use openraft::storage::RaftLogStorage;

use super::{DIRECTORY, NODE, Opened, PoweredDisk, blank, log_id};
use crate::blocking::BlockingFile;
use crate::error::StorageFault;
use crate::types::{SnapshotMeta, Vote};
use crate::wal;
use crate::wal::format::{FILE_HEADER_BYTES, FileHeader, file_name};

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

fn sim() -> (Arc<PoweredDisk>, Arc<dyn Disk>) {
    let powered = PoweredDisk::new(3, FaultPlan::default());
    let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&powered);
    (powered, disk)
}

fn read(disk: &Arc<dyn Disk>, name: &str) -> Bytes {
    BlockingFile::open(disk, &path(name), OpenMode::Existing).unwrap().read_all().unwrap()
}

fn overwrite(disk: &Arc<dyn Disk>, name: &str, position: u64, data: &[u8]) {
    let mut file = BlockingFile::open(disk, &path(name), OpenMode::Existing).unwrap();
    file.write(position, &[Bytes::copy_from_slice(data)]).unwrap();
    file.sync().unwrap();
}

async fn written(disk: &Arc<dyn Disk>, segment_bytes_max: u64) {
    let mut opened = Opened::new(disk, segment_bytes_max).unwrap();
    opened.store.save_vote(&Vote::new_committed(1, 0)).await.unwrap();
    for index in 0..8 {
        opened.append(vec![blank(1, index)]).await.unwrap();
    }
    opened.store.save_committed(Some(log_id(1, 7))).await.unwrap();
    opened.end();
}

#[tokio::test]
async fn every_flipped_bit_is_corruption_and_names_the_file() {
    let (powered, disk) = sim();
    written(&disk, 1 << 20).await;
    let name = file_name(1);
    let len = read(&disk, &name).len() as u64;
    // The last record is the commit point, which nothing after it shows to be durable.
    let protected = len - 21 - r#"{"term":1,"node":0,"index":7}"#.len() as u64;
    for position in 0..protected {
        let flip = BitFlip { path: path(&name), position, bit: (position % 8) as u8 };
        powered.0.set_faults(FaultPlan { flips: vec![flip.clone()], ..FaultPlan::default() });
        powered.0.restart();
        let fault = Opened::new(&disk, 1 << 20).map(Opened::end).unwrap_err();
        let StorageFault::Corrupt { file, .. } = &fault else { panic!("byte {position}: {fault}") };
        assert_eq!(*file, name);
        assert!(fault.to_string().contains("Restore the directory meta from a backup"));
        powered.0.set_faults(FaultPlan { flips: vec![flip], ..FaultPlan::default() });
        powered.0.restart();
    }
    Opened::new(&disk, 1 << 20).unwrap().end();
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_written_over() {
    let (_, disk) = sim();
    written(&disk, 1 << 20).await;
    let name = file_name(1);
    let whole = read(&disk, &name);
    overwrite(&disk, &name, whole.len() as u64, b"WREC\x05\0\0\0torn");
    let mut opened = Opened::new(&disk, 1 << 20).unwrap();
    assert_eq!(opened.recovered.log.len(), 8);
    opened.append(vec![blank(1, 8)]).await.unwrap();
    opened.end();
    let opened = Opened::new(&disk, 1 << 20).unwrap();
    assert_eq!(opened.recovered.log.len(), 9);
    opened.end();
}

#[tokio::test]
async fn a_missing_file_is_refused() {
    let (_, disk) = sim();
    written(&disk, 128).await;
    let names: Vec<_> =
        disk.list(Path::new(DIRECTORY)).unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(names.len() > 3, "{names:?}");
    disk.remove_file(&path(&names[1])).unwrap();
    let fault = Opened::new(&disk, 128).map(Opened::end).unwrap_err();
    assert!(fault.to_string().contains("the file is missing"), "{fault}");
    // The oldest may go only once its entries are purged, which they were not.
    disk.remove_file(&path(&names[0])).unwrap();
    let fault = Opened::new(&disk, 128).map(Opened::end).unwrap_err();
    assert!(matches!(fault, StorageFault::Corrupt { .. }), "{fault}");
}

#[tokio::test]
async fn purged_files_are_removed_and_the_vote_stays() {
    let (_, disk) = sim();
    written(&disk, 128).await;
    let mut opened = Opened::new(&disk, 128).unwrap();
    opened.store.purge(log_id(1, 7)).await.unwrap();
    opened.append(vec![blank(1, 8)]).await.unwrap();
    opened.store.purge(log_id(1, 8)).await.unwrap();
    opened.end();
    assert!(disk.list(Path::new(DIRECTORY)).unwrap().len() <= 2);
    let opened = Opened::new(&disk, 128).unwrap();
    let recovered = opened.recovered.clone();
    assert_eq!(recovered.vote, Some(Vote::new_committed(1, 0)));
    assert_eq!((recovered.purged, recovered.log.len()), (Some(log_id(1, 8)), 0));
    opened.end();
}

#[tokio::test]
async fn a_file_begun_without_its_checkpoint_gets_one() {
    let (_, disk) = sim();
    written(&disk, 1 << 20).await;
    // The power went off between a new file's header and what it was to repeat.
    let header = FileHeader { version: 1, node: NODE.0, sequence: 2 }.encode();
    let mut file = BlockingFile::open(&disk, &path(&file_name(2)), OpenMode::CreateNew).unwrap();
    file.write(0, &[header.into()]).unwrap();
    file.sync().unwrap();
    drop(file);
    let mut opened = Opened::new(&disk, 1 << 20).unwrap();
    opened.store.purge(log_id(1, 7)).await.unwrap();
    opened.end();
    assert_eq!(disk.list(Path::new(DIRECTORY)).unwrap().len(), 1, "the first file is not needed");
    let opened = Opened::new(&disk, 1 << 20).unwrap();
    assert_eq!(opened.recovered.vote, Some(Vote::new_committed(1, 0)));
    opened.end();
}

#[tokio::test]
async fn another_nodes_or_a_later_builds_files_are_refused() {
    let (_, disk) = sim();
    written(&disk, 1 << 20).await;
    let other = millstream_types::BrokerId(7);
    let fault = wal::recover(&disk, Path::new(DIRECTORY), other, 1 << 20).map(drop).unwrap_err();
    assert!(matches!(fault, StorageFault::WrongNode { found: 0, .. }), "{fault}");
    let later = FileHeader { version: 2, node: NODE.0, sequence: 1 }.encode();
    assert_eq!(later.len(), FILE_HEADER_BYTES);
    overwrite(&disk, &file_name(1), 0, &later);
    let fault = Opened::new(&disk, 1 << 20).map(Opened::end).unwrap_err();
    assert!(matches!(fault, StorageFault::UnknownVersion { found: 2, .. }), "{fault}");
}

#[test]
fn a_damaged_snapshot_is_refused() {
    use crate::snapshot_file::SnapshotFiles;
    let (powered, disk) = sim();
    let open = || {
        let alive = tokio::sync::mpsc::channel(1).0;
        SnapshotFiles::open(Arc::clone(&disk), Path::new(DIRECTORY), NODE, alive)
    };
    let files = open().unwrap();
    assert!(files.newest().unwrap().is_none());
    for index in [3, 5, 4] {
        let last_log_id = Some(log_id(1, index));
        let meta = SnapshotMeta { last_log_id, ..SnapshotMeta::default() };
        files.save(&meta, format!("data {index}").as_bytes()).unwrap();
    }
    drop(files);
    powered.power_cycle();
    let (meta, data) = open().unwrap().newest().unwrap().unwrap();
    assert_eq!((meta.last_log_id, &data[..]), (Some(log_id(1, 5)), &b"data 5"[..]));
    let name = "snapshot-00000000000000000006.snap";
    assert_eq!(disk.list(Path::new(DIRECTORY)).unwrap().len(), 1);
    for position in 0..read(&disk, name).len() as u64 {
        let flips = vec![BitFlip { path: path(name), position, bit: 2 }];
        powered.0.set_faults(FaultPlan { flips: flips.clone(), ..FaultPlan::default() });
        powered.0.restart();
        let fault = open().map(drop).unwrap_err();
        assert!(matches!(fault, StorageFault::Corrupt { .. }), "byte {position}: {fault}");
        powered.0.set_faults(FaultPlan { flips, ..FaultPlan::default() });
        powered.0.restart();
    }
    open().unwrap();
}
