//! Every bound of the ABI. `docs/plugin-abi.md` has them with what a host does beyond each.

/// The most records in one call.
pub const INPUT_RECORDS_MAX: u32 = 65_536;
/// The largest input buffer of a call, header included. A record that does not fit alone is never
/// shown to a plugin.
pub const INPUT_BYTES_MAX: usize = 20 * 1024 * 1024;
/// A call's output may have this many bytes for each byte of its input, ...
pub const OUTPUT_PER_INPUT_MAX: usize = 4;
/// ... or these if that is less.
pub const OUTPUT_BYTES_ALWAYS: usize = 1024 * 1024;
/// The records that a call's output comes to, with what they take over from the input, may have
/// this many bytes for each byte of its input, ...
pub const RESOLVED_PER_INPUT_MAX: usize = 16;
/// ... or these if that is less.
pub const RESOLVED_BYTES_ALWAYS: usize = 4 * 1024 * 1024;
/// The most records that one input record may become.
pub const EMIT_RECORDS_MAX: u16 = 1000;
/// The most headers on one record.
pub const HEADERS_MAX: u32 = 1024;
/// The longest reason of a dead letter or a rejection, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;
/// The most topics that a transform may write to.
pub const OUTPUTS_MAX: u8 = 64;
/// The latest timestamp, in ms since 1970: in microseconds it fits 64 bits.
pub const TIMESTAMP_MS_MAX: i64 = i64::MAX / 1000;

/// The most hot keys in one list.
pub const HOT_KEYS_MAX: u32 = 1024;
/// The longest key that can be in the list, in bytes.
pub const HOT_KEY_BYTES_MAX: usize = 1024;
/// The most partitions that keys are placed over.
pub const PARTITIONS_MAX: u32 = 100_000;

/// The longest name and the longest version in a manifest, in bytes.
pub const MANIFEST_TEXT_BYTES_MAX: usize = 255;
/// The most options that a plugin is configured with.
pub const OPTIONS_MAX: usize = 256;
/// The most bytes that their names and values come to.
pub const OPTIONS_BYTES_MAX: usize = 64 * 1024;
/// The longest error that a plugin returns from `configure` or `apply`, in bytes; it is cut there.
pub const ERROR_BYTES_MAX: usize = 1024;
/// The longest log line, in bytes; it is cut there.
pub const LOG_BYTES_MAX: usize = 1024;
/// The longest name of a counter, in bytes.
pub const COUNTER_NAME_BYTES_MAX: usize = 64;
/// The most counters of one plugin.
pub const COUNTERS_MAX: usize = 64;

/// The most linear memory of an instance, in bytes. Growing beyond it fails, as in any WebAssembly.
pub const MEMORY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The largest component that is deployed without asking, in bytes.
pub const MODULE_BYTES_MAX: usize = 10 * 1024 * 1024;

/// The most bytes of output that a call with `input_bytes` may return.
#[must_use]
pub const fn output_bytes_max(input_bytes: usize) -> usize {
    at_least(input_bytes.saturating_mul(OUTPUT_PER_INPUT_MAX), OUTPUT_BYTES_ALWAYS)
}

/// The most bytes that a call's output may come to with what it takes over from the input.
#[must_use]
pub const fn resolved_bytes_max(input_bytes: usize) -> usize {
    at_least(input_bytes.saturating_mul(RESOLVED_PER_INPUT_MAX), RESOLVED_BYTES_ALWAYS)
}

const fn at_least(bytes: usize, least: usize) -> usize {
    if bytes > least { bytes } else { least }
}

// A guest can answer "keep" to every record of the largest call, ...
const _: () = assert!(16 + 8 * (INPUT_RECORDS_MAX as usize) <= OUTPUT_BYTES_ALWAYS);
// ... hold the largest input beside a copy of it, ...
const _: () = assert!(2 * INPUT_BYTES_MAX < MEMORY_BYTES_MAX);
// ... and no length in a buffer needs more than the 31 bits of its field.
const _: () = assert!(INPUT_BYTES_MAX * OUTPUT_PER_INPUT_MAX <= i32::MAX as usize);
const _: () = assert!(REASON_BYTES_MAX < OUTPUT_BYTES_ALWAYS);
