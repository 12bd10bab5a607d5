//! What a reader asks of the store, counted; and that it finds what was archived.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use millstream_types::{ClusterId, LeaderEpoch, PartitionIndex, TopicId};
use millstream_wire::{BatchBuilder, BatchFrame, Codec, ProducerStamp, RecordFields};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::*;
use crate::{DiskCache, Encoder, Identity, PartitionArchive, RangeEnd, Store};

const RECORDS: u32 = 8;
const VALUE_BYTES: usize = 60 * 1024;
/// Batches of some 480 KiB: row groups of 3.5 MiB hold eight.
const BATCHES: u64 = 40;
const RANGES: u64 = 2;
const AMPLE: usize = 1 << 30;

/// Counts reads, and fails as many as it is told to.
#[derive(Debug, Default)]
struct Counting {
    inner: InMemory,
    gets: AtomicUsize,
    to_fail: AtomicUsize,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, data, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        // Others get their turn here, as on a network.
        tokio::task::yield_now().await;
        let less = |left: usize| left.checked_sub(1);
        if self.to_fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Err(Error::Generic { store: "counting", source: "injected".into() });
        }
        self.inner.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

/// Record `offset`'s time: grows, but not from record to record; some have none.
fn time_of(offset: i64) -> TimestampMs {
    match offset % 5 {
        0 => TimestampMs::NONE,
        step => TimestampMs(1_000 + offset / 5 * 5 + (4 - step) * 3),
    }
}

fn batch(base: Offset, value: &[u8]) -> Batch {
    let offsets = || (0..RECORDS).map(|index| base.plus(u64::from(index)));
    let frame = BatchFrame {
        base_offset: base,
        leader_epoch: LeaderEpoch(1),
        attributes: millstream_wire::Attributes::new(Codec::None),
        last_offset_delta: RECORDS - 1,
        base_timestamp: time_of(base.value()),
        max_timestamp: offsets().map(|offset| time_of(offset.value())).max().unwrap(),
        producer: ProducerStamp::NONE,
    };
    let mut builder = BatchBuilder::new(Codec::None, 0);
    for offset in offsets() {
        let timestamp = time_of(offset.value());
        let record = RecordFields { offset, timestamp, key: None, value: Some(value) };
        builder.append_framed(&frame, record, [].into_iter()).unwrap();
    }
    Batch::validate(builder.build_framed(&frame).unwrap()).unwrap()
}

struct Bench {
    counting: Arc<Counting>,
    archive: PartitionArchive,
    batches: Vec<Batch>,
    store: Store,
}

impl Bench {
    fn gets(&self) -> usize {
        self.counting.gets.load(Ordering::Relaxed)
    }

    /// A new cache and reader, with nothing counted yet.
    fn reader(&self, cache_bytes: usize) -> (Arc<ReadCache>, ArchiveReader) {
        let cache = ReadCache::new(self.store.clone(), cache_bytes);
        let reader = self.archive.reader(&cache);
        self.counting.gets.store(0, Ordering::Relaxed);
        (cache, reader)
    }
}

async fn bench(value_bytes: usize) -> Bench {
    let counting = Arc::new(Counting::default());
    let store = Store::new(Arc::clone(&counting) as Arc<dyn ObjectStore>, "counting");
    let (archive, batches) = fill(&store, PartitionIndex(0), value_bytes).await;
    Bench { counting, archive, batches, store }
}

/// Archives a partition; its batches, too.
async fn fill(
    store: &Store,
    partition: PartitionIndex,
    value_bytes: usize,
) -> (PartitionArchive, Vec<Batch>) {
    let identity = Identity {
        cluster: ClusterId::from_bytes([1; 16]),
        topic: "t".to_owned(),
        topic_id: TopicId::from_bytes([2; 16]),
        partition,
    };
    let mut archive = PartitionArchive::open(store.clone(), identity.clone(), None).await.unwrap();
    let (mut next, mut batches) = (Offset::ZERO, Vec::new());
    for range in 0..RANGES {
        let mut encoder = Encoder::new(identity.clone(), next).unwrap();
        for _ in 0..BATCHES / RANGES {
            let batch = batch(encoder.next_offset(), &vec![7; value_bytes]);
            encoder.push(&batch).unwrap();
            batches.push(batch);
        }
        let object = encoder.finish(&RangeEnd::default()).unwrap();
        next = object.summary.end;
        archive.append(LeaderEpoch(1), &object, u128::from(range)).await.unwrap();
    }
    (archive, batches)
}

