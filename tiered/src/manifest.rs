//! What of a partition is archived: a chain of small JSON objects, each created once and never
//! changed, numbered from 0. Each names the digest of the one before, and every sixty-fourth holds
//! all entries, so that a reader needs a bounded number of requests.
//!
//! Each names the cluster that wrote it, too, and only that cluster's manifests may follow: another
//! cluster takes the archive over first, by a manifest that does nothing else. Leader epochs order
//! the leaderships of one cluster, and say nothing between two.
//!
//! Pure: bytes in, bytes out. `archive` does the requests.

use std::collections::VecDeque;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use millstream_types::{ClusterId, Digest, LeaderEpoch, Offset, PartitionIndex, TopicId};
use serde::{Deserialize, Serialize};

use crate::footer::{Identity, number, optional_text, text};

/// The version of manifests that this build writes, and the newest that it reads.
pub const MANIFEST_VERSION: u32 = 2;
/// One manifest in so many holds all entries.
pub(crate) const FULL_EVERY: u64 = 64;
/// The most ranges that an archive holds at once, so that a manifest with all entries can be read.
pub(crate) const RANGES_MAX: usize = 65_536;
/// The largest entry in a manifest, with the space between entries.
const ENTRY_BYTES_MAX: u64 = 1000;
const _: () = assert!(RANGES_MAX as u64 * ENTRY_BYTES_MAX < MANIFEST_BYTES_MAX);
/// The largest manifest that is read.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How far a partition's archive has come: all that the cluster's metadata keeps of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The newest manifest.
    pub number: u64,
    /// Its digest.
    #[serde(with = "text")]
    pub digest: Digest,
    /// The first offset that the archive holds.
    pub start: i64,
    /// The offset after the last.
    pub end: i64,
    /// The leadership that wrote the newest manifest.
    pub leader_epoch: i32,
}

/// One archived range.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The object's name within the partition's folder.
    pub object: String,
    /// The first offset.
    pub base: i64,
    /// The offset after the last.
    pub end: i64,
    /// The leadership that archived it.
    pub leader_epoch: i32,
    /// Records, not counting those of control batches.
    pub records: u64,
    /// Batches.
    pub batches: u64,
    /// Bytes of the batches as the log held them.
    pub log_bytes: u64,
    /// The largest timestamp of a batch's header, in milliseconds; -1 where none has one.
    pub max_timestamp_ms: i64,
    /// The object's size in bytes.
    pub object_bytes: u64,
    /// The object's SHA-256.
    pub object_sha256: String,
    /// Where its footer starts.
    pub footer_start: u64,
    /// The CRC-32C of the bytes from there on.
    pub footer_crc32c: u32,
}

/// What a manifest changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// A range more, at the end.
    Add(Entry),
    /// Everything before the new start goes.
    Trim,
    /// Nothing changes but the cluster that goes on from here. Since version 2.
    TakeOver,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    pub(crate) number: u64,
    /// The cluster that wrote it; none in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_text")]
    pub(crate) cluster: Option<ClusterId>,
    /// The digest of the manifest before.
    previous: Option<String>,
    #[serde(with = "text")]
    pub(crate) topic_id: TopicId,
    #[serde(with = "number")]
    pub(crate) partition: PartitionIndex,
    start: i64,
    end: i64,
    leader_epoch: i32,
    change: Change,
    /// All entries once the change is applied; in every sixty-fourth manifest.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared")]
    entries: Option<VecDeque<Arc<Entry>>>,
}

