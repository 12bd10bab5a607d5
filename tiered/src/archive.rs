//! One partition's archive in a store: ranges are added, given up, and read back.
//!
//! A range is archived in three steps, each of which may be the last before a crash: its object is
//! put under a name of its own, read back as far as that is cheap, and then named by the next
//! manifest, which is created conditionally and read back, too. Until that manifest exists the
//! object is nothing; from then on it is archived, whoever looks. What others wrote meanwhile is
//! adopted, never overwritten.
//!
//! All of that is within one cluster. An archive that another cluster has taken over stays, for
//! this one, as it was then: it is read, and neither written nor cleaned up any more.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use millstream_types::{ClusterId, LeaderEpoch, Offset};
use millstream_wire::{Batch, crc32c};

use crate::cache::ReadCache;
use crate::check;
use crate::decode::ObjectReader;
use crate::encode::EncodedObject;
use crate::error::FormatError;
use crate::footer::{Identity, RangeEnd};
use crate::manifest::{
    Chain, Entry, FULL_EVERY, Head, MANIFEST_BYTES_MAX, ManifestError, RANGES_MAX, sha256,
};
use crate::reader::ArchiveReader;
use crate::store::{Created, OBJECT_BYTES_MAX, Store, StoreError};
use crate::topics::{ArchivedTopic, TopicError};
use crate::workers;

mod collect;

/// Of an object's footer, how much of its end is read back once it is written.
const READ_BACK_BYTES_MAX: u64 = 1024 * 1024;
/// The most objects of one partition.
const LISTED_MAX: usize = 1_000_000;
/// How often a cluster that takes over may find another's manifest first before it gives up.
const TAKE_OVER_TRIES: usize = 16;
/// Footers kept, of each partition: that of the newest range, which the next goes on from.
const FOOTERS_KEPT: std::num::NonZeroUsize = match std::num::NonZeroUsize::new(2) {
    Some(count) => count,
    None => std::num::NonZeroUsize::MIN,
};

/// Why the archive could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store's answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifests do not hold together, or a later leadership wrote one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An object is not what its manifest says.
    #[error("archive object `{object}`: {source}")]
    Object {
        /// Which one.
        object: String,
        /// What is wrong.
        source: FormatError,
    },
    /// An object is not as long, or not the same, as when it was written.
    #[error("archive object `{object}` has {actual}; {expected} was written")]
    Changed {
        /// Which one.
        object: String,
        /// What was written: a size or a digest.
        expected: String,
        /// What is there.
        actual: String,
    },
    /// The cluster's metadata names a manifest that the store holds another of.
    #[error(
        "manifest {number} in the store is not the one that the cluster's metadata knows: is this \
         the right bucket and prefix?"
    )]
    Diverged {
        /// Its number.
        number: u64,
    },
    /// Somebody else has archived the range, or a part of it.
    #[error("offset {base} is archived already, up to {end}")]
    Superseded {
        /// Where the range began.
        base: Offset,
        /// Where the archive ends now.
        end: i64,
    },
    /// The archive does not hold that offset.
    #[error("offset {offset} is not in the archive, which holds {start} to {end}")]
    OutOfRange {
        /// The offset.
        offset: Offset,
        /// The first that it holds.
        start: i64,
        /// The one after the last.
        end: i64,
    },
    /// The thread that was decoding ended.
    #[error("decoding ended: {0}")]
    Decode(String),
}

impl ArchiveError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_retriable())
    }
}

/// Batches that were read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// Whole batches in order. The first may start before the offset that was asked for.
    pub batches: Vec<Bytes>,
    /// The offset after the last.
    pub next: Offset,
}

/// What a check of one range found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Records decoded.
    pub records: u64,
    /// Bytes of the object.
    pub object_bytes: u64,
}

/// One partition's archive.
#[derive(Debug)]
pub struct PartitionArchive {
    store: Store,
    identity: Identity,
    folder: String,
    chain: Chain,
    /// The cluster that goes on with the archive behind `chain`, if that is another.
    lost_to: Option<ClusterId>,
    /// The manifest that was written last from here, since the archive was opened.
    written: Option<u64>,
    footers: Mutex<LruCache<String, Arc<ObjectReader>>>,
}

