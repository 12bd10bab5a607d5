//! Within one life of the process the high watermark and the start only rise, and the start never
//! passes the high watermark.

use super::{Checked, violated};
use crate::ledger::Ledger;
use millstream_types::Offset;

pub(crate) const NAME: &str = "watermark";

/// After every step.
pub(crate) fn check(ledger: &Ledger, high_watermark: Offset, start: Offset) -> Checked {
    if high_watermark < ledger.high_watermark {
        let before = ledger.high_watermark;
        return violated(NAME, format!("it went back from {before} to {high_watermark}"));
    }
    if start < ledger.start || start > high_watermark {
        let before = ledger.start;
        return violated(NAME, format!("the start went from {before} to {start}"));
    }
    Ok(())
}
