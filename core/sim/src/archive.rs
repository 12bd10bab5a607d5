//! A model of one partition's archive: a store's objects, and the chain of manifests that says
//! which of them count. It outlives power cuts and disks.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_types::{LeaderEpoch, Offset};

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

/// The store's part for one partition.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    /// By the attempt that put them; what no manifest names is nothing.
    objects: BTreeMap<u64, Object>,
    /// Each names one object more than the one before; its number is its place.
    manifests: Vec<(Head, u64)>,
}

impl Archive {
    /// Stores an object under a name that nobody else has, and returns the name.
    pub(crate) fn put(&mut self, object: Object) -> u64 {
        let name = self.objects.last_key_value().map_or(0, |(name, _)| name + 1);
        self.objects.insert(name, object);
        name
    }

    /// Creates the manifest `head`, which adds an object, unless one of its number exists.
    pub(crate) fn create(&mut self, head: Head, object: u64) -> bool {
        let free = head.number == self.manifests.len() as u64;
        if free {
            self.manifests.push((head, object));
        }
        free
    }

    /// The newest manifest.
    pub(crate) fn head(&self) -> Option<Head> {
        self.manifests.last().map(|(head, _)| *head)
    }

    /// The manifest of that number.
    pub(crate) fn manifest(&self, number: u64) -> Option<Head> {
        self.manifests.get(usize::try_from(number).ok()?).map(|(head, _)| *head)
    }

    /// The range that ends at `at`.
    pub(crate) fn range_ending(&self, at: Offset) -> Option<&Object> {
        let (_, name) = self.manifests.iter().find(|(head, _)| head.end == at)?;
        self.objects.get(name)
    }

    /// Every batch that the archive holds, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let objects = self.manifests.iter().filter_map(|(_, name)| self.objects.get(name));
        objects.flat_map(|object| &object.entries)
    }
}
