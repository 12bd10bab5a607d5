//! A store that fails, stalls, loses replies, lies and dies, from one seed; and what the archive
//! must hold whatever it does.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use millstream_types::{ClusterId, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};
use millstream_wire::{Batch, BatchBuilder, BatchFrame, Codec, ProducerStamp, RecordFields};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::{
    ArchiveError, EncodedObject, Encoder, Head, Identity, ManifestError, PartitionArchive,
    RangeEnd, Store, StoreError,
};

/// What may go wrong.
#[derive(Debug)]
pub(crate) struct Faults {
    rng: TestRng,
    /// Of a hundred calls, how many fail before they do anything.
    pub(crate) fail_per_cent: u64,
    /// Of a hundred calls, how many do what they should and say that they failed.
    pub(crate) lost_reply_per_cent: u64,
    /// After so many calls more, none succeeds until the process is started again.
    pub(crate) dies_after: Option<u64>,
    /// What becomes of objects whose name ends so, while the store says that it has them.
    pub(crate) lies: Option<(&'static str, Lie)>,
}

/// What a store has of an object that it says it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lie {
    Nothing,
    Half,
    /// All of it, and two bits are others: one at its beginning, one at its end.
    Damaged,
}

impl Faults {
    fn none(seed: u64) -> Self {
        Self {
            rng: rng(seed),
            fail_per_cent: 0,
            lost_reply_per_cent: 0,
            dies_after: None,
            lies: None,
        }
    }
}

pub(crate) fn rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// A call's fate.
#[derive(PartialEq)]
enum Fate {
    Works,
    Fails,
    LosesReply,
}

struct Faulty {
    inner: InMemory,
    faults: Arc<Mutex<Faults>>,
    /// Takes every conditional creation for an unconditional one.
    ignores_conditions: bool,
}