impl PartitionArchive {
    /// Opens the archive of a partition, from the `head` that the cluster's metadata knows, or from
    /// the store alone. What the store has beyond `head` is adopted: a crash can come between a
    /// manifest and the metadata. Not so what another cluster wrote: an archive that was taken over
    /// ends, for this cluster, where it was by then.
    ///
    /// # Errors
    /// [`ArchiveError`]; manifests that do not hold together are never skipped.
    pub async fn open(
        store: Store,
        identity: Identity,
        head: Option<&Head>,
    ) -> Result<Self, ArchiveError> {
        let mut archive = Self::unread(store, identity);
        let newest = match head {
            Some(head) => Some(head.number),
            None => archive.newest().await?,
        };
        if let Some(newest) = newest {
            archive.load(newest).await?;
        }
        if let Some(head) = head
            && archive.chain.head() != Some(head)
        {
            return Err(ArchiveError::Diverged { number: head.number });
        }
        archive.lost_to = archive.chain.other_owner();
        if archive.lost_to.is_none() {
            archive.catch_up().await?;
        } else if head.is_none() {
            // What it holds of this cluster's, if anything, lies before.
            archive.chain = Chain::new(&archive.identity);
            archive.catch_up().await?;
        }
        Ok(archive)
    }

    /// Opens the archive of a partition that is to be restored, from the store alone, and makes it
    /// this cluster's: whatever another appended by then stays, and from then on that other is
    /// refused. An archive that is this cluster's already is left as it is, so that a call that
    /// failed may be repeated.
    ///
    /// # Errors
    /// [`ArchiveError`]. If [`ArchiveError::is_retriable`], whether it was taken over is unknown
    /// until a repeated call tells.
    pub async fn take_over(store: Store, identity: Identity) -> Result<Self, ArchiveError> {
        let cluster = identity.cluster;
        let mut archive = Self::unread(store, identity);
        if let Some(newest) = archive.newest().await? {
            archive.load(newest).await?;
        }
        for _ in 0..TAKE_OVER_TRIES {
            while let Some(bytes) = archive.next_manifest().await? {
                archive.chain.apply(&bytes)?;
            }
            if archive.chain.owner() == Some(cluster) {
                return Ok(archive);
            }
            let (manifest, after) = archive.chain.take_over()?;
            if archive.create(&manifest).await? {
                archive.chain = after;
                return Ok(archive);
            }
        }
        let end = archive.chain.head().map_or(0, |head| head.end);
        Err(ArchiveError::Superseded { base: Offset::new(end).unwrap_or(Offset::ZERO), end })
    }

    fn unread(store: Store, identity: Identity) -> Self {
        let Identity { topic, topic_id, partition, .. } = &identity;
        let folder = format!("topics/{topic}.{topic_id}/{partition}");
        let chain = Chain::new(&identity);
        let footers = Mutex::new(LruCache::new(FOOTERS_KEPT));
        Self { store, identity, folder, chain, lost_to: None, written: None, footers }
    }

    /// How far the archive has come; `None` while nothing is archived.
    #[must_use]
    pub const fn head(&self) -> Option<&Head> {
        self.chain.head()
    }

    /// Of which partition it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the archive is this cluster's to go on with.
    ///
    /// # Errors
    /// [`ManifestError::TakenOver`] says whose it is.
    pub fn check_owner(&self) -> Result<(), ArchiveError> {
        match self.lost_to {
            Some(cluster) => Err(ManifestError::TakenOver { cluster }.into()),
            None => Ok(()),
        }
    }

    /// Whether the archive can have another range.
    ///
    /// # Errors
    /// [`ManifestError::Full`] says what to do.
    pub fn check_room(&self) -> Result<(), ArchiveError> {
        Ok(self.chain.check_room()?)
    }

