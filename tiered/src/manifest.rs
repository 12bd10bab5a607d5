//! What of a partition is archived: a chain of small JSON objects, each created once and never
//! changed, numbered from 0. Each names the digest of the one before, and every sixty-fourth holds
//! all entries, so that a reader needs a bounded number of requests.
//!
//! Pure: bytes in, bytes out. `archive` does the requests.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use millstream_types::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use serde::{Deserialize, Serialize};

use crate::footer::{Identity, number, text};

/// The version of manifests that this build writes, and the newest that it reads.
pub const MANIFEST_VERSION: u32 = 1;
/// One manifest in so many holds all entries.
pub(crate) const FULL_EVERY: u64 = 64;

/// The SHA-256 of a manifest's bytes; prints as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        let mut value = [0; 32];
        value.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(value)
    }

    /// From the bytes that [`Digest::to_bytes`] gave.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a digest is 64 hexadecimal digits";
        if text.len() != 64 || !text.is_ascii() {
            return Err(WRONG);
        }
        let mut value = [0; 32];
        for (byte, digits) in value.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).or(Err(WRONG))?;
            *byte = u8::from_str_radix(digits, 16).or(Err(WRONG))?;
        }
        Ok(Self(value))
    }
}

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
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    pub(crate) number: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<VecDeque<Entry>>,
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
    /// A later leadership has written to the archive.
    #[error("leader epoch {ours} is over: epoch {theirs} has written to the archive")]
    Fenced {
        /// The epoch of whoever asked.
        ours: i32,
        /// The newer one.
        theirs: i32,
    },
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A partition's archive as its manifests tell it, up to some head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chain {
    topic_id: TopicId,
    partition: PartitionIndex,
    head: Option<Head>,
    entries: VecDeque<Entry>,
}

impl Chain {
    pub(crate) fn new(identity: &Identity) -> Self {
        let (topic_id, partition) = (identity.topic_id, identity.partition);
        Self { topic_id, partition, head: None, entries: VecDeque::new() }
    }

    pub(crate) const fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    pub(crate) const fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }

    /// The number of the next manifest. There is none after the last number: whatever comes under
    /// it then does not follow from itself.
    pub(crate) fn next_number(&self) -> u64 {
        self.head.map_or(0, |head| head.number.saturating_add(1))
    }

    /// The entry that holds `offset`.
    pub(crate) fn find(&self, offset: Offset) -> Option<&Entry> {
        let at = self.entries.partition_point(|entry| entry.end <= offset.value());
        self.entries.get(at).filter(|entry| entry.base <= offset.value())
    }

    /// The manifest that adds a range, and the chain once it is written.
    pub(crate) fn add(
        &self,
        epoch: LeaderEpoch,
        entry: Entry,
    ) -> Result<(Bytes, Self), ManifestError> {
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
        let number = self.next_number();
        let broken = |reason| Err(ManifestError::Broken { number, reason });
        let manifest = self.parse(number, bytes)?;
        let previous = self.head.map(|head| head.digest.to_string());
        if manifest.previous != previous {
            return broken("it names another manifest as the one before");
        }
        if self.head.is_some_and(|head| manifest.leader_epoch < head.leader_epoch) {
            return broken("its leader epoch is older than the one before");
        }
        let old = self.head.map(|head| (head.start, head.end));
        match &manifest.change {
            Change::Add(entry) => {
                let (start, end) = old.unwrap_or((entry.base, entry.base));
                if entry.base != end || entry.end <= entry.base || entry.base < 0 {
                    return broken("its range does not begin where the archive ends");
                }
                if (manifest.start, manifest.end) != (start, entry.end) {
                    return broken("its bounds are not those of its change");
                }
            }
            Change::Trim => {
                let Some((start, end)) = old else { return broken("it trims an empty archive") };
                let boundary = manifest.start == end
                    || self.entries.iter().any(|entry| entry.base == manifest.start);
                if manifest.start <= start || !boundary || manifest.end != end {
                    return broken("it trims to where no range begins");
                }
            }
        }
        let mut entries = std::mem::take(&mut self.entries);
        change_entries(&mut entries, &manifest);
        if manifest.entries.as_ref().is_some_and(|full| *full != entries) {
            return broken("its list of all entries is not what the changes come to");
        }
        self.entries = entries;
        self.head = Some(head_of(&manifest, bytes));
        Ok(())
    }

    /// Starts from a manifest that holds all entries. The ones before it need not exist any more.
    pub(crate) fn start_at(&mut self, number: u64, bytes: &[u8]) -> Result<(), ManifestError> {
        let broken = |reason| Err(ManifestError::Broken { number, reason });
        let manifest = self.parse(number, bytes)?;
        let head = head_of(&manifest, bytes);
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
        self.entries = entries;
        self.head = Some(head);
        Ok(())
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
        Ok(manifest)
    }
}

fn change_entries(entries: &mut VecDeque<Entry>, manifest: &Manifest) {
    if let Change::Add(entry) = &manifest.change {
        entries.push_back(entry.clone());
    }
    while entries.front().is_some_and(|first| first.end <= manifest.start) {
        entries.pop_front();
    }
}

fn head_of(manifest: &Manifest, bytes: &[u8]) -> Head {
    Head {
        number: manifest.number,
        digest: Digest::of(bytes),
        start: manifest.start,
        end: manifest.end,
        leader_epoch: manifest.leader_epoch,
    }
}

/// The SHA-256 of an object, as an [`Entry`] has it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::ClusterId;

    const EPOCH: LeaderEpoch = LeaderEpoch(3);

    fn chain() -> Chain {
        Chain::new(&Identity {
            cluster: ClusterId::NIL,
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
        let newer = text.replace("\"version\": 1", "\"version\": 2");
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

    /// Version 1 as it was written first.
    #[test]
    fn the_golden_manifest_is_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/manifest-v1.json");
        let (bytes, _) = chain().add(EPOCH, entry(0, 10)).unwrap();
        if std::env::var_os("MILLSTREAM_GOLDEN").is_some() {
            std::fs::write(path, &bytes).unwrap();
        }
        let golden = std::fs::read(path).unwrap();
        let mut read = chain();
        read.apply(&golden).unwrap();
        assert_eq!(read.entries().len(), 1);
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), std::str::from_utf8(&golden).unwrap());
    }
}
