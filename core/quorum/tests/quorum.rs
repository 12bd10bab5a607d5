//! The quorum as the broker uses it, on real files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_env::disk::{Disk, FileDisk, FileDiskConfig};
use millstream_meta::{
    Applied, Command, CommandBody, CommandId, FORMAT_VERSION, MetaError, TopicChange,
};
use millstream_quorum::{COMMAND_BYTES_MAX, ProposeError, Quorum, QuorumConfig, QuorumError};
use millstream_types::{BrokerId, ClusterId, TimestampMs, TopicId};

const NODE: BrokerId = BrokerId(1);

fn config() -> QuorumConfig {
    QuorumConfig::new(NODE, "meta")
}

fn on_files(root: &Path) -> Arc<dyn Disk> {
    Arc::new(FileDisk::open_root(root, &FileDiskConfig::default()).unwrap())
}

fn command(id: u128, body: CommandBody) -> Command {
    Command::new(CommandId(id), TimestampMs(1_700_000_000_000), body)
}

fn bootstrap() -> Vec<Command> {
    let cluster = ClusterId::from_bytes([9; 16]);
    let register =
        CommandBody::RegisterBroker { broker: NODE, endpoints: vec![], directories: vec![] };
    vec![
        command(1, CommandBody::InitCluster { cluster, format: FORMAT_VERSION }),
        command(2, register),
    ]
}

fn create(id: u128, partitions: u32) -> Command {
    let body = CommandBody::CreateTopic {
        name: format!("topic-{id}"),
        topic: TopicId::from_bytes(id.to_be_bytes()),
        partitions,
        replication_factor: 1,
        configs: BTreeMap::new(),
    };
    command(id, body)
}

async fn start(disk: Arc<dyn Disk>, config: QuorumConfig) -> Quorum {
    Quorum::start(disk, config, bootstrap).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_proposed_is_there_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let quorum = start(on_files(root.path()), config()).await;
    let topic = TopicId::from_bytes(10_u128.to_be_bytes());
    let outcome = quorum.propose(create(10, 3)).await.unwrap();
    assert_eq!(outcome, Ok(Applied::TopicCreated { topic }));
    assert_eq!(quorum.state().topic(topic).unwrap().partitions.len(), 3);
    assert_eq!(quorum.propose(create(10, 3)).await.unwrap(), outcome);
    let state = quorum.state();
    quorum.shutdown().await;

    let again = || panic!("the cluster has its identity");
    let quorum = Quorum::start(on_files(root.path()), config(), again).await.unwrap();
    assert_eq!(quorum.state(), state);
    assert_eq!(quorum.propose(create(10, 3)).await.unwrap(), outcome);
    let refused = quorum.propose(command(11, create(10, 3).body)).await.unwrap();
    assert_eq!(refused, Err(MetaError::TopicExists { name: "topic-10".into(), topic }));
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_replace_the_log_before_them() {
    let root = tempfile::tempdir().unwrap();
    let small = QuorumConfig { snapshot_every_entries: 20, segment_bytes_max: 2048, ..config() };
    let quorum = start(on_files(root.path()), small.clone()).await;
    for id in 100..300 {
        quorum.propose(create(id, 2)).await.unwrap().unwrap();
    }
    let state = quorum.state();
    quorum.shutdown().await;
    let names: Vec<_> = std::fs::read_dir(root.path().join("meta"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let count = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
    assert_eq!(count(".snap"), 1, "{names:?}");
    // 200 commands of some 250 bytes fill more than 20 files.
    assert!(count(".log") < 15, "{names:?}");
    let quorum = start(on_files(root.path()), small).await;
    assert_eq!(quorum.state(), state);
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "measures the real time that starting takes")]
async fn ten_thousand_partitions_survive_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let quorum = start(on_files(root.path()), config()).await;
    let before = Instant::now();
    quorum.propose(create(10, 10_000)).await.unwrap().unwrap();
    let created = before.elapsed();
    for id in 1_000..3_000 {
        quorum.propose(create(id, 1)).await.unwrap().unwrap();
    }
    assert_eq!(quorum.state().partitions_len(), 12_000);
    quorum.shutdown().await;
    let disk = on_files(root.path());
    let before = Instant::now();
    let quorum = start(disk, config()).await;
    let restarted = before.elapsed();
    assert_eq!(quorum.state().partitions_len(), 12_000);
    quorum.shutdown().await;
    println!("10,000 partitions in {created:?}; 2,001 topics replayed in {restarted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_propose_at_once_and_readers_see_every_image_in_order() {
    let root = tempfile::tempdir().unwrap();
    let quorum = Arc::new(start(on_files(root.path()), config()).await);
    let mut images = quorum.subscribe();
    let reader = tokio::spawn(async move {
        let mut seen = images.borrow_and_update().clone();
        let mut created = 0;
        while created < 200 {
            images.changed().await.unwrap();
            let next = images.borrow_and_update().clone();
            assert!(next.revision() >= seen.revision());
            let changes = next.changes_since(&seen);
            assert!(changes.iter().all(|change| matches!(change, TopicChange::Created(_))));
            created += changes.len();
            seen = next;
        }
    });
    let proposers: Vec<_> = (0..200_u128)
        .map(|n| {
            let quorum = Arc::clone(&quorum);
            tokio::spawn(async move {
                let id = 1_000 + n;
                quorum.propose(create(id, 1)).await.unwrap().unwrap();
                let topic = TopicId::from_bytes(id.to_be_bytes());
                assert!(quorum.state().topic(topic).is_some(), "a proposer finds its own change");
            })
        })
        .collect();
    for proposer in proposers {
        proposer.await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(30), reader).await.unwrap().unwrap();
    Arc::into_inner(quorum).unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_too_large_is_refused_before_it_reaches_the_log() {
    let root = tempfile::tempdir().unwrap();
    let quorum = start(on_files(root.path()), config()).await;
    let body = CommandBody::CreateTopic {
        name: "x".repeat(COMMAND_BYTES_MAX),
        topic: TopicId::from_bytes([1; 16]),
        partitions: 1,
        replication_factor: 1,
        configs: BTreeMap::new(),
    };
    let error = quorum.propose(command(50, body)).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { .. }), "{error}");
    quorum.propose(create(51, 1)).await.unwrap().unwrap();
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_quorum_lets_go_of_its_disk() {
    let root = tempfile::tempdir().unwrap();
    let disk = on_files(root.path());
    let quorum = start(Arc::clone(&disk), config()).await;
    quorum.propose(create(10, 3)).await.unwrap().unwrap();
    drop(quorum);
    for _ in 0..1_000 {
        if Arc::strong_count(&disk) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} still hold the disk", Arc::strong_count(&disk) - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_nodes_directory_and_useless_settings_are_refused() {
    let root = tempfile::tempdir().unwrap();
    start(on_files(root.path()), config()).await.shutdown().await;
    let other = QuorumConfig { node: BrokerId(2), ..config() };
    let error = Quorum::start(on_files(root.path()), other, Vec::new).await.unwrap_err();
    assert!(matches!(error, QuorumError::Storage(_)), "{error}");
    let none = QuorumConfig { snapshot_every_entries: 0, ..config() };
    let error = Quorum::start(on_files(root.path()), none, Vec::new).await.unwrap_err();
    assert!(matches!(error, QuorumError::InvalidConfig(_)), "{error}");
}
