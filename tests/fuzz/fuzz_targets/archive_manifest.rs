//! What an archive keeps as JSON: manifests and topics' configs.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    millstream_tiered::fuzz_manifest(data);
    millstream_tiered::fuzz_topic_config(data);
});