/// Why a manifest does not continue its chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is not the JSON that it should be.
    #[error("manifest {number} cannot be read: {reason}")]
    Unreadable {
        /// Its number.
        number: u64,
        /// Why.
        reason: String,
    },
    /// A later build wrote it.
    #[error(
        "manifest {number} is of version {version}; this build reads up to {MANIFEST_VERSION}: \
         use a newer one"
    )]
    Version {
        /// Its number.
        number: u64,
        /// Its version.
        version: u32,
    },
    /// It does not follow from the one before.
    #[error("manifest {number} does not continue the archive: {reason}")]
    Broken {
        /// Its number.
        number: u64,
        /// What does not fit.
        reason: &'static str,
    },
    /// There is no room for another range in what a manifest may hold.
    #[error(
        "the partition's archive has {RANGES_MAX} ranges, and can have no more: have retention \
         give up old ones, and larger ones written, by archive.range_bytes_max of the broker and \
         the topic's archive.lag.max.ms"
    )]
    Full,
    /// Another cluster goes on with the archive.
    #[error("{}", taken_over(*cluster))]
    TakenOver {
        /// Which one.
        cluster: ClusterId,
    },
    /// A later leadership has written to the archive.
    #[error("leader epoch {ours} is over: epoch {theirs} has written to the archive")]
    Fenced {
        /// The epoch of whoever asked.
        ours: i32,
        /// The newer one.
        theirs: i32,
    },
}

/// What whoever has lost an archive should know.
pub(crate) fn taken_over(cluster: ClusterId) -> String {
    format!(
        "cluster {cluster} has restored the topic and its archive is that cluster's now: nothing \
         more is archived or removed from here. What was not archived by then is on this \
         cluster's disks alone; have its clients go to that cluster, copy there what they miss, \
         and delete the topic here"
    )
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A partition's archive as its manifests tell it, up to some head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chain {
    /// The cluster that would write the next manifest.
    cluster: ClusterId,
    topic_id: TopicId,
    partition: PartitionIndex,
    head: Option<Head>,
    /// The cluster that wrote the newest manifest, where that says.
    owner: Option<ClusterId>,
    /// Shared with every state of the archive, and every reader, that has them, too.
    entries: VecDeque<Arc<Entry>>,
}

impl Chain {
    pub(crate) fn new(identity: &Identity) -> Self {
        let Identity { cluster, topic_id, partition, .. } = *identity;
        let (head, owner, entries) = (None, None, VecDeque::new());
        Self { cluster, topic_id, partition, head, owner, entries }
    }

    pub(crate) const fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    pub(crate) const fn entries(&self) -> &VecDeque<Arc<Entry>> {
        &self.entries
    }

    /// The cluster whose archive it is; `None` while there is none, or it does not say.
    pub(crate) const fn owner(&self) -> Option<ClusterId> {
        self.owner
    }

    /// The cluster whose archive it is, if that is another than the one that asks.
    pub(crate) fn other_owner(&self) -> Option<ClusterId> {
        self.owner.filter(|owner| *owner != self.cluster)
    }

    /// The number of the next manifest. There is none after the last number: whatever comes under
    /// it then does not follow from itself.
    pub(crate) fn next_number(&self) -> u64 {
        self.head.map_or(0, |head| head.number.saturating_add(1))
    }

    /// The entry that holds `offset`.
    pub(crate) fn find(&self, offset: Offset) -> Option<&Entry> {
        let at = self.entries.partition_point(|entry| entry.end <= offset.value());
        self.entries.get(at).map(Arc::as_ref).filter(|entry| entry.base <= offset.value())
    }

    /// The manifest that adds a range, and the chain once it is written.
    pub(crate) fn add(
        &self,
        epoch: LeaderEpoch,
        entry: Entry,
    ) -> Result<(Bytes, Self), ManifestError> {
        self.check_room()?;
        let start = self.head.map_or(entry.base, |head| head.start);
        let end = entry.end;
        self.follow(epoch, start, end, Change::Add(entry))
    }

    /// The manifest that gives up everything before `start`, which must be where an entry begins
    /// or the archive's end.
    pub(crate) fn trim(
        &self,
        epoch: LeaderEpoch,
        start: Offset,
    ) -> Result<(Bytes, Self), ManifestError> {
        let end = self.head.map_or(0, |head| head.end);
        self.follow(epoch, start.value(), end, Change::Trim)
    }

    /// The manifest that makes the archive this cluster's, as it is. It begins one where there is
    /// none, so that nobody else does.
    pub(crate) fn take_over(&self) -> Result<(Bytes, Self), ManifestError> {
        let next = |head: Head| (head.start, head.end, head.leader_epoch.saturating_add(1));
        let (start, end, epoch) = self.head.map_or((0, 0, 0), next);
        self.follow(LeaderEpoch(epoch), start, end, Change::TakeOver)
    }

