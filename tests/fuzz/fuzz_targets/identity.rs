//! A data directory's identity file.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| millstream_broker::fuzz_identity(data));
