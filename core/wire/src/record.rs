//! The records within a batch, decoded one by one.
//!
//! A record is its length, an unused attribute byte, the timestamp and offset as deltas to the
//! batch's, key, value and headers; every number is a varint, and a length of -1 is a null
//! (Kafka's `DefaultRecord`, KIP-98 and KIP-82).

mod decode;
mod error;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use millstream_types::limits::{BATCH_DECOMPRESSED_BYTES_MAX, TIMESTAMP_MS_MAX};
use millstream_types::{Offset, TimestampMs};

use self::decode::{Decoder, get_header};
pub use self::error::RecordError;
use crate::batch::BatchHeader;
use crate::compression::Codec;

/// One record. Key, value and headers share the batch's memory, which stays as long as they do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its place in the partition.
    pub offset: Offset,
    /// The producer's time, or the broker's where the batch says so.
    pub timestamp: TimestampMs,
    /// What it is about; `None` is not the same as empty.
    pub key: Option<Bytes>,
    /// What it says; `None` is a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    /// In the producer's order; keys may repeat.
    pub headers: Vec<Header>,
}

/// One header of a [`Record`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its name.
    pub key: HeaderKey,
    /// Its value; `None` is not the same as empty.
    pub value: Option<Bytes>,
}

impl Header {
    /// The same, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> HeaderRef<'_> {
        HeaderRef { key: self.key.as_bytes(), value: self.value.as_deref() }
    }
}

/// A header's name: UTF-8 by Kafka's protocol, though no broker checks it, so that the bytes are
/// kept as they came.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderKey(Bytes);

impl HeaderKey {
    /// The name's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as text; what is not UTF-8 is replaced by U+FFFD, as Java's client does.
    #[must_use]
    pub fn to_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl From<Bytes> for HeaderKey {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<String> for HeaderKey {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

impl From<&'static str> for HeaderKey {
    fn from(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }
}

impl PartialEq<str> for HeaderKey {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for HeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_text().fmt(f)
    }
}

impl fmt::Debug for HeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_text(), f)
    }
}

/// A [`Record`] that borrows from the batch, for paths where reference counts would show.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// The producer's time, or the broker's where the batch says so.
    pub timestamp: TimestampMs,
    /// What it is about; `None` is not the same as empty.
    pub key: Option<&'a [u8]>,
    /// What it says; `None` is a tombstone on a compacted topic.
    pub value: Option<&'a [u8]>,
    /// In the producer's order; keys may repeat.
    pub headers: Headers<'a>,
}

impl RecordRef<'_> {
    /// The same, holding on to `memory`, which this record must have been decoded from.
    fn share(&self, memory: &Bytes) -> Record {
        let share = |part: &[u8]| memory.slice_ref(part);
        Record {
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.map(share),
            value: self.value.map(share),
            headers: self
                .headers
                .map(|header| Header {
                    key: HeaderKey(share(header.key)),
                    value: header.value.map(share),
                })
                .collect(),
        }
    }
}

/// A [`Header`] that borrows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderRef<'a> {
    /// Its name: UTF-8, though nobody has checked.
    pub key: &'a [u8],
    /// Its value; `None` is not the same as empty.
    pub value: Option<&'a [u8]>,
}

/// The headers of a [`RecordRef`], in order. They were checked when the record was decoded.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Headers<'a> {
    /// The `left` headers at the start of `rest`, where they must have been seen to be.
    const fn new(rest: &'a [u8], left: usize) -> Self {
        Self { rest, left }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderRef<'a>;

    fn next(&mut self) -> Option<HeaderRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        get_header(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// A batch's records in order. Ends after the last record or the first error; an error is also
/// what the batch ends in if it holds fewer or more records than its header says.
#[derive(Clone, Debug)]
pub struct Records {
    payload: Bytes,
    position: usize,
    decoder: Decoder,
}

impl Records {
    /// Of a batch's header and the bytes after it.
    pub(crate) fn new(header: &BatchHeader, stored: Bytes) -> Result<Self, RecordError> {
        let payload = match header.attributes.codec() {
            Codec::None => stored,
            codec => codec.decompress(&stored, BATCH_DECOMPRESSED_BYTES_MAX)?,
        };
        Ok(Self { payload, position: 0, decoder: Decoder::new(header) })
    }

    /// The next record, borrowed; otherwise as [`Iterator::next`].
    ///
    /// # Errors
    /// Those of [`RecordError`]; after one there are no more records.
    pub fn next_ref(&mut self) -> Option<Result<RecordRef<'_>, RecordError>> {
        let mut rest = &self.payload[self.position..];
        let next = self.decoder.next(&mut rest);
        self.position = self.payload.len() - rest.len();
        next
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = &self.payload[self.position..];
        let next = self.decoder.next(&mut rest);
        self.position = self.payload.len() - rest.len();
        next.map(|decoded| decoded.map(|record| record.share(&self.payload)))
    }

    /// The upper bound is the header's count, which is bounded but not proven.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.decoder.left() as usize + 1))
    }
}

impl std::iter::FusedIterator for Records {}

/// Decodes every record of a producer's batch and keeps none. Returns the least timestamp of those
/// that have one, [`TimestampMs::NONE`] where none has.
pub(crate) fn check_records(
    header: &BatchHeader,
    stored: &[u8],
) -> Result<TimestampMs, RecordError> {
    let decompressed;
    let mut rest = match header.attributes.codec() {
        Codec::None => stored,
        codec => {
            decompressed = codec.decompress(stored, BATCH_DECOMPRESSED_BYTES_MAX)?;
            &decompressed[..]
        }
    };
    let mut least: Option<TimestampMs> = None;
    let mut decoder = Decoder::new(header);
    while let Some(decoded) = decoder.next(&mut rest) {
        let record = decoded?;
        if record.timestamp.0.unsigned_abs() > TIMESTAMP_MS_MAX.unsigned_abs() {
            let index = decoder.index - 1;
            let delta = record.timestamp.0.saturating_sub(header.base_timestamp.0);
            return Err(RecordError::Timestamp { index, delta });
        }
        if record.timestamp > header.max_timestamp {
            let (index, timestamp_ms) = (decoder.index - 1, record.timestamp.0);
            return Err(RecordError::MaxTimestamp { index, timestamp_ms });
        }
        if record.timestamp != TimestampMs::NONE {
            let timestamp = record.timestamp;
            least = Some(least.map_or(timestamp, |least| least.min(timestamp)));
        }
    }
    Ok(least.unwrap_or(TimestampMs::NONE))
}
