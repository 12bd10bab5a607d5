//! What was durable survives a power cut, and what was written survives the process: on every
//! topic, acknowledged or not. A log comes back as a prefix of what it was.

use super::{Checked, violated};
use crate::ledger::Ledger;
use millstream_types::Offset;

pub(crate) const NAME: &str = "durable is kept";

/// A log that was opened again lies from `start` to `end`, and must reach `kept`.
pub(crate) fn reopened(ledger: &Ledger, start: Offset, end: Offset, kept: Offset) -> Checked {
    if end < kept {
        return violated(NAME, format!("kept until {kept}, and the log came back until {end}"));
    }
    if start > ledger.start {
        let before = ledger.start;
        return violated(NAME, format!("the log began at {before} and came back from {start}"));
    }
    let whole = end == Offset::ZERO || ledger.placed.values().any(|entry| entry.next == end);
    if !whole {
        return violated(NAME, format!("the log came back until {end}, where no batch ended"));
    }
    Ok(())
}