/// Reads on from `offset` to the end; returns the batches and how many reads it took.
async fn read_on(reader: &mut ArchiveReader, mut at: Offset, bytes_max: usize) -> Vec<Bytes> {
    let mut read = Vec::new();
    while at.value() < reader.end {
        let replayed = reader.read(at, bytes_max).await.unwrap();
        read.extend(replayed.batches);
        at = replayed.next;
    }
    read
}

#[tokio::test]
async fn in_order_each_footer_and_row_group_is_fetched_once() {
    let bench = bench(VALUE_BYTES).await;
    let originals: Vec<Bytes> = bench.batches.iter().map(|batch| batch.bytes().clone()).collect();
    for bytes_max in [0, 1 << 20, AMPLE] {
        let (_, mut reader) = bench.reader(AMPLE);
        let read = read_on(&mut reader, Offset::ZERO, bytes_max).await;
        assert_eq!(read, originals, "{bytes_max}");
        // Two ranges of 20 batches, each in row groups of 8, 8 and 4.
        assert_eq!(bench.gets(), 2 + 6, "{bytes_max}");
    }
}

#[tokio::test]
async fn a_jump_costs_a_footer_and_one_row_group() {
    let bench = bench(VALUE_BYTES).await;
    let (_, mut reader) = bench.reader(AMPLE);
    let within = bench.batches[12].header().base_offset.plus(3);
    let replayed = reader.read(within, 1).await.unwrap();
    assert_eq!(replayed.batches, [bench.batches[12].bytes().clone()], "the one that holds it");
    assert_eq!(replayed.next, bench.batches[13].header().base_offset);
    assert_eq!(bench.gets(), 2);
    reader.read(Offset::ZERO, 1).await.unwrap();
    assert_eq!(bench.gets(), 3, "the footer is kept, and nothing is fetched ahead");
}

#[tokio::test]
async fn going_on_fetches_ahead() {
    let bench = bench(VALUE_BYTES).await;
    let (cache, mut reader) = bench.reader(AMPLE);
    let first = reader.read(Offset::ZERO, AMPLE).await.unwrap();
    let one_group = cache.bytes();
    reader.read(first.next, AMPLE).await.unwrap();
    while reader.ahead.join_next().await.is_some() {}
    assert!(cache.bytes() > 2 * one_group, "the third row group came unasked");
    let before = bench.gets();
    let third = bench.batches[16].header().base_offset;
    reader.read(third, AMPLE).await.unwrap();
    while reader.ahead.join_next().await.is_some() {}
    assert_eq!(bench.gets() - before, 2, "only the next range's footer and first row group");
}

#[tokio::test]
async fn a_megabyte_across_two_row_groups_is_all_that_is_fetched() {
    let bench = bench(VALUE_BYTES).await;
    let (_, mut reader) = bench.reader(AMPLE);
    // The last batch of the first row group, and the first of the second.
    let near_the_end = bench.batches[7].header().base_offset;
    let first = reader.read(near_the_end, 1 << 20).await.unwrap();
    reader.read(first.next, 1 << 19).await.unwrap();
    while reader.ahead.join_next().await.is_some() {}
    assert_eq!(bench.gets(), 1 + 2, "a footer and two row groups");
}

#[tokio::test]
async fn what_many_want_at_once_is_fetched_once() {
    let bench = bench(VALUE_BYTES).await;
    let (cache, _) = bench.reader(AMPLE);
    let mut readers: Vec<_> = (0..16).map(|_| bench.archive.reader(&cache)).collect();
    let reads = readers.iter_mut().map(|reader| reader.read(Offset::ZERO, 1));
    for replayed in futures_util::future::join_all(reads).await {
        assert_eq!(replayed.unwrap().batches, [bench.batches[0].bytes().clone()]);
    }
    assert_eq!(bench.gets(), 2);
}

/// Archives of as many partitions, and their readers through one cache, with nothing counted yet.
async fn readers(count: u32, cache_bytes: usize) -> (Bench, Arc<ReadCache>, Vec<ArchiveReader>) {
    let bench = bench(VALUE_BYTES).await;
    let (cache, first) = bench.reader(cache_bytes);
    let mut readers = vec![first];
    for index in 1..count {
        let (archive, _) = fill(&bench.store, PartitionIndex(index), VALUE_BYTES).await;
        readers.push(archive.reader(&cache));
    }
    bench.counting.gets.store(0, Ordering::Relaxed);
    (bench, cache, readers)
}

