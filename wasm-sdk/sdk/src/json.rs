//! JSON edited and read where it lies: one pass over the bytes, no tree, no copy of what stays.
//!
//! A *path* names members from the outside in, with dots between: `card.number`. It goes through
//! arrays: of `{"items":[{"id":1},{"id":2}]}`, `items.id` names both. A dot in a name is written
//! `\.`. Names are compared as they read, not as they are spelt: `"\u0069d"` is `id`. Where a name
//! stands twice in an object, both are meant.
//!
//! All of a text is checked, also what is kept or dropped whole: what is not JSON (RFC 8259) is an
//! error, and so is nesting deeper than [`DEPTH_MAX`].

mod edit;
mod paths;
mod scan;

use core::fmt;

pub use self::edit::{Edit, mask};
pub use self::paths::{PathError, Paths};

/// The deepest nesting that is read.
pub const DEPTH_MAX: usize = 128;

/// A text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    /// Where, in bytes from the start.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not JSON at byte {}: {}", self.at, self.what)
    }
}

impl core::error::Error for JsonError {}

/// A value, as it is written in a text that has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    /// The bytes of the value: a string has its quotes.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether it is the string `text`.
    #[must_use]
    pub fn is_str(self, text: &str) -> bool {
        match self.0 {
            [b'"', inner @ .., b'"'] => scan::reads_as(inner, text.as_bytes()),
            _ => false,
        }
    }

    /// The string that it is; `None` for another kind of value. Without escapes it costs nothing.
    #[must_use]
    pub fn str(self) -> Option<std::borrow::Cow<'a, str>> {
        match self.0 {
            [b'"', inner @ .., b'"'] => scan::unescaped(inner),
            _ => None,
        }
    }

    /// The number that it is; `None` for another kind of value.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        match self.0.first()? {
            b'-' | b'0'..=b'9' => core::str::from_utf8(self.0).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// Whether it is an integer that fits; `None` for another kind of value.
    #[must_use]
    pub fn integer(self) -> Option<i64> {
        core::str::from_utf8(self.0).ok()?.parse().ok()
    }
}

/// Checks all of `text` and returns the values at one path, the last of which a reader that takes
/// the last of equal names would see.
///
/// # Errors
/// It is not JSON.
pub fn get<'t>(text: &'t [u8], path: &Paths) -> Result<Option<Raw<'t>>, JsonError> {
    let mut found = None;
    edit::visit(text, path, &mut |value| found = Some(Raw(value)))?;
    Ok(found)
}
