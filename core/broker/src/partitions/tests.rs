//! Partitions and a metadata quorum on real files: changes that are given up half-way, and an
//! archive that is not there.

use std::task::Poll;
use std::time::Duration;

use millstream_env::clock::SystemClock;
use millstream_env::disk::{FileDisk, FileDiskConfig};
use millstream_log::SharedLimits;
use millstream_meta::{
    Command, CommandBody, CommandId, FORMAT_VERSION, ManifestDigest, RestoredPartition,
};
use millstream_quorum::{Quorum, QuorumConfig};
use millstream_types::{ClusterId, LeaderEpoch, ProducerId};

use super::*;
use crate::config::ArchiveSection;

const BROKER: BrokerId = BrokerId(1);

struct Bench {
    quorum: Arc<Quorum>,
    partitions: Arc<Partitions>,
    commands: std::cell::Cell<u128>,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> =
            Arc::new(FileDisk::open_root(dir.path(), &FileDiskConfig::default()).unwrap());
        let cluster = ClusterId::from_bytes([9; 16]);
        let init = CommandBody::InitCluster { cluster, format: FORMAT_VERSION };
        let register =
            CommandBody::RegisterBroker { broker: BROKER, endpoints: vec![], directories: vec![] };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let command = |id, body| Command::new(CommandId(id), clock.wall(), body);
        let first = vec![command(1, init), command(2, register)];
        let config = QuorumConfig::new(BROKER, "meta");
        let quorum = Arc::new(Quorum::start(Arc::clone(&disk), config, || first).await.unwrap());
        // A file where the archive's directory should be: the store cannot be had.
        std::fs::write(dir.path().join("archive"), "in the way").unwrap();
        let (section, clock_) = (ArchiveSection::default(), Arc::clone(&clock));
        let archives = Archives::new(&section, dir.path(), cluster, clock_, Arc::clone(&quorum));
        let partitions = Arc::new(Partitions::new(PartitionsConfig {
            broker: BROKER,
            disk,
            clock,
            fence: Fence::new(),
            archives: Arc::new(archives),
            shared: LogShared::new(SharedLimits::default()),
            tail_partition_bytes: 1 << 20,
            verify: false,
            open_threads: 4,
        }));
        Self { quorum, partitions, commands: 10.into(), dir }
    }

    /// Puts a command to the quorum; the metadata after it.
    async fn propose(&self, body: CommandBody) -> Arc<MetaState> {
        self.commands.set(self.commands.get() + 1);
        let now = self.partitions.config.clock.wall();
        let command = Command::new(CommandId(self.commands.get()), now, body);
        self.quorum.propose(command).await.unwrap().unwrap();
        self.quorum.state()
    }

    async fn create(&self, name: &str, partitions: u32) -> Arc<MetaState> {
        self.propose(CommandBody::CreateTopic {
            name: name.to_owned(),
            topic: topic(name),
            partitions,
            replication_factor: 1,
            configs: BTreeMap::new(),
        })
        .await
    }

    /// A topic whose partitions are in the archive alone.
    async fn restore(&self, name: &str, partitions: usize) -> Arc<MetaState> {
        let head = ArchiveHead {
            number: 0,
            digest: ManifestDigest([7; 32]),
            start: Offset::ZERO,
            end: Offset::new(10).unwrap(),
            leader_epoch: LeaderEpoch(1),
        };
        let partition = RestoredPartition { leader_epoch: LeaderEpoch(1), head: Some(head) };
        self.propose(CommandBody::RestoreTopic {
            name: name.to_owned(),
            topic: topic(name),
            replication_factor: 1,
            configs: BTreeMap::from([("remote.storage.enable".to_owned(), "true".to_owned())]),
            partitions: vec![partition; partitions],
            producers_from: ProducerId(0),
        })
        .await
    }
}

