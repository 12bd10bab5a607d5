//! An archive's Parquet objects: a footer, a whole object, or changed pages of a sound one, with
//! CRCs that fit.

#![no_main]

use std::panic;

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        // Panics of Parquet's reader become errors where they are expected, and only there.
        let aborts = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !millstream_tiered::is_guarded() {
                aborts(info);
            }
        }));
    },
    |data: &[u8]| {
        let Some((kind, bytes)) = data.split_first() else { return };
        millstream_tiered::fuzz_object(*kind, bytes);
    }
);
