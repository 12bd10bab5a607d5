//! Offsets and timestamps, with arithmetic that cannot wrap.

use std::fmt;

/// A record's place in its partition, or the end of a range of them. Never negative; an end is
/// exclusive, so the log end is the offset that the next record will get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Offset(i64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);
    /// The largest offset that can be represented.
    pub const MAX: Self = Self(i64::MAX);

    /// From the number in a file or a frame; `None` when it is negative.
    #[must_use]
    pub const fn new(value: i64) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value)) }
    }

    /// The number, as it stands in files and frames; never negative.
    #[must_use]
    pub const fn value(self) -> i64 {
        self.0
    }

    /// The offset `count` records later; stays at [`Offset::MAX`] instead of wrapping.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add_unsigned(count))
    }

    /// How many records lie from `start` to here; 0 when `start` is later.
    #[must_use]
    pub const fn since(self, start: Self) -> u64 {
        if self.0 > start.0 { self.0.abs_diff(start.0) } else { 0 }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since the Unix epoch, as Kafka's record timestamps are. Negative means none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimestampMs(pub i64);

impl TimestampMs {
    /// The timestamp of a record that has none.
    pub const NONE: Self = Self(-1);

    /// Milliseconds from `earlier` to here; 0 when `earlier` is later.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        if self.0 > earlier.0 { self.0.abs_diff(earlier.0) } else { 0 }
    }
}

impl fmt::Display for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Offset::MAX.plus(7), Offset::MAX);
        assert_eq!(Offset::ZERO.since(Offset::MAX), 0);
        assert_eq!(Offset::MAX.since(Offset::ZERO), i64::MAX.unsigned_abs());
        assert_eq!(Offset::new(-1), None);
    }
}
