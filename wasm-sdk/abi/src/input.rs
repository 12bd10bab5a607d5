//! `MSB1`: a batch of records, from the host to a transform.

use alloc::vec::Vec;
use core::iter::FusedIterator;
use core::ops::Range;

use crate::bytes::{Cursor, NULL, halves, length_of, packed, padding, words};
use crate::error::{InputError, WriteError};
use crate::headers::{Header, Headers};
use crate::limits::INPUT_BYTES_MAX;
use crate::packer::{Packer, begin, finish};
use crate::{ABI, Flags};

const MAGIC: [u8; 4] = *b"MSB1";
const HEADER_BYTES: usize = 24;
const RECORD_HEAD_BYTES: usize = 32;
/// In a record's head.
const HEADERS_AT: usize = 24;

/// What every buffer from the host begins with: magic, version, flags, count and bytes.
pub(crate) struct Prelude {
    pub(crate) flags: Flags,
    pub(crate) count: u32,
}

/// Reads the first 16 bytes of a buffer with `head_bytes` a record at least.
pub(crate) fn prelude(
    cursor: &mut Cursor<'_>,
    magic: [u8; 4],
    head_bytes: usize,
) -> Result<Prelude, InputError> {
    let bytes = cursor.rest().len();
    let none = InputError::NoHeader { bytes };
    let found = cursor.array::<4>().ok_or(none)?;
    if found != magic {
        return Err(InputError::Magic(found));
    }
    let version = cursor.u16().ok_or(none)?;
    if version != ABI {
        return Err(InputError::Version(version));
    }
    let bits = cursor.u16().ok_or(none)?;
    let flags = Flags::from_bits(bits).ok_or(InputError::Flags(bits))?;
    let count = cursor.u32().ok_or(none)?;
    let said = cursor.u32().ok_or(none)?;
    if usize::try_from(said) != Ok(bytes) {
        return Err(InputError::Length { said, bytes });
    }
    let fit = cursor.rest().len() / head_bytes;
    if !usize::try_from(count).is_ok_and(|count| count <= fit) {
        return Err(InputError::Count(count));
    }
    Ok(Prelude { flags, count })
}

/// A batch.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    flags: Flags,
    count: u32,
    partition: u32,
    records: Cursor<'a>,
}

/// A record of a batch, borrowed from it.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its place in the call's input, from 0.
    pub index: u32,
    /// Its offset in the topic; on produce, its place in the batch that is being produced.
    pub offset: i64,
    /// In ms since 1970; -1 if its producer gave none.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value. `None` also when values are not packed; [`Record::value_bytes`] tells.
    pub value: Option<&'a [u8]>,
    /// The length of its value, packed or not; `None` for a null value.
    pub value_bytes: Option<u32>,
    /// Its headers; none when headers are not packed.
    pub headers: Headers<'a>,
}

impl<'a> Input<'a> {
    /// Checks all of `buffer`.
    ///
    /// # Errors
    /// It is not a batch of this version.
    pub fn read(buffer: &'a [u8]) -> Result<Input<'a>, InputError> {
        let input = Input::open(buffer)?;
        let mut cursor = input.records;
        for index in 0..input.count {
            next(&mut cursor, input.flags, index).ok_or(InputError::Record { index })?;
        }
        if cursor.is_empty() { Ok(input) } else { Err(InputError::Count(input.count)) }
    }

    /// Checks the header alone. For guests, who trust the host and walk the records once: of a
    /// damaged batch they see the records before the damage.
    ///
    /// # Errors
    /// It is not a batch of this version.
    pub fn open(buffer: &'a [u8]) -> Result<Input<'a>, InputError> {
        let none = InputError::NoHeader { bytes: buffer.len() };
        let mut cursor = Cursor::new(buffer);
        let Prelude { flags, count } = prelude(&mut cursor, MAGIC, RECORD_HEAD_BYTES)?;
        let partition = cursor.u32().ok_or(none)?;
        let reserved = cursor.u32().ok_or(none)?;
        if reserved != 0 {
            return Err(InputError::Reserved(reserved));
        }
        Ok(Input { flags, count, partition, records: cursor })
    }

    /// Packs some of the records into another buffer, which is emptied first: a batch by
    /// themselves, in which each has its place in that batch.
    pub fn cut<'b>(&self, records: Range<u32>, buffer: &'b mut Vec<u8>) -> &'b [u8] {
        buffer.clear();
        begin(buffer, MAGIC, self.flags);
        buffer.extend_from_slice(&self.partition.to_le_bytes());
        buffer.extend_from_slice(&0_u32.to_le_bytes());
        let mut walk = self.records();
        for _ in 0..records.start {
            walk.next();
        }
        let from = walk.cursor.rest();
        let count = records.map_while(|_| walk.next()).fold(0, |count: u32, _| count + 1);
        let bytes = from.len() - walk.cursor.rest().len();
        buffer.extend_from_slice(from.get(..bytes).unwrap_or_default());
        finish(buffer, count);
        buffer
    }

