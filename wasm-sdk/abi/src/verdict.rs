//! The verdicts, and sets of them.

use core::fmt;

/// What a transform says of one input record: the first byte of its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Op {
    /// As it is.
    Keep = 0,
    /// Nothing comes of it.
    Drop = 1,
    /// Another value; the rest stays.
    ReplaceValue = 2,
    /// Any part may be another.
    ReplaceRecord = 3,
    /// Any number of records instead.
    Emit = 4,
    /// To the dead-letter topic, with a reason.
    DeadLetter = 5,
    /// The batch that is being produced is refused, with a reason.
    Reject = 6,
}

impl Op {
    pub(crate) fn from_byte(byte: u8) -> Option<Op> {
        Some(match byte {
            0 => Op::Keep,
            1 => Op::Drop,
            2 => Op::ReplaceValue,
            3 => Op::ReplaceRecord,
            4 => Op::Emit,
            5 => Op::DeadLetter,
            6 => Op::Reject,
            _ => return None,
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Keep => "keep",
            Op::Drop => "drop",
            Op::ReplaceValue => "replace-value",
            Op::ReplaceRecord => "replace-record",
            Op::Emit => "emit",
            Op::DeadLetter => "dead-letter",
            Op::Reject => "reject",
        })
    }
}

/// A set of verdicts, as `verdicts` of a manifest: bit 0 is `drop`. `keep` is in every set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerdictSet(u8);

impl VerdictSet {
    /// Keep only.
    pub const NONE: VerdictSet = VerdictSet(0);
    /// `drop`.
    pub const DROP: VerdictSet = VerdictSet(1);
    /// `replace-value`.
    pub const REPLACE_VALUE: VerdictSet = VerdictSet(2);
    /// `replace-record`.
    pub const REPLACE_RECORD: VerdictSet = VerdictSet(4);
    /// `emit`.
    pub const EMIT: VerdictSet = VerdictSet(8);
    /// `route`: outputs beyond the first.
    pub const ROUTE: VerdictSet = VerdictSet(16);
    /// `dead-letter`.
    pub const DEAD_LETTER: VerdictSet = VerdictSet(32);
    /// `reject`.
    pub const REJECT: VerdictSet = VerdictSet(64);
    /// What a transform after commit may be allowed.
    pub const AFTER_COMMIT: VerdictSet = VerdictSet(0b011_1111);
    /// What a transform on produce may be allowed.
    pub const ON_PRODUCE: VerdictSet = VerdictSet(0b110_0111);

    /// Of the bits of a manifest's `verdicts`; `None` for one that has no meaning.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<VerdictSet> {
        if bits & 0x80 == 0 { Some(VerdictSet(bits)) } else { None }
    }

    /// As in a manifest.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// In either.
    #[must_use]
    pub const fn or(self, other: VerdictSet) -> VerdictSet {
        VerdictSet(self.0 | other.0)
    }

    /// In both.
    #[must_use]
    pub const fn and(self, other: VerdictSet) -> VerdictSet {
        VerdictSet(self.0 & other.0)
    }

    /// Whether all of `other` is in this one.
    #[must_use]
    pub const fn contains(self, other: VerdictSet) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn allows(self, op: Op) -> bool {
        self.contains(match op {
            Op::Keep => VerdictSet::NONE,
            Op::Drop => VerdictSet::DROP,
            Op::ReplaceValue => VerdictSet::REPLACE_VALUE,
            Op::ReplaceRecord => VerdictSet::REPLACE_RECORD,
            Op::Emit => VerdictSet::EMIT,
            Op::DeadLetter => VerdictSet::DEAD_LETTER,
            Op::Reject => VerdictSet::REJECT,
        })
    }
}
