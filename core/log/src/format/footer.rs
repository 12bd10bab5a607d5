//! What a sealed segment carries behind its batches: a sparse index, the time range, the leader
//! epochs up to its end and the producers' state, then a trailer of fixed size.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millstream_types::{LeaderEpoch, Offset, TimestampMs};

use super::{FormatError, VERSION, check_crc, extend_crc};
use crate::epoch::{EpochHistory, EpochStart};

/// Bytes of one index entry.
pub const INDEX_ENTRY_BYTES: usize = 32;
/// Bytes of the trailer, the last ones of the file.
pub const TRAILER_BYTES: usize = 40;

const EPOCH_BYTES: usize = 12;
const TIMES_BYTES: usize = 32;
const TRAILER_MAGIC: [u8; 8] = *b"MSTREND\n";
const TRAILER_CRC_AT: usize = TRAILER_BYTES - 4;
const FLAG_SNAPSHOT: u32 = 1;

/// One block of whole batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// The first batch's base offset.
    pub base_offset: Offset,
    /// Where the first batch stands in the file.
    pub position: u32,
    /// Bytes of the block.
    pub length: u32,
    /// The largest timestamp in the block.
    pub max_timestamp: TimestampMs,
    /// CRC-32C of the block as stored, base offsets and leader epochs included.
    pub crc: u32,
    /// The first batch's leader epoch.
    pub leader_epoch: LeaderEpoch,
}

/// The times of a segment's records, by the producers' clocks and by the broker's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentTimes {
    /// The smallest base timestamp of a batch; [`i64::MAX`] without batches.
    pub min_timestamp: TimestampMs,
    /// The largest timestamp; [`i64::MIN`] without batches.
    pub max_timestamp: TimestampMs,
    /// When the segment was made.
    pub first_append: TimestampMs,
    /// When the last batch was appended.
    pub last_append: TimestampMs,
}

impl SegmentTimes {
    /// Of a segment without batches.
    #[must_use]
    pub const fn new(now: TimestampMs) -> Self {
        Self {
            min_timestamp: TimestampMs(i64::MAX),
            max_timestamp: TimestampMs(i64::MIN),
            first_append: now,
            last_append: now,
        }
    }

    /// What the segment's age counts from: its largest record timestamp or its last append,
    /// whichever is earlier, so that a timestamp in the future cannot keep it. Where a batch has no
    /// timestamp (-1) or one from before 1970, which cannot be told from it here, only the append
    /// counts: its records may be the newest.
    #[must_use]
    pub fn newest(&self) -> TimestampMs {
        if self.min_timestamp.0 < 0 {
            return self.last_append;
        }
        self.max_timestamp.min(self.last_append)
    }

    /// Adds a batch's times, appended at `now`.
    pub(crate) fn note(&mut self, base: TimestampMs, max: TimestampMs, now: TimestampMs) {
        self.min_timestamp = self.min_timestamp.min(base).min(max);
        self.max_timestamp = self.max_timestamp.max(max);
        self.last_append = self.last_append.max(now);
    }

    pub(super) fn encode(&self, into: &mut BytesMut) {
        for time in [self.min_timestamp, self.max_timestamp, self.first_append, self.last_append] {
            into.put_i64(time.0);
        }
    }

    pub(super) fn decode(from: &mut &[u8]) -> Result<Self, FormatError> {
        need(from, TIMES_BYTES)?;
        Ok(Self {
            min_timestamp: TimestampMs(from.get_i64()),
            max_timestamp: TimestampMs(from.get_i64()),
            first_append: TimestampMs(from.get_i64()),
            last_append: TimestampMs(from.get_i64()),
        })
    }
}

/// A sealed segment's footer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    /// The time range.
    pub times: SegmentTimes,
    /// The blocks, in order; they cover all batches without gaps.
    pub index: Vec<IndexEntry>,
    /// The leader epochs of the log up to this segment's end.
    pub epochs: EpochHistory,
    /// The producers' state after this segment, in a format of the owner's. Missing when the
    /// segment was sealed by recovery.
    pub producer_snapshot: Option<Bytes>,
}

