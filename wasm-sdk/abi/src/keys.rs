//! `MSK1`, the keys that a partitioner places, and `MSH1`, the hot keys that it is told of.

use alloc::vec::Vec;
use core::iter::FusedIterator;

use crate::Flags;
use crate::bytes::{Cursor, NULL, halves, length_of, packed, pad, padding, words};
use crate::error::{InputError, WriteError};
use crate::headers::{Header, Headers};
use crate::input::{Prelude, prelude};
use crate::limits::{HOT_KEY_BYTES_MAX, HOT_KEYS_MAX, INPUT_BYTES_MAX};
use crate::packer::{Packer, begin, finish};

const KEYS_MAGIC: [u8; 4] = *b"MSK1";
const KEYS_HEADER_BYTES: usize = 32;
const KEY_HEAD_BYTES: usize = 16;
const HOT_MAGIC: [u8; 4] = *b"MSH1";
const HOT_HEADER_BYTES: usize = 24;
const HOT_HEAD_BYTES: usize = 8;
/// In a key's head.
const HEADERS_AT: usize = 8;

/// A partitioner's answer for a record that goes where it would go without a plugin.
pub const DEFAULT_PARTITION: u32 = u32::MAX;

/// Keys to place.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    flags: Flags,
    count: u32,
    partitions: u32,
    hot_epoch: u64,
    keys: Cursor<'a>,
}

/// A record to place, borrowed from its buffer.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    /// Its number with whoever produces it, the same again on a retry: what a hot key can be spread
    /// by.
    pub sequence: u32,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its headers; none when headers are not packed.
    pub headers: Headers<'a>,
}

impl<'a> Keys<'a> {
    /// Checks all of `buffer`.
    ///
    /// # Errors
    /// It is not a buffer of keys of this version.
    pub fn read(buffer: &'a [u8]) -> Result<Keys<'a>, InputError> {
        let keys = Keys::open(buffer)?;
        let mut cursor = keys.keys;
        for index in 0..keys.count {
            next_key(&mut cursor, keys.flags).ok_or(InputError::Record { index })?;
        }
        if cursor.is_empty() { Ok(keys) } else { Err(InputError::Count(keys.count)) }
    }

    /// Checks the header alone. For guests, who trust the host and walk the keys once.
    ///
    /// # Errors
    /// It is not a buffer of keys of this version.
    pub fn open(buffer: &'a [u8]) -> Result<Keys<'a>, InputError> {
        let none = InputError::NoHeader { bytes: buffer.len() };
        let mut cursor = Cursor::new(buffer);
        let Prelude { flags, count } = prelude(&mut cursor, KEYS_MAGIC, KEY_HEAD_BYTES)?;
        if flags.values || flags.produce {
            return Err(InputError::Flags(flags.bits()));
        }
        let partitions = cursor.u32().ok_or(none)?;
        let reserved = cursor.u32().ok_or(none)?;
        let hot_epoch = cursor.u64().ok_or(none)?;
        if reserved != 0 {
            return Err(InputError::Reserved(reserved));
        }
        Ok(Keys { flags, count, partitions, hot_epoch, keys: cursor })
    }

    /// How many records there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Partitions of the topic, at least 1.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The epoch of the hot keys to go by.
    #[must_use]
    pub fn hot_epoch(&self) -> u64 {
        self.hot_epoch
    }

    /// Each record, in order.
    #[must_use]
    pub fn iter(&self) -> KeyIter<'a> {
        KeyIter { cursor: self.keys, flags: self.flags, left: self.count }
    }
}

impl<'a> IntoIterator for Keys<'a> {
    type Item = Key<'a>;
    type IntoIter = KeyIter<'a>;

    fn into_iter(self) -> KeyIter<'a> {
        self.iter()
    }
}

/// Walks the keys of a buffer.
#[derive(Debug, Clone)]
pub struct KeyIter<'a> {
    cursor: Cursor<'a>,
    flags: Flags,
    left: u32,
}

impl<'a> Iterator for KeyIter<'a> {
    type Item = Key<'a>;

    #[inline]
    fn next(&mut self) -> Option<Key<'a>> {
        self.left = self.left.checked_sub(1)?;
        next_key(&mut self.cursor, self.flags)
    }
}

impl FusedIterator for KeyIter<'_> {}

