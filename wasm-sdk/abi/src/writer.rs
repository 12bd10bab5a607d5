//! `MSV1` as a guest writes it.

use alloc::vec::Vec;

use crate::ABI;
use crate::bytes::{NULL, SAME, length_of, patch_u32};
use crate::error::WriteError;
use crate::headers::{self, Header, Headers};
use crate::limits::{EMIT_RECORDS_MAX, HEADERS_MAX, REASON_BYTES_MAX};
use crate::output::{HEADER_BYTES, MAGIC, NULL_VALUE, Part, SAME_TIMESTAMP, VERDICT_BYTES};
use crate::packer::patch_len;
use crate::verdict::Op;

const BODIES_AT: usize = 12;

/// Writes a verdict for each record of an input, in order. A record that gets none is kept.
#[derive(Debug)]
pub struct OutputWriter<'b> {
    buffer: &'b mut Vec<u8>,
    /// Records of the input.
    count: u32,
    /// Where the verdicts end and the bodies begin.
    bodies_at: usize,
    /// Where the next verdict goes.
    verdict_at: usize,
}

/// A state of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    bytes: usize,
    verdict_at: usize,
}

/// A record to write.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// Index of the output it goes to.
    pub output: u8,
    /// In ms since 1970; `None` for the input record's.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Part<'a>,
    /// Its value.
    pub value: Part<'a>,
    /// Its headers.
    pub headers: NewHeaders<'a>,
}

/// Headers of a record to write.
#[derive(Debug, Clone, Copy)]
pub enum NewHeaders<'a> {
    /// The input record's, which need not have been packed for it.
    Same,
    /// These and no other.
    These(&'a [Header<'a>]),
    /// All of an input record's, then these.
    With(Headers<'a>, &'a [Header<'a>]),
}

impl NewRecord<'_> {
    /// The input record, to the first output: a start for one that differs in a part.
    pub const SAME: NewRecord<'static> = NewRecord {
        output: 0,
        timestamp: None,
        key: Part::Same,
        value: Part::Same,
        headers: NewHeaders::Same,
    };
}

impl<'b> OutputWriter<'b> {
    /// Begins the output of a call with `count` records in `buffer`, which is emptied first.
    pub fn new(buffer: &'b mut Vec<u8>, count: u32) -> OutputWriter<'b> {
        buffer.clear();
        buffer.extend_from_slice(&MAGIC);
        buffer.extend_from_slice(&ABI.to_le_bytes());
        buffer.extend_from_slice(&0_u16.to_le_bytes());
        buffer.extend_from_slice(&count.to_le_bytes());
        buffer.extend_from_slice(&0_u32.to_le_bytes());
        let verdicts = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(VERDICT_BYTES);
        let bodies_at = HEADER_BYTES.saturating_add(verdicts);
        // A verdict of zeros is "keep, first output".
        buffer.resize(bodies_at, 0);
        OutputWriter { buffer, count, bodies_at, verdict_at: HEADER_BYTES }
    }

    /// How many records have their verdict.
    #[must_use]
    pub fn judged(&self) -> u32 {
        u32::try_from((self.verdict_at - HEADER_BYTES) / VERDICT_BYTES).unwrap_or(self.count)
    }

    /// How far the output has come, to return to with [`OutputWriter::restore`].
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { bytes: self.buffer.len(), verdict_at: self.verdict_at }
    }

