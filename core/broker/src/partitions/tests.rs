//! Partitions and a metadata quorum on real files: changes that are given up half-way, and an
//! archive that is not there.

use std::task::Poll;
use std::time::Duration;

use millstream_env::clock::SystemClock;
use millstream_env::disk::{FileDisk, FileDiskConfig};
use millstream_log::SharedLimits;
use millstream_meta::{Command, CommandBody, CommandId, FORMAT_VERSION, RestoredPartition};
use millstream_quorum::{Quorum, QuorumConfig};
use millstream_tiered::{Encoder, Identity, PartitionArchive, RangeEnd, Store};
use millstream_types::{ClusterId, Digest, LeaderEpoch, ProducerId, TimestampMs};
use millstream_wire::{
    Attributes, Batch, BatchBuilder, BatchFrame, Codec, ProducerStamp, RecordFields,
};

use super::*;
use crate::archive::{Pace, to_meta};
use crate::config::ArchiveSection;

const BROKER: BrokerId = BrokerId(1);
const CLUSTER: [u8; 16] = [9; 16];

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
        let cluster = ClusterId::from_bytes(CLUSTER);
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
        let archives =
            Archives::new(&section, dir.path(), cluster, clock_, Arc::clone(&quorum), Pace::new(0));
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
            digest: Digest::from_bytes([7; 32]),
            start: Offset::ZERO,
            end: Offset::new(10).unwrap(),
            leader_epoch: LeaderEpoch(1),
        };
        self.restore_with(name, vec![head; partitions]).await
    }

    async fn restore_with(&self, name: &str, heads: Vec<ArchiveHead>) -> Arc<MetaState> {
        let partitions = heads
            .into_iter()
            .map(|head| RestoredPartition { leader_epoch: LeaderEpoch(1), head: Some(head) });
        self.propose(CommandBody::RestoreTopic {
            name: name.to_owned(),
            topic: topic(name),
            replication_factor: 1,
            configs: BTreeMap::from([("remote.storage.enable".to_owned(), "true".to_owned())]),
            partitions: partitions.collect(),
            producers_from: ProducerId(0),
            other_producers: Vec::new(),
            parts: None,
        })
        .await
    }
}

/// A partition's archive of one range of two records, in a directory.
async fn archived(dir: &Path, name: &str) -> PartitionArchive {
    let identity = Identity {
        cluster: ClusterId::from_bytes(CLUSTER),
        topic: name.to_owned(),
        topic_id: topic(name),
        partition: PartitionIndex(0),
    };
    let frame = BatchFrame {
        base_offset: Offset::ZERO,
        leader_epoch: LeaderEpoch(1),
        attributes: Attributes::new(Codec::None),
        last_offset_delta: 1,
        base_timestamp: TimestampMs(1),
        max_timestamp: TimestampMs(1),
        producer: ProducerStamp::NONE,
    };
    let mut builder = BatchBuilder::new(Codec::None, 0);
    for offset in [Offset::ZERO, Offset::ZERO.plus(1)] {
        let timestamp = TimestampMs(1);
        let record = RecordFields { offset, timestamp, key: None, value: Some(b"value") };
        builder.append_framed(&frame, record, [].into_iter()).unwrap();
    }
    let batch = Batch::validate(builder.build_framed(&frame).unwrap()).unwrap();
    let mut encoder = Encoder::new(identity.clone(), Offset::ZERO).unwrap();
    encoder.push(&batch).unwrap();
    let epochs = vec![(LeaderEpoch(1), Offset::ZERO)];
    let end = RangeEnd { epochs, ..RangeEnd::default() };
    let object = encoder.finish(&end).unwrap();
    let store = Store::directory(dir).unwrap();
    let mut archive = PartitionArchive::open(store, identity, None).await.unwrap();
    archive.append(LeaderEpoch(1), &object, 1).await.unwrap();
    archive
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
async fn a_partition_goes_on_where_its_archive_ends() {
    let bench = Bench::start().await;
    let dir = bench.dir.path().join("archive");
    std::fs::remove_file(&dir).unwrap();
    let (kept, mut given_up) = (archived(&dir, "kept").await, archived(&dir, "given").await);
    let heads = vec![to_meta(kept.head().unwrap())];
    bench.restore_with("kept", heads).await;
    // Retention gave up every range, and what they knew.
    let end = Offset::ZERO.plus(2);
    let head = given_up.trim(LeaderEpoch(1), end).await.unwrap();
    let state = bench.restore_with("given", vec![to_meta(&head)]).await;
    bench.partitions.reconcile(state).await;
    for (name, earliest) in [("kept", Offset::ZERO), ("given", end)] {
        let id = TopicPartition { topic: topic(name), partition: PartitionIndex(0) };
        let handle = bench.partitions.get(id).unwrap();
        let at = handle.with(|partition| (partition.earliest(), partition.log().start()));
        assert_eq!(at.unwrap(), (earliest, end), "{name}");
    }
}

#[tokio::test]
async fn a_beginning_that_is_damaged_in_the_archive_is_never_taken_for_none() {
    let bench = Bench::start().await;
    let dir = bench.dir.path().join("archive");
    std::fs::remove_file(&dir).unwrap();
    let archive = archived(&dir, "t").await;
    let object = &archive.entries().next().unwrap().object;
    let path = dir.join(archive.folder()).join(object);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle_of_the_footer = bytes.len() - 100;
    bytes[middle_of_the_footer] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let state = bench.restore_with("t", vec![to_meta(archive.head().unwrap())]).await;
    bench.partitions.reconcile(state).await;
    let stopped = bench.partitions.stopped();
    assert!(stopped[0].message.contains("CRC-32C"), "{stopped:?}");
    // Once somebody has brought the object back, the partition opens by itself.
    bytes[middle_of_the_footer] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    bench.partitions.wait_for_late().await;
    assert_eq!(bench.partitions.stopped(), []);
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
