//! What can go wrong with a plugin.

use millstream_plugin_abi::limits::MODULE_BYTES_MAX;

/// The host itself cannot run plugins.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine did not start.
    #[error("plugins cannot run on this machine: {0}")]
    Engine(String),
}

/// A file is no plugin that this host takes, or not with this configuration. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is larger than a component may be.
    #[error("the component has {bytes} bytes, more than the {MODULE_BYTES_MAX} that are taken")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A core module: what compilers write before it is made a component.
    #[error(
        "this is a core WebAssembly module, not a component: make one of it with \
         `cargo run -p millstream-plugin-build --example plugin`"
    )]
    CoreModule,
    /// It cannot be compiled.
    #[error("this is no WebAssembly component: {0}")]
    Invalid(String),
    /// Imports that no plugin has, or exports that are missing.
    #[error("the component does not fit any world of millstream:plugin@1: {0}")]
    World(String),
    /// What it says of itself cannot be.
    #[error("the plugin's manifest: {0}")]
    Manifest(String),
    /// It says that it keeps state.
    #[error(
        "plugin `{name}` says that it keeps state, which is not supported: a verdict may only \
        depend on its record"
    )]
    Stateful {
        /// Its name.
        name: String,
    },
    /// It understands no layout that this host speaks.
    #[error(
        "plugin `{name}` understands layouts {min} to {max}; this host speaks {own_min} to \
         {own_max}"
    )]
    Layout {
        /// Its name.
        name: String,
        /// The lowest that it understands.
        min: u16,
        /// The highest.
        max: u16,
        /// The lowest that the host speaks.
        own_min: u16,
        /// The highest.
        own_max: u16,
    },
    /// It refused its configuration, in its own words.
    #[error("the plugin refused its configuration: {0}")]
    Configuration(String),
    /// It failed before it saw a record.
    #[error("the plugin failed while it started: {0}")]
    Start(Fault),
}

/// How a call failed. The instance that it was made on is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It trapped: an explicit `unreachable`, an access outside of its memory, a stack overflow.
    #[error("it trapped: {0}")]
    Trap(String),
    /// It took longer than it may.
    #[error("it took longer than {0} ms")]
    Deadline(u64),
    /// A record that was run alone used up its instructions.
    #[error("it used more than the {0} units of fuel that one record may")]
    Fuel(u64),
    /// A record that was run alone did not use up its fuel in any sensible time: the machine is too
    /// slow to tell whose fault it is.
    #[error("the machine is too slow to run it to the end of its fuel")]
    Slow,
    /// So many records had to be run alone, or answered so much, that the rest is left for another
    /// call.
    #[error("the rest of the batch is left for another call")]
    Unfinished,
    /// Its answer breaks the layout.
    #[error("its answer cannot be read: {0}")]
    Answer(String),
    /// It answered with an error.
    #[error("it failed: {0}")]
    Said(String),
    /// No instance could be made.
    #[error("no instance could be made: {0}")]
    Instance(String),
}
