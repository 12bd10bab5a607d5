//! What one partition has promised and shown, seen from outside: the oracle's memory.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millstream_partition::Partition;
use millstream_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use millstream_wire::{Batch, BatchHeader};

/// Base offset, length and leader epoch: what stands before the bytes that are the producer's.
const PLACE_BYTES: usize = 16;

/// A batch at its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) base: Offset,
    pub(crate) next: Offset,
    pub(crate) epoch: LeaderEpoch,
    /// Its largest timestamp.
    pub(crate) newest: TimestampMs,
    /// The batch without what the broker writes into it. No two batches sent have the same.
    pub(crate) body: Bytes,
    /// Its place among its producer's batches, if its producer is idempotent.
    pub(crate) number: Option<Number>,
}

/// What a producer numbers its batches by.
pub(crate) type Number = (ProducerId, ProducerEpoch, i32);

/// One partition's history.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Every batch that any producer sent.
    pub(crate) sent: BTreeSet<Bytes>,
    /// Every batch that was given a place and was not lost since, also where retention removed it.
    pub(crate) placed: BTreeMap<Offset, Entry>,
    /// Those of them whose producer has the acknowledgement.
    pub(crate) acked: BTreeMap<Offset, Entry>,
    /// Those of them that a consumer has read.
    pub(crate) read: BTreeMap<Offset, Entry>,
    /// Where the idempotent producers' batches were placed.
    pub(crate) numbers: BTreeMap<Number, Offset>,
    /// The first offset that retention has left in the log.
    pub(crate) start: Offset,
    /// Whether the partition is archived: then nothing is given up where the log forgets it.
    pub(crate) archived: bool,
    /// The first offset that the archive's retention has left.
    pub(crate) archive_start: Offset,
    /// The high watermark of this life of the process.
    pub(crate) high_watermark: Offset,
    /// The most that ever was durable.
    pub(crate) durable: Offset,
    /// What this life of the process has written.
    pub(crate) written: Offset,
}

impl Ledger {
    /// The end of the batches placed.
    pub(crate) fn end(&self) -> Offset {
        self.placed.last_key_value().map_or(self.start, |(_, entry)| entry.next)
    }

    /// The first offset that must be there, in the log or in the archive.
    pub(crate) fn first(&self) -> Offset {
        if self.archived { self.archive_start } else { self.start }
    }

    /// The disk is gone, and with it everything from `end` on, where the archive ends; as
    /// [`Ledger::lose_from`].
    pub(crate) fn lose_disk(&mut self, end: Offset) -> bool {
        (self.start, self.written, self.durable) = (end, end, end);
        self.high_watermark = Offset::ZERO;
        self.lose_from(end)
    }

    /// Whether the partition need not know a batch any more: retention removed it, or all that its
    /// producer stored under its epoch. The log remembers producers only by what is left in it.
    pub(crate) fn may_have_forgotten(&self, number: Number) -> bool {
        let (id, epoch, _) = number;
        let gone = |offset: &Offset| *offset < self.first();
        let mut all = self.numbers.range((id, epoch, 0)..=(id, epoch, i32::MAX));
        self.numbers.get(&number).is_some_and(gone) || all.all(|(_, offset)| gone(offset))
    }

    /// Notes how far the partition has come.
    pub(crate) fn observe(&mut self, partition: &Partition) {
        let positions = partition.positions();
        self.start = self.start.max(partition.log().start());
        self.written = positions.written;
        self.durable = self.durable.max(positions.durable);
    }

    /// Notes a batch at its place. The number of one that was stored before, then removed by
    /// retention and forgotten, is returned.
    pub(crate) fn place(&mut self, entry: Entry) -> Option<Number> {
        let number = entry.number;
        let before = number.and_then(|number| self.numbers.insert(number, entry.base));
        self.placed.insert(entry.base, entry);
        before.and(number)
    }

    /// Forgets what a crash has lost, and whether any of it was acknowledged or read.
    pub(crate) fn lose_from(&mut self, end: Offset) -> bool {
        self.placed.split_off(&end);
        self.numbers.retain(|_, offset| *offset < end);
        let acked = self.acked.split_off(&end);
        let read = self.read.split_off(&end);
        !acked.is_empty() || !read.is_empty()
    }
}

/// The part of a batch that is the producer's.
pub(crate) fn body_of(bytes: &Bytes) -> Bytes {
    bytes.slice(PLACE_BYTES.min(bytes.len())..)
}

/// The batch as an entry, at the place that its bytes name.
pub(crate) fn entry_of(batch: &Batch) -> Entry {
    let header = batch.header();
    Entry {
        base: header.base_offset,
        next: header.next_offset(),
        epoch: header.leader_epoch,
        newest: header.max_timestamp,
        body: body_of(batch.bytes()),
        number: number_of(header),
    }
}

/// A batch's number, if its producer is idempotent.
pub(crate) fn number_of(header: &BatchHeader) -> Option<Number> {
    let numbered = header.producer_id.is_some();
    numbered.then_some((header.producer_id, header.producer_epoch, header.base_sequence))
}

/// The largest timestamp of a batch; none for bytes that are no batch.
pub(crate) fn newest_of(bytes: &Bytes) -> TimestampMs {
    BatchHeader::parse(bytes).map_or(TimestampMs::NONE, |header| header.max_timestamp)
}

/// As [`number_of`], of a whole batch; `None` also for bytes that are no batch.
pub(crate) fn number_of_bytes(bytes: &Bytes) -> Option<Number> {
    BatchHeader::parse(bytes).ok().as_ref().and_then(number_of)
}