/// One check for the head, one for all that follows it.
#[inline]
fn next_key<'a>(cursor: &mut Cursor<'a>, flags: Flags) -> Option<Key<'a>> {
    let mut ahead = *cursor;
    let [head, sizes] = words(ahead.array::<KEY_HEAD_BYTES>()?);
    let (sequence, key_bytes) = halves(head);
    let (headers_bytes, header_count) = halves(sizes);
    let key_bytes = key_bytes.cast_signed();
    if key_bytes < NULL {
        return None;
    }
    let key_length = packed(key_bytes);
    let headers_length = usize::try_from(headers_bytes).ok()?;
    let body = key_length.checked_add(headers_length)?;
    let body = ahead.bytes(body.checked_add(padding(body))?)?;
    let (key, rest) = body.split_at_checked(key_length)?;
    let headers = match (headers_length, header_count) {
        (0, 0) => Headers::default(),
        (length, count) if flags.headers => Headers::read(rest.get(..length)?, count)?,
        _ => return None,
    };
    *cursor = ahead;
    Some(Key { sequence, key: (key_bytes != NULL).then_some(key), headers })
}

/// Packs keys into a buffer that the caller keeps from one call to the next.
#[derive(Debug)]
pub struct KeysWriter<'b> {
    packer: Packer<'b>,
}

impl<'b> KeysWriter<'b> {
    /// Begins a buffer, which is emptied first.
    pub fn new(
        buffer: &'b mut Vec<u8>,
        with_headers: bool,
        partitions: u32,
        hot_epoch: u64,
    ) -> KeysWriter<'b> {
        let flags = Flags { headers: with_headers, ..Flags::default() };
        begin(buffer, KEYS_MAGIC, flags);
        buffer.extend_from_slice(&partitions.to_le_bytes());
        buffer.extend_from_slice(&0_u32.to_le_bytes());
        buffer.extend_from_slice(&hot_epoch.to_le_bytes());
        debug_assert_eq!(buffer.len(), KEYS_HEADER_BYTES, "as the specification has it");
        KeysWriter { packer: Packer::new(buffer, flags, INPUT_BYTES_MAX, HEADERS_AT) }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// It does not fit; it is not added.
    #[inline]
    pub fn key(&mut self, sequence: u32, key: Option<&[u8]>) -> Result<(), WriteError> {
        let key_bytes = length_of(key).ok_or(WriteError::TooLong)?;
        let mut head = [0; KEY_HEAD_BYTES];
        head[0..4].copy_from_slice(&sequence.to_le_bytes());
        head[4..8].copy_from_slice(&key_bytes.to_le_bytes());
        self.packer.record(&head, key.unwrap_or_default(), &[])
    }

    /// Adds a header to the last record. Does nothing when headers are not packed.
    ///
    /// # Errors
    /// There is no record, or the header does not fit: then its record is taken out again.
    pub fn header(&mut self, header: Header<'_>) -> Result<(), WriteError> {
        self.packer.header(header)
    }

    /// How many records there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.packer.count()
    }

    /// Ends the buffer and returns its bytes.
    #[must_use]
    pub fn finish(self) -> &'b [u8] {
        self.packer.finish()
    }
}

/// Whether a partitioner's answer can be taken: one partition for each record, each of them there
/// or [`DEFAULT_PARTITION`]. The error says where it is not.
///
/// # Errors
/// The first answer that names no partition, or the number of answers where that is not `count`.
pub fn check_assigned(
    assigned: impl ExactSizeIterator<Item = u32>,
    count: u32,
    partitions: u32,
) -> Result<(), AssignedError> {
    let answers = assigned.len();
    if usize::try_from(count) != Ok(answers) {
        return Err(AssignedError::Count { records: count, answers });
    }
    for (index, partition) in assigned.enumerate() {
        if partition >= partitions && partition != DEFAULT_PARTITION {
            return Err(AssignedError::Partition { index, partition });
        }
    }
    Ok(())
}

/// Why a partitioner's answer cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssignedError {
    /// Not as many answers as there were records.
    Count {
        /// Records of the call.
        records: u32,
        /// Answers.
        answers: usize,
    },
    /// A partition that there is not.
    Partition {
        /// The record it was for, from 0.
        index: usize,
        /// The answer.
        partition: u32,
    },
}