impl Faulty {
    fn fate(&self) -> Fate {
        let mut faults = self.faults.lock().unwrap();
        if let Some(left) = &mut faults.dies_after {
            if *left == 0 {
                return Fate::Fails;
            }
            *left -= 1;
        }
        let dice = faults.rng.next_u64() % 100;
        if dice < faults.fail_per_cent {
            Fate::Fails
        } else if dice < faults.fail_per_cent + faults.lost_reply_per_cent {
            Fate::LosesReply
        } else {
            Fate::Works
        }
    }
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "injected".into() }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        at: &Path,
        data: PutPayload,
        mut how: PutOptions,
    ) -> Result<PutResult> {
        // Another's call may come between any two.
        tokio::task::yield_now().await;
        let fate = self.fate();
        if fate == Fate::Fails {
            return Err(failure());
        }
        if self.ignores_conditions {
            how.mode = PutMode::Overwrite;
        }
        let lie = self.faults.lock().unwrap().lies.filter(|(end, _)| at.as_ref().ends_with(end));
        let data = match lie {
            None => data,
            Some((_, Lie::Nothing)) => {
                return InMemory::new().put_opts(at, data, how).await;
            }
            Some((_, lie)) => {
                let mut bytes = Bytes::from(data).to_vec();
                let length = bytes.len();
                match lie {
                    Lie::Half => bytes.truncate(length / 2),
                    _ => [5, length - 20].into_iter().for_each(|at| bytes[at] ^= 1),
                }
                bytes.into()
            }
        };
        let put = self.inner.put_opts(at, data, how).await;
        if fate == Fate::LosesReply { Err(failure()) } else { put }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        tokio::task::yield_now().await;
        match self.fate() {
            Fate::Works => self.inner.get_opts(at, how).await,
            Fate::Fails | Fate::LosesReply => Err(failure()),
        }
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.fate() {
            Fate::Fails => futures_util::stream::once(async { Err(failure()) }).boxed(),
            Fate::Works | Fate::LosesReply => self.inner.delete_stream(at),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fate() {
            Fate::Works => self.inner.list(prefix),
            Fate::Fails | Fate::LosesReply => {
                futures_util::stream::once(async { Err(failure()) }).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

pub(crate) fn store(seed: u64, ignores_conditions: bool) -> (Store, Arc<Mutex<Faults>>) {
    let faults = Arc::new(Mutex::new(Faults::none(seed)));
    let inner = Faulty { inner: InMemory::new(), faults: Arc::clone(&faults), ignores_conditions };
    (Store::new(Arc::new(inner), "faulty"), faults)
}

pub(crate) fn identity() -> Identity {
    Identity {
        cluster: ClusterId::from_bytes([1; 16]),
        topic: "t".to_owned(),
        topic_id: TopicId::from_bytes([2; 16]),
        partition: PartitionIndex(0),
    }
}

/// The batch of a log at `base`; its size follows from it.
pub(crate) fn batch_at(base: i64) -> Batch {
    let records = u32::try_from(base % 4 + 1).unwrap();
    let frame = BatchFrame {
        base_offset: Offset::new(base).unwrap(),
        leader_epoch: LeaderEpoch(1),
        attributes: millstream_wire::Attributes::new(Codec::None),
        last_offset_delta: records - 1,
        base_timestamp: TimestampMs(base),
        max_timestamp: TimestampMs(base),
        producer: ProducerStamp::NONE,
    };
    let mut builder = BatchBuilder::new(Codec::None, 0);
    for index in 0..records {
        let offset = frame.base_offset.plus(u64::from(index));
        let value = offset.value().to_be_bytes();
        let record =
            RecordFields { offset, timestamp: TimestampMs(base), key: None, value: Some(&value) };
        builder.append_framed(&frame, record, [].into_iter()).unwrap();
    }
    Batch::validate(builder.build_framed(&frame).unwrap()).unwrap()
}

/// A range of `count` batches from `base` on.
pub(crate) fn range(base: i64, count: usize) -> EncodedObject {
    let mut encoder = Encoder::new(identity(), Offset::new(base).unwrap()).unwrap();
    for _ in 0..count {
        let batch = batch_at(encoder.next_offset().value());
        encoder.push(&batch).unwrap();
    }
    encoder.finish(&RangeEnd::default()).unwrap()
}

/// One life of a broker that archives: opens, adds ranges, ends when the store makes it. Returns
/// what it would have proposed to the metadata last.
async fn life(
    store: &Store,
    rng: &mut TestRng,
    epoch: i32,
    known: Option<Head>,
) -> std::result::Result<Option<Head>, ArchiveError> {
    let mut archive = PartitionArchive::open(store.clone(), identity(), known.as_ref()).await?;
    let mut head = archive.head().copied();
    for _ in 0..3 {
        let base = archive.head().map_or(0, |head| head.end);
        let object = range(base, 1 + usize::try_from(rng.next_u64() % 3).unwrap());
        let attempt = u128::from(rng.next_u64());
        let mut result = archive.append(LeaderEpoch(epoch), &object, attempt).await;
        // A caller tries again with the same attempt, as long as it lives.
        for _ in 0..3 {
            if result.as_ref().is_err_and(ArchiveError::is_retriable) {
                result = archive.append(LeaderEpoch(epoch), &object, attempt).await;
            }
        }
        match result {
            Ok(new) => head = Some(new),
            Err(ArchiveError::Superseded { .. }) => head = archive.head().copied(),
            Err(error) => {
                // Whatever was reached before counts: the metadata has it.
                return if error.is_retriable() { Ok(head) } else { Err(error) };
            }
        }
    }
    Ok(head)
}

/// Everything that the archive holds, by reading it.
pub(crate) async fn contents(archive: &PartitionArchive) -> Vec<Batch> {
    let (mut at, end) = archive.head().map_or((0, 0), |head| (head.start, head.end));
    let mut batches = Vec::new();
    while at < end {
        let read = archive.read(Offset::new(at).unwrap()).await.unwrap();
        batches.extend(read.batches.into_iter().map(|bytes| Batch::validate(bytes).unwrap()));
        at = read.next.value();
    }
    batches
}

/// A store that fails in every way, a process that dies at any call, a metadata that lags: each
/// offset is archived once, and nothing else is left behind.
#[tokio::test]
async fn whatever_fails_each_offset_is_archived_once() {
    for seed in 0..300 {
        let (store, faults) = store(seed, false);
        let mut dice = rng(seed ^ 0x5eed);
        let mut known: Option<Head> = None;
        for round in 0..6 {
            {
                let mut faults = faults.lock().unwrap();
                faults.fail_per_cent = dice.next_u64() % 20;
                faults.lost_reply_per_cent = dice.next_u64() % 20;
                faults.dies_after = dice.next_u64().is_multiple_of(2).then(|| dice.next_u64() % 25);
            }
            match life(&store, &mut dice, round, known).await {
                // The metadata hears of it, or the broker dies before.
                Ok(head) if !dice.next_u64().is_multiple_of(3) => known = head.or(known),
                Ok(_) => {}
                Err(error) => assert!(error.is_retriable(), "seed {seed}: {error}"),
            }
        }
        *faults.lock().unwrap() = Faults::none(0);
        let mut archive = PartitionArchive::open(store.clone(), identity(), known.as_ref())
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let alone = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
        assert_eq!(alone.head(), archive.head(), "seed {seed}: from the store alone");
        let mut expected = 0;
        for batch in contents(&archive).await {
            assert_eq!(batch, batch_at(expected), "seed {seed} at {expected}");
            expected = batch.header().next_offset().value();
        }
        assert_eq!(expected, archive.head().map_or(0, |head| head.end), "seed {seed}");
        for entry in archive.entries() {
            archive.verify(entry).await.unwrap();
        }
        // What begins where the archive ended might have been named yet.
        archive.append(LeaderEpoch(9), &range(expected, 1), 0).await.unwrap();
        archive.collect(TimestampMs(i64::MAX), 0).await.unwrap();
        let objects = store.list(archive.folder(), 10_000).await.unwrap();
        let left = objects.iter().filter(|object| object.key.ends_with(".parquet")).count();
        assert_eq!(left, archive.entries().len(), "seed {seed}: orphans");
    }
}

/// A store that says it has what it has not, or has otherwise: nothing of that counts as archived,
/// so that the local copy stays.
#[tokio::test]
async fn what_a_store_only_says_that_it_has_is_not_archived() {
    for (lie, what) in [Lie::Nothing, Lie::Half, Lie::Damaged]
        .into_iter()
        .flat_map(|lie| [(lie, ".parquet"), (lie, ".json")])
    {
        let (store, faults) = store(1, false);
        let mut archive = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
        let first = archive.append(LeaderEpoch(1), &range(0, 2), 1).await.unwrap();
        faults.lock().unwrap().lies = Some((what, lie));
        let told = archive.append(LeaderEpoch(1), &range(first.end, 2), 2).await;
        assert!(told.is_err(), "{lie:?} of {what}: {told:?}");
        faults.lock().unwrap().lies = None;
        // All that the metadata has heard of.
        let again = PartitionArchive::open(store.clone(), identity(), Some(&first)).await;
        if what == ".json" && lie != Lie::Nothing {
            assert!(again.is_err(), "a manifest that is no manifest is in the way: {lie:?}");
            continue;
        }
        let mut again = again.unwrap();
        assert_eq!(again.head(), Some(&first), "{lie:?} of {what}");
        let head = again.append(LeaderEpoch(1), &range(first.end, 3), 3).await.unwrap();
        let held = contents(&again).await;
        assert_eq!(held.last().unwrap().header().next_offset().value(), head.end);
        for entry in again.entries() {
            again.verify(entry).await.unwrap();
        }
    }
}

/// What is put is looked at with one request, and so is its manifest.
#[tokio::test]
async fn a_range_takes_four_requests() {
    let (store, _) = store(1, false);
    let mut archive = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    archive.append(LeaderEpoch(1), &range(0, 2), 1).await.unwrap();
    let (before, base) = (store.counters().requests, archive.head().unwrap().end);
    archive.append(LeaderEpoch(1), &range(base, 2), 2).await.unwrap();
    assert_eq!(store.counters().requests - before, 4);
}

/// Two that believe to lead: one range wins, the other is told, and a later leadership fences.
#[tokio::test]
async fn two_uploaders_archive_a_range_once() {
    let (store, _) = store(1, false);
    let open = || PartitionArchive::open(store.clone(), identity(), None);
    let (mut old, mut new) = (open().await.unwrap(), open().await.unwrap());
    let head = old.append(LeaderEpoch(1), &range(0, 2), 1).await.unwrap();
    let lost = new.append(LeaderEpoch(2), &range(0, 3), 2).await;
    assert!(matches!(lost, Err(ArchiveError::Superseded { .. })), "{lost:?}");
    assert_eq!(new.head(), Some(&head), "what the other wrote is taken up");
    new.append(LeaderEpoch(2), &range(head.end, 1), 3).await.unwrap();
    let fenced = old.append(LeaderEpoch(1), &range(head.end, 1), 4).await;
    let is_fenced =
        matches!(fenced, Err(ArchiveError::Manifest(ManifestError::Fenced { ours: 1, theirs: 2 })));
    assert!(is_fenced, "{fenced:?}");
    let still = old.append(LeaderEpoch(1), &range(old.head().unwrap().end, 1), 5).await;
    assert!(matches!(still, Err(ArchiveError::Manifest(ManifestError::Fenced { .. }))));
}

/// When the store wrote the newest manifest. Behind it the store's clock has moved on.
async fn trimmed_at(store: &Store, archive: &PartitionArchive) -> TimestampMs {
    let manifests = store.list(&format!("{}/manifest", archive.folder()), 1_000).await.unwrap();
    let newest = manifests.last().unwrap().modified_ms;
    tick().await;
    TimestampMs(newest)
}

/// Until the store's clock shows another time.
async fn tick() {
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
}

/// How many objects a partition has that are called as ranges are.
async fn objects(store: &Store, archive: &PartitionArchive) -> usize {
    let listed = store.list(archive.folder(), 10_000).await.unwrap();
    listed.iter().filter(|object| object.key.ends_with(".parquet")).count()
}

/// Somebody stalled between an object and its manifest: in a leadership before this one, or as a
/// call of this one that was given up.
#[tokio::test]
async fn an_object_that_may_be_named_yet_is_no_orphan() {
    const EVER: TimestampMs = TimestampMs(i64::MAX);
    let (store, _) = store(1, false);
    let mut stalled = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    let end = stalled.append(LeaderEpoch(1), &range(0, 2), 1).await.unwrap().end;
    let put = |base: i64, attempt: u128| {
        let (store, object) = (store.clone(), range(base, 1));
        let (folder, to) = (stalled.folder().to_owned(), object.summary.end.value());
        let key = format!("{folder}/{base:020}-{to:020}-1-{attempt:032x}.parquet");
        async move { store.put(&key, object.bytes).await.unwrap() }
    };
    put(end, 7).await;
    tick().await;
    let mut archive = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    assert_eq!(archive.collect(EVER, 0).await.unwrap(), 0, "another leadership's");
    // A manifest that leaves the end where it is: whoever stalled has lost its number by it.
    archive.trim(LeaderEpoch(2), Offset::new(end).unwrap()).await.unwrap();
    tick().await;
    put(end, 8).await;
    let gone = archive.collect(EVER, 0).await.unwrap();
    assert_eq!((gone, objects(&store, &archive).await), (2, 1), "what was given up, and one more");
    let head = archive.append(LeaderEpoch(2), &range(end, 2), 9).await.unwrap();
    assert_eq!(archive.collect(EVER, 0).await.unwrap(), 1, "its offset is taken");
    let late = stalled.append(LeaderEpoch(1), &range(end, 1), 7).await;
    assert!(late.is_err() && archive.head() == Some(&head), "{late:?}");
}

/// However old a manifest is, its number stays taken: whoever stalled before it finds out.
#[tokio::test]
async fn whoever_stalled_long_ago_finds_its_number_taken() {
    let (store, _) = store(1, false);
    let mut archive = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    archive.append(LeaderEpoch(1), &range(0, 1), 1000).await.unwrap();
    let head = archive.head().copied();
    let stalled = || PartitionArchive::open(store.clone(), identity(), head.as_ref());
    let (mut appends, mut trims) = (stalled().await.unwrap(), stalled().await.unwrap());
    for attempt in 0..200 {
        let base = archive.head().map_or(0, |head| head.end);
        archive.append(LeaderEpoch(2), &range(base, 1), attempt).await.unwrap();
    }
    archive.collect(TimestampMs(i64::MAX), 0).await.unwrap();
    let late = appends.append(LeaderEpoch(1), &range(1, 1), 1001).await;
    assert!(late.is_err(), "{late:?}");
    let late = trims.trim(LeaderEpoch(1), Offset::new(1).unwrap()).await;
    assert!(late.is_err(), "{late:?}");
    let again = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    assert_eq!((again.head(), again.entries().len()), (archive.head(), 201));
}

/// Readers in flight keep what they were promised for the time of grace.
#[tokio::test]
async fn what_is_given_up_stays_for_its_grace() {
    let (store, _) = store(1, false);
    let mut archive = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    for attempt in 0..3 {
        let base = archive.head().map_or(0, |head| head.end);
        archive.append(LeaderEpoch(1), &range(base, 2), attempt).await.unwrap();
    }
    let second = archive.entries().nth(1).unwrap().base;
    let head = archive.trim(LeaderEpoch(1), Offset::new(second).unwrap()).await.unwrap();
    assert_eq!(head.start, second);
    let now = trimmed_at(&store, &archive).await;
    let within = TimestampMs(now.0 + 4_999);
    assert_eq!(archive.collect(within, 5_000).await.unwrap(), 0);
    // What comes later, and a broker that starts anew, change nothing of that.
    archive.append(LeaderEpoch(1), &range(head.end, 2), 3).await.unwrap();
    let mut archive = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    assert_eq!(archive.collect(within, 5_000).await.unwrap(), 0);
    assert_eq!(archive.collect(TimestampMs(now.0 + 5_000), 5_000).await.unwrap(), 1);
    let gone = archive.read(Offset::ZERO).await;
    assert!(matches!(gone, Err(ArchiveError::OutOfRange { .. })), "{gone:?}");
    assert_eq!(contents(&archive).await[0].header().base_offset.value(), second);
}

#[tokio::test]
async fn an_object_that_was_changed_is_found() {
    let (store, _) = store(1, false);
    let mut archive = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    archive.append(LeaderEpoch(1), &range(0, 20), 1).await.unwrap();
    let entry = archive.entries().next().unwrap().clone();
    let key = format!("{}/{}", archive.folder(), entry.object);
    let good = store.get(&key, u64::MAX).await.unwrap();
    archive.verify(&entry).await.unwrap();
    let mut bytes = good.to_vec();
    bytes[40] ^= 1;
    store.put(&key, bytes.into()).await.unwrap();
    let found = archive.verify(&entry).await;
    assert!(matches!(found, Err(ArchiveError::Changed { .. })), "{found:?}");
    let read = archive.read(Offset::ZERO).await;
    assert!(matches!(read, Err(ArchiveError::Object { .. })), "{read:?}");
    store.put(&key, Bytes::from_static(b"short")).await.unwrap();
    assert!(archive.read(Offset::ZERO).await.is_err());
}

#[tokio::test]
async fn the_wrong_bucket_is_refused() {
    let (one, _) = store(1, false);
    let (other, _) = store(1, false);
    let mut archive = PartitionArchive::open(one, identity(), None).await.unwrap();
    let head = archive.append(LeaderEpoch(1), &range(0, 2), 1).await.unwrap();
    let mut unlike = PartitionArchive::open(other.clone(), identity(), None).await.unwrap();
    unlike.append(LeaderEpoch(1), &range(0, 3), 2).await.unwrap();
    let refused = PartitionArchive::open(other, identity(), Some(&head)).await;
    assert!(matches!(refused, Err(ArchiveError::Diverged { number: 0 })), "{refused:?}");
}

#[tokio::test]
async fn a_store_that_lets_two_win_is_refused() {
    let (honest, _) = store(1, false);
    honest.probe(7).await.unwrap();
    let listed = honest.list("probe", 100).await.unwrap();
    assert!(listed.is_empty(), "the probe cleans up: {listed:?}");
    let (lying, _) = store(1, true);
    let refused = lying.probe(7).await;
    assert!(matches!(refused, Err(StoreError::Racy { winners: 9, .. })), "{refused:?}");
}