    /// Refuses what would add a range where there is no room for one.
    pub(crate) fn check_room(&self) -> Result<(), ManifestError> {
        if self.entries.len() < RANGES_MAX { Ok(()) } else { Err(ManifestError::Full) }
    }

    fn follow(
        &self,
        epoch: LeaderEpoch,
        start: i64,
        end: i64,
        change: Change,
    ) -> Result<(Bytes, Self), ManifestError> {
        let number = self.next_number();
        let mut manifest = Manifest {
            version: MANIFEST_VERSION,
            number,
            cluster: Some(self.cluster),
            previous: self.head.map(|head| head.digest.to_string()),
            topic_id: self.topic_id,
            partition: self.partition,
            start,
            end,
            leader_epoch: epoch.0,
            change,
            entries: None,
        };
        if number.is_multiple_of(FULL_EVERY) {
            let mut entries = self.entries.clone();
            change_entries(&mut entries, &manifest);
            manifest.entries = Some(entries);
        }
        let unreadable = |error: serde_json::Error| ManifestError::Unreadable {
            number,
            reason: error.to_string(),
        };
        let bytes = Bytes::from(serde_json::to_vec_pretty(&manifest).map_err(unreadable)?);
        let mut after = self.clone();
        // Held to what any reader will hold it to.
        after.apply(&bytes)?;
        Ok((bytes, after))
    }

    /// Takes up the next manifest.
    pub(crate) fn apply(&mut self, bytes: &[u8]) -> Result<(), ManifestError> {
        let manifest = self.next(bytes)?;
        self.take(manifest, bytes)
    }

    /// Takes up the next manifest unless it is another cluster's, whose archive it is from there
    /// on. Returns that cluster.
    pub(crate) fn apply_ours(&mut self, bytes: &[u8]) -> Result<Option<ClusterId>, ManifestError> {
        let manifest = self.next(bytes)?;
        match manifest.cluster.filter(|cluster| *cluster != self.cluster) {
            Some(other) => Ok(Some(other)),
            None => self.take(manifest, bytes).map(|()| None),
        }
    }

    /// The next manifest, if it follows.
    fn next(&self, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let number = self.next_number();
        let manifest = self.parse(number, bytes)?;
        match self.fault(&manifest) {
            Some(reason) => Err(ManifestError::Broken { number, reason }),
            None => Ok(manifest),
        }
    }

