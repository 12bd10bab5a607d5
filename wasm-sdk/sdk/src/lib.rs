//! What a Millstream plugin in Rust is written with.
//!
//! A transform is a function and one macro line:
//!
//! ```
//! use millstream_sdk::{Out, Record, Result};
//!
//! fn no_empty_values(record: &Record<'_>, out: &mut Out<'_, '_>) -> Result {
//!     if record.value_bytes.unwrap_or(0) == 0 { out.drop() } else { out.keep() }
//! }
//!
//! millstream_sdk::transform!(no_empty_values);
//! ```
//!
//! One with options is a type that implements [`Transform`], and a partitioner one that implements
//! [`Partitioner`]: `transform!(struct Type)`, `partitioner!(struct Type)`.
//!
//! Records are borrowed from the host's batch, and what is kept is never copied. A function that
//! returns an error makes a dead letter of its record, with the error as the reason; one that
//! panics fails the call, and the host finds the record by itself. Answers must depend on the
//! record, the options and the hot keys alone: a plugin is run again, elsewhere, on other cuts of
//! the same records.
//!
//! [`testing`] runs a plugin natively, for `cargo test`; [`json`] edits and reads JSON without
//! building it. The crate's macros export the functions of the plugin's world when the target is
//! WebAssembly, in the form that costs least: see `docs/plugin-abi.md`.

mod arena;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
mod hash;
mod host;
pub mod json;
mod out;
mod plugin;
mod run;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use millstream_plugin_abi::{
    DEFAULT_PARTITION, Header, Headers, Hot, HotKey, Key, NewHeaders, NewRecord, Part, Record,
};

pub use crate::arena::Arena;
pub use crate::hash::{default_partition, murmur2};
pub use crate::host::{Level, counter, log};
pub use crate::out::{Emit, Out, Value};
pub use crate::plugin::{
    Config, Error, Manifest, Needs, Partitioner, Result, Transform, VerdictSet,
};

/// Exports a transform: `transform!(function)`, `transform!(function, needs, verdicts)`, or, for a
/// type that implements [`Transform`], `transform!(struct Type)`.
///
/// A function alone is declared to need values and headers and to give any verdict but `reject`.
#[macro_export]
macro_rules! transform {
    (struct $plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__guest!($plugin);

            #[unsafe(export_name = "apply")]
            extern "C" fn apply(pointer: *const u8, bytes: usize) -> *const u8 {
                INSTANCE.apply(pointer, bytes)
            }
        };
    };
    ($function:path) => {
        $crate::transform!(
            $function,
            $crate::Needs::ALL,
            $crate::VerdictSet::AFTER_COMMIT
        );
    };
    ($function:path, $needs:expr, $verdicts:expr) => {
        /// The function as a plugin.
        #[derive(Debug, Clone, Copy)]
        pub struct Plugin;

        impl $crate::Transform for Plugin {
            const MANIFEST: $crate::Manifest = $crate::Manifest {
                name: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
                needs: $needs,
                verdicts: $verdicts,
            };

            fn configure(_: &$crate::Config<'_>) -> Result<Self, $crate::Error> {
                Ok(Plugin)
            }

            fn record(
                &self,
                record: &$crate::Record<'_>,
                out: &mut $crate::Out<'_, '_>,
            ) -> $crate::Result {
                $function(record, out)
            }
        }

        $crate::transform!(struct Plugin);
    };
}

/// Exports a partitioner: `partitioner!(struct Type)` for a type that implements [`Partitioner`].
#[macro_export]
macro_rules! partitioner {
    (struct $plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__guest!($plugin);

            #[unsafe(export_name = "hotlist")]
            extern "C" fn hotlist(pointer: *const u8, bytes: usize) {
                INSTANCE.hotlist(pointer, bytes)
            }

            #[unsafe(export_name = "assign")]
            extern "C" fn assign(pointer: *const u8, bytes: usize) -> *const u8 {
                INSTANCE.assign(pointer, bytes)
            }
        };
    };
}

/// What both worlds export.
#[doc(hidden)]
#[macro_export]
macro_rules! __guest {
    ($plugin:ty) => {
        static INSTANCE: $crate::guest::Instance<$plugin> = $crate::guest::Instance::new();

        #[unsafe(export_name = "cabi_realloc")]
        extern "C" fn cabi_realloc(
            old: *mut u8,
            old_bytes: usize,
            _align: usize,
            bytes: usize,
        ) -> *mut u8 {
            INSTANCE.realloc(old, old_bytes, bytes)
        }

        #[unsafe(export_name = "manifest")]
        extern "C" fn manifest() -> *const u8 {
            INSTANCE.manifest(<$plugin>::MANIFEST)
        }

        #[unsafe(export_name = "configure")]
        extern "C" fn configure(
            abi: u32,
            options: *const [usize; 4],
            option_count: usize,
            input: *const u8,
            input_bytes: usize,
            outputs: *const [usize; 2],
            output_count: usize,
        ) -> *const u8 {
            INSTANCE.configure(
                abi,
                (options, option_count),
                (input, input_bytes),
                (outputs, output_count),
                <$plugin>::configure,
            )
        }
    };
}