/// The footer and the trailer of a segment whose batches end at `data_end`.
#[must_use]
pub fn encode_footer(footer: &Footer, data_end: u32, end_offset: Offset) -> Bytes {
    let snapshot = footer.producer_snapshot.as_deref();
    let mut bytes = BytesMut::new();
    bytes.put_u32(if snapshot.is_some() { FLAG_SNAPSHOT } else { 0 });
    footer.times.encode(&mut bytes);
    put_count(&mut bytes, footer.index.len());
    for entry in &footer.index {
        bytes.put_i64(entry.base_offset.value());
        bytes.put_u32(entry.position);
        bytes.put_u32(entry.length);
        bytes.put_i64(entry.max_timestamp.0);
        bytes.put_u32(entry.crc);
        bytes.put_i32(entry.leader_epoch.0);
    }
    put_count(&mut bytes, footer.epochs.starts().len());
    for entry in footer.epochs.starts() {
        bytes.put_i32(entry.epoch.0);
        bytes.put_i64(entry.start.value());
    }
    let snapshot = snapshot.unwrap_or_default();
    put_count(&mut bytes, snapshot.len());
    bytes.put_slice(snapshot);

    let mut trailer = BytesMut::with_capacity(TRAILER_BYTES);
    trailer.put_slice(&TRAILER_MAGIC);
    trailer.put_u32(VERSION);
    put_count(&mut trailer, bytes.len());
    trailer.put_u32(extend_crc(0, &bytes));
    trailer.put_u64(u64::from(data_end));
    trailer.put_i64(end_offset.value());
    let crc = extend_crc(0, &trailer);
    trailer.put_u32(crc);
    bytes.put_slice(&trailer);
    bytes.freeze()
}

/// Reads a footer with its trailer, from the end of the batches to the end of the file; returns
/// it with the data end and the end offset that the trailer names.
///
/// # Errors
/// [`FormatError`], when anything does not fit. Memory taken is in proportion to `bytes`.
pub fn parse_footer(bytes: &Bytes) -> Result<(Footer, u32, Offset), FormatError> {
    let truncated = FormatError::Truncated { have: bytes.len() };
    let body_bytes = bytes.len().checked_sub(TRAILER_BYTES).ok_or(truncated)?;
    let trailer = &bytes[body_bytes..];
    if !trailer.starts_with(&TRAILER_MAGIC) {
        return Err(FormatError::Magic);
    }
    check_crc(trailer, TRAILER_CRC_AT)?;
    let mut field = &trailer[TRAILER_MAGIC.len()..TRAILER_CRC_AT];
    let version = field.get_u32();
    if version != VERSION {
        return Err(FormatError::Version { version });
    }
    let footer_bytes = field.get_u32();
    let stored = field.get_u32();
    let data_end = field.get_u64();
    let end_offset = field.get_i64();
    if usize::try_from(footer_bytes) != Ok(body_bytes) {
        return Err(FormatError::Field { field: "footer length" });
    }
    let data_end = u32::try_from(data_end).or(Err(FormatError::Field { field: "data end" }))?;
    let end_offset = Offset::new(end_offset).ok_or(FormatError::Field { field: "end offset" })?;
    let body = bytes.slice(..body_bytes);
    let computed = extend_crc(0, &body);
    if stored != computed {
        return Err(FormatError::Checksum { stored, computed });
    }
    Ok((parse_footer_body(&body)?, data_end, end_offset))
}

/// Reads a footer without its trailer. The checksum, which stands in the trailer, is not checked.
///
/// # Errors
/// [`FormatError`], when anything does not fit.
pub fn parse_footer_body(body: &Bytes) -> Result<Footer, FormatError> {
    let mut from = body.as_ref();
    need(from, 4)?;
    let flags = from.get_u32();
    let times = SegmentTimes::decode(&mut from)?;
    let index = parse_index(&mut from)?;
    let epochs = parse_epochs(&mut from)?;
    let snapshot_bytes = get_count(&mut from, 1)?;
    if from.len() != snapshot_bytes {
        return Err(FormatError::Field { field: "snapshot length" });
    }
    let snapshot = body.slice(body.len() - snapshot_bytes..);
    let producer_snapshot = (flags & FLAG_SNAPSHOT != 0).then_some(snapshot);
    Ok(Footer { times, index, epochs, producer_snapshot })
}

