//! Reading and writing little-endian numbers, checked at every step.

use alloc::vec::Vec;

/// What is left of a buffer. Each read takes from its front, or returns `None` and takes nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// As many bytes as a length field says.
    pub(crate) fn counted(&mut self, count: u32) -> Option<&'a [u8]> {
        self.bytes(usize::try_from(count).ok()?)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// Past the padding behind `used` bytes that began at a multiple of 8.
    pub(crate) fn skip_padding(&mut self, used: usize) -> Option<()> {
        self.bytes(padding(used)).map(|_| ())
    }
}

/// The words of a head that has been taken whole, so that none needs a check of its own.
#[inline]
pub(crate) fn words<const BYTES: usize, const WORDS: usize>(head: [u8; BYTES]) -> [u64; WORDS] {
    const { assert!(BYTES == 8 * WORDS, "a head is whole words") };
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(head.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// The first and the second of two numbers.
#[inline]
pub(crate) fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// Bytes that follow a head for a length that is no less than null's.
#[inline]
pub(crate) fn packed(length: i32) -> usize {
    usize::try_from(length).unwrap_or(0)
}

/// Bytes from `length` to the next multiple of 8.
pub(crate) fn padding(length: usize) -> usize {
    length.wrapping_neg() % 8
}

pub(crate) fn pad(buffer: &mut Vec<u8>, used: usize) {
    buffer.extend_from_slice(&[0; 8][..padding(used)]);
}

/// Writes over 4 bytes that are there already.
pub(crate) fn patch_u32(buffer: &mut [u8], at: usize, value: u32) {
    if let Some(bytes) = buffer.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<4>()) {
        *bytes = value.to_le_bytes();
    }
}

/// The length field of a part that may be null.
pub(crate) fn length_of(part: Option<&[u8]>) -> Option<i32> {
    part.map_or(Some(NULL), |bytes| i32::try_from(bytes.len()).ok())
}

/// The length of a part that is null.
pub(crate) const NULL: i32 = -1;
/// The length, in output, of a part that is the input record's.
pub(crate) const SAME: i32 = -2;
