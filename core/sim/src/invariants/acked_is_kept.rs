//! Each acknowledged batch is there exactly once, at the offset that was acknowledged.

use std::collections::BTreeMap;

use super::{Checked, violated};
use crate::ledger::{Entry, Ledger};
use millstream_types::Offset;

pub(crate) const NAME: &str = "acknowledged is kept";

/// An acknowledgement names a place: it must be where the batch was put.
pub(crate) fn acknowledged(ledger: &Ledger, base: Offset, body: &[u8]) -> Checked {
    match ledger.placed.get(&base) {
        Some(entry) if entry.body == body => Ok(()),
        found => violated(NAME, format!("acknowledged at {base}, where there is {found:?}")),
    }
}

/// Everything acknowledged from the partition's first offset up to `end` is in `stored`, which was
/// read from there.
pub(crate) fn audited(ledger: &Ledger, stored: &[Entry], end: Offset) -> Checked {
    let mut copies_of: BTreeMap<&[u8], u32> = BTreeMap::new();
    for found in stored {
        *copies_of.entry(&found.body).or_default() += 1;
    }
    for (base, entry) in ledger.acked.range(ledger.first()..end) {
        let copies = copies_of.get(&entry.body[..]).copied().unwrap_or_default();
        let at = stored.partition_point(|found| found.base < *base);
        let here = stored.get(at) == Some(entry);
        if copies != 1 || !here {
            return violated(
                NAME,
                format!("{base} was acknowledged; there: {here}, copies in the log: {copies}"),
            );
        }
    }
    Ok(())
}

/// A log that was opened again, and may lose nothing that was acknowledged, ends at `end`.
pub(crate) fn reopened(ledger: &Ledger, end: Offset) -> Checked {
    match ledger.acked.last_key_value() {
        Some((base, entry)) if entry.next > end => {
            violated(NAME, format!("{base} was acknowledged, and the log came back until {end}"))
        }
        _ => Ok(()),
    }
}
