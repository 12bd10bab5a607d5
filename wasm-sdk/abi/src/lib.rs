//! The packed buffers of the plugin ABI, layout version 1, as `docs/plugin-abi.md` specifies them.
//!
//! | layout | written by | read by | with |
//! |---|---|---|---|
//! | `MSB1`, a batch of records | host | transform | [`InputWriter`], [`Input`] |
//! | `MSV1`, verdicts and bodies | transform | host | [`OutputWriter`], [`Output`] |
//! | `MSK1`, keys to place | host | partitioner | [`KeysWriter`], [`Keys`] |
//! | `MSH1`, hot keys | host | partitioner | [`HotWriter`], [`Hot`] |
//!
//! Readers take any bytes: they return an error or a view into them, never panic, allocate
//! nothing, and are linear in the bytes. Once `read` has accepted a buffer, everything in it has
//! been checked and walking it cannot fail.
//!
//! Both sides use this crate: the host as part of the broker, a guest through the SDK. It has no
//! dependency, and needs of the standard library only `alloc`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bytes;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod headers;
mod input;
mod keys;
pub mod limits;
mod output;
mod packer;
mod verdict;
mod writer;

pub use crate::error::{InputError, OutputError, VerdictError, WriteError};
pub use crate::headers::{Header, HeaderIter, Headers};
pub use crate::input::{Input, InputWriter, Record, RecordHead, Records};
pub use crate::keys::{
    AssignedError, DEFAULT_PARTITION, Hot, HotKey, HotKeys, HotWriter, Key, KeyIter, Keys,
    KeysWriter, check_assigned,
};
pub use crate::output::{
    Emitted, Lengths, OutRecord, Output, Part, Rules, Verdict, Verdicts, resolved_bytes,
};
pub use crate::verdict::{Op, VerdictSet};
pub use crate::writer::{Checkpoint, EmitWriter, NewHeaders, NewRecord, OutputWriter, ValueWriter};

/// The layout version that this crate writes.
pub const ABI: u16 = 1;
/// The oldest layout version that this crate reads and writes.
pub const ABI_OLDEST: u16 = 1;

/// What a buffer's flags say is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Values are packed, not only their lengths.
    pub values: bool,
    /// Headers are packed.
    pub headers: bool,
    /// The records are being produced: they have no offset yet, and may be rejected.
    pub produce: bool,
}

impl Flags {
    const VALUES: u16 = 1;
    const HEADERS: u16 = 2;
    const PRODUCE: u16 = 4;

    pub(crate) fn bits(self) -> u16 {
        let bit = |set: bool, bit: u16| if set { bit } else { 0 };
        bit(self.values, Self::VALUES)
            | bit(self.headers, Self::HEADERS)
            | bit(self.produce, Self::PRODUCE)
    }

    /// `None` for a bit that this version does not know.
    pub(crate) fn from_bits(bits: u16) -> Option<Flags> {
        if bits & !(Self::VALUES | Self::HEADERS | Self::PRODUCE) != 0 {
            return None;
        }
        Some(Flags {
            values: bits & Self::VALUES != 0,
            headers: bits & Self::HEADERS != 0,
            produce: bits & Self::PRODUCE != 0,
        })
    }
}
