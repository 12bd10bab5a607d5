//! What can be wrong with a buffer, and what a writer refuses.

use core::fmt;

use crate::Op;

/// A buffer from the host is not what this crate's version reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputError {
    /// Shorter than its header.
    NoHeader {
        /// Bytes there are.
        bytes: usize,
    },
    /// Another layout.
    Magic([u8; 4]),
    /// A layout version that this crate does not read.
    Version(u16),
    /// Flag bits that this version does not know.
    Flags(u16),
    /// A reserved field is not zero.
    Reserved(u32),
    /// The buffer is not as long as its header says.
    Length {
        /// What the header says.
        said: u32,
        /// Bytes there are.
        bytes: usize,
    },
    /// More records than bytes could hold, or fewer than follow.
    Count(u32),
    /// A record reaches beyond the buffer, or a field of it has no meaning.
    Record {
        /// Which, from 0.
        index: u32,
    },
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InputError::NoHeader { bytes } => write!(f, "{bytes} bytes are no header"),
            InputError::Magic(magic) => write!(f, "unknown layout {:?}", magic.escape_ascii()),
            InputError::Version(version) => write!(f, "unknown layout version {version}"),
            InputError::Flags(flags) => write!(f, "unknown flags in {flags:#06x}"),
            InputError::Reserved(value) => write!(f, "a reserved field is {value}, not 0"),
            InputError::Length { said, bytes } => {
                write!(f, "the header says {said} bytes, there are {bytes}")
            }
            InputError::Count(count) => write!(f, "the header says {count} records"),
            InputError::Record { index } => write!(f, "record {index} is damaged"),
        }
    }
}

impl core::error::Error for InputError {}

/// A transform's output that the host does not take. The call has failed as if it had trapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputError {
    /// More bytes than the input allows.
    TooLong {
        /// Bytes there are.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// Shorter than its header and its verdicts.
    NoHeader {
        /// Bytes there are.
        bytes: usize,
    },
    /// Another layout.
    Magic([u8; 4]),
    /// Another layout version than the one configured.
    Version(u16),
    /// Flag bits that this version does not know.
    Flags(u16),
    /// Not as many verdicts as there were records.
    Count {
        /// Records of the input.
        records: u32,
        /// Verdicts.
        verdicts: u32,
    },
    /// The bodies are not as long as the header says.
    Length {
        /// What the header says.
        said: u32,
        /// Bytes there are behind the verdicts.
        bytes: usize,
    },
    /// A verdict, or its body.
    Verdict {
        /// The input record it is of, from 0.
        index: u32,
        /// What is wrong.
        error: VerdictError,
    },
}

/// What is wrong with one verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictError {
    /// No such verdict.
    Op(u8),
    /// A verdict that the manifest does not declare, or that the binding does not allow.
    NotAllowed(Op),
    /// An output beyond the first where the manifest declares no routing, or the binding allows
    /// none.
    RouteNotAllowed,
    /// No such output.
    Output(u8),
    /// A number that this verdict does not have, or more records than one may become.
    Number(u16),
    /// The body reaches beyond the bodies, or is not as long as what is in it.
    Body,
    /// A length that is neither a number of bytes nor one of the marks.
    Part(i32),
    /// A timestamp out of range.
    Timestamp(i64),
    /// A reserved field is not zero.
    Reserved(u8),
    /// Headers that are cut off, or too many.
    Headers,
    /// A reason longer than is allowed.
    Reason(usize),
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutputError::TooLong { bytes, bytes_max } => {
                write!(f, "output of {bytes} bytes, {bytes_max} are allowed")
            }
            OutputError::NoHeader { bytes } => write!(f, "output of {bytes} bytes is cut off"),
            OutputError::Magic(magic) => {
                write!(f, "output has the unknown layout {:?}", magic.escape_ascii())
            }
            OutputError::Version(version) => write!(f, "output has layout version {version}"),
            OutputError::Flags(flags) => write!(f, "output has unknown flags {flags:#06x}"),
            OutputError::Count { records, verdicts } => {
                write!(f, "{verdicts} verdicts for {records} records")
            }
            OutputError::Length { said, bytes } => {
                write!(f, "output says {said} bytes of bodies and has {bytes}")
            }
            OutputError::Verdict { index, error } => write!(f, "verdict {index}: {error}"),
        }
    }
}

impl core::error::Error for OutputError {}

impl fmt::Display for VerdictError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerdictError::Op(op) => write!(f, "there is no verdict {op}"),
            VerdictError::NotAllowed(op) => write!(f, "{op} is not declared or not allowed here"),
            VerdictError::RouteNotAllowed => {
                f.write_str("routing is not declared or not allowed here")
            }
            VerdictError::Output(output) => write!(f, "there is no output {output}"),
            VerdictError::Number(n) => write!(f, "n is {n}"),
            VerdictError::Body => f.write_str("the body is not as long as what is in it"),
            VerdictError::Part(length) => write!(f, "a length is {length}"),
            VerdictError::Timestamp(timestamp) => write!(f, "a timestamp is {timestamp}"),
            VerdictError::Reserved(value) => write!(f, "a reserved field is {value}, not 0"),
            VerdictError::Headers => f.write_str("headers are damaged"),
            VerdictError::Reason(bytes) => write!(f, "a reason has {bytes} bytes"),
        }
    }
}

impl core::error::Error for VerdictError {}

/// A writer does not take what it was given. The buffer holds what it held before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// The buffer would be larger than it may be.
    Full,
    /// More records, headers or keys than are allowed.
    TooMany,
    /// One part is longer than is allowed.
    TooLong,
    /// There is no record to add to: none was begun, or each has its verdict.
    NoRecord,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WriteError::Full => "the buffer is full",
            WriteError::TooMany => "there are too many",
            WriteError::TooLong => "a part is too long",
            WriteError::NoRecord => "there is no record for it",
        })
    }
}

impl core::error::Error for WriteError {}
