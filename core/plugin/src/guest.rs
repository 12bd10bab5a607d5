//! What the WIT of `wasm-sdk/wit` generates, and the side of it that guests call: two functions
//! that answer nothing.

use std::collections::BTreeMap;

use millstream_plugin_abi::limits::{COUNTER_NAME_BYTES_MAX, COUNTERS_MAX, LOG_BYTES_MAX};
use wasmtime::StoreLimits;
use wasmtime::component::HasSelf;

use crate::limits::{IMPORT_BYTES_MAX, LOG_LINES_MAX};

/// The world of transforms.
pub(crate) mod transform {
    wasmtime::component::bindgen!({ path: "../../wasm-sdk/wit", world: "transform" });
}

/// The world of partitioners.
pub(crate) mod partitioner {
    wasmtime::component::bindgen!({
        path: "../../wasm-sdk/wit",
        world: "partitioner",
        with: {
            "millstream:plugin/host": super::transform::millstream::plugin::host,
            "millstream:plugin/types": super::transform::millstream::plugin::types,
        },
    });
}

pub(crate) use transform::millstream::plugin::host::Level;
use transform::millstream::plugin::host::{self, Host};
pub(crate) use transform::millstream::plugin::types::{Config, Manifest, Needs, Verdicts};

/// What the host keeps for one instance.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) limits: StoreLimits,
    pub(crate) said: Said,
    /// It told a line that is longer than any may be: the call has failed. How long it may be does
    /// not depend on what else the call had to do.
    pub(crate) overran: bool,
}

/// What a guest has told since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Lines for the operator, the first few.
    pub(crate) lines: Vec<(Level, String)>,
    /// Lines that were too many.
    pub(crate) lines_dropped: u64,
    /// What was added to each counter.
    pub(crate) counters: BTreeMap<String, u64>,
}

impl Host for Guest {
    fn log(&mut self, level: Level, message: String) {
        self.overran |= message.len() > IMPORT_BYTES_MAX;
        if self.said.lines.len() >= LOG_LINES_MAX {
            self.said.lines_dropped = self.said.lines_dropped.saturating_add(1);
            return;
        }
        self.said.lines.push((level, cut(&message, LOG_BYTES_MAX)));
    }

    fn counter(&mut self, name: String, add: u64) {
        let counters = &mut self.said.counters;
        if let Some(value) = counters.get_mut(&name) {
            *value = value.saturating_add(add);
        } else if counters.len() < COUNTERS_MAX && is_counter(&name) {
            counters.insert(name, add);
        }
    }
}

fn is_counter(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=COUNTER_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(known)
}

/// The text's first `bytes_max` bytes, or a few less where a character would be cut, in memory of
/// no more than that.
pub(crate) fn cut(text: &str, bytes_max: usize) -> String {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default().to_owned()
}

/// A linker that has what plugins may import and nothing else.
pub(crate) fn linker(
    engine: &wasmtime::Engine,
) -> wasmtime::Result<wasmtime::component::Linker<Guest>> {
    let mut linker = wasmtime::component::Linker::new(engine);
    host::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest: &mut Guest| guest)?;
    Ok(linker)
}

const _: () = assert!(LOG_BYTES_MAX <= IMPORT_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        Guest { limits: StoreLimits::default(), said: Said::default(), overran: false }
    }

    #[test]
    fn lines_are_cut_between_characters_and_counted_beyond_the_first() {
        let mut guest = guest();
        for _ in 0..LOG_LINES_MAX + 3 {
            guest.log(Level::Warn, "é".repeat(LOG_BYTES_MAX));
        }
        assert_eq!(guest.said.lines.len(), LOG_LINES_MAX);
        assert_eq!(guest.said.lines_dropped, 3);
        assert_eq!(guest.said.lines[0].1.len(), LOG_BYTES_MAX);
        let odd = cut(&format!("a{}", "é".repeat(LOG_BYTES_MAX)), LOG_BYTES_MAX);
        assert_eq!((odd.len(), odd.capacity()), (LOG_BYTES_MAX - 1, LOG_BYTES_MAX - 1));
        assert!(!guest.overran);
        guest.log(Level::Info, "x".repeat(IMPORT_BYTES_MAX + 1));
        assert!(guest.overran);
    }

    #[test]
    fn counters_add_up_and_are_bounded_in_number_and_name() {
        let mut guest = guest();
        for name in ["kept", "kept", "Not", "", "no-hyphen"] {
            guest.counter(name.to_owned(), u64::MAX - 1);
        }
        assert_eq!(guest.said.counters, BTreeMap::from([("kept".to_owned(), u64::MAX)]));
        for number in 0..2 * COUNTERS_MAX {
            guest.counter(format!("c{number}"), 1);
        }
        assert_eq!(guest.said.counters.len(), COUNTERS_MAX);
    }
}