    /// Why a manifest does not follow, if it does not.
    fn fault(&self, manifest: &Manifest) -> Option<&'static str> {
        if manifest.previous != self.head.map(|head| head.digest.to_string()) {
            return Some("it names another manifest as the one before");
        }
        if self.head.is_some_and(|head| manifest.leader_epoch < head.leader_epoch) {
            return Some("its leader epoch is older than the one before");
        }
        let takes_over = manifest.change == Change::TakeOver;
        if !takes_over && self.owner.is_some() && manifest.cluster != self.owner {
            return Some("it is of a cluster that has not taken the archive over");
        }
        let bounds = (manifest.start, manifest.end);
        let old = self.head.map(|head| (head.start, head.end));
        match &manifest.change {
            Change::Add(entry) => {
                let (start, end) = old.unwrap_or((entry.base, entry.base));
                if entry.base != end || entry.end <= entry.base || entry.base < 0 {
                    return Some("its range does not begin where the archive ends");
                }
                (bounds != (start, entry.end)).then_some("its bounds are not those of its change")
            }
            Change::Trim => {
                let Some((start, end)) = old else { return Some("it trims an empty archive") };
                let boundary = manifest.start == end
                    || self.entries.iter().any(|entry| entry.base == manifest.start);
                let wrong = manifest.start <= start || !boundary || manifest.end != end;
                wrong.then_some("it trims to where no range begins")
            }
            Change::TakeOver => {
                let epoch = self.head.map_or(-1, |head| head.leader_epoch);
                if manifest.cluster == self.owner || manifest.leader_epoch <= epoch {
                    return Some("it takes over what is its cluster's, or not in a new epoch");
                }
                (bounds != old.unwrap_or((0, 0))).then_some("it takes over and changes more")
            }
        }
    }

    /// Takes up a manifest that follows.
    fn take(&mut self, manifest: Manifest, bytes: &[u8]) -> Result<(), ManifestError> {
        let mut entries = std::mem::take(&mut self.entries);
        change_entries(&mut entries, &manifest);
        if manifest.entries.as_ref().is_some_and(|full| *full != entries) {
            let reason = "its list of all entries is not what the changes come to";
            return Err(ManifestError::Broken { number: manifest.number, reason });
        }
        self.entries = entries;
        self.head = Some(head_of(&manifest, bytes));
        self.owner = manifest.cluster;
        Ok(())
    }

    /// Starts from a manifest that holds all entries. The ones before it need not exist any more.
    pub(crate) fn start_at(&mut self, number: u64, bytes: &[u8]) -> Result<(), ManifestError> {
        let broken = |reason| Err(ManifestError::Broken { number, reason });
        let manifest = self.parse(number, bytes)?;
        let (head, owner) = (head_of(&manifest, bytes), manifest.cluster);
        let Some(entries) = manifest.entries else {
            return broken("it should hold all entries");
        };
        let mut at = head.start;
        for entry in &entries {
            if entry.base != at || entry.end <= entry.base {
                return broken("its entries leave a gap");
            }
            at = entry.end;
        }
        if at != head.end || head.start < 0 {
            return broken("its entries do not reach its bounds");
        }
        (self.entries, self.head, self.owner) = (entries, Some(head), owner);
        Ok(())
    }

    /// Where the archive started by an earlier manifest.
    pub(crate) fn start_of(&self, number: u64, bytes: &[u8]) -> Result<i64, ManifestError> {
        self.parse(number, bytes).map(|manifest| manifest.start)
    }

    fn parse(&self, number: u64, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let unreadable = |error: serde_json::Error| ManifestError::Unreadable {
            number,
            reason: error.to_string(),
        };
        let Version { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version == 0 || version > MANIFEST_VERSION {
            return Err(ManifestError::Version { number, version });
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(unreadable)?;
        let ours = (number, self.topic_id, self.partition);
        if (manifest.number, manifest.topic_id, manifest.partition) != ours {
            let reason = "it is of another number, topic or partition";
            return Err(ManifestError::Broken { number, reason });
        }
        let is_named = manifest.cluster.is_some();
        if is_named != (version > 1) || (!is_named && manifest.change == Change::TakeOver) {
            let reason = "it does not name its cluster as its version does";
            return Err(ManifestError::Broken { number, reason });
        }
        Ok(manifest)
    }
}

fn change_entries(entries: &mut VecDeque<Arc<Entry>>, manifest: &Manifest) {
    if let Change::Add(entry) = &manifest.change {
        entries.push_back(Arc::new(entry.clone()));
    }
    while entries.front().is_some_and(|first| first.end <= manifest.start) {
        entries.pop_front();
    }
}

fn head_of(manifest: &Manifest, bytes: &[u8]) -> Head {
    Head {
        number: manifest.number,
        digest: digest_of(bytes),
        start: manifest.start,
        end: manifest.end,
        leader_epoch: manifest.leader_epoch,
    }
}

/// The cluster that a manifest says it is of, whatever else it says.
pub(crate) fn cluster_of(number: u64, bytes: &[u8]) -> Result<Option<ClusterId>, ManifestError> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default, with = "optional_text")]
        cluster: Option<ClusterId>,
    }
    let named: Result<Named, _> = serde_json::from_slice(bytes);
    let unreadable =
        |error: serde_json::Error| ManifestError::Unreadable { number, reason: error.to_string() };
    named.map(|named| named.cluster).map_err(unreadable)
}

/// Entries as if nobody shared them.
mod shared {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Entry;

