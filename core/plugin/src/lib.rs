//! The host of plugins: WebAssembly components that judge and rewrite records, or say which
//! partition they go to. `docs/plugin-abi.md` is what they and this crate keep to.
//!
//! Plugins are not trusted. Each call has a deadline, each instance a bound on its memory and each
//! answer a bound on its size; what breaks any of them costs the plugin its instance and its own
//! record, and nobody else anything.
//!
//! The only home of wasmtime.

mod engine;
mod error;
mod guest;
mod instance;
mod limits;
mod partitioner;
mod plugin;
mod transform;

pub use crate::error::{Fault, HostError, LoadError};
pub use crate::limits::{Limits, TICK};
pub use crate::partitioner::Partitioner;
pub use crate::plugin::{Binding, Host, Kind, Manifest, Plugin};
pub use crate::transform::{Judged, Outcome, Place, Told, Transform};
pub use millstream_plugin_abi as abi;

#[cfg(test)]
mod tests;
