//! The segment file's format, version 1, as pure functions from bytes to values and back. See
//! `docs/segment-format.md`. All integers are big-endian, as in the batches between them.

mod footer;
mod header;

pub use footer::{
    Footer, INDEX_ENTRY_BYTES, IndexEntry, SegmentTimes, TRAILER_BYTES, encode_footer,
    parse_footer, parse_footer_body,
};
pub use header::{
    HEADER_BLOCK_BYTES, HeaderBlock, MARK_POSITIONS, Mark, SEAL_POSITION, SealRecord,
    SegmentHeader, encode_header_block, encode_mark, encode_seal, parse_header_block,
};

/// The format's version. A build reads all versions up to its own.
pub const VERSION: u32 = 1;

/// Why bytes are not what the format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// There are too few bytes.
    #[error("cut off after {have} bytes")]
    Truncated {
        /// Bytes that are there.
        have: usize,
    },
    /// The magic is another.
    #[error("wrong magic")]
    Magic,
    /// The checksum does not fit the bytes.
    #[error("the checksum field says {stored:08x}, the bytes {computed:08x}")]
    Checksum {
        /// The checksum field.
        stored: u32,
        /// The CRC-32C of the bytes.
        computed: u32,
    },
    /// A newer build's format.
    #[error("format version {version}")]
    Version {
        /// The version field.
        version: u32,
    },
    /// A field has a value that no writer gives it.
    #[error("impossible {field}")]
    Field {
        /// The field's name.
        field: &'static str,
    },
}

/// The CRC-32C of what `crc` was taken of, followed by `bytes`; 0 is the CRC of nothing.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a 32-bit CRC in a 64-bit return type")]
pub(crate) fn extend_crc(crc: u32, bytes: &[u8]) -> u32 {
    let state = u64::from(!crc);
    let algorithm = crc_fast::CrcAlgorithm::Crc32Iscsi;
    let mut digest = crc_fast::Digest::new_with_init_state(algorithm, state);
    digest.update(bytes);
    digest.finalize() as u32
}

/// Checks that the four bytes at `at` are the CRC-32C of those before.
fn check_crc(bytes: &[u8], at: usize) -> Result<(), FormatError> {
    let truncated = FormatError::Truncated { have: bytes.len() };
    let body = bytes.get(..at).ok_or(truncated)?;
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).ok_or(truncated)?;
    let stored = u32::from_be_bytes(field);
    let computed = extend_crc(0, body);
    if stored == computed { Ok(()) } else { Err(FormatError::Checksum { stored, computed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crc_taken_in_pieces_is_that_of_the_whole() {
        let bytes = b"123456789";
        assert_eq!(extend_crc(0, bytes), 0xe306_9283);
        assert_eq!(extend_crc(extend_crc(0, &bytes[..4]), &bytes[4..]), 0xe306_9283);
    }
}
