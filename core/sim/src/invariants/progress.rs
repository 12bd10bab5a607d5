//! Nobody is refused without a cause, and once faults are over all that is outstanding ends.

use super::{Checked, violated};

pub(crate) const NAME: &str = "progress";

/// Something failed with no fault to blame.
pub(crate) fn without_cause(what: &str, error: &dyn std::fmt::Display) -> Checked {
    violated(NAME, format!("{what} without a cause: {error}"))
}

/// Something that had to end has not.
pub(crate) fn stuck(what: impl Into<String>) -> Checked {
    violated(NAME, what)
}
