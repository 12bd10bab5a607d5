//! A record's headers: each is a name length `u32`, a value length `i32` (-1 is null), the name,
//! the value. They lie back to back without padding.

use alloc::vec::Vec;

use crate::bytes::{Cursor, NULL, length_of};
use crate::error::WriteError;
use crate::limits::HEADERS_MAX;

/// One header. Kafka says that names are UTF-8; no broker checks it, so that they are bytes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// Headers of a record, in order. All of them were checked when the record was read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    packed: &'a [u8],
    count: u32,
}

impl<'a> Headers<'a> {
    /// `None` unless `packed` is `count` headers and nothing else.
    pub(crate) fn read(packed: &'a [u8], count: u32) -> Option<Headers<'a>> {
        if count > HEADERS_MAX {
            return None;
        }
        let mut cursor = Cursor::new(packed);
        for _ in 0..count {
            next(&mut cursor)?;
        }
        cursor.is_empty().then_some(Headers { packed, count })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The bytes that they take in a buffer; copied whole, they are the headers of another record.
    #[must_use]
    pub fn packed(&self) -> &'a [u8] {
        self.packed
    }

    /// Each of them.
    #[must_use]
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter { cursor: Cursor::new(self.packed) }
    }

    /// The value of the last header of that name, as Kafka's `lastHeader`; the outer `None` means
    /// that there is none.
    #[must_use]
    pub fn last(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        self.iter().filter(|header| header.name == name).last().map(|header| header.value)
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// Walks the headers of a record.
#[derive(Debug, Clone)]
pub struct HeaderIter<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        next(&mut self.cursor)
    }
}

fn next<'a>(cursor: &mut Cursor<'a>) -> Option<Header<'a>> {
    let name_bytes = cursor.u32()?;
    let value_bytes = cursor.i32()?;
    let name = cursor.counted(name_bytes)?;
    let value = match value_bytes {
        NULL => None,
        bytes => Some(cursor.counted(u32::try_from(bytes).ok()?)?),
    };
    Some(Header { name, value })
}

/// Appends one header.
pub(crate) fn write(buffer: &mut Vec<u8>, header: Header<'_>) -> Result<(), WriteError> {
    let name_bytes = u32::try_from(header.name.len()).map_err(|_| WriteError::TooLong)?;
    let value_bytes = length_of(header.value).ok_or(WriteError::TooLong)?;
    buffer.extend_from_slice(&name_bytes.to_le_bytes());
    buffer.extend_from_slice(&value_bytes.to_le_bytes());
    buffer.extend_from_slice(header.name);
    buffer.extend_from_slice(header.value.unwrap_or_default());
    Ok(())
}

/// Bytes that one header takes.
pub(crate) fn bytes_of(header: Header<'_>) -> usize {
    8 + header.name.len() + header.value.map_or(0, <[u8]>::len)
}
