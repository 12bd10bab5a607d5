//! A partition on a simulated disk: what it refuses, and that it commits whatever the disk does at
//! once or later. The simulator (`core/sim`) does the rest.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use millstream_env::disk::{
    Completions, DiskResult, FaultPlan, FileId, OpToken, SimDisk, SimDiskConfig,
};
use millstream_log::{Context, LogConfig, LogShared, ReadPlan, SharedLimits};
use millstream_partition::{AppendError, Partition, PartitionConfig, TimestampPolicy};
use millstream_replica::{Durability, ReplicaConfig};
use millstream_types::{
    BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    TimestampMs, TopicId, TopicPartition,
};
use millstream_wire::{Batch, BatchBuilder, BatchError, Codec, IncomingBatch, ProducerStamp};

const NOW: TimestampMs = TimestampMs(1_600_000_000_000);

#[derive(Debug, Default)]
struct Mailbox(Mutex<VecDeque<(FileId, OpToken, DiskResult<()>)>>);

impl Completions for Mailbox {
    fn complete(&self, file: FileId, token: OpToken, result: DiskResult<()>) {
        self.0.lock().unwrap().push_back((file, token, result));
    }
}

struct Bench {
    disk: Arc<SimDisk>,
    mailbox: Arc<Mailbox>,
    partition: Partition,
}

fn config(timestamps: TimestampPolicy) -> PartitionConfig {
    PartitionConfig {
        log: LogConfig { segment_bytes: 1000, ..LogConfig::default() },
        replica: ReplicaConfig {
            broker: BrokerId(1),
            durability: Durability::Fsync,
            min_in_sync: 1,
        },
        timestamps,
        batch_bytes_max: 500,
        producer_expiration_ms: 1000,
        archived: false,
    }
}

const CREATE_TIME: TimestampPolicy =
    TimestampPolicy::CreateTime { before_max_ms: 1000, after_max_ms: 100 };

fn bench(seed: u64, ready_per_cent: u8, config: PartitionConfig) -> Bench {
    let disk_config = SimDiskConfig { ready_per_cent, ..SimDiskConfig::default() };
    let disk = Arc::new(SimDisk::new(seed, disk_config));
    let mailbox = Arc::new(Mailbox::default());
    let context = Context {
        disk: Arc::clone(&disk) as _,
        dir: PathBuf::from("t/0"),
        identity: TopicPartition {
            topic: TopicId::from_bytes([1; 16]),
            partition: PartitionIndex(0),
        },
        config: config.log,
        completions: Arc::clone(&mailbox) as _,
        shared: LogShared::new(SharedLimits::default()),
    };
    let mut partition = Partition::open(context, config, NOW).unwrap();
    partition.lead(NOW, LeaderEpoch(1));
    Bench { disk, mailbox, partition }
}

impl Bench {
    /// Hands over a completion, if there is one.
    fn take_one(&mut self) {
        let next = self.mailbox.0.lock().unwrap().pop_front();
        if let Some((file, token, result)) = next {
            let _failed = self.partition.complete(NOW, file, token, result);
        }
    }

    fn settle(&mut self) {
        loop {
            self.disk.run_until_idle();
            let Some((file, token, result)) = self.mailbox.0.lock().unwrap().pop_front() else {
                return;
            };
            self.partition.complete(NOW, file, token, result).unwrap();
        }
    }
}

fn batch(at: TimestampMs, value_bytes: usize) -> IncomingBatch {
    let mut builder = BatchBuilder::new(Codec::None, 0);
    builder.append(at, None, Some(&vec![b'.'; value_bytes]), &[]).unwrap();
    let bytes = BytesMut::from(&builder.build(ProducerStamp::NONE).unwrap()[..]);
    IncomingBatch::validate(bytes, usize::MAX).unwrap()
}

/// A sync that ends within the submitting call has no completion: it must count all the same.
#[test]
fn everything_commits_whether_the_disk_is_done_at_once_or_later() {
    for ready_per_cent in [0, 30, 70, 100] {
        for seed in 0..50 {
            let mut bench = bench(seed, ready_per_cent, config(CREATE_TIME));
            for _ in 0..30 {
                bench.partition.append(NOW, batch(NOW, 100)).unwrap();
                if seed % 2 == 0 {
                    bench.disk.step();
                }
            }
            bench.settle();
            bench.partition.maintain(NOW).unwrap();
            bench.settle();
            let (positions, log) = (bench.partition.positions(), bench.partition.log());
            assert_eq!(positions.high_watermark, Offset::ZERO.plus(30));
            assert_eq!((log.durable_end(), log.end()), (positions.durable, positions.end));
            assert!(bench.partition.is_idle());
        }
    }
}

/// Nobody waits for a sync on such a topic, but what a power cut can take is bounded.
#[test]
fn a_replicated_topic_is_synced_behind_its_producers() {
    const BATCH_BYTES: usize = 1024 * 1024;
    let mut config = config(CREATE_TIME);
    config.log.segment_bytes = 1 << 30;
    config.batch_bytes_max = 2 * BATCH_BYTES;
    config.replica.durability = Durability::Replicated;
    let mut bench = bench(1, 0, config);
    for number in 0..40 {
        bench.partition.append(NOW, batch(NOW, BATCH_BYTES)).unwrap();
        bench.settle();
        let log = bench.partition.log();
        assert!(log.unsynced_bytes() <= 9 * BATCH_BYTES as u64, "after batch {number}");
    }
    assert!(bench.partition.log().durable_end() >= Offset::ZERO.plus(31));
    assert_eq!(bench.partition.positions().high_watermark, Offset::ZERO.plus(40));
}

