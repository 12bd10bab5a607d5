//! A log on a simulated disk, with everything that was ever appended to it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use millstream_env::disk::{
    Completions, DirEntry, Disk as _, DiskResult, FaultPlan, FileId, OpToken, SimDisk,
    SimDiskConfig,
};
use millstream_log::{
    AppendError, Beginning, Context, Cursor, LogConfig, LogError, LogShared, OpenError,
    PartitionLog, ReadError, ReadPlan, Replay, SharedLimits,
};
use millstream_types::{LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId, TopicPartition};
use millstream_wire::{Batch, BatchBuilder, BatchHeader, Codec, IncomingBatch, ProducerStamp};

pub(crate) const DIR: &str = "topics/t/0";

/// Completions that wait for the owner.
#[derive(Debug, Default)]
pub(crate) struct Queue(Mutex<VecDeque<(FileId, OpToken, DiskResult<()>)>>);

impl Completions for Queue {
    fn complete(&self, file: FileId, token: OpToken, result: DiskResult<()>) {
        self.0.lock().unwrap().push_back((file, token, result));
    }
}

pub(crate) fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

pub(crate) fn identity() -> TopicPartition {
    let topic = TopicId::from_bytes(*b"0123456789abcdef");
    TopicPartition { topic, partition: PartitionIndex(3) }
}

/// A batch of `records` records whose values nothing else has.
pub(crate) fn batch(
    base: Offset,
    epoch: i32,
    records: u32,
    tag: u64,
    bytes: usize,
    at: i64,
) -> Batch {
    let mut builder = BatchBuilder::new(Codec::None, 0);
    for record in 0..records {
        let mut value = format!("{tag}/{record};").into_bytes();
        value.resize(value.len().max(bytes), b'.');
        let time = TimestampMs(at + i64::from(record));
        builder.append(time, None, Some(&value), &[]).unwrap();
    }
    let bytes = BytesMut::from(builder.build(ProducerStamp::NONE).unwrap().as_ref());
    IncomingBatch::validate(bytes, usize::MAX).unwrap().assign(base, LeaderEpoch(epoch))
}

/// Segments of a few batches each.
pub(crate) fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: 900,
        index_interval_bytes: 200,
        retention_ms: None,
        tail_bytes_max: 400,
        ..LogConfig::default()
    }
}

pub(crate) struct Bench {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) shared: Arc<LogShared>,
    pub(crate) config: LogConfig,
    pub(crate) log: Option<PartitionLog>,
    /// Where it begins, if not at 0.
    pub(crate) beginning: Option<Beginning>,
    /// Every batch since offset 0 that the log has, or should have.
    pub(crate) appended: Vec<Batch>,
    pub(crate) epoch: i32,
    pub(crate) now: i64,
    pub(crate) tag: u64,
    /// What the last opening replayed: the snapshot, then base offsets.
    pub(crate) snapshot: Option<Bytes>,
    pub(crate) replayed: Vec<BatchHeader>,
}

