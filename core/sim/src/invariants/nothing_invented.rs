//! Every batch in the log is one that a producer sent, byte for byte, but for base offset and
//! leader epoch.

use super::{Checked, violated};
use crate::ledger::{Entry, Ledger};

pub(crate) const NAME: &str = "nothing invented";

/// These batches were read.
pub(crate) fn read(ledger: &Ledger, entries: &[Entry]) -> Checked {
    match entries.iter().find(|entry| !ledger.sent.contains(&entry.body)) {
        Some(entry) => {
            violated(NAME, format!("nobody sent the batch at {}..{}", entry.base, entry.next))
        }
        None => Ok(()),
    }
}