impl core::fmt::Display for AssignedError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            AssignedError::Count { records, answers } => {
                write!(f, "{answers} partitions for {records} records")
            }
            AssignedError::Partition { index, partition } => {
                write!(f, "record {index} is put into partition {partition}, which there is not")
            }
        }
    }
}

impl core::error::Error for AssignedError {}

/// The hot keys of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Hot<'a> {
    epoch: u64,
    count: u32,
    keys: Cursor<'a>,
}

/// A hot key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotKey<'a> {
    /// Its share of the topic's records, in millionths, as the broker estimates it.
    pub share_ppm: u32,
    /// The key, which is never null.
    pub key: &'a [u8],
}

impl<'a> Hot<'a> {
    /// Checks all of `buffer`.
    ///
    /// # Errors
    /// It is not a list of hot keys of this version.
    pub fn read(buffer: &'a [u8]) -> Result<Hot<'a>, InputError> {
        let none = InputError::NoHeader { bytes: buffer.len() };
        let mut cursor = Cursor::new(buffer);
        let Prelude { flags, count } = prelude(&mut cursor, HOT_MAGIC, HOT_HEAD_BYTES)?;
        if flags != Flags::default() {
            return Err(InputError::Flags(flags.bits()));
        }
        let epoch = cursor.u64().ok_or(none)?;
        let hot = Hot { epoch, count, keys: cursor };
        for index in 0..count {
            next_hot(&mut cursor).ok_or(InputError::Record { index })?;
        }
        if cursor.is_empty() { Ok(hot) } else { Err(InputError::Count(count)) }
    }

    /// The list's number.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many keys there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Each key; the hottest first, of equal ones the smaller key.
    #[must_use]
    pub fn iter(&self) -> HotKeys<'a> {
        HotKeys { cursor: self.keys }
    }
}

impl<'a> IntoIterator for Hot<'a> {
    type Item = HotKey<'a>;
    type IntoIter = HotKeys<'a>;

    fn into_iter(self) -> HotKeys<'a> {
        self.iter()
    }
}

/// Walks a list of hot keys.
#[derive(Debug, Clone)]
pub struct HotKeys<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for HotKeys<'a> {
    type Item = HotKey<'a>;

    fn next(&mut self) -> Option<HotKey<'a>> {
        next_hot(&mut self.cursor)
    }
}

fn next_hot<'a>(cursor: &mut Cursor<'a>) -> Option<HotKey<'a>> {
    let before = cursor.rest().len();
    let share_ppm = cursor.u32()?;
    let key_bytes = cursor.u32()?;
    let key = cursor.counted(key_bytes)?;
    cursor.skip_padding(before - cursor.rest().len())?;
    Some(HotKey { share_ppm, key })
}

/// Packs a list of hot keys. The caller sorts it, so that one list has one form.
#[derive(Debug)]
pub struct HotWriter<'b> {
    buffer: &'b mut Vec<u8>,
    count: u32,
}

impl<'b> HotWriter<'b> {
    /// Begins a list in `buffer`, which is emptied first.
    pub fn new(buffer: &'b mut Vec<u8>, epoch: u64) -> HotWriter<'b> {
        begin(buffer, HOT_MAGIC, Flags::default());
        buffer.extend_from_slice(&epoch.to_le_bytes());
        debug_assert_eq!(buffer.len(), HOT_HEADER_BYTES, "as the specification has it");
        HotWriter { buffer, count: 0 }
    }

    /// Adds a key.
    ///
    /// # Errors
    /// There are too many, or it is too long; it is not added.
    pub fn key(&mut self, hot: HotKey<'_>) -> Result<(), WriteError> {
        if self.count == HOT_KEYS_MAX {
            return Err(WriteError::TooMany);
        }
        if hot.key.len() > HOT_KEY_BYTES_MAX {
            return Err(WriteError::TooLong);
        }
        let key_bytes = u32::try_from(hot.key.len()).map_err(|_| WriteError::TooLong)?;
        self.buffer.extend_from_slice(&hot.share_ppm.to_le_bytes());
        self.buffer.extend_from_slice(&key_bytes.to_le_bytes());
        self.buffer.extend_from_slice(hot.key);
        pad(self.buffer, HOT_HEAD_BYTES + hot.key.len());
        self.count += 1;
        Ok(())
    }

    /// Ends the list and returns its bytes.
    #[must_use]
    pub fn finish(self) -> &'b [u8] {
        finish(self.buffer, self.count);
        self.buffer
    }
}