impl Bench {
    pub(crate) fn new(seed: u64, ready_per_cent: u8, config: LogConfig, faults: FaultPlan) -> Self {
        let disk = Arc::new(SimDisk::new(seed, SimDiskConfig { ready_per_cent, faults }));
        Self {
            disk,
            queue: Arc::default(),
            shared: LogShared::new(SharedLimits {
                tail_bytes_max: 1000,
                sealed_handles_max: 2,
                index_bytes_max: 1000,
            }),
            config,
            log: None,
            beginning: None,
            appended: Vec::new(),
            epoch: 1,
            now: 1_000_000,
            tag: 0,
            snapshot: None,
            replayed: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> TimestampMs {
        TimestampMs(self.now)
    }

    pub(crate) fn log(&mut self) -> &mut PartitionLog {
        self.log.as_mut().unwrap()
    }

    pub(crate) fn context(&self) -> Context {
        Context {
            disk: Arc::clone(&self.disk) as _,
            dir: PathBuf::from(DIR),
            identity: identity(),
            config: self.config,
            completions: Arc::clone(&self.queue) as _,
            shared: Arc::clone(&self.shared),
        }
    }

    pub(crate) fn open(&mut self) -> Result<(), OpenError> {
        self.log = None;
        self.queue = Arc::default();
        let context = self.context();
        let (mut snapshot, mut replayed) = (None, Vec::new());
        let mut replay = |replay: Replay<'_>| match replay {
            Replay::ProducerSnapshot(bytes) => snapshot = Some(bytes),
            Replay::Batch(header) => replayed.push(*header),
        };
        let beginning = self.beginning.as_ref();
        let log = PartitionLog::open_at(context, beginning, self.now(), &mut replay)?;
        (self.snapshot, self.replayed) = (snapshot, replayed);
        log.check().unwrap();
        self.log = Some(log);
        Ok(())
    }

    pub(crate) fn append(&mut self, records: u32, bytes: usize) -> Result<(), AppendError> {
        self.tag += 1;
        let base = self.log().end();
        let batch = batch(base, self.epoch, records, self.tag, bytes, self.now);
        let now = self.now();
        if self.log().needs_roll(now, batch.bytes().len()) {
            self.roll()?;
        }
        self.log().append(now, batch.clone())?;
        self.appended.push(batch);
        self.log().check().unwrap();
        Ok(())
    }

    pub(crate) fn roll(&mut self) -> Result<(), LogError> {
        let snapshot = Bytes::from(format!("state at {}", self.log().end()));
        self.log().roll(snapshot)
    }

    /// Hands the log what has completed.
    pub(crate) fn deliver(&mut self) -> Result<(), LogError> {
        loop {
            let next = self.queue.0.lock().unwrap().pop_front();
            let Some((file, token, result)) = next else { return Ok(()) };
            let progress = self.log().complete(file, token, result)?;
            self.log().check().unwrap();
            assert_eq!(progress.durable_end, self.log().durable_end());
        }
    }

    /// Runs the disk until everything appended is durable, or something fails.
    pub(crate) fn settle(&mut self) -> Result<(), LogError> {
        loop {
            let started = self.log().sync()?;
            let stepped = self.disk.step();
            self.deliver()?;
            if !started && !stepped {
                return Ok(());
            }
        }
    }

    /// What the log holds, read in pieces of about `max_bytes`.
    pub(crate) fn read_all(&mut self, max_bytes: usize) -> Result<Bytes, ReadError> {
        let log = self.log.as_ref().unwrap();
        let (mut cursor, mut all) = (Cursor::from(log.start()), BytesMut::new());
        loop {
            match log.read(cursor, log.written_end(), max_bytes)? {
                ReadPlan::Empty => return Ok(all.freeze()),
                ReadPlan::Memory { batches, next } => {
                    batches.iter().for_each(|batch| all.extend_from_slice(batch));
                    assert!(next.offset() > cursor.offset());
                    cursor = next;
                }
                ReadPlan::File(read) => {
                    let loaded = read.verify_crc(true).load()?;
                    assert!(loaded.next.offset() > cursor.offset(), "{cursor:?}");
                    all.extend_from_slice(&loaded.batches);
                    cursor = loaded.next;
                }
            }
        }
    }

    /// The bytes that the log should hold from its start to its end.
    pub(crate) fn expected(&mut self) -> Bytes {
        let (start, end) = (self.log().start(), self.log().end());
        let mut all = BytesMut::new();
        for batch in &self.appended {
            let header = batch.header();
            if header.base_offset >= start && header.next_offset() <= end {
                all.extend_from_slice(batch.bytes());
            }
        }
        all.freeze()
    }

    /// Checks that the log is a prefix of what was appended and reaches at least to `durable`;
    /// then forgets what is lost.
    pub(crate) fn check_recovered(&mut self, durable: Offset) {
        let end = self.log().end();
        assert!(end >= durable, "recovered up to {end}, acknowledged up to {durable}");
        self.log().drop_tail();
        let (read, expected) = (self.read_all(333).unwrap(), self.expected());
        assert!(read == expected, "other bytes than were appended, or a gap, up to {end}");
        self.appended.retain(|batch| batch.header().next_offset() <= end);
        let last = self.appended.last().map_or(Offset::ZERO, |batch| batch.header().next_offset());
        assert_eq!(last, end, "the log ends between two batches that were appended");
        self.check_replay();
    }

    /// Checks that the last opening replayed every batch after its snapshot.
    fn check_replay(&mut self) {
        let start = self.log().start();
        let from = match &self.snapshot {
            None => start,
            Some(bytes) => {
                let text = std::str::from_utf8(bytes).unwrap();
                offset(text.strip_prefix("state at ").unwrap().parse().unwrap())
            }
        };
        let kept = self.appended.iter().map(|batch| *batch.header());
        let expected: Vec<_> = kept.filter(|header| header.base_offset >= from).collect();
        assert_eq!(self.replayed, expected);
    }
}

/// The log's files and their lengths, oldest first.
pub(crate) fn files(bench: &Bench) -> Vec<(PathBuf, u64)> {
    let name = |entry: DirEntry| Path::new(DIR).join(entry.name);
    let paths = bench.disk.list(Path::new(DIR)).unwrap().into_iter().map(name);
    paths.map(|path| (path.clone(), length(bench, &path))).collect()
}

fn length(bench: &Bench, path: &Path) -> u64 {
    let mode = millstream_env::disk::OpenMode::Existing;
    let file = bench.disk.open(path, mode, bench.queue.clone()).unwrap();
    let len = bench.disk.len(file).unwrap();
    bench.disk.close(file);
    len
}