    /// Takes back every verdict since `checkpoint`, which must be of this output.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        self.buffer.truncate(checkpoint.bytes);
        if let Some(verdicts) = self.buffer.get_mut(checkpoint.verdict_at..self.verdict_at) {
            verdicts.fill(0);
            self.verdict_at = checkpoint.verdict_at;
        }
    }

    /// The record goes to `output` as it is.
    ///
    /// # Errors
    /// Each record has its verdict already.
    #[inline]
    pub fn keep(&mut self, output: u8) -> Result<(), WriteError> {
        if output == 0 && self.verdict_at < self.bodies_at {
            self.verdict_at += VERDICT_BYTES;
            return Ok(());
        }
        self.verdict(Op::Keep, output, 0, self.buffer.len())
    }

    /// Nothing comes of the record.
    ///
    /// # Errors
    /// Each record has its verdict already.
    #[inline]
    pub fn drop_record(&mut self) -> Result<(), WriteError> {
        self.verdict(Op::Drop, 0, 0, self.buffer.len())
    }

    /// The record goes to `output` with another value.
    ///
    /// # Errors
    /// Each record has its verdict already.
    pub fn replace_value(&mut self, output: u8, value: Option<&[u8]>) -> Result<(), WriteError> {
        let body_at = self.buffer.len();
        self.buffer.extend_from_slice(value.unwrap_or_default());
        let n = if value.is_none() { NULL_VALUE } else { 0 };
        self.verdict(Op::ReplaceValue, output, n, body_at)
    }

    /// As [`OutputWriter::replace_value`], with a value that is written piece by piece.
    pub fn value(&mut self) -> ValueWriter<'_, 'b> {
        let body_at = self.buffer.len();
        ValueWriter { output: self, body_at, finished: false }
    }

    /// Another record goes to the output that it names.
    ///
    /// # Errors
    /// Each record has its verdict already, or a part is too long.
    pub fn replace_record(&mut self, record: NewRecord<'_>) -> Result<(), WriteError> {
        let body_at = self.buffer.len();
        write_record(self.buffer, record, 0)?;
        self.verdict(Op::ReplaceRecord, record.output, 0, body_at)
    }

    /// Begins the records that come instead of the record.
    pub fn emit(&mut self) -> EmitWriter<'_, 'b> {
        let body_at = self.buffer.len();
        EmitWriter { output: self, body_at, count: 0, finished: false }
    }

    /// The record goes to the dead-letter topic; a reason that is too long is cut.
    ///
    /// # Errors
    /// Each record has its verdict already.
    pub fn dead_letter(&mut self, reason: &str) -> Result<(), WriteError> {
        self.reasoned(Op::DeadLetter, reason)
    }

    /// The batch that is being produced is refused; a reason that is too long is cut.
    ///
    /// # Errors
    /// Each record has its verdict already.
    pub fn reject(&mut self, reason: &str) -> Result<(), WriteError> {
        self.reasoned(Op::Reject, reason)
    }

    /// Ends the output and returns its bytes.
    #[must_use]
    pub fn finish(self) -> &'b [u8] {
        let bodies = self.buffer.len() - self.bodies_at;
        patch_len(self.buffer, BODIES_AT, bodies);
        self.buffer
    }

    fn reasoned(&mut self, op: Op, reason: &str) -> Result<(), WriteError> {
        let body_at = self.buffer.len();
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        self.buffer.extend_from_slice(&reason.as_bytes()[..end]);
        self.verdict(op, 0, 0, body_at)
    }

    /// Gives the next record its verdict, whose body begins at `body_at`.
    #[inline]
    fn verdict(&mut self, op: Op, output: u8, n: u16, body_at: usize) -> Result<(), WriteError> {
        if self.verdict_at == self.bodies_at {
            self.buffer.truncate(body_at);
            return Err(WriteError::NoRecord);
        }
        let bytes = self.buffer.len() - body_at;
        let bytes = u32::try_from(bytes).map_err(|_| WriteError::TooLong)?;
        let head = u32::from(op as u8) | u32::from(output) << 8 | u32::from(n) << 16;
        patch_u32(self.buffer, self.verdict_at, head);
        patch_u32(self.buffer, self.verdict_at + 4, bytes);
        self.verdict_at += VERDICT_BYTES;
        Ok(())
    }
}

/// Writes a replaced value piece by piece. Dropped before [`ValueWriter::finish`], it takes back
/// what it wrote, and the record has no verdict yet.
#[derive(Debug)]
pub struct ValueWriter<'w, 'b> {
    output: &'w mut OutputWriter<'b>,
    body_at: usize,
    finished: bool,
}

