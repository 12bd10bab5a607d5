//! The bytes that this build writes and every later build must read. The files in `testdata/` never
//! change; a new form gets a new version and new files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millstream_env::disk::{Disk, FaultPlan, FileDisk, FileDiskConfig, OpenMode};
use millstream_meta::{Applied, Command, CommandBody, CommandId};
use millstream_types::{BrokerId, ClusterId, ProducerId, TimestampMs};
use openraft::storage::RaftLogStorage;
use openraft::{BasicNode, EntryPayload};

use super::{DIRECTORY, NODE, Opened, PoweredDisk, blank, log_id};
use crate::blocking::BlockingFile;
use crate::snapshot_file::SnapshotFiles;
use crate::types::{Entry, Membership, SnapshotMeta, StoredMembership, Vote};
use crate::wal::format::file_name;
use crate::{Quorum, QuorumConfig};

fn testdata() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn membership() -> Membership {
    let node = BasicNode { addr: "broker-0.example:9092".into() };
    Membership::new(vec![[0].into()], BTreeMap::from([(0, node)])).unwrap()
}

fn sim() -> Arc<dyn Disk> {
    PoweredDisk::new(0, FaultPlan::default())
}

fn read(disk: &Arc<dyn Disk>, name: &str) -> Vec<u8> {
    let path = Path::new(DIRECTORY).join(name);
    BlockingFile::open(disk, &path, OpenMode::Existing).unwrap().read_all().unwrap().to_vec()
}

#[tokio::test]
async fn the_write_ahead_log_has_the_form_of_version_1() {
    let disk = sim();
    let mut opened = Opened::new(&disk, 1 << 20).unwrap();
    let cluster = ClusterId::from_bytes([0xc0; 16]);
    let body = CommandBody::InitCluster { cluster, format: 1 };
    let command = Command::new(CommandId(1), TimestampMs(1_700_000_000_000), body);
    let entry = |index, payload| Entry { log_id: log_id(1, index), payload };
    opened.store.save_vote(&Vote::new_committed(1, 0)).await.unwrap();
    let first = vec![
        entry(0, EntryPayload::Membership(membership())),
        blank(1, 1),
        entry(2, EntryPayload::Normal(command)),
        blank(1, 3),
    ];
    opened.append(first.clone()).await.unwrap();
    opened.store.truncate_after(Some(log_id(1, 2))).await.unwrap();
    opened.store.purge(log_id(1, 0)).await.unwrap();
    opened.store.save_committed(Some(log_id(1, 2))).await.unwrap();
    opened.end();
    let golden = std::fs::read(testdata().join("wal-v1.log")).unwrap();
    assert_eq!(
        read(&disk, &file_name(1)).escape_ascii().to_string(),
        golden.escape_ascii().to_string()
    );
    let opened = Opened::new(&disk, 1 << 20).unwrap();
    let recovered = opened.recovered.clone();
    opened.end();
    assert_eq!(recovered.vote, Some(Vote::new_committed(1, 0)));
    assert_eq!(recovered.committed, Some(log_id(1, 2)));
    assert_eq!(recovered.purged, Some(log_id(1, 0)));
    assert!(recovered.log.values().eq(&first[1..3]));
}

#[test]
fn a_snapshot_file_has_the_form_of_version_1() {
    let disk = sim();
    let alive = tokio::sync::mpsc::channel(1).0;
    let files = SnapshotFiles::open(Arc::clone(&disk), Path::new(DIRECTORY), NODE, alive).unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(3, 41)),
        last_membership: StoredMembership::new(Some(log_id(1, 0)), membership()),
    };
    files.save(&meta, b"the state").unwrap();
    let golden = std::fs::read(testdata().join("snapshot-v1.snap")).unwrap();
    assert_eq!(
        read(&disk, "snapshot-00000000000000000042.snap").escape_ascii().to_string(),
        golden.escape_ascii().to_string()
    );
    let (found, data) = files.newest().unwrap().unwrap();
    assert_eq!((found, &data[..]), (meta, &b"the state"[..]));
}

/// `testdata/meta-v1` is the directory of a quorum that made 12 topics with a snapshot every 10
/// entries and was then stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_version_1_opens() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("meta")).unwrap();
    for entry in std::fs::read_dir(testdata().join("meta-v1")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), root.path().join("meta").join(entry.file_name())).unwrap();
    }
    let disk = FileDisk::open_root(root.path(), &FileDiskConfig::default()).unwrap();
    let config = QuorumConfig::new(BrokerId(1), "meta");
    let quorum = Quorum::start(Arc::new(disk), config, Vec::new).await.unwrap();
    let state = quorum.state();
    assert_eq!(state.cluster(), Some(ClusterId::from_bytes([9; 16])));
    assert_eq!((state.topics_len(), state.partitions_len()), (12, 24));
    assert_eq!(state.topic_named("topic-7").unwrap().overrides["durability"], "replicated");
    let body = CommandBody::AllocateProducerIds { broker: BrokerId(1), count: 5 };
    let command = Command::new(CommandId(1 << 90), TimestampMs(0), body);
    let first = ProducerId(1_000);
    let outcome = quorum.propose(command).await.unwrap();
    assert_eq!(outcome, Ok(Applied::ProducerIdsAllocated { first, count: 5 }));
    quorum.shutdown().await;
}
