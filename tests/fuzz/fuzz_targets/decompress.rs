//! The codecs: the first byte chooses one, the rest is decompressed, and compressed and back.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use millstream_wire::Codec;

const BYTES_MAX: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let codec = Codec::ALL[usize::from(choice) % Codec::ALL.len()];
    if let Ok(output) = codec.decompress(data, BYTES_MAX) {
        assert!(output.len() <= BYTES_MAX);
        assert!(output.is_empty() || codec.decompress(data, output.len() - 1).is_err());
    }
    let mut compressed = BytesMut::new();
    codec.compress(data, &mut compressed).expect("memory takes what is written to it");
    let output = codec.decompress(&compressed, data.len()).expect("what was compressed fits");
    assert_eq!(output, data);
});
