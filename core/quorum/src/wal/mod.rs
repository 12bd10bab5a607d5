//! The write-ahead log: Raft's vote, log, commit point and purge point in one sequence of
//! append-only files.
//!
//! One sequence, because Raft's safety rests on these writes reaching the disk in the order in
//! which they were issued. Each record says how much of its file was durable when it was written;
//! on reading, damage below the largest such mark is corruption and refused, damage above it is the
//! torn tail of a crash and cut. A file is begun only when its predecessor is durable to its end,
//! so damage anywhere but in the last file is always corruption.

pub(crate) mod format;
mod replay;
mod writer;

pub(crate) use format::Record;
pub(crate) use replay::{Recovered, recover};
pub(crate) use writer::WalWriter;
