//! What a plugin is to the SDK.

use core::fmt;
use std::borrow::Cow;

use millstream_plugin_abi::{Hot, Key, Record};

pub use millstream_plugin_abi::VerdictSet;

use crate::Out;

/// What a function of a plugin returns.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

/// Why a record, or a configuration, is no good. Anything that is a standard error becomes one by
/// `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    reason: Cow<'static, str>,
    fails_call: bool,
}

impl Error {
    /// An error of a text that was there when the plugin was built: it costs nothing.
    #[must_use]
    pub const fn text(reason: &'static str) -> Error {
        Error { reason: Cow::Borrowed(reason), fails_call: false }
    }

    /// An error of a text made for it.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Error {
        Error { reason: Cow::Owned(reason.into()), fails_call: false }
    }

    /// The same error, but of the whole call: the host then looks for the record to blame, as after
    /// a panic. For what should never happen; a bad record is an error like any other.
    #[must_use]
    pub fn of_the_call(self) -> Error {
        Error { fails_call: true, ..self }
    }

    pub(crate) fn fails_call(&self) -> bool {
        self.fails_call
    }

    /// What goes into the dead letter.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl<E: core::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        Error::new(error.to_string())
    }
}

/// Parts of a record that a plugin wants to see. The key it always gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The value. Without it, only its length.
    pub values: bool,
    /// The headers.
    pub headers: bool,
}

impl Needs {
    /// The key alone.
    pub const KEYS: Needs = Needs { values: false, headers: false };
    /// Key and value.
    pub const VALUES: Needs = Needs { values: true, headers: false };
    /// Key and headers.
    pub const HEADERS: Needs = Needs { values: false, headers: true };
    /// Everything.
    pub const ALL: Needs = Needs { values: true, headers: true };

    /// As in a manifest.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn bits(self) -> u8 {
        u8::from(self.values) | u8::from(self.headers) << 1
    }
}

/// What a plugin says of itself. That it is stateless goes without saying.
#[derive(Debug, Clone, Copy)]
pub struct Manifest {
    /// `a-z`, `0-9`, `-`, `_` and `.`; `env!("CARGO_PKG_NAME")` is a good one.
    pub name: &'static str,
    /// For people; `env!("CARGO_PKG_VERSION")` is a good one.
    pub version: &'static str,
    /// What it wants to see.
    pub needs: Needs,
    /// The verdicts that it may give besides "keep".
    pub verdicts: VerdictSet,
}

/// What an instance is made for.
#[derive(Debug, Clone, Copy)]
pub struct Config<'a> {
    options: &'a [(&'a str, &'a str)],
    /// The topic that is read, or produced to.
    pub input: &'a str,
    /// The topics that verdicts name by index; none for a partitioner.
    pub outputs: &'a [&'a str],
}

impl<'a> Config<'a> {
    /// Of options, each name once, and topics.
    #[must_use]
    pub fn new(
        options: &'a [(&'a str, &'a str)],
        input: &'a str,
        outputs: &'a [&'a str],
    ) -> Config<'a> {
        Config { options, input, outputs }
    }

    /// Every option, as the operator wrote them.
    #[must_use]
    pub fn options(&self) -> &'a [(&'a str, &'a str)] {
        self.options
    }

    /// The value of an option.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.options.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }

    /// The value of an option that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn require(&self, name: &str) -> Result<&'a str> {
        self.get(name).ok_or_else(|| Error::new(format!("the option `{name}` is missing")))
    }

    /// Refuses any option that is not among `known`: a name that is misspelt should not be passed
    /// over in silence.
    ///
    /// # Errors
    /// One is not.
    pub fn only(&self, known: &[&str]) -> Result {
        match self.options.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(Error::new(format!(
                "there is no option `{name}`; the options are: {}",
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// The index of an output topic.
    #[must_use]
    pub fn output(&self, topic: &str) -> Option<u8> {
        let index = self.outputs.iter().position(|output| *output == topic)?;
        u8::try_from(index).ok()
    }
}

/// Judges and rewrites records.
pub trait Transform: Sized {
    /// What it says of itself.
    const MANIFEST: Manifest;

    /// Makes it from what the operator wrote.
    ///
    /// # Errors
    /// The configuration is no good. The operator reads the error.
    fn configure(config: &Config<'_>) -> Result<Self>;

    /// Gives `record` its verdict. One that gets none is kept.
    ///
    /// # Errors
    /// The record goes to the dead-letter topic with the error as the reason; on produce, a plugin
    /// that declares `reject` and not `dead-letter` rejects it.
    fn record(&self, record: &Record<'_>, out: &mut Out<'_, '_>) -> Result;
}

/// Says which partition a record goes to.
pub trait Partitioner: Sized {
    /// What it says of itself.
    const MANIFEST: Manifest;

    /// Makes it from what the operator wrote.
    ///
    /// # Errors
    /// The configuration is no good. The operator reads the error.
    fn configure(config: &Config<'_>) -> Result<Self>;

    /// Takes the topic's hot keys, which replace those it had.
    fn hotlist(&mut self, hot: &Hot<'_>);

    /// The partition of a record, below `partitions`, or [`crate::DEFAULT_PARTITION`] for where it
    /// would go without a plugin.
    fn assign(&self, key: &Key<'_>, partitions: u32) -> u32;
}