fn topic(name: &str) -> TopicId {
    let mut bytes = [1; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    TopicId::from_bytes(bytes)
}

/// Begins, as a request does, and is dropped, as by its deadline.
async fn give_up(begun: impl Future<Output = ()>) {
    let mut begun = std::pin::pin!(begun);
    let polled = std::future::poll_fn(|context| Poll::Ready(begun.as_mut().poll(context))).await;
    assert!(polled.is_pending(), "it was done at once");
}

#[tokio::test]
async fn what_a_dropped_request_began_is_finished() {
    let bench = Bench::start().await;
    let created = bench.create("a", 64).await;
    give_up(bench.partitions.reconcile(Arc::clone(&created))).await;
    // Whoever asks for the same waits until it is done.
    bench.partitions.reconcile(created).await;
    assert_eq!(bench.partitions.len(), 64);
    assert_eq!(bench.partitions.stopped(), []);

    // Nobody waits, and others come meanwhile: the last state counts.
    let deleted = bench.propose(CommandBody::DeleteTopic { topic: topic("a") }).await;
    give_up(bench.partitions.reconcile(deleted)).await;
    let created = bench.create("b", 8).await;
    give_up(bench.partitions.reconcile(created)).await;
    let grown = CommandBody::AddPartitions { topic: topic("b"), total: 16 };
    let revision = bench.propose(grown).await.revision();
    give_up(bench.partitions.reconcile(bench.quorum.state())).await;
    let mut done = bench.partitions.done.subscribe();
    let waited = done.wait_for(|done| *done >= revision);
    tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap().unwrap();
    let open: Vec<TopicPartition> = bench.partitions.all().iter().map(|it| it.id()).collect();
    let expected =
        (0..16).map(|index| TopicPartition { topic: topic("b"), partition: PartitionIndex(index) });
    assert_eq!(open, expected.collect::<Vec<_>>());
    assert_eq!(bench.partitions.stopped(), []);
    assert!(!bench.dir.path().join(topic_dir(topic("a"))).exists());
}

#[tokio::test]
async fn partitions_whose_archive_is_away_keep_nobody_waiting() {
    let bench = Bench::start().await;
    bench.create("plain", 4).await;
    let state = bench.restore("archived", 1_000).await;
    let begun = bench.partitions.config.clock.monotonic();
    bench.partitions.config.archives.start().await.unwrap_err();
    bench.partitions.reconcile(state).await;
    let took = bench.partitions.config.clock.monotonic() - begun;
    assert!(took < Duration::from_secs(30), "{took:?}");
    let (waiting, open): (Vec<_>, Vec<_>) =
        bench.partitions.all().into_iter().partition(|handle| handle.is_waiting());
    assert_eq!((waiting.len(), open.len()), (1_000, 4));
    for handle in open {
        handle.leading().unwrap();
    }
    let why = waiting[0].with(|_| ()).unwrap_err();
    assert!(why.message.starts_with("where the partition begins is in the archive: "), "{why:?}");

    // Deleted while they wait, they are gone.
    let deleted = bench.propose(CommandBody::DeleteTopic { topic: topic("archived") }).await;
    bench.partitions.reopen_waiting();
    bench.partitions.reconcile(deleted).await;
    bench.partitions.wait_for_late().await;
    assert_eq!(bench.partitions.len(), 4);
}

#[tokio::test]
async fn a_beginning_that_the_archive_cannot_tell_is_never_taken_for_none() {
    let bench = Bench::start().await;
    // A store that can be had and has nothing of what the metadata knows.
    std::fs::remove_file(bench.dir.path().join("archive")).unwrap();
    let state = bench.restore("archived", 20).await;
    bench.partitions.reconcile(state).await;
    let waiting: Vec<_> = bench.partitions.stopped();
    assert_eq!(waiting.len(), 20);
    for error in waiting {
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert!(error.message.contains("there is no object"), "{error:?}");
    }
}

#[tokio::test]
async fn nothing_is_opened_after_the_stop() {
    let bench = Bench::start().await;
    let created = bench.create("a", 64).await;
    give_up(bench.partitions.reconcile(Arc::clone(&created))).await;
    let leaving = ServiceError::new(ErrorCode::Unavailable, "leaving");
    bench.partitions.stop_all(&leaving);
    bench.partitions.reconcile(created).await;
    assert_eq!(bench.partitions.stopped(), vec![leaving; 64]);
}
