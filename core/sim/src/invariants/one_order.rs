//! A partition has one order: offsets are given without a gap, every reader sees the same batches
//! at the same offsets, and what was read below the high watermark stays.

use super::{Checked, violated};
use crate::ledger::{Entry, Ledger};
use millstream_types::Offset;

pub(crate) const NAME: &str = "one order";

/// A batch is about to be noted at a new place.
pub(crate) fn placed(ledger: &Ledger, entry: &Entry) -> Checked {
    let expected = ledger.end();
    if entry.base == expected && entry.next > entry.base {
        return Ok(());
    }
    violated(NAME, format!("placed at {}..{}, expected {expected}", entry.base, entry.next))
}

/// These batches were read from `from`, with the high watermark at `up_to`.
pub(crate) fn read(ledger: &Ledger, from: Offset, up_to: Offset, entries: &[Entry]) -> Checked {
    let Some(first) = entries.first() else {
        return violated(NAME, format!("nothing at {from}, below the high watermark {up_to}"));
    };
    if first.base > from || first.next <= from {
        let (base, next) = (first.base, first.next);
        return violated(NAME, format!("asked for {from}, got {base}..{next}"));
    }
    let mut expected = first.base;
    for entry in entries {
        let base = entry.base;
        if base != expected || entry.next > up_to {
            let next = entry.next;
            return violated(
                NAME,
                format!("got {base}..{next}, expected {expected}, at most {up_to}"),
            );
        }
        expected = entry.next;
        let placed = ledger.placed.get(&base);
        if placed != Some(entry) {
            return violated(NAME, format!("at {base}: got {entry:?}, placed was {placed:?}"));
        }
        if let Some(before) = ledger.read.get(&base).filter(|before| *before != entry) {
            return violated(NAME, format!("at {base}: got {entry:?}, another had {before:?}"));
        }
    }
    Ok(())
}

/// A log that was opened again, and may lose nothing that was read, ends at `end`.
pub(crate) fn reopened(ledger: &Ledger, end: Offset) -> Checked {
    match ledger.read.last_key_value() {
        Some((base, entry)) if entry.next > end => {
            violated(NAME, format!("{base} was read, and the log came back until {end}"))
        }
        _ => Ok(()),
    }
}

/// Leader epochs never go back.
pub(crate) fn audited(stored: &[Entry]) -> Checked {
    match stored.windows(2).find(|two| two[0].epoch > two[1].epoch) {
        Some(two) => violated(
            NAME,
            format!("epoch {} at {}, then {}", two[0].epoch, two[0].base, two[1].epoch),
        ),
        None => Ok(()),
    }
}