/// Whatever the disk still reports after a sync has failed, and whoever asks.
#[test]
fn nothing_is_committed_once_the_disk_has_failed() {
    let mut held_back = 0;
    for seed in 0..200 {
        let mut config = config(CREATE_TIME);
        config.replica.durability = Durability::Replicated;
        let mut bench = bench(seed, 20, config);
        let faults = FaultPlan { fail_sync: Some(1 + seed % 7), ..FaultPlan::default() };
        bench.disk.set_faults(faults);
        let mut failed_at = None;
        for number in 0..60 {
            let _taken = bench.partition.append(NOW, batch(NOW, 100));
            for _ in 0..number % 4 {
                bench.disk.step();
                bench.take_one();
                if bench.partition.log().failure().is_some() {
                    failed_at.get_or_insert(bench.partition.positions().high_watermark);
                }
            }
            let _maintained = bench.partition.maintain(NOW);
            let _synced = bench.partition.sync(NOW);
            let now = bench.partition.positions();
            if let Some(failed_at) = failed_at {
                assert_eq!(now.high_watermark, failed_at, "seed {seed}");
            }
        }
        let written = bench.partition.log().written_end();
        held_back += u32::from(failed_at.is_some_and(|failed_at| failed_at < written));
    }
    assert!(held_back > 0, "no run had anything to commit after its failure");
}

#[test]
fn a_batch_out_of_time_or_too_large_is_refused_and_leaves_nothing() {
    let mut bench = bench(1, 100, config(CREATE_TIME));
    for at in [NOW.0 - 1001, NOW.0 + 101] {
        let refused = bench.partition.append(NOW, batch(TimestampMs(at), 10));
        assert!(matches!(refused, Err(AppendError::Timestamp { .. })), "{refused:?}");
    }
    let refused = bench.partition.append(NOW, batch(NOW, 500));
    let too_large = matches!(refused, Err(AppendError::Batch(BatchError::TooLarge { .. })));
    assert!(too_large, "{refused:?}");
    assert_eq!(bench.partition.positions().end, Offset::ZERO);
    for at in [NOW.0 - 1000, NOW.0 + 100] {
        bench.partition.append(NOW, batch(TimestampMs(at), 10)).unwrap();
    }
}

fn batch_of(records: &[TimestampMs], stamp: ProducerStamp) -> BytesMut {
    let mut builder = BatchBuilder::new(Codec::None, 0);
    for at in records {
        builder.append(*at, None, Some(b"value"), &[]).unwrap();
    }
    BytesMut::from(&builder.build(stamp).unwrap()[..])
}

fn checked(bytes: BytesMut) -> IncomingBatch {
    let mut batch = IncomingBatch::validate(bytes, usize::MAX).unwrap();
    batch.check_records().unwrap();
    batch
}

#[test]
fn every_record_is_within_time_not_the_latest_alone() {
    let mut bench = bench(1, 100, config(CREATE_TIME));
    let old = TimestampMs(NOW.0 - 1001);
    for records in [[old, NOW], [NOW, old]] {
        let batch = checked(batch_of(&records, ProducerStamp::NONE));
        let refused = bench.partition.append(NOW, batch);
        let names_it = matches!(
            refused,
            Err(AppendError::Timestamp { timestamp, now }) if (timestamp, now) == (old, NOW)
        );
        assert!(names_it, "{refused:?}");
    }
    assert_eq!(bench.partition.positions().end, Offset::ZERO);
    // A record without a timestamp is not an old one.
    for records in [[TimestampMs::NONE, NOW], [TimestampMs::NONE; 2]] {
        let batch = checked(batch_of(&records, ProducerStamp::NONE));
        bench.partition.append(NOW, batch).unwrap();
    }
}

#[test]
fn a_batch_that_is_sent_again_too_late_keeps_its_place() {
    let mut bench = bench(1, 100, config(CREATE_TIME));
    let stamp =
        |base_sequence| ProducerStamp { id: ProducerId(7), epoch: ProducerEpoch(0), base_sequence };
    let first = batch_of(&[NOW], stamp(0));
    let placed = bench.partition.append(NOW, checked(first.clone())).unwrap();
    let later = TimestampMs(NOW.0 + 5000);
    let again = bench.partition.append(later, checked(first)).unwrap();
    assert_eq!((again.base_offset, again.duplicate), (placed.base_offset, true));
    let refused = bench.partition.append(later, checked(batch_of(&[NOW], stamp(1))));
    assert!(matches!(refused, Err(AppendError::Timestamp { .. })), "{refused:?}");
}

#[test]
fn a_batch_that_calls_its_time_the_brokers_is_refused() {
    for timestamps in [CREATE_TIME, TimestampPolicy::LogAppendTime] {
        let mut bench = bench(1, 100, config(timestamps));
        let mut batch = checked(batch_of(&[NOW], ProducerStamp::NONE));
        batch.set_log_append_time(NOW);
        let refused = bench.partition.append(NOW, batch).unwrap_err();
        assert!(matches!(refused, AppendError::TimestampType), "{refused:?}");
        assert_eq!(refused.code(), ErrorCode::InvalidTimestamp);
        assert_eq!(bench.partition.positions().end, Offset::ZERO);
    }
}

#[test]
fn the_brokers_time_is_written_into_the_batch() {
    let mut bench = bench(1, 100, config(TimestampPolicy::LogAppendTime));
    let placed = bench.partition.append(NOW, batch(TimestampMs(5), 10)).unwrap();
    assert_eq!(placed.append_time, Some(NOW));
    let plan = bench.partition.read(Offset::ZERO.into(), usize::MAX).unwrap();
    let ReadPlan::Memory { batches, .. } = plan else { unreachable!("{plan:?}") };
    let bytes: &Bytes = batches.first().unwrap();
    assert_eq!(Batch::validate(bytes.clone()).unwrap().header().max_timestamp, NOW);
}