#[tokio::test]
async fn readers_do_not_evict_what_others_fetched_ahead() {
    // Half of it holds what four readers are at; what they would have ahead is more than all.
    let (bench, cache, mut readers) = readers(4, 40 << 20).await;
    let (slow, fast) = readers.split_first_mut().unwrap();
    let mut at = Offset::ZERO;
    while slow.held.len() < 2 {
        at = slow.read(at, 1 << 20).await.unwrap().next;
    }
    while slow.ahead.join_next().await.is_some() {}
    for reader in fast {
        read_on(reader, Offset::ZERO, 1 << 20).await;
    }
    read_on(slow, at, 1 << 20).await;
    assert_eq!(bench.gets(), 4 * (2 + 6), "each footer and row group once");
    drop(readers);
    assert_eq!(cache.ahead_bytes(), 0);
}

#[tokio::test]
async fn what_is_fetched_ahead_has_one_bound_over_all_readers() {
    const BOUND: usize = 48 << 20;
    let (bench, cache, mut readers) = readers(6, BOUND).await;
    let mut at = Offset::ZERO;
    let mut most = 0;
    while at.value() < readers[0].end {
        let reads = readers.iter_mut().map(|reader| reader.read(at, 1 << 19));
        let read = futures_util::future::join_all(reads).await;
        let mut nexts = read.into_iter().map(|replayed| replayed.unwrap().next);
        at = nexts.next().unwrap();
        assert!(nexts.all(|next| next == at));
        most = most.max(cache.ahead_bytes());
    }
    assert!((BOUND / 4..=BOUND / 2).contains(&most), "{most}");
    assert!(cache.bytes() <= BOUND, "{}", cache.bytes());
    assert_eq!(bench.gets(), 6 * (2 + 6), "each footer and row group once");
}

#[tokio::test]
async fn a_jump_gives_up_what_was_fetched_ahead() {
    let (_bench, cache, mut readers) = readers(1, AMPLE).await;
    let first = readers[0].read(Offset::ZERO, AMPLE).await.unwrap();
    readers[0].read(first.next, AMPLE).await.unwrap();
    assert!(cache.ahead_bytes() > 0);
    readers[0].read(Offset::ZERO, 1).await.unwrap();
    assert_eq!(cache.ahead_bytes(), 0);
}

#[tokio::test]
async fn the_room_of_a_consumer_that_stopped_goes_to_others() {
    // Room for one row group ahead.
    let (_bench, cache, mut readers) = readers(2, 11 << 20).await;
    for reader in &mut readers {
        let first = reader.read(Offset::ZERO, AMPLE).await.unwrap();
        reader.read(first.next, AMPLE).await.unwrap();
        while reader.ahead.join_next().await.is_some() {}
    }
    assert_eq!((readers[0].held.len(), readers[1].held.len()), (1, 0));
    cache.pass_time();
    let (stopped, going) = readers.split_first_mut().unwrap();
    let third = Offset::new(going[0].expected.unwrap().value()).unwrap();
    going[0].read(third, AMPLE).await.unwrap();
    assert_eq!(going[0].held.len(), 1);
    assert_eq!(read_on(stopped, Offset::ZERO, AMPLE).await.len(), 40);
}

#[tokio::test]
async fn memory_is_bounded_and_counted() {
    const BOUND: usize = 6 << 20;
    let bench = bench(VALUE_BYTES).await;
    let (cache, mut reader) = bench.reader(BOUND);
    let (mut at, mut most) = (Offset::ZERO, 0);
    while at.value() < reader.end {
        at = reader.read(at, 1).await.unwrap().next;
        most = most.max(cache.bytes());
    }
    assert!((1..=BOUND).contains(&most), "{most}");
    let (cache, mut reader) = bench.reader(0);
    assert_eq!(read_on(&mut reader, Offset::ZERO, AMPLE).await.len(), bench.batches.len());
    assert_eq!(cache.bytes(), 0, "a cache of nothing still reads");
}

#[tokio::test]
async fn after_a_failure_the_next_read_tries_again() {
    let bench = bench(100).await;
    for failures in 1..=2 {
        let (_, mut reader) = bench.reader(AMPLE);
        for _ in 0..failures {
            bench.counting.to_fail.store(1, Ordering::Relaxed);
            let failed = reader.read(Offset::ZERO, 1).await;
            assert!(failed.as_ref().is_err_and(ArchiveError::is_retriable), "{failed:?}");
        }
        let replayed = reader.read(Offset::ZERO, 1).await.unwrap();
        assert_eq!(replayed.batches, [bench.batches[0].bytes().clone()]);
    }
    let (_, mut reader) = bench.reader(AMPLE);
    let beyond = Offset::new(reader.end).unwrap();
    let refused = reader.read(beyond, 1).await;
    assert!(matches!(refused, Err(ArchiveError::OutOfRange { .. })), "{refused:?}");
}

