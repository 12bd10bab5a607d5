//! The primitives that bodies are written in: big-endian integers, strings with a `u16` length,
//! byte strings with a `u32` length, options of one byte, lists with a `u32` count.
//!
//! A body is written whole or not at all: the encoder remembers the first field that does not fit
//! and the frame is then refused, so that no field is ever cut short silently.

use bytes::{BufMut, Bytes, BytesMut};
use millstream_types::limits::FRAME_HEADER_BYTES;
use millstream_types::{
    BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    TimestampMs, TopicId,
};
use thiserror::Error;

use crate::frame::{FrameError, FrameHeader, FrameKind};

/// Why a body cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum EncodeError {
    /// A string or list is longer than the protocol allows.
    #[error("{what} has {length} bytes or entries, the most is {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The most that the field may have.
        limit: usize,
    },
    /// The body as a whole is longer than its frame may be.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Why a body cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// The body ends inside a field.
    #[error("{what} needs {needed_bytes} bytes, the body has {left_bytes} left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Bytes that it needs.
        needed_bytes: usize,
        /// Bytes that are left.
        left_bytes: usize,
    },
    /// A string or list is longer than the protocol allows.
    #[error("{what} has {length} bytes or entries, the most is {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// The length that the body claims.
        length: usize,
        /// The most that the field may have.
        limit: usize,
    },
    /// A string is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// A number is not one of those that the field may have.
    #[error("{what} cannot be {value}")]
    BadValue {
        /// The field.
        what: &'static str,
        /// What the body has there.
        value: i64,
    },
    /// A map names a key twice.
    #[error("{0} names a key twice")]
    DuplicateKey(&'static str),
}

/// Writes one body.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    out: &'a mut BytesMut,
    failed: Option<EncodeError>,
}

impl Encoder<'_> {
    pub(crate) fn put<T: Field>(&mut self, value: &T) {
        value.put(self);
    }

    fn fail_if_longer(&mut self, what: &'static str, length: usize, limit: usize) -> bool {
        if length <= limit {
            return false;
        }
        self.failed.get_or_insert(EncodeError::TooLong { what, length, limit });
        true
    }

    /// A string of at most `limit` bytes; `limit` never passes `u16::MAX`.
    pub(crate) fn string(&mut self, what: &'static str, text: &str, limit: usize) {
        let limit = limit.min(u16::MAX as usize);
        if self.fail_if_longer(what, text.len(), limit) {
            return;
        }
        self.out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        self.out.put_slice(text.as_bytes());
    }

    /// A list's count; the caller writes that many entries after it.
    pub(crate) fn count(&mut self, what: &'static str, count: usize, limit: usize) {
        if !self.fail_if_longer(what, count, limit) {
            self.out.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// Raw bytes, without a length.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    /// A byte string whose content `write` appends; its `u32` length is filled in afterwards.
    pub(crate) fn nested(&mut self, write: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.out.put_u32(0);
        write(self);
        let length = self.out.len() - start - 4;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Reads one body. Bytes that it leaves unread are fields of a later version.
#[derive(Debug, Clone)]
pub(crate) struct Decoder<'a> {
    left: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { left: body }
    }

    pub(crate) fn take<T: Field>(&mut self, what: &'static str) -> Result<T, DecodeError> {
        T::take(self, what)
    }

    /// The next `count` bytes.
    pub(crate) fn raw(
        &mut self,
        what: &'static str,
        count: usize,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((taken, left)) = self.left.split_at_checked(count) else {
            let left_bytes = self.left.len();
            return Err(DecodeError::Truncated { what, needed_bytes: count, left_bytes });
        };
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(what, N)?);
        Ok(array)
    }

    pub(crate) fn string(
        &mut self,
        what: &'static str,
        limit: usize,
    ) -> Result<String, DecodeError> {
        let length = usize::from(self.take::<u16>(what)?);
        if length > limit {
            return Err(DecodeError::TooLong { what, length, limit });
        }
        let bytes = self.raw(what, length)?;
        let text = std::str::from_utf8(bytes).or(Err(DecodeError::NotUtf8(what)))?;
        Ok(text.to_owned())
    }

    /// A list's count, refused when the rest of the body could not hold that many entries of
    /// `entry_bytes_min` each, so that a short body never makes us allocate for a long list.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        limit: usize,
        entry_bytes_min: usize,
    ) -> Result<usize, DecodeError> {
        let length = self.take::<u32>(what)? as usize;
        if length > limit {
            return Err(DecodeError::TooLong { what, length, limit });
        }
        let needed_bytes = length.saturating_mul(entry_bytes_min);
        if needed_bytes > self.left.len() {
            let left_bytes = self.left.len();
            return Err(DecodeError::Truncated { what, needed_bytes, left_bytes });
        }
        Ok(length)
    }

    /// A byte string, as a decoder of its own.
    pub(crate) fn nested(&mut self, what: &'static str) -> Result<Decoder<'a>, DecodeError> {
        let length = self.take::<u32>(what)? as usize;
        Ok(Decoder { left: self.raw(what, length)? })
    }
}

