//! What tests of promises to users share: a real `millstream` process, started, killed and asked.
//!
//! The tests themselves lie beside this crate's `src/`. They see only what a user sees: the
//! binary, its flags, its output, its exit code, its files.

mod binary;
mod broker;
mod capture;
mod knob;
mod moto;
mod outcome;
mod process;
mod python;
mod records;
mod soak;

pub use binary::{OUTPUT_BYTES_MAX, command, millstream, run};
pub use broker::{Broker, Options};
pub use knob::{Dice, knob, pause, wait_until};
pub use moto::Moto;
pub use outcome::{failure, json_lines, success};
pub use process::{open_files, resident_kib};
pub use python::python;
pub use records::{consume, copy_dir, partition_dir, produce, topics};
pub use soak::{Load, Phoenix, verify};