#[tokio::test]
async fn the_first_record_at_a_time_is_found() {
    let bench = bench(100).await;
    let (_, reader) = bench.reader(AMPLE);
    for time in (-3..1_400).map(TimestampMs) {
        let offsets = 0..reader.end;
        let expected = offsets
            .map(|offset| (Offset::new(offset).unwrap(), time_of(offset)))
            .find(|(_, timestamp)| *timestamp >= time);
        assert_eq!(reader.find_time(time).await.unwrap(), expected, "{time:?}");
    }
}

/// A reader behind a memory that keeps nothing, in front of files.
fn through(bench: &Bench, disk: &Arc<DiskCache>) -> ArchiveReader {
    let cache = ReadCache::with_disk(bench.store.clone(), 0, Some(Arc::clone(disk)));
    bench.counting.gets.store(0, Ordering::Relaxed);
    bench.archive.reader(&cache)
}

#[tokio::test]
async fn what_a_file_holds_is_not_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(100).await;
    let originals: Vec<Bytes> = bench.batches.iter().map(|batch| batch.bytes().clone()).collect();
    let disk = DiskCache::open(dir.path(), 1 << 30);
    assert_eq!(read_on(&mut through(&bench, &disk), Offset::ZERO, AMPLE).await, originals);
    assert_eq!(bench.gets(), 2 + 2, "footers and row groups");
    disk.written().await;
    for disk in [disk, DiskCache::open(dir.path(), 1 << 30)] {
        assert_eq!(read_on(&mut through(&bench, &disk), Offset::ZERO, AMPLE).await, originals);
        assert_eq!(bench.gets(), 2, "footers alone, after a restart, too");
    }
}

#[tokio::test]
async fn what_a_file_holds_does_not_wait_for_a_store_that_stalls() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(100).await;
    let disk = DiskCache::open(dir.path(), 1 << 30);
    let cache = ReadCache::with_disk(bench.store.clone(), 0, Some(Arc::clone(&disk)));
    let mut reader = bench.archive.reader(&cache);
    let before = reader.read(Offset::ZERO, AMPLE).await.unwrap();
    disk.written().await;
    let stalled = cache.stalled().await;
    let read = reader.read(Offset::ZERO, AMPLE);
    let read = tokio::time::timeout(std::time::Duration::from_secs(30), read).await;
    assert_eq!(read.expect("it waits for nothing").unwrap(), before);
    drop(stalled);
}

#[tokio::test]
async fn readers_of_every_age_share_what_they_know_of_ranges() {
    let mut bench = bench(100).await;
    let (cache, old) = bench.reader(AMPLE);
    let next = bench.batches.last().unwrap().header().next_offset();
    let mut encoder = Encoder::new(bench.archive.identity().clone(), next).unwrap();
    encoder.push(&batch(next, b"one more")).unwrap();
    let object = encoder.finish(&RangeEnd::default()).unwrap();
    bench.archive.append(LeaderEpoch(1), &object, 9).await.unwrap();
    let new = bench.archive.reader(&cache);
    assert_eq!(new.ranges.len(), old.ranges.len() + 1);
    let shared = old.ranges.iter().zip(new.ranges.iter());
    assert!(shared.into_iter().all(|(one, other)| Arc::ptr_eq(one, other)));
}

#[tokio::test]
async fn a_file_that_was_changed_or_cannot_be_read_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(100).await;
    let originals: Vec<Bytes> = bench.batches.iter().map(|batch| batch.bytes().clone()).collect();
    let disk = DiskCache::open(dir.path(), 1 << 30);
    read_on(&mut through(&bench, &disk), Offset::ZERO, AMPLE).await;
    disk.written().await;
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap()).collect();
    assert_eq!(files.len(), 2);
    for file in &files {
        let mut bytes = std::fs::read(file.path()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(file.path(), bytes).unwrap();
    }
    assert_eq!(read_on(&mut through(&bench, &disk), Offset::ZERO, AMPLE).await, originals);
    assert_eq!(bench.gets(), 2 + 2);
    disk.written().await;
    assert_eq!(read_on(&mut through(&bench, &disk), Offset::ZERO, AMPLE).await, originals);
    assert_eq!(bench.gets(), 2, "it was kept again");
    // A file where the directory should be.
    for file in &files {
        std::fs::remove_file(file.path()).unwrap();
    }
    std::fs::remove_dir(dir.path()).unwrap();
    std::fs::write(dir.path(), "in the way").unwrap();
    for _ in 0..2 {
        assert_eq!(read_on(&mut through(&bench, &disk), Offset::ZERO, AMPLE).await, originals);
        assert_eq!(bench.gets(), 2 + 2, "reads go on without it");
        assert!(disk.is_off());
    }
}
