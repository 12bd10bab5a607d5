//! A segment file's header block and footer.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_log::format::{encode_footer, parse_footer, parse_footer_body, parse_header_block};
use millstream_types::Offset;

fuzz_target!(|data: &[u8]| {
    _ = parse_header_block(data);
    let bytes = Bytes::copy_from_slice(data);
    _ = parse_footer(&bytes);
    let Ok(footer) = parse_footer_body(&bytes) else { return };
    let file = encode_footer(&footer, 4096, Offset::ZERO);
    let (again, data_end, end_offset) = parse_footer(&file).expect("what was written is read");
    assert_eq!((data_end, end_offset), (4096, Offset::ZERO));
    assert_eq!(encode_footer(&again, 4096, Offset::ZERO), file);
});
