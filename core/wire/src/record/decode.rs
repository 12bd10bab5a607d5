//! From bytes to records, one at a time.

use millstream_types::limits::RECORD_HEADERS_MAX;
use millstream_types::{Offset, TimestampMs};

use super::{HeaderRef, Headers, RecordError, RecordRef};
use crate::batch::{BatchHeader, TimestampType};
use crate::varint::{get_varint, get_varlong};

/// Where decoding stands in a batch; the bytes are passed in, so that they may be borrowed or
/// shared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    base_offset: Offset,
    base_timestamp: TimestampMs,
    /// Replaces every record's timestamp.
    log_append_time: Option<TimestampMs>,
    last_offset_delta: u32,
    count: u32,
    pub(super) index: u32,
    /// The least that the next record's offset delta may be.
    delta_min: u32,
    finished: bool,
}

impl Decoder {
    pub(super) fn new(header: &BatchHeader) -> Self {
        let log_append_time = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        Self {
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            log_append_time,
            last_offset_delta: header.last_offset_delta,
            count: header.record_count,
            index: 0,
            delta_min: 0,
            finished: false,
        }
    }

    /// Records that the header says are still to come.
    pub(super) const fn left(&self) -> u32 {
        self.count - self.index
    }

    /// Takes the next record off `rest`.
    pub(super) fn next<'a>(
        &mut self,
        rest: &mut &'a [u8],
    ) -> Option<Result<RecordRef<'a>, RecordError>> {
        if self.finished {
            return None;
        }
        if self.index == self.count {
            self.finished = true;
            let extra = rest.len();
            return (extra > 0).then_some(Err(RecordError::TrailingBytes { extra }));
        }
        let decoded = self.decode(rest);
        self.finished = decoded.is_err();
        self.index += 1;
        Some(decoded)
    }

    fn decode<'a>(&mut self, rest: &mut &'a [u8]) -> Result<RecordRef<'a>, RecordError> {
        let index = self.index;
        let truncated = RecordError::Truncated { index };
        let malformed = RecordError::Malformed { index };
        let length = get_varint(rest).ok_or(truncated)?;
        let length = usize::try_from(length).or(Err(malformed))?;
        let (mut body, after) = rest.split_at_checked(length).ok_or(truncated)?;
        *rest = after;

        let (_attributes, fields) = body.split_first().ok_or(malformed)?;
        body = fields;
        let timestamp_delta = get_varlong(&mut body).ok_or(malformed)?;
        let delta = get_varint(&mut body).ok_or(malformed)?;
        let key = get_nullable(&mut body).ok_or(malformed)?;
        let value = get_nullable(&mut body).ok_or(malformed)?;
        let headers = get_headers(&mut body, index)?;
        if !body.is_empty() {
            return Err(malformed);
        }
        let offset_delta = self.check_offset(delta)?;
        let timestamp = match self.log_append_time {
            Some(timestamp) => timestamp,
            None => self
                .base_timestamp
                .0
                .checked_add(timestamp_delta)
                .map(TimestampMs)
                .ok_or(RecordError::Timestamp { index, delta: timestamp_delta })?,
        };
        let offset = self.base_offset.plus(u64::from(offset_delta));
        Ok(RecordRef { offset, timestamp, key, value, headers })
    }

    fn check_offset(&mut self, delta: i32) -> Result<u32, RecordError> {
        let out_of_order = RecordError::OffsetDelta { index: self.index, delta };
        let offset_delta = u32::try_from(delta).or(Err(out_of_order))?;
        if offset_delta < self.delta_min || offset_delta > self.last_offset_delta {
            return Err(out_of_order);
        }
        self.delta_min = offset_delta + 1;
        Ok(offset_delta)
    }
}

/// Takes a length and as many bytes; the outer `None` is malformed, the inner one null.
#[inline]
fn get_nullable<'a>(input: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = get_varint(input)?;
    if length == -1 {
        return Some(None);
    }
    let (part, rest) = input.split_at_checked(usize::try_from(length).ok()?)?;
    *input = rest;
    Some(Some(part))
}

/// Takes one header; its key cannot be null.
pub(super) fn get_header<'a>(input: &mut &'a [u8]) -> Option<HeaderRef<'a>> {
    let key = get_nullable(input)??;
    let value = get_nullable(input)?;
    Some(HeaderRef { key, value })
}

/// Takes the header count, and walks the headers so that reading them again cannot fail.
#[inline]
fn get_headers<'a>(input: &mut &'a [u8], index: u32) -> Result<Headers<'a>, RecordError> {
    let malformed = RecordError::Malformed { index };
    let count = get_varint(input).ok_or(malformed)?;
    let left = usize::try_from(count).or(Err(malformed))?;
    if left > RECORD_HEADERS_MAX {
        return Err(RecordError::HeaderCount { index, count: left });
    }
    let headers = Headers::new(input, left);
    for _ in 0..left {
        get_header(input).ok_or(malformed)?;
    }
    Ok(headers)
}
