//! The records that `bench` sends: each says who sent it, which one it is and when it was due, and
//! carries a checksum over all of it.
//!
//! | bytes | little-endian |
//! |---|---|
//! | 0..4 | `MSB1` |
//! | 4..8 | producer |
//! | 8..16 | sequence within the producer and partition, from 0 |
//! | 16..24 | when it was due, in ns since the run began |
//! | 24..28 | partition |
//! | 28..32 | CRC-32C of bytes 0..28, xor CRC-32C of the filler |
//! | 32.. | filler |

use bytes::{Bytes, BytesMut};
use millstream_wire::crc32c;

use crate::args::PayloadKind;

/// The bytes before the filler: the smallest record.
pub(crate) const STAMP_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"MSB1";
const CHECKED_BYTES: usize = 28;
/// One allocation serves this many bytes of records.
const CHUNK_BYTES: usize = 256 * 1024;

/// What a record says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) producer: u32,
    pub(crate) partition: u32,
    pub(crate) sequence: u64,
    pub(crate) due_ns: u64,
}

/// Makes the records of one producer. The filler is made once: a record costs one copy of it.
#[derive(Debug)]
pub(crate) struct Maker {
    record: Vec<u8>,
    filler_crc: u32,
    chunk: BytesMut,
}

impl Maker {
    /// Records of `size` bytes, at least [`STAMP_BYTES`].
    pub(crate) fn new(kind: PayloadKind, size: usize, producer: u32) -> Self {
        let mut record = vec![0; STAMP_BYTES];
        record[..4].copy_from_slice(&MAGIC);
        record[4..8].copy_from_slice(&producer.to_le_bytes());
        fill(kind, producer, size.max(STAMP_BYTES), &mut record);
        Self { filler_crc: crc32c(&record[STAMP_BYTES..]), record, chunk: BytesMut::new() }
    }

    /// The next record. `stamp.producer` is the maker's own, whatever it says.
    pub(crate) fn make(&mut self, partition: u32, sequence: u64, due_ns: u64) -> Bytes {
        self.record[8..16].copy_from_slice(&sequence.to_le_bytes());
        self.record[16..24].copy_from_slice(&due_ns.to_le_bytes());
        self.record[24..28].copy_from_slice(&partition.to_le_bytes());
        let checksum = crc32c(&self.record[..CHECKED_BYTES]) ^ self.filler_crc;
        self.record[28..32].copy_from_slice(&checksum.to_le_bytes());
        if self.chunk.capacity() < self.record.len() {
            self.chunk = BytesMut::with_capacity(CHUNK_BYTES.max(self.record.len()));
        }
        self.chunk.extend_from_slice(&self.record);
        self.chunk.split().freeze()
    }
}

/// Extends `record` to `size` bytes.
fn fill(kind: PayloadKind, seed: u32, size: usize, record: &mut Vec<u8>) {
    let mut state = u64::from(seed) | 1 << 40;
    while record.len() < size {
        // xorshift64*: enough that no codec finds a pattern.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let bytes = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes();
        match kind {
            PayloadKind::Random => record.extend_from_slice(&bytes),
            PayloadKind::Text => {
                let number = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
                record.extend_from_slice(format!("\"field\":{number},\"name\":").as_bytes());
            }
        }
    }
    record.truncate(size);
}

/// Reads a record; `None` where it is none of ours or any byte of it has changed.
pub(crate) fn read(value: &[u8]) -> Option<Stamp> {
    let (stamp, filler) = value.split_at_checked(STAMP_BYTES)?;
    let u32_at = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(stamp.get(at..at + 4)?.try_into().ok()?))
    };
    let u64_at = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(stamp.get(at..at + 8)?.try_into().ok()?))
    };
    let checksum = crc32c(&stamp[..CHECKED_BYTES]) ^ crc32c(filler);
    if stamp[..4] != MAGIC || u32_at(28)? != checksum {
        return None;
    }
    Some(Stamp {
        producer: u32_at(4)?,
        sequence: u64_at(8)?,
        due_ns: u64_at(16)?,
        partition: u32_at(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_it_was_made() {
        for kind in [PayloadKind::Random, PayloadKind::Text] {
            for size in [0, 32, 33, 100, 1024, 300_000] {
                let mut maker = Maker::new(kind, size, 7);
                for sequence in 0..5 {
                    let record = maker.make(3, sequence, 11);
                    assert_eq!(record.len(), size.max(STAMP_BYTES));
                    let stamp = Stamp { producer: 7, partition: 3, sequence, due_ns: 11 };
                    assert_eq!(read(&record), Some(stamp));
                }
            }
        }
    }

    #[test]
    fn the_layout_is_as_documented() {
        let record = Maker::new(PayloadKind::Random, 32, 0x0102).make(5, 6, 7);
        let expected: [u8; 28] = [
            b'M', b'S', b'B', b'1', 2, 1, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5,
            0, 0, 0,
        ];
        assert_eq!(record[..28], expected);
        assert_eq!(record[28..], crc32c(&expected).to_le_bytes());
    }

    #[test]
    fn any_changed_byte_is_seen() {
        let record = Maker::new(PayloadKind::Text, 100, 1).make(0, 0, 0);
        for at in 0..record.len() {
            let mut changed = record.to_vec();
            changed[at] ^= 1;
            assert_eq!(read(&changed), None, "byte {at}");
        }
        assert_eq!(read(&record[..99]), None);
        assert_eq!(read(b""), None);
    }

    #[test]
    fn text_compresses_and_random_bytes_do_not() {
        let ratio = |kind| {
            let record = Maker::new(kind, 10_000, 1).make(0, 0, 0);
            record.len() / zstd::bulk::compress(&record, 1).unwrap().len()
        };
        assert_eq!(ratio(PayloadKind::Random), 0);
        assert!((2..=8).contains(&ratio(PayloadKind::Text)), "{}", ratio(PayloadKind::Text));
    }
}