    /// Every range, oldest first.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.chain.entries().iter().map(Arc::as_ref)
    }

    /// A reader of what is archived now, which does not keep the archive from growing. `cache` is
    /// of the same store, and shared by all of its readers.
    #[must_use]
    pub fn reader(&self, cache: &Arc<ReadCache>) -> ArchiveReader {
        ArchiveReader::new(Arc::clone(cache), &self.folder, self.head(), self.chain.entries())
    }

    /// What the partition knew where its archive ends: leader epochs and producers. `None` when
    /// nothing is archived, or nothing is left.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn range_end(&self) -> Result<Option<RangeEnd>, ArchiveError> {
        let end = self.chain.head().and_then(|head| Offset::new(head.end));
        match end {
            Some(end) => self.end_of_range(end).await,
            None => Ok(None),
        }
    }

    /// What the partition knew at `end`, if a range of the archive ends there.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn end_of_range(&self, end: Offset) -> Result<Option<RangeEnd>, ArchiveError> {
        let entries = self.chain.entries();
        let at = entries.partition_point(|entry| entry.end < end.value());
        let Some(entry) = entries.get(at).filter(|entry| entry.end == end.value()) else {
            return Ok(None);
        };
        let found = self.object(entry).await?.range_end();
        let key = || format!("{}/{}", self.folder, entry.object);
        found.map(Some).map_err(|source| ArchiveError::Object { object: key(), source })
    }

    /// The folder that the partition's objects lie in, as a glob begins.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Archives a range that begins where the archive ends. `attempt` is a random number of this
    /// attempt; to repeat a call that failed, pass the same. Returns the new head, for the
    /// cluster's metadata; only once that has it may a local copy go.
    ///
    /// # Errors
    /// [`ArchiveError::Superseded`] when somebody else was first, which the archive has then taken
    /// up; [`ManifestError::Fenced`] when that was a later leadership, and
    /// [`ManifestError::TakenOver`] when it was another cluster. Otherwise nothing is archived,
    /// unless [`ArchiveError::is_retriable`]: then that is unknown, until a repeated call or the
    /// next opening tells.
    pub async fn append(
        &mut self,
        epoch: LeaderEpoch,
        object: &EncodedObject,
        attempt: u128,
    ) -> Result<Head, ArchiveError> {
        self.fence(epoch)?;
        let summary = &object.summary;
        let (base, end) = (summary.base, summary.end);
        if let Some(head) = self.chain.head().filter(|head| head.end != base.value()) {
            return self.own_or_superseded(object, attempt, *head);
        }
        if self.chain.head().is_none() {
            self.check_topic().await?;
        }
        // Before an object is put for nothing, at each try.
        self.check_room()?;
        let name = object_name(base, end, epoch, attempt);
        let key = format!("{}/{name}", self.folder);
        let bytes = object.bytes.len() as u64;
        // What no reader would take must never be the only copy.
        let found = self.replay(&key, &object.bytes, summary.footer_start).await?;
        if found != (check::Found { base, end, records: summary.records }) {
            let source = FormatError::Inconsistent("its records are not those that it was given");
            return Err(ArchiveError::Object { object: key, source });
        }
        self.store.put(&key, object.bytes.clone()).await?;
        self.check_stored(&key, object).await?;
        let entry = Entry {
            object: name,
            base: base.value(),
            end: end.value(),
            leader_epoch: epoch.0,
            records: summary.records,
            batches: summary.batches,
            log_bytes: summary.log_bytes,
            max_timestamp_ms: summary.max_timestamp.0,
            object_bytes: bytes,
            object_sha256: sha256(&object.bytes),
            footer_start: summary.footer_start,
            footer_crc32c: summary.footer_crc32c,
        };
        let (manifest, after) = self.chain.add(epoch, entry)?;
        match self.write(epoch, manifest, after).await? {
            Some(head) => {
                if self.chain.entries().len() == RANGES_MAX / 2 {
                    tracing::warn!(folder = %self.folder, max = RANGES_MAX,
                        "an archive has half of the ranges that it can have");
                }
                Ok(head)
            }
            None => {
                // Nobody will ever name it; if this fails, it is found as an orphan.
                drop(self.store.delete(&key).await);
                let end = self.chain.head().map_or(0, |head| head.end);
                Err(ArchiveError::Superseded { base, end })
            }
        }
    }

    /// A repeated call whose first reply was lost finds its own range archived.
    fn own_or_superseded(
        &self,
        object: &EncodedObject,
        attempt: u128,
        head: Head,
    ) -> Result<Head, ArchiveError> {
        let base = object.summary.base;
        let newest = self.chain.entries().back();
        let suffix = attempt_suffix(attempt);
        match newest {
            Some(entry) if entry.base == base.value() && entry.object.ends_with(&suffix) => {
                Ok(head)
            }
            _ => Err(ArchiveError::Superseded { base, end: head.end }),
        }
    }

    /// Gives up everything before `start`, which must be where a range begins, or the archive's
    /// end. The objects stay until [`PartitionArchive::collect`] removes them.
    ///
    /// # Errors
    /// As [`PartitionArchive::append`].
    pub async fn trim(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<Head, ArchiveError> {
        self.fence(epoch)?;
        let (manifest, after) = self.chain.trim(epoch, start)?;
        let written = self.write(epoch, manifest, after).await?;
        written.ok_or_else(|| ArchiveError::Superseded {
            base: start,
            end: self.chain.head().map_or(0, |head| head.end),
        })
    }

    /// Creates the next manifest. `None` when another was there, which is adopted then.
    async fn write(
        &mut self,
        epoch: LeaderEpoch,
        manifest: Bytes,
        after: Chain,
    ) -> Result<Option<Head>, ArchiveError> {
        if self.create(&manifest).await? {
            self.chain = after;
            self.written = self.chain.head().map(|head| head.number);
            return Ok(self.chain.head().copied());
        }
        self.catch_up().await?;
        self.fence(epoch)?;
        Ok(None)
    }

    /// Sees that what was put is there, as far as one small request shows: its size, and its last
    /// bytes. That those before came as they were sent is for the checksum that they came with.
    async fn check_stored(&self, key: &str, object: &EncodedObject) -> Result<(), ArchiveError> {
        let bytes = object.bytes.len() as u64;
        let from = object.summary.footer_start.max(bytes.saturating_sub(READ_BACK_BYTES_MAX));
        let (stored, read) = self.store.read_back(key, from..bytes).await?;
        let changed = |expected, actual| {
            Err(ArchiveError::Changed { object: key.to_owned(), expected, actual })
        };
        if stored != bytes {
            return changed(format!("{bytes} bytes"), format!("{stored} bytes"));
        }
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let written = object.bytes.get(from..).unwrap_or_default();
        if read != written {
            let told = |bytes: &[u8]| format!("CRC-32C {:08x} of its end", crc32c(bytes));
            return changed(told(written), told(&read));
        }
        Ok(())
    }

    /// Creates the next manifest; false when another was there. What the store says that it did is
    /// not enough: what it gives back decides, since from here on local copies may go.
    async fn create(&self, manifest: &Bytes) -> Result<bool, ArchiveError> {
        let key = self.manifest_key(self.chain.next_number());
        let created = self.store.create(&key, manifest.clone()).await;
        if let Err(error) = &created
            && !error.is_retriable()
        {
            return Err(error.clone().into());
        }
        let found = self.store.get(&key, MANIFEST_BYTES_MAX).await;
        let missing = matches!(found, Err(StoreError::NotFound { .. }));
        match (created, found) {
            // An earlier try of this call may have got through, and this one even if it failed.
            (_, Ok(found)) if found == *manifest => Ok(true),
            (Ok(Created::Won), Ok(found)) => {
                let (expected, actual) = (sha256(manifest), sha256(&found));
                Err(ArchiveError::Changed { object: key, expected, actual })
            }
            (Ok(Created::Won), Err(_)) if missing => {
                let (expected, actual) = (sha256(manifest), "nothing".to_owned());
                Err(ArchiveError::Changed { object: key, expected, actual })
            }
            (_, Ok(_another)) => Ok(false),
            (Err(error), Err(_)) | (Ok(_), Err(error)) => Err(error.into()),
        }
    }

    /// A leadership that is over writes no more, nor does a cluster that has lost the archive.
    fn fence(&self, epoch: LeaderEpoch) -> Result<(), ArchiveError> {
        self.check_owner()?;
        match self.chain.head() {
            Some(head) if head.leader_epoch > epoch.0 => {
                let (ours, theirs) = (epoch.0, head.leader_epoch);
                Err(ManifestError::Fenced { ours, theirs }.into())
            }
            _ => Ok(()),
        }
    }

    /// A partition that no manifest is of yet belongs to whom its topic belongs to.
    async fn check_topic(&self) -> Result<(), ArchiveError> {
        let Identity { cluster, topic, topic_id, .. } = &self.identity;
        let topic = ArchivedTopic::new(topic.clone(), *topic_id);
        match topic.check_owner(&self.store, *cluster).await {
            Err(TopicError::TakenOver { cluster }) => {
                Err(ManifestError::TakenOver { cluster }.into())
            }
            Err(TopicError::Store(error)) => Err(error.into()),
            // A config that cannot be read says nothing of whose the topic is.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reads the batches from `offset` on: those of one row group, at least one.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn read(&self, offset: Offset) -> Result<Replayed, ArchiveError> {
        let (start, end) = self.chain.head().map_or((0, 0), |head| (head.start, head.end));
        let Some(entry) = self.chain.find(offset) else {
            return Err(ArchiveError::OutOfRange { offset, start, end });
        };
        let object = self.object(entry).await?;
        let part = object.part_of(offset);
        let key = format!("{}/{}", self.folder, entry.object);
        let bytes = self.store.get_range(&key, object.span(part)).await?;
        let read = decode(key, Arc::clone(&object), part, bytes).await?;
        let wanted = |bytes: &Bytes| {
            Batch::validate(bytes.clone()).is_ok_and(|batch| batch.header().next_offset() > offset)
        };
        let batches: Vec<Bytes> = read.into_iter().skip_while(|bytes| !wanted(bytes)).collect();
        let last = batches.last().and_then(|bytes| Batch::validate(bytes.clone()).ok());
        let Some(next) = last.map(|batch| batch.header().next_offset()) else {
            return Err(ArchiveError::OutOfRange { offset, start, end });
        };
        Ok(Replayed { batches, next })
    }

    /// Reads a range's object whole and holds it to its manifest: size, digest, every batch in
    /// order without a gap, as many records as were written.
    ///
    /// # Errors
    /// [`ArchiveError`] says what is wrong.
    pub async fn verify(&self, entry: &Entry) -> Result<Verified, ArchiveError> {
        let key = format!("{}/{}", self.folder, entry.object);
        let bytes = self.store.get(&key, OBJECT_BYTES_MAX).await?;
        let actual = sha256(&bytes);
        if actual != entry.object_sha256 {
            let expected = format!("SHA-256 {}", entry.object_sha256);
            let actual = format!("SHA-256 {actual}");
            return Err(ArchiveError::Changed { object: key, expected, actual });
        }
        let found = self.replay(&key, &bytes, entry.footer_start).await?;
        if (found.base.value(), found.end.value(), found.records)
            != (entry.base, entry.end, entry.records)
        {
            let source = FormatError::Inconsistent("its records are not those of its manifest");
            return Err(ArchiveError::Object { object: key, source });
        }
        Ok(Verified { records: found.records, object_bytes: bytes.len() as u64 })
    }

    /// Replays an object that is here whole.
    async fn replay(
        &self,
        key: &str,
        bytes: &Bytes,
        footer_start: u64,
    ) -> Result<check::Found, ArchiveError> {
        let bytes = bytes.clone();
        let replayed = workers::run(move || check::replay(&bytes, footer_start)).await;
        let replayed = replayed.map_err(|error| ArchiveError::Decode(error.to_string()))?;
        replayed.map_err(|source| ArchiveError::Object { object: key.to_owned(), source })
    }

    /// An object's footer, from memory or the store.
    async fn object(&self, entry: &Entry) -> Result<Arc<ObjectReader>, ArchiveError> {
        let kept = || self.footers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept().get(&entry.object) {
            return Ok(Arc::clone(found));
        }
        let key = format!("{}/{}", self.folder, entry.object);
        let object = Arc::new(load_footer(&self.store, &key, entry).await?);
        kept().put(entry.object.clone(), Arc::clone(&object));
        Ok(object)
    }

    /// Loads the chain up to a manifest that exists.
    async fn load(&mut self, newest: u64) -> Result<(), ArchiveError> {
        let full = newest - newest % FULL_EVERY;
        let bytes = self.manifest(full).await?;
        self.chain.start_at(full, &bytes)?;
        for number in full + 1..=newest {
            let bytes = self.manifest(number).await?;
            self.chain.apply(&bytes)?;
        }
        Ok(())
    }

    /// Takes up every manifest that has come after those known, up to another cluster's.
    async fn catch_up(&mut self) -> Result<(), ArchiveError> {
        while let Some(bytes) = self.next_manifest().await? {
            self.lost_to = self.chain.apply_ours(&bytes)?;
            if self.lost_to.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// The manifest that follows those known, if there is one.
    async fn next_manifest(&self) -> Result<Option<Bytes>, StoreError> {
        match self.manifest(self.chain.next_number()).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of the newest manifest in the store.
    async fn newest(&self) -> Result<Option<u64>, ArchiveError> {
        let listed = self.store.list(&format!("{}/manifest", self.folder), LISTED_MAX).await?;
        Ok(listed.iter().filter_map(|object| number_of(&object.key)).max())
    }

    async fn manifest(&self, number: u64) -> Result<Bytes, StoreError> {
        self.store.get(&self.manifest_key(number), MANIFEST_BYTES_MAX).await
    }

    fn manifest_key(&self, number: u64) -> String {
        format!("{}/manifest/{number:020}.json", self.folder)
    }
}

/// The number that a manifest's or a config's name says.
pub(crate) fn number_of(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

fn object_name(base: Offset, end: Offset, epoch: LeaderEpoch, attempt: u128) -> String {
    let (base, end, suffix) = (base.value(), end.value(), attempt_suffix(attempt));
    format!("{base:020}-{end:020}-{epoch}{suffix}")
}

fn attempt_suffix(attempt: u128) -> String {
    format!("-{attempt:032x}.parquet")
}

/// Fetches an object's footer, with one request.
pub(crate) async fn load_footer(
    store: &Store,
    key: &str,
    entry: &Entry,
) -> Result<ObjectReader, ArchiveError> {
    let length = entry.object_bytes.saturating_sub(entry.footer_start);
    check::check_footer_length(length)
        .map_err(|source| ArchiveError::Object { object: key.to_owned(), source })?;
    let footer = store.get_range(key, entry.footer_start..entry.object_bytes).await?;
    let (key, entry) = (key.to_owned(), entry.clone());
    // A few bytes of a footer can keep Parquet's reader busy for seconds.
    let opened = workers::run(move || open_footer(&key, &entry, &footer)).await;
    opened.map_err(|error| ArchiveError::Decode(error.to_string()))?
}

fn open_footer(key: &str, entry: &Entry, footer: &[u8]) -> Result<ObjectReader, ArchiveError> {
    let broken = |source| ArchiveError::Object { object: key.to_owned(), source };
    let (expected, actual) = (entry.footer_crc32c, crc32c(footer));
    if actual != expected {
        return Err(broken(FormatError::Crc { what: "footer", expected, actual }));
    }
    let object = ObjectReader::open(footer).map_err(broken)?;
    if (object.base().value(), object.end().value()) != (entry.base, entry.end) {
        return Err(broken(FormatError::Inconsistent("it is of another range")));
    }
    Ok(object)
}

/// Decodes where blocking is allowed.
async fn decode(
    key: String,
    object: Arc<ObjectReader>,
    part: usize,
    bytes: Bytes,
) -> Result<Vec<Bytes>, ArchiveError> {
    let decoded = workers::run(move || object.replay(part, bytes)).await;
    let decoded = decoded.map_err(|error| ArchiveError::Decode(error.to_string()))?;
    decoded.map_err(|source| ArchiveError::Object { object: key, source })
}
