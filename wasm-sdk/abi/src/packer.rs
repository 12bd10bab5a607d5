//! Packing records into a buffer of the host's: what batches and keys have in common.

use alloc::vec::Vec;

use crate::bytes::{pad, padding, patch_u32};
use crate::error::WriteError;
use crate::headers::{self, Header};
use crate::limits::{HEADERS_MAX, INPUT_RECORDS_MAX};
use crate::{ABI, Flags};

const COUNT_AT: usize = 8;
const BYTES_AT: usize = 12;

/// A buffer that is being filled. Between two records it holds whole records only.
#[derive(Debug)]
pub(crate) struct Packer<'b> {
    buffer: &'b mut Vec<u8>,
    with_headers: bool,
    count: u32,
    bytes_max: usize,
    /// Where a record's head has the bytes of its headers; their number follows.
    headers_field: usize,
    /// Where the last record begins; the end of the buffer once it has been ended.
    record_at: usize,
    header_count: u32,
    /// Where the last record's headers begin.
    headers_at: usize,
}

impl<'b> Packer<'b> {
    /// Goes on behind a header that has been written.
    pub(crate) fn new(
        buffer: &'b mut Vec<u8>,
        flags: Flags,
        bytes_max: usize,
        headers_field: usize,
    ) -> Packer<'b> {
        let at = buffer.len();
        Packer {
            buffer,
            with_headers: flags.headers,
            count: 0,
            bytes_max,
            headers_field,
            record_at: at,
            header_count: 0,
            headers_at: at,
        }
    }

    /// Adds a record of a head and what follows it, or leaves the buffer as it was.
    #[inline]
    pub(crate) fn record(
        &mut self,
        head: &[u8],
        key: &[u8],
        value: &[u8],
    ) -> Result<(), WriteError> {
        if self.count == INPUT_RECORDS_MAX {
            return Err(WriteError::TooMany);
        }
        self.close();
        let at = self.buffer.len();
        let bytes = head.len() + key.len() + value.len();
        if at + bytes + padding(bytes) > self.bytes_max {
            return Err(WriteError::Full);
        }
        self.buffer.extend_from_slice(head);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(value);
        self.record_at = at;
        self.headers_at = self.buffer.len();
        self.header_count = 0;
        self.count += 1;
        Ok(())
    }

    /// Adds a header to the last record, or takes that record out.
    pub(crate) fn header(&mut self, header: Header<'_>) -> Result<(), WriteError> {
        if self.record_at == self.buffer.len() {
            return Err(WriteError::NoRecord);
        }
        if !self.with_headers {
            return Ok(());
        }
        let used = self.buffer.len() - self.record_at + headers::bytes_of(header);
        let written = if self.header_count == HEADERS_MAX {
            Err(WriteError::TooMany)
        } else if self.record_at + used + padding(used) > self.bytes_max {
            Err(WriteError::Full)
        } else {
            headers::write(self.buffer, header)
        };
        match written {
            Ok(()) => self.header_count += 1,
            Err(_) => {
                self.buffer.truncate(self.record_at);
                self.count -= 1;
            }
        }
        written
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn finish(mut self) -> &'b [u8] {
        self.close();
        finish(self.buffer, self.count);
        self.buffer
    }

    /// Ends the last record, if there is one that has not been ended.
    #[inline]
    fn close(&mut self) {
        if self.record_at == self.buffer.len() {
            return;
        }
        if self.header_count > 0 {
            let field = self.record_at + self.headers_field;
            let bytes = self.buffer.len() - self.headers_at;
            patch_len(self.buffer, field, bytes);
            patch_u32(self.buffer, field + 4, self.header_count);
        }
        pad(self.buffer, self.buffer.len() - self.record_at);
        self.record_at = self.buffer.len();
    }
}

/// Writes the first 16 bytes of a buffer; count and bytes come at the end.
pub(crate) fn begin(buffer: &mut Vec<u8>, magic: [u8; 4], flags: Flags) {
    buffer.clear();
    buffer.extend_from_slice(&magic);
    buffer.extend_from_slice(&ABI.to_le_bytes());
    buffer.extend_from_slice(&flags.bits().to_le_bytes());
    buffer.extend_from_slice(&[0; 8]);
}

pub(crate) fn finish(buffer: &mut [u8], count: u32) {
    patch_u32(buffer, COUNT_AT, count);
    patch_len(buffer, BYTES_AT, buffer.len());
}

/// A length that the bound on the whole buffer keeps below 32 bits.
pub(crate) fn patch_len(buffer: &mut [u8], at: usize, length: usize) {
    patch_u32(buffer, at, u32::try_from(length).unwrap_or(u32::MAX));
}
