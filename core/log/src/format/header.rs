//! The first 4096 bytes of a segment: who the file is, how far it is known to be durable, and,
//! once sealed, what it holds. Each record has a sector of its own, so that writing one cannot
//! tear another.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millstream_types::{Offset, PartitionIndex, TimestampMs, TopicId, TopicPartition};

use super::footer::{SegmentTimes, TRAILER_BYTES};
use super::{FormatError, VERSION, check_crc, extend_crc};

/// Bytes before the first batch.
pub const HEADER_BLOCK_BYTES: u32 = 4096;
/// Where the two mark slots stand.
pub const MARK_POSITIONS: [u64; 2] = [512, 1024];
/// Where the seal record stands.
pub const SEAL_POSITION: u64 = 1536;
/// The header stands twice, so that a damaged sector differs from one that was never written.
const HEADER_POSITIONS: [usize; 2] = [0, 2048];

const HEADER_MAGIC: [u8; 8] = *b"MSTRSEG\n";
const MARK_MAGIC: [u8; 4] = *b"MARK";
const SEAL_MAGIC: [u8; 4] = *b"SEAL";
const HEADER_CRC_AT: usize = 48;
const MARK_CRC_AT: usize = 32;
const SEAL_CRC_AT: usize = 64;

/// Who a segment file is. Written once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Whose log.
    pub log: TopicPartition,
    /// The offset of the segment's first record; the file's name says the same.
    pub base_offset: Offset,
    /// When the segment was made.
    pub created_at: TimestampMs,
}

/// How far the log was known to be durable when a later sync began. Also says that every earlier
/// segment of the log is durable as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Counts a segment's marks, from 1; the larger of the two slots counts.
    pub sequence: u64,
    /// The end of the durable batches in the file; always beyond the header block.
    pub position: u32,
    /// The offset after the last durable record.
    pub end_offset: Offset,
    /// CRC-32C over the first 16 bytes of every batch up to `position`: base offset, length and
    /// leader epoch, which the batches' own CRCs do not cover.
    pub chain: u32,
}

/// What a sealed segment holds. Written after all its batches are durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealRecord {
    /// The end of the batches, where the footer starts.
    pub data_end: u32,
    /// The offset after the last record.
    pub end_offset: Offset,
    /// As [`Mark::chain`], over all batches.
    pub chain: u32,
    /// Bytes of the footer, the trailer not counted.
    pub footer_bytes: u32,
    /// CRC-32C of the footer, the trailer not counted.
    pub footer_crc: u32,
    /// The time range, as in the footer.
    pub times: SegmentTimes,
}

impl SealRecord {
    /// Bytes of the whole file.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        self.data_end as u64 + self.footer_bytes as u64 + TRAILER_BYTES as u64
    }
}

/// What a header block says. A part that was never written, or is damaged, is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderBlock {
    /// Who the file is, from either copy.
    pub header: Option<SegmentHeader>,
    /// The newer of the marks.
    pub mark: Option<Mark>,
    /// The seal.
    pub seal: Option<SealRecord>,
}

/// Reads a segment's first 4096 bytes; fewer, as of a file cut off, count as zeros.
///
/// # Errors
/// [`FormatError::Version`] for a header that a newer build wrote. Damage is no error: it shows as
/// a missing part, and only the whole log tells what that means.
pub fn parse_header_block(bytes: &[u8]) -> Result<HeaderBlock, FormatError> {
    let mut header = None;
    for at in HEADER_POSITIONS {
        match parse_header(bytes.get(at..).unwrap_or_default()) {
            Ok(parsed) => header = header.or(Some(parsed)),
            Err(error @ FormatError::Version { .. }) => return Err(error),
            Err(_) => {}
        }
    }
    let slot = |at: u64| bytes.get(usize::try_from(at).ok()?..);
    let mark = MARK_POSITIONS
        .iter()
        .filter_map(|at| slot(*at).and_then(|bytes| parse_mark(bytes).ok()))
        .max_by_key(|mark| mark.sequence);
    let seal = slot(SEAL_POSITION).and_then(|bytes| parse_seal(bytes).ok());
    Ok(HeaderBlock { header, mark, seal })
}

/// The header block of a new segment: no marks, no seal.
#[must_use]
pub fn encode_header_block(header: &SegmentHeader) -> Bytes {
    let mut one = BytesMut::with_capacity(64);
    one.put_slice(&HEADER_MAGIC);
    one.put_u32(VERSION);
    one.put_u32(header.log.partition.0);
    one.put_slice(&header.log.topic.to_bytes());
    one.put_i64(header.base_offset.value());
    one.put_i64(header.created_at.0);
    put_crc(&mut one);
    let mut block = BytesMut::zeroed(HEADER_BLOCK_BYTES as usize);
    for at in HEADER_POSITIONS {
        block[at..at + one.len()].copy_from_slice(&one);
    }
    block.freeze()
}

/// The bytes of a mark's slot.
#[must_use]
pub fn encode_mark(mark: &Mark) -> Bytes {
    let mut slot = BytesMut::with_capacity(64);
    slot.put_slice(&MARK_MAGIC);
    slot.put_u32(mark.chain);
    slot.put_u64(mark.sequence);
    slot.put_u64(u64::from(mark.position));
    slot.put_i64(mark.end_offset.value());
    put_crc(&mut slot);
    slot.freeze()
}

/// The bytes of the seal record.
#[must_use]
pub fn encode_seal(seal: &SealRecord) -> Bytes {
    let mut record = BytesMut::with_capacity(128);
    record.put_slice(&SEAL_MAGIC);
    record.put_u32(seal.chain);
    record.put_u64(u64::from(seal.data_end));
    record.put_i64(seal.end_offset.value());
    record.put_u32(seal.footer_bytes);
    record.put_u32(seal.footer_crc);
    seal.times.encode(&mut record);
    put_crc(&mut record);
    record.freeze()
}