fn parse_index(from: &mut &[u8]) -> Result<Vec<IndexEntry>, FormatError> {
    let count = get_count(from, INDEX_ENTRY_BYTES)?;
    let mut index = Vec::with_capacity(count);
    for _ in 0..count {
        let base_offset =
            Offset::new(from.get_i64()).ok_or(FormatError::Field { field: "index offset" })?;
        index.push(IndexEntry {
            base_offset,
            position: from.get_u32(),
            length: from.get_u32(),
            max_timestamp: TimestampMs(from.get_i64()),
            crc: from.get_u32(),
            leader_epoch: LeaderEpoch(from.get_i32()),
        });
    }
    let joined = index.windows(2).all(|two: &[IndexEntry]| {
        two[0].base_offset < two[1].base_offset
            && two[0].position.checked_add(two[0].length) == Some(two[1].position)
            && two[0].length > 0
    });
    if joined { Ok(index) } else { Err(FormatError::Field { field: "index order" }) }
}

fn parse_epochs(from: &mut &[u8]) -> Result<EpochHistory, FormatError> {
    let count = get_count(from, EPOCH_BYTES)?;
    let mut starts = Vec::with_capacity(count);
    for _ in 0..count {
        let epoch = LeaderEpoch(from.get_i32());
        let start =
            Offset::new(from.get_i64()).ok_or(FormatError::Field { field: "epoch start" })?;
        starts.push(EpochStart { epoch, start });
    }
    EpochHistory::from_starts(starts).ok_or(FormatError::Field { field: "epoch order" })
}

/// Lengths are below 4 GiB by `SEGMENT_BYTES_MAX` and the bound on producers; one that is not
/// makes a footer that does not parse, which recovery treats as missing.
fn put_count(into: &mut BytesMut, count: usize) {
    into.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
}

/// A count of items of `item_bytes` each, all of which are there.
fn get_count(from: &mut &[u8], item_bytes: usize) -> Result<usize, FormatError> {
    need(from, 4)?;
    let count = usize::try_from(from.get_u32()).or(Err(FormatError::Field { field: "count" }))?;
    let bytes = count.checked_mul(item_bytes).ok_or(FormatError::Field { field: "count" })?;
    need(from, bytes)?;
    Ok(count)
}

fn need(from: &[u8], bytes: usize) -> Result<(), FormatError> {
    if from.len() < bytes { Err(FormatError::Truncated { have: from.len() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn footer() -> Footer {
        let entry = |base: i64, position| IndexEntry {
            base_offset: Offset::new(base).unwrap(),
            position,
            length: 500,
            max_timestamp: TimestampMs(9),
            crc: 1,
            leader_epoch: LeaderEpoch(2),
        };
        let start = EpochStart { epoch: LeaderEpoch(2), start: Offset::new(40).unwrap() };
        Footer {
            times: SegmentTimes::new(TimestampMs(77)),
            index: vec![entry(40, 4096), entry(45, 4596)],
            epochs: EpochHistory::from_starts(vec![start]).unwrap(),
            producer_snapshot: Some(Bytes::from_static(b"state")),
        }
    }

    #[test]
    fn a_footer_reads_back() {
        let end = Offset::new(50).unwrap();
        let bytes = encode_footer(&footer(), 5096, end);
        assert_eq!(parse_footer(&bytes), Ok((footer(), 5096, end)));
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let bytes = encode_footer(&footer(), 5096, Offset::new(50).unwrap());
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(parse_footer(&damaged.into()).is_err(), "byte {at}");
            assert!(parse_footer(&bytes.slice(..at)).is_err(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn a_hostile_footer_is_refused_or_read(
            bytes in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            let bytes = Bytes::from(bytes);
            if let Ok(parsed) = parse_footer_body(&bytes) {
                prop_assert!(parsed.index.len() * INDEX_ENTRY_BYTES <= bytes.len());
            }
        }
    }
}