/// A value with one way to stand in a body.
pub(crate) trait Field: Sized {
    /// The fewest bytes that a value takes; bounds what a list's count can make us allocate.
    const BYTES_MIN: usize;
    fn put(&self, out: &mut Encoder<'_>);
    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError>;
}

/// The same for all integers and nothing else: a function cannot be generic over them.
macro_rules! integers {
    ($($int:ty)*) => {$(
        impl Field for $int {
            const BYTES_MIN: usize = size_of::<Self>();

            fn put(&self, out: &mut Encoder<'_>) {
                out.out.put_slice(&self.to_be_bytes());
            }

            fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
                Ok(Self::from_be_bytes(input.array(what)?))
            }
        }
    )*};
}

integers!(u8 u16 i16 u32 i32 u64 i64 f64);

/// The same for every newtype around an integer.
macro_rules! numbers {
    ($($name:ident)*) => {$(
        impl Field for $name {
            const BYTES_MIN: usize = size_of::<Self>();

            fn put(&self, out: &mut Encoder<'_>) {
                self.0.put(out);
            }

            fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
                Ok(Self(input.take(what)?))
            }
        }
    )*};
}

numbers!(BrokerId PartitionIndex LeaderEpoch ProducerId ProducerEpoch TimestampMs);

impl Field for bool {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&u8::from(*self));
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        match input.take::<u8>(what)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::BadValue { what, value: value.into() }),
        }
    }
}

impl<T: Field> Field for Option<T> {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.is_some());
        if let Some(value) = self {
            out.put(value);
        }
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        if input.take::<bool>(what)? { Ok(Some(input.take(what)?)) } else { Ok(None) }
    }
}

impl Field for [u8; 16] {
    const BYTES_MIN: usize = 16;

    fn put(&self, out: &mut Encoder<'_>) {
        out.raw(self);
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        input.array(what)
    }
}

impl Field for TopicId {
    const BYTES_MIN: usize = 16;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.to_bytes());
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self::from_bytes(input.take(what)?))
    }
}

impl Field for Offset {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.value());
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        let value = input.take::<i64>(what)?;
        Self::new(value).ok_or(DecodeError::BadValue { what, value })
    }
}

impl Field for ErrorCode {
    const BYTES_MIN: usize = 2;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.code());
    }

    /// A code that this build does not know reads as [`ErrorCode::Internal`]: a newer peer may
    /// have finer codes, and an error must never be lost because its code is new.
    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self::from_code(input.take(what)?).unwrap_or(Self::Internal))
    }
}

/// Writes a list of at most `limit` entries.
pub(crate) fn put_list<T: Field>(
    out: &mut Encoder<'_>,
    what: &'static str,
    entries: &[T],
    limit: usize,
) {
    out.count(what, entries.len(), limit);
    for entry in entries {
        out.put(entry);
    }
}

/// Reads a list of at most `limit` entries.
pub(crate) fn take_list<T: Field>(
    input: &mut Decoder<'_>,
    what: &'static str,
    limit: usize,
) -> Result<Vec<T>, DecodeError> {
    let count = input.count(what, limit, T::BYTES_MIN)?;
    let mut entries = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        entries.push(input.take(what)?);
    }
    Ok(entries)
}

/// A body that is a frame of its own.
pub trait FrameBody: Sized {
    /// The kind in the frame's header.
    const KIND: FrameKind;

    /// The body's bytes, header not included.
    ///
    /// # Errors
    /// [`EncodeError`] when a field is too long to be written.
    fn write_body(&self, out: &mut BytesMut) -> Result<(), EncodeError>;

    /// Reads a body. Bytes after the known fields belong to later versions and are ignored.
    ///
    /// # Errors
    /// [`DecodeError`], never a panic, whatever the bytes are.
    fn from_body(body: &[u8]) -> Result<Self, DecodeError>;

    /// Appends the whole frame to `out`, which is left as it was on an error.
    ///
    /// # Errors
    /// [`EncodeError`] when a field or the body is too long to be written.
    fn append_frame(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        append_frame_with(Self::KIND, out, |out| self.write_body(out))
    }

    /// The whole frame.
    ///
    /// # Errors
    /// [`EncodeError`] when a field or the body is too long to be written.
    fn to_frame(&self) -> Result<Bytes, EncodeError> {
        let mut out = BytesMut::with_capacity(256);
        self.append_frame(&mut out)?;
        Ok(out.freeze())
    }
}

/// Runs `write` over an encoder of `out` and returns what failed in it.
pub(crate) fn encode_with(
    out: &mut BytesMut,
    write: impl FnOnce(&mut Encoder<'_>),
) -> Result<(), EncodeError> {
    let mut encoder = Encoder { out, failed: None };
    write(&mut encoder);
    encoder.failed.map_or(Ok(()), Err)
}

/// Appends a frame of `kind` whose body `write` appends; `out` is left as it was on an error.
pub(crate) fn append_frame_with(
    kind: FrameKind,
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_bytes(0, FRAME_HEADER_BYTES);
    let body_start = out.len();
    let header = write(out).and_then(|()| {
        FrameHeader::encode(kind, out.len() - body_start).map_err(EncodeError::from)
    });
    match header {
        Ok(header) => {
            out[start..body_start].copy_from_slice(&header);
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}
