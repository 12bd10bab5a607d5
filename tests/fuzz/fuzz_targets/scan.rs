//! The log's scan of a segment: which batches stand there, up to where, and what follows.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(([fits, high, low], bytes)) = data.split_first_chunk() else { return };
    let limit = usize::from(u16::from_be_bytes([*high, *low]));
    millstream_log::fuzz_scan(*fits, limit, bytes);
});