impl ValueWriter<'_, '_> {
    /// Appends to the value.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.output.buffer.extend_from_slice(bytes);
    }

    /// The record goes to `output` with the value as it is now.
    ///
    /// # Errors
    /// Each record has its verdict already.
    pub fn finish(mut self, output: u8) -> Result<(), WriteError> {
        self.finished = true;
        self.output.verdict(Op::ReplaceValue, output, 0, self.body_at)
    }
}

impl Drop for ValueWriter<'_, '_> {
    fn drop(&mut self) {
        if !self.finished {
            self.output.buffer.truncate(self.body_at);
        }
    }
}

/// Writes the records that one record becomes. Dropped before [`EmitWriter::finish`], it takes back
/// what it wrote, and the record has no verdict yet.
#[derive(Debug)]
pub struct EmitWriter<'w, 'b> {
    output: &'w mut OutputWriter<'b>,
    body_at: usize,
    count: u16,
    finished: bool,
}

impl EmitWriter<'_, '_> {
    /// Adds a record.
    ///
    /// # Errors
    /// There are too many, or a part is too long; it is not added.
    pub fn record(&mut self, record: NewRecord<'_>) -> Result<(), WriteError> {
        if self.count == EMIT_RECORDS_MAX {
            return Err(WriteError::TooMany);
        }
        write_record(self.output.buffer, record, record.output)?;
        self.count += 1;
        Ok(())
    }

    /// The record becomes those that were added; of none, it is as if it had been dropped.
    ///
    /// # Errors
    /// Each record has its verdict already.
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.finished = true;
        self.output.verdict(Op::Emit, 0, self.count, self.body_at)
    }
}

impl Drop for EmitWriter<'_, '_> {
    fn drop(&mut self) {
        if !self.finished {
            self.output.buffer.truncate(self.body_at);
        }
    }
}

/// Appends a record, or nothing. `output` is what stands in its head: 0 where the verdict has it.
fn write_record(buffer: &mut Vec<u8>, record: NewRecord<'_>, output: u8) -> Result<(), WriteError> {
    let (packed, more) = match record.headers {
        NewHeaders::Same => (None, [].as_slice()),
        NewHeaders::These(headers) => (Some(Headers::default()), headers),
        NewHeaders::With(headers, more) => (Some(headers), more),
    };
    let (headers_bytes, header_count) = match packed {
        None => (SAME, 0),
        Some(headers) => {
            let bytes = more.iter().map(|header| headers::bytes_of(*header)).sum::<usize>();
            let bytes = i32::try_from(headers.packed().len() + bytes);
            let count = u32::try_from(more.len()).map_err(|_| WriteError::TooMany)?;
            let count = headers.count().saturating_add(count);
            if count > HEADERS_MAX {
                return Err(WriteError::TooMany);
            }
            let count = u16::try_from(count).map_err(|_| WriteError::TooMany)?;
            (bytes.map_err(|_| WriteError::TooLong)?, count)
        }
    };
    let key_bytes = length_of_part(record.key)?;
    let value_bytes = length_of_part(record.value)?;
    buffer.extend_from_slice(&record.timestamp.unwrap_or(SAME_TIMESTAMP).to_le_bytes());
    buffer.extend_from_slice(&key_bytes.to_le_bytes());
    buffer.extend_from_slice(&value_bytes.to_le_bytes());
    buffer.extend_from_slice(&headers_bytes.to_le_bytes());
    buffer.extend_from_slice(&header_count.to_le_bytes());
    buffer.extend_from_slice(&[output, 0]);
    buffer.extend_from_slice(record.key.resolve(None).unwrap_or_default());
    buffer.extend_from_slice(record.value.resolve(None).unwrap_or_default());
    buffer.extend_from_slice(packed.unwrap_or_default().packed());
    for header in more {
        headers::write(buffer, *header)?;
    }
    Ok(())
}

fn length_of_part(part: Part<'_>) -> Result<i32, WriteError> {
    match part {
        Part::Same => Ok(SAME),
        Part::Is(None) => Ok(NULL),
        Part::Is(bytes) => length_of(bytes).ok_or(WriteError::TooLong),
    }
}
