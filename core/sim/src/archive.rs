//! A model of one partition's archive: a store's objects, and the chain of manifests that says
//! which of them count. It outlives power cuts and disks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use millstream_types::{LeaderEpoch, Offset, TimestampMs};

use crate::ledger::Entry;

/// What the newest manifest says; also what the cluster's metadata keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// The leadership that wrote it.
    pub(crate) leader_epoch: LeaderEpoch,
}

impl Head {
    /// Whether `next` may stand where this stands in the metadata.
    pub(crate) fn admits(&self, next: &Self) -> bool {
        next.number > self.number
            && next.start >= self.start
            && next.end >= self.end
            && next.leader_epoch >= self.leader_epoch
    }
}

/// A range of batches, and what the partition knew where it ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object {
    pub(crate) entries: Vec<Entry>,
    pub(crate) epochs: Vec<(LeaderEpoch, Offset)>,
    pub(crate) producers: Bytes,
}

/// What a manifest changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A range more, at the end: the object of that name.
    Add(u64),
    /// Everything before the new start is given up.
    Trim,
}

/// The store's part for one partition.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    /// By the attempt that put them, with the time of that; what no manifest names is nothing.
    objects: BTreeMap<u64, (TimestampMs, Object)>,
    /// Objects ever put.
    puts: u64,
    /// Each changes what the one before says; its number is its place.
    manifests: Vec<(Head, Change)>,
}

impl Archive {
    /// Stores an object under a name that nobody else has, and returns the name.
    pub(crate) fn put(&mut self, now: TimestampMs, object: Object) -> u64 {
        self.puts += 1;
        self.objects.insert(self.puts, (now, object));
        self.puts
    }

    /// Creates the manifest `head`, unless one of its number exists.
    pub(crate) fn create(&mut self, head: Head, change: Change) -> bool {
        let free = head.number == self.manifests.len() as u64;
        if free {
            self.manifests.push((head, change));
        }
        free
    }

    /// The newest manifest.
    pub(crate) fn head(&self) -> Option<Head> {
        self.manifests.last().map(|(head, _)| *head)
    }

    /// The first offset that it holds: all before was given up.
    pub(crate) fn start(&self) -> Offset {
        self.head().map_or(Offset::ZERO, |head| head.start)
    }

    /// The manifest of that number.
    pub(crate) fn manifest(&self, number: u64) -> Option<Head> {
        self.manifests.get(usize::try_from(number).ok()?).map(|(head, _)| *head)
    }

    /// Every range that it holds, oldest first, and its object's name.
    pub(crate) fn ranges(&self) -> Vec<(Range<Offset>, u64)> {
        let (start, mut end, mut held) = (self.start(), Offset::ZERO, Vec::new());
        for (head, change) in &self.manifests {
            if let Change::Add(object) = change
                && head.end > start
            {
                held.push((end.max(start)..head.end, *object));
            }
            end = head.end;
        }
        held
    }

    /// A range that it should hold and whose object is gone.
    pub(crate) fn lacks(&self) -> Option<Range<Offset>> {
        let gone = |(_, object): &(_, u64)| !self.objects.contains_key(object);
        self.ranges().into_iter().find(gone).map(|(range, _)| range)
    }

    /// The range that ends at `at`.
    pub(crate) fn range_ending(&self, at: Offset) -> Option<&Object> {
        let (_, object) = self.ranges().into_iter().find(|(range, _)| range.end == at)?;
        self.object(object)
    }

    /// The object of that name.
    pub(crate) fn object(&self, name: u64) -> Option<&Object> {
        self.objects.get(&name).map(|(_, object)| object)
    }

    /// Every batch that the archive holds, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let objects = self.ranges().into_iter().filter_map(|(_, name)| self.object(name));
        objects.flat_map(|object| &object.entries)
    }

    /// Removes what no manifest names: what was given up once `grace_ms` have passed since that was
    /// first `noticed`, and what was never named once it is that old. Returns how much.
    pub(crate) fn collect(
        &mut self,
        now: TimestampMs,
        grace_ms: u64,
        noticed: &mut BTreeMap<u64, TimestampMs>,
    ) -> usize {
        let (start, before) = (self.start(), self.objects.len());
        let named: BTreeSet<u64> = self.ranges().into_iter().map(|(_, object)| object).collect();
        self.objects.retain(|name, (put, object)| {
            let end = object.entries.last().map_or(Offset::ZERO, |entry| entry.next);
            let given_up = end <= start;
            let since = if given_up { *noticed.entry(*name).or_insert(now) } else { *put };
            named.contains(name) || now.since_ms(since) < grace_ms
        });
        before - self.objects.len()
    }
}
