//! The 8 bytes before every body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_types::limits::FRAME_BODY_BYTES_MAX;
use millstream_wire::frame::{FLAG_SKIPPABLE, FrameHeader};

fuzz_target!(|data: &[u8]| {
    let Some(bytes) = data.first_chunk::<8>().copied() else { return };
    let Ok(header) = FrameHeader::decode(bytes) else { return };
    let body_bytes = header.body_bytes as usize;
    assert!(body_bytes <= FRAME_BODY_BYTES_MAX);
    match header.kind {
        Some(kind) => {
            let again = FrameHeader::encode(kind, body_bytes).expect("it was within its limit");
            assert_eq!(again[..6], bytes[..6]);
        }
        None => assert!(header.flags & FLAG_SKIPPABLE != 0),
    }
});