fn put_crc(record: &mut BytesMut) {
    let crc = extend_crc(0, record);
    record.put_u32(crc);
}

fn parse_header(bytes: &[u8]) -> Result<SegmentHeader, FormatError> {
    if !bytes.starts_with(&HEADER_MAGIC) {
        return Err(FormatError::Magic);
    }
    check_crc(bytes, HEADER_CRC_AT)?;
    let mut field = &bytes[HEADER_MAGIC.len()..HEADER_CRC_AT];
    let version = field.get_u32();
    if version != VERSION {
        return Err(FormatError::Version { version });
    }
    let partition = PartitionIndex(field.get_u32());
    let mut topic = [0; 16];
    field.copy_to_slice(&mut topic);
    let base_offset = offset(field.get_i64(), "base offset")?;
    let created_at = TimestampMs(field.get_i64());
    let log = TopicPartition { topic: TopicId::from_bytes(topic), partition };
    Ok(SegmentHeader { log, base_offset, created_at })
}

fn parse_mark(bytes: &[u8]) -> Result<Mark, FormatError> {
    if !bytes.starts_with(&MARK_MAGIC) {
        return Err(FormatError::Magic);
    }
    check_crc(bytes, MARK_CRC_AT)?;
    let mut field = &bytes[MARK_MAGIC.len()..MARK_CRC_AT];
    let chain = field.get_u32();
    let sequence = field.get_u64();
    let position = data_position(field.get_u64(), "mark position")?;
    let end_offset = offset(field.get_i64(), "mark offset")?;
    Ok(Mark { sequence, position, end_offset, chain })
}

fn parse_seal(bytes: &[u8]) -> Result<SealRecord, FormatError> {
    if !bytes.starts_with(&SEAL_MAGIC) {
        return Err(FormatError::Magic);
    }
    check_crc(bytes, SEAL_CRC_AT)?;
    let mut field = &bytes[SEAL_MAGIC.len()..SEAL_CRC_AT];
    let chain = field.get_u32();
    let data_end = data_position(field.get_u64(), "data end")?;
    let end_offset = offset(field.get_i64(), "end offset")?;
    let footer_bytes = field.get_u32();
    let footer_crc = field.get_u32();
    let times = SegmentTimes::decode(&mut field)?;
    Ok(SealRecord { data_end, end_offset, chain, footer_bytes, footer_crc, times })
}

fn offset(value: i64, field: &'static str) -> Result<Offset, FormatError> {
    Offset::new(value).ok_or(FormatError::Field { field })
}

/// A position after at least one batch.
fn data_position(value: u64, field: &'static str) -> Result<u32, FormatError> {
    match u32::try_from(value) {
        Ok(position) if position > HEADER_BLOCK_BYTES => Ok(position),
        _ => Err(FormatError::Field { field }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            log: TopicPartition {
                topic: TopicId::from_bytes(*b"0123456789abcdef"),
                partition: PartitionIndex(7),
            },
            base_offset: Offset::new(42).unwrap(),
            created_at: TimestampMs(1_700_000_000_000),
        }
    }

    fn mark(sequence: u64) -> Mark {
        let end_offset = Offset::new(50).unwrap();
        Mark { sequence, position: 5000, end_offset, chain: 9 }
    }

    fn seal() -> SealRecord {
        SealRecord {
            data_end: 6000,
            end_offset: Offset::new(60).unwrap(),
            chain: 3,
            footer_bytes: 100,
            footer_crc: 77,
            times: SegmentTimes::new(TimestampMs(5)),
        }
    }

    fn block() -> Vec<u8> {
        let mut block = encode_header_block(&header()).to_vec();
        for (at, record) in [
            (512, encode_mark(&mark(8))),
            (1024, encode_mark(&mark(9))),
            (1536, encode_seal(&seal())),
        ] {
            block[at..at + record.len()].copy_from_slice(&record);
        }
        block
    }

    #[test]
    fn a_block_reads_back() {
        let parsed = parse_header_block(&block()).unwrap();
        let expected =
            HeaderBlock { header: Some(header()), mark: Some(mark(9)), seal: Some(seal()) };
        assert_eq!(parsed, expected);
    }

    #[test]
    fn one_damaged_bit_costs_at_most_one_copy() {
        let whole = parse_header_block(&block()).unwrap();
        for at in 0..4096 {
            let mut bytes = block();
            bytes[at] ^= 0x10;
            let parsed = parse_header_block(&bytes).unwrap();
            assert_eq!(parsed.header, whole.header, "byte {at}");
            assert!(parsed.mark == Some(mark(8)) || parsed.mark == Some(mark(9)), "byte {at}");
            assert!(parsed.seal.is_none_or(|found| found == seal()), "byte {at}");
        }
    }

    #[test]
    fn an_empty_block_has_no_parts() {
        let none = HeaderBlock { header: None, mark: None, seal: None };
        assert_eq!(parse_header_block(&[]), Ok(none));
        assert_eq!(parse_header_block(&[0; 4096]), Ok(none));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = block();
        bytes[11] = 2;
        let crc = extend_crc(0, &bytes[..HEADER_CRC_AT]).to_be_bytes();
        bytes[HEADER_CRC_AT..HEADER_CRC_AT + 4].copy_from_slice(&crc);
        assert_eq!(parse_header_block(&bytes), Err(FormatError::Version { version: 2 }));
    }
}