    /// What is packed.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// How many records there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The partition that the records are of; on produce, that they go to.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Each record, in order.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records { cursor: self.records, flags: self.flags, index: 0, count: self.count }
    }
}

/// Walks the records of a batch.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    flags: Flags,
    index: u32,
    count: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        if self.index == self.count {
            return None;
        }
        let record = next(&mut self.cursor, self.flags, self.index)?;
        self.index += 1;
        Some(record)
    }
}

impl FusedIterator for Records<'_> {}

/// One check for the head, one for all that follows it: this is what a cheap transform costs.
#[inline]
fn next<'a>(cursor: &mut Cursor<'a>, flags: Flags, index: u32) -> Option<Record<'a>> {
    let mut ahead = *cursor;
    let head = ahead.array::<RECORD_HEAD_BYTES>()?;
    let [offset, timestamp, lengths, headers] = words(head);
    let (key_bytes, value_bytes) = halves(lengths);
    let (headers_bytes, header_count) = halves(headers);
    let (key_bytes, value_bytes) = (key_bytes.cast_signed(), value_bytes.cast_signed());
    if key_bytes < NULL || value_bytes < NULL {
        return None;
    }
    let key_length = packed(key_bytes);
    let value_length = if flags.values { packed(value_bytes) } else { 0 };
    let body =
        key_length.checked_add(value_length)?.checked_add(usize::try_from(headers_bytes).ok()?)?;
    let body = ahead.bytes(body.checked_add(padding(body))?)?;
    let (key, rest) = body.split_at_checked(key_length)?;
    let (value, rest) = rest.split_at_checked(value_length)?;
    let headers = match (headers_bytes, header_count) {
        (0, 0) => Headers::default(),
        (bytes, count) if flags.headers => {
            Headers::read(rest.get(..usize::try_from(bytes).ok()?)?, count)?
        }
        _ => return None,
    };
    *cursor = ahead;
    Some(Record {
        index,
        offset: offset.cast_signed(),
        timestamp: timestamp.cast_signed(),
        key: (key_bytes != NULL).then_some(key),
        value: (flags.values && value_bytes != NULL).then_some(value),
        value_bytes: u32::try_from(value_bytes).ok(),
        headers,
    })
}

/// What a host says of a record before its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordHead<'a> {
    /// Its offset in the topic; on produce, its place in the batch that is being produced.
    pub offset: i64,
    /// In ms since 1970; -1 if its producer gave none.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; given whether values are packed or not.
    pub value: Option<&'a [u8]>,
}

/// Packs a batch into a buffer that the caller keeps from one batch to the next.
///
/// A record that does not fit leaves the buffer as it was before the record, which is a whole
/// batch: the caller sends it, and begins the next with that record.
#[derive(Debug)]
pub struct InputWriter<'b> {
    packer: Packer<'b>,
    flags: Flags,
}

impl<'b> InputWriter<'b> {
    /// Begins a batch of `partition` in `buffer`, which is emptied first, of at most `bytes_max`
    /// bytes (and never more than [`INPUT_BYTES_MAX`]).
    pub fn new(
        buffer: &'b mut Vec<u8>,
        flags: Flags,
        partition: u32,
        bytes_max: usize,
    ) -> InputWriter<'b> {
        begin(buffer, MAGIC, flags);
        buffer.extend_from_slice(&partition.to_le_bytes());
        buffer.extend_from_slice(&0_u32.to_le_bytes());
        debug_assert_eq!(buffer.len(), HEADER_BYTES, "as the specification has it");
        let packer = Packer::new(buffer, flags, bytes_max.min(INPUT_BYTES_MAX), HEADERS_AT);
        InputWriter { packer, flags }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// It does not fit; it is not added.
    #[inline]
    pub fn record(&mut self, record: RecordHead<'_>) -> Result<(), WriteError> {
        let key_bytes = length_of(record.key).ok_or(WriteError::TooLong)?;
        let value_bytes = length_of(record.value).ok_or(WriteError::TooLong)?;
        let value = if self.flags.values { record.value } else { None };
        let mut head = [0; RECORD_HEAD_BYTES];
        head[0..8].copy_from_slice(&record.offset.to_le_bytes());
        head[8..16].copy_from_slice(&record.timestamp.to_le_bytes());
        head[16..20].copy_from_slice(&key_bytes.to_le_bytes());
        head[20..24].copy_from_slice(&value_bytes.to_le_bytes());
        self.packer.record(&head, record.key.unwrap_or_default(), value.unwrap_or_default())
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

    /// Ends the batch and returns its bytes.
    #[must_use]
    pub fn finish(self) -> &'b [u8] {
        self.packer.finish()
    }
}
