//! Frames put together from a transport's chunks, while memory is short.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| millstream_net::fuzz_frames(data));
