//! A deterministic simulation of one broker's partitions, synchronous, from one seed.
//!
//! [`simulate`] runs the code that the broker runs, [`millstream_partition::Partition`] over the
//! log and the replica's decisions, on a simulated disk and clock. Producers, consumers, time and
//! faults take turns as the seed says; after every turn an oracle that knows what was promised
//! compares it with what is there. The properties are in `invariants`, one to a file. What goes
//! wrong, and how often, is data: [`Profile`].
//!
//! A seed is the whole of a run: the same seed, profile and build give the same trace and the same
//! bytes on the disk. Run many with
//! `cargo run --release -p millstream-sim --example sim -- --seeds 1000`.

mod archive;
mod consumer;
mod invariants;
mod ledger;
mod producer;
mod profile;
mod trace;
mod world;

pub use invariants::Violation;
pub use profile::{Mix, Profile};
pub use trace::Trace;
pub use world::{Counts, Failure, Options, Outcome, Sabotage, simulate};
