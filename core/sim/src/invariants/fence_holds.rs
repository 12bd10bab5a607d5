//! Once a sync has failed nothing more is taken or committed until the disk was repaired.

use super::{Checked, violated};
use millstream_types::Offset;

pub(crate) const NAME: &str = "fence holds";

/// A batch was given a new place on a fenced disk.
pub(crate) fn placed(base: Offset) -> Checked {
    violated(NAME, format!("a batch was placed at {base} after a sync had failed"))
}

/// The high watermark before and after something happened on a fenced disk.
pub(crate) fn stands(before: Offset, after: Offset) -> Checked {
    if before == after {
        return Ok(());
    }
    violated(NAME, format!("the high watermark went from {before} to {after}"))
}
