//! What must hold, one property to a file. Each is a function of the ledger and of what was just
//! seen; none looks into the code under test.

pub(crate) mod acked_is_kept;
pub(crate) mod archive_holds;
pub(crate) mod durable_is_kept;
pub(crate) mod fence_holds;
pub(crate) mod no_duplicate;
pub(crate) mod nothing_invented;
pub(crate) mod one_order;
pub(crate) mod positions;
pub(crate) mod progress;
pub(crate) mod watermark;

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{property}: {detail}")]
pub struct Violation {
    /// The property's name.
    pub property: &'static str,
    /// What was seen.
    pub detail: String,
}

/// Whether a property holds.
pub(crate) type Checked = Result<(), Violation>;

/// A violation of `property`.
pub(crate) fn violated(property: &'static str, detail: impl Into<String>) -> Checked {
    Err(Violation { property, detail: detail.into() })
}
