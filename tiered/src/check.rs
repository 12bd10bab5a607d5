//! Whether an object's bytes give back what they were made of: before a manifest names it, and
//! whenever it is verified.

use bytes::Bytes;
use millstream_types::Offset;
use millstream_wire::Batch;

use crate::decode::ObjectReader;
use crate::error::FormatError;

/// The largest footer that is read: of the most producers and row groups that a partition has.
pub(crate) const FOOTER_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What an object's batches came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) records: u64,
}

/// Replays a whole object as readers do: its footer, every row group, and every batch in order
/// without a gap.
pub(crate) fn replay(bytes: &Bytes, footer_start: u64) -> Result<Found, FormatError> {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let footer = bytes.get(index(footer_start)..).unwrap_or_default();
    check_footer_length(footer.len() as u64)?;
    let object = ObjectReader::open(footer)?;
    let (base, mut next, mut records) = (object.base(), object.base(), 0);
    for part in 0..object.parts() {
        let span = object.span(part);
        let group = bytes.get(index(span.start)..index(span.end)).unwrap_or_default();
        for batch in object.replay(part, bytes.slice_ref(group))? {
            let batch = Batch::validate(batch)?;
            let header = batch.header();
            if header.base_offset != next {
                return Err(FormatError::Inconsistent("its batches leave a gap"));
            }
            next = header.next_offset();
            let counts = !header.attributes.is_control();
            records += if counts { u64::from(header.record_count) } else { 0 };
        }
    }
    if next != object.end() {
        return Err(FormatError::Inconsistent("its batches end before it does"));
    }
    Ok(Found { base, end: next, records })
}

/// Refuses a footer that no reader would take.
pub(crate) fn check_footer_length(length: u64) -> Result<(), FormatError> {
    if length > FOOTER_BYTES_MAX {
        let (what, max) = ("bytes of a footer", FOOTER_BYTES_MAX);
        return Err(FormatError::TooLarge { what, actual: length, max });
    }
    Ok(())
}
