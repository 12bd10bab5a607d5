//! Builds plugins: finds the tool-chain, runs cargo, makes the component and checks it.
//!
//! ```no_run
//! use millstream_plugin_build::{Options, Toolchain, build};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let built = build(&Options { dir: "my-plugin".into(), toolchain: Toolchain::find()? })?;
//! std::fs::write("my-plugin.wasm", built.component)?;
//! # Ok(())
//! # }
//! ```
//!
//! A core module of another language goes through [`componentize`] alone.

mod cargo;
mod component;
mod toolchain;

pub use crate::cargo::{BuildError, Built, Options, build};
pub use crate::component::{ComponentError, WIT, World, check, componentize};
pub use crate::toolchain::{Toolchain, ToolchainError, UNPACKED_VARIABLE};

/// What guests are compiled for.
pub const TARGET: &str = "wasm32-unknown-unknown";