    #[expect(clippy::ref_option, reason = "the signature that serde takes")]
    pub(super) fn serialize<S: Serializer>(
        entries: &Option<VecDeque<Arc<Entry>>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match entries {
            Some(entries) => to.collect_seq(entries.iter().map(Arc::as_ref)),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<VecDeque<Arc<Entry>>>, D::Error> {
        let entries = Option::<VecDeque<Entry>>::deserialize(from)?;
        Ok(entries.map(|entries| entries.into_iter().map(Arc::new).collect()))
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut value = [0; 32];
    value.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest::from_bytes(value)
}

/// The SHA-256 of an object, as an [`Entry`] has it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest_of(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: LeaderEpoch = LeaderEpoch(3);
    const OURS: ClusterId = ClusterId::from_bytes([1; 16]);
    const OTHER: ClusterId = ClusterId::from_bytes([2; 16]);

    fn chain() -> Chain {
        chain_of(OURS)
    }

    fn chain_of(cluster: ClusterId) -> Chain {
        Chain::new(&Identity {
            cluster,
            topic: "t".to_owned(),
            topic_id: TopicId::from_bytes([7; 16]),
            partition: PartitionIndex(2),
        })
    }

    fn entry(base: i64, end: i64) -> Entry {
        Entry {
            object: format!("{base}.parquet"),
            base,
            end,
            leader_epoch: EPOCH.0,
            records: 1,
            batches: 1,
            log_bytes: 100,
            max_timestamp_ms: 5,
            object_bytes: 50,
            object_sha256: String::new(),
            footer_start: 10,
            footer_crc32c: 1,
        }
    }

    /// Every number as long as it can be.
    #[test]
    fn as_many_entries_as_there_may_be_can_be_read() {
        let largest = Entry {
            object: format!("{0:020}-{0:020}-{1}-{2:032x}.parquet", i64::MAX, i32::MIN, 0),
            base: i64::MIN,
            end: i64::MIN,
            leader_epoch: i32::MIN,
            records: u64::MAX,
            batches: u64::MAX,
            log_bytes: u64::MAX,
            max_timestamp_ms: i64::MIN,
            object_bytes: u64::MAX,
            object_sha256: sha256(b""),
            footer_start: u64::MAX,
            footer_crc32c: u32::MAX,
        };
        let one = serde_json::to_vec_pretty(&[[[&largest]]]).unwrap();
        assert!((one.len() as u64) < ENTRY_BYTES_MAX, "{} bytes", one.len());
    }

    #[test]
    fn an_archive_that_is_full_says_so_and_can_be_trimmed() {
        let (mut full, _) = grown(1);
        let ranges = i64::try_from(RANGES_MAX).unwrap();
        full.entries = (0..ranges).map(|at| entry(at * 10, at * 10 + 10).into()).collect();
        full.head.as_mut().unwrap().end = ranges * 10;
        let refused = full.add(EPOCH, entry(ranges * 10, ranges * 10 + 10));
        assert_eq!(refused.map(drop), Err(ManifestError::Full));
        let (_, trimmed) = full.trim(EPOCH, Offset::new(10).unwrap()).unwrap();
        trimmed.add(EPOCH, entry(ranges * 10, ranges * 10 + 10)).unwrap();
    }

    /// A chain of `count` ranges of ten offsets, and its manifests.
    fn grown(count: i64) -> (Chain, Vec<Bytes>) {
        let (mut at, mut written) = (chain(), Vec::new());
        for index in 0..count {
            let (bytes, after) = at.add(EPOCH, entry(index * 10, index * 10 + 10)).unwrap();
            written.push(bytes);
            at = after;
        }
        (at, written)
    }

    #[test]
    fn a_chain_is_read_as_it_was_written_from_its_start_or_a_full_manifest() {
        let (grown, written) = grown(100);
        let mut read = chain();
        written.iter().for_each(|bytes| read.apply(bytes).unwrap());
        assert_eq!(read, grown);
        let mut from_full = chain();
        from_full.start_at(64, &written[64]).unwrap();
        written[65..].iter().for_each(|bytes| from_full.apply(bytes).unwrap());
        assert_eq!(from_full, grown);
        assert_eq!(grown.find(Offset::new(995).unwrap()).unwrap().base, 990);
        assert!(grown.find(Offset::new(1000).unwrap()).is_none());
    }

    #[test]
    fn trimming_forgets_ranges_and_keeps_the_end() {
        let (grown, _) = grown(5);
        let (_, trimmed) = grown.trim(EPOCH, Offset::new(30).unwrap()).unwrap();
        let head = trimmed.head().unwrap();
        assert_eq!((head.start, head.end, trimmed.entries().len()), (30, 50, 2));
        assert!(trimmed.find(Offset::new(29).unwrap()).is_none());
        for start in [0, 29, 30, 51] {
            let refused = trimmed.trim(EPOCH, Offset::new(start).unwrap());
            assert!(matches!(refused, Err(ManifestError::Broken { .. })), "to {start}");
        }
        let (_, emptied) = trimmed.trim(EPOCH, Offset::new(50).unwrap()).unwrap();
        let (_, again) = emptied.add(EPOCH, entry(50, 60)).unwrap();
        assert_eq!((again.head().unwrap().start, again.entries().len()), (50, 1));
    }

    #[test]
    fn what_does_not_follow_is_refused() {
        let (grown, written) = grown(3);
        for range in [entry(31, 40), entry(20, 40), entry(30, 30)] {
            let refused = grown.add(EPOCH, range);
            assert!(matches!(refused, Err(ManifestError::Broken { .. })), "{refused:?}");
        }
        let refused = grown.add(LeaderEpoch(2), entry(30, 40));
        assert!(matches!(refused, Err(ManifestError::Broken { .. })), "an older epoch");
        // Any manifest in another's place.
        let mut at = chain();
        at.apply(&written[0]).unwrap();
        assert!(at.clone().apply(&written[2]).is_err());
        let text = String::from_utf8(written[1].to_vec()).unwrap();
        for (from, to) in [("\"end\": 20", "\"end\": 21"), ("\"number\": 1", "\"number\": 4")] {
            assert!(text.contains(from));
            assert!(at.clone().apply(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
        let newer = text.replace("\"version\": 2", "\"version\": 3");
        assert!(matches!(at.apply(newer.as_bytes()), Err(ManifestError::Version { .. })));
    }

    #[test]
    fn nothing_follows_the_last_number() {
        let (_, written) = grown(1);
        let text = std::str::from_utf8(&written[0]).unwrap();
        let last = text.replace("\"number\": 0", &format!("\"number\": {}", u64::MAX));
        let mut at = chain();
        at.start_at(u64::MAX, last.as_bytes()).unwrap();
        let refused = at.apply(last.as_bytes());
        assert!(matches!(refused, Err(ManifestError::Broken { .. })), "{refused:?}");
    }

    #[test]
    fn what_takes_over_changes_nothing_else() {
        let (grown, written) = grown(3);
        let mut read = chain_of(OTHER);
        written.iter().for_each(|bytes| read.apply(bytes).unwrap());
        assert_eq!((read.owner(), read.other_owner()), (Some(OURS), Some(OURS)));
        let refused = read.add(LeaderEpoch(9), entry(30, 40));
        assert!(matches!(refused, Err(ManifestError::Broken { .. })), "{refused:?}");

        let (bytes, taken) = read.take_over().unwrap();
        let (before, after) = (*grown.head().unwrap(), *taken.head().unwrap());
        assert_eq!(after, Head { number: 3, digest: after.digest, leader_epoch: 4, ..before });
        assert_eq!(taken.entries(), grown.entries());
        assert_eq!((taken.owner(), taken.other_owner()), (Some(OTHER), None));
        let again = taken.take_over();
        assert!(matches!(again, Err(ManifestError::Broken { .. })), "{again:?}");
        let (next, _) = taken.add(LeaderEpoch(4), entry(30, 40)).unwrap();

        // Whoever lost it stays where it was, whatever comes then.
        let mut lost = grown.clone();
        assert_eq!(lost.apply_ours(&bytes), Ok(Some(OTHER)));
        assert_eq!(lost, grown);
        lost.apply(&bytes).unwrap();
        lost.apply(&next).unwrap();
        assert_eq!(lost.other_owner(), Some(OTHER));
        let (_, back) = lost.take_over().unwrap();
        assert_eq!((back.owner(), back.head().unwrap().leader_epoch), (Some(OURS), 5));

        let text = String::from_utf8(bytes.to_vec()).unwrap();
        for (from, to) in [
            ("\"end\": 30", "\"end\": 20"),
            ("\"leader_epoch\": 4", "\"leader_epoch\": 3"),
            ("\"take_over\"", "\"trim\""),
        ] {
            assert!(text.contains(from));
            let refused = grown.clone().apply(text.replacen(from, to, 1).as_bytes());
            assert!(matches!(refused, Err(ManifestError::Broken { .. })), "{to}: {refused:?}");
        }
    }

    #[test]
    fn an_archive_begins_empty_where_nothing_was_archived() {
        let (bytes, begun) = chain().take_over().unwrap();
        let head = begun.head().unwrap();
        assert_eq!((head.number, head.start, head.end, head.leader_epoch), (0, 0, 0, 0));
        let mut read = chain();
        read.start_at(0, &bytes).unwrap();
        assert_eq!(read, begun);
        assert_eq!(chain_of(OTHER).apply_ours(&bytes), Ok(Some(OURS)));
        assert!(begun.add(EPOCH, entry(7, 10)).is_err(), "nothing may be left out");
        let (_, added) = begun.add(EPOCH, entry(0, 10)).unwrap();
        assert_eq!(added.entries().len(), 1);
    }

    #[test]
    fn a_manifest_names_its_cluster_from_version_2_on() {
        let (_, written) = grown(2);
        let text = std::str::from_utf8(&written[1]).unwrap();
        let named = format!("  \"cluster\": \"{OURS}\",\n");
        assert!(text.contains(&named));
        let mut at = chain();
        at.apply(&written[0]).unwrap();
        for wrong in [
            text.replace(&named, ""),
            text.replace("\"version\": 2", "\"version\": 1"),
            // As an older build would go on.
            text.replace(&named, "").replace("\"version\": 2", "\"version\": 1"),
        ] {
            let refused = at.clone().apply(wrong.as_bytes());
            assert!(matches!(refused, Err(ManifestError::Broken { .. })), "{wrong}");
        }
        at.apply(&written[1]).unwrap();
        assert_eq!(cluster_of(1, &written[1]), Ok(Some(OURS)));
    }

    fn golden(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata");
        std::fs::read(format!("{folder}/{name}")).unwrap()
    }

    /// A chain that does not say whose it is goes on, as whose it is then.
    #[test]
    fn the_golden_manifest_of_version_1_is_read_and_followed() {
        let golden = golden("manifest-v1.json");
        assert_eq!(cluster_of(0, &golden), Ok(None));
        let mut read = chain();
        assert_eq!(read.apply_ours(&golden), Ok(None));
        assert_eq!((read.entries().len(), read.owner()), (1, None));
        let (_, added) = read.add(EPOCH, entry(10, 20)).unwrap();
        assert_eq!(added.owner(), Some(OURS));
        let (_, taken) = read.take_over().unwrap();
        assert_eq!((taken.owner(), taken.head().unwrap().end), (Some(OURS), 10));
    }

    /// Version 2 as it was written first: a range, and what took it over.
    #[test]
    fn the_golden_manifests_of_version_2_are_read_and_written() {
        let (added, after) = chain().add(EPOCH, entry(0, 10)).unwrap();
        let mut other = chain_of(OTHER);
        other.apply(&added).unwrap();
        let (taken, _) = other.take_over().unwrap();
        let mut read = chain();
        for (name, bytes) in
            [("manifest-v2-add.json", added), ("manifest-v2-take-over.json", taken)]
        {
            if std::env::var_os("MILLSTREAM_GOLDEN").is_some() {
                let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata");
                std::fs::write(format!("{folder}/{name}"), &bytes).unwrap();
            }
            let golden = golden(name);
            read.apply(&golden).unwrap();
            assert_eq!(std::str::from_utf8(&bytes).unwrap(), str::from_utf8(&golden).unwrap());
        }
        assert_eq!(read.entries(), after.entries());
        assert_eq!(read.owner(), Some(OTHER));
    }
}
