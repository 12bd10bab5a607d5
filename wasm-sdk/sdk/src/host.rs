//! What the host offers. Natively, lines go to standard error and counters nowhere.

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something is wrong.
    Error = 0,
    /// Something may be wrong.
    Warn = 1,
    /// Something to know.
    Info = 2,
    /// Something for whoever wrote the plugin.
    Debug = 3,
}

/// A line for the operator. The host cuts long ones and keeps a limited number a second.
pub fn log(level: Level, message: &str) {
    imp::log(level, message);
}

/// Adds to a metric of this plugin. Names are of `a-z`, `0-9` and `_`.
pub fn counter(name: &str, add: u64) {
    imp::counter(name, add);
}

#[cfg(target_arch = "wasm32")]
mod imp {
    #![expect(unsafe_code, reason = "imports")]

    use super::Level;

    #[link(wasm_import_module = "millstream:plugin/host@1.0.0")]
    unsafe extern "C" {
        #[link_name = "log"]
        fn host_log(level: u32, pointer: *const u8, bytes: usize);
        #[link_name = "counter"]
        fn host_counter(pointer: *const u8, bytes: usize, add: u64);
    }

    pub(super) fn log(level: Level, message: &str) {
        // SAFETY: the host reads the text and keeps no pointer.
        unsafe { host_log(level as u32, message.as_ptr(), message.len()) }
    }

    pub(super) fn counter(name: &str, add: u64) {
        // SAFETY: the host reads the name and keeps no pointer.
        unsafe { host_counter(name.as_ptr(), name.len(), add) }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod imp {
    use std::io::Write as _;

    use super::Level;

    pub(super) fn log(level: Level, message: &str) {
        // Nobody can be told that standard error is closed.
        drop(writeln!(std::io::stderr(), "{level:?}: {message}"));
    }

    pub(super) fn counter(_name: &str, _add: u64) {}
}
