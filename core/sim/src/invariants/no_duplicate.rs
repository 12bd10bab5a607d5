//! A batch of an idempotent producer is stored at most once, however often it is sent, and every
//! answer names that one place, for as long as retention keeps it.

use std::collections::BTreeSet;

use super::{Checked, violated};
use crate::ledger::{Entry, Ledger};

pub(crate) const NAME: &str = "no duplicate";

/// A batch is about to be noted at a new place.
pub(crate) fn placed(ledger: &Ledger, entry: &Entry) -> Checked {
    let Some(number) = entry.number else { return Ok(()) };
    match ledger.numbers.get(&number) {
        Some(before) if !ledger.may_have_forgotten(number) => {
            let base = entry.base;
            violated(NAME, format!("{number:?} is at {before} and was stored again at {base}"))
        }
        _ => Ok(()),
    }
}

/// A batch was answered as stored before.
pub(crate) fn recognised(ledger: &Ledger, entry: &Entry) -> Checked {
    let there = ledger.placed.get(&entry.base);
    if there.is_some_and(|there| there.next == entry.next && there.body == entry.body) {
        return Ok(());
    }
    let (base, next) = (entry.base, entry.next);
    violated(NAME, format!("answered as stored at {base}..{next}, where there is {there:?}"))
}

/// No number stands twice in what was read.
pub(crate) fn audited(stored: &[Entry]) -> Checked {
    let mut seen = BTreeSet::new();
    for number in stored.iter().filter_map(|entry| entry.number) {
        if !seen.insert(number) {
            return violated(NAME, format!("{number:?} is in the log twice"));
        }
    }
    Ok(())
}
