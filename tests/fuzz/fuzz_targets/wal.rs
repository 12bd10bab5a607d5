//! The metadata's write-ahead log.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    millstream_quorum::fuzz_wal(*kind, bytes);
});
