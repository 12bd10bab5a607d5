//! What a plugin may use. A plugin that wants more is stopped; none of these is a promise that a
//! machine can keep them for all plugins at once.

use std::time::Duration;

/// Length of a tick: deadlines are whole numbers of them.
pub const TICK: Duration = Duration::from_millis(1);
/// Native stack of a guest's call, in bytes.
pub(crate) const STACK_BYTES: usize = 512 * 1024;
/// As much for a run that is counted, whose code needs more of it for the same calls.
pub(crate) const COUNTED_STACK_BYTES: usize = 1024 * 1024;
/// Core instances of one component.
pub(crate) const CORE_INSTANCES_MAX: usize = 8;
/// Tables of one component.
pub(crate) const TABLES_MAX: usize = 8;
/// Elements of one table.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Records of one batch that are run alone, and bytes of all answers to it, before the rest is left
/// for another call.
pub(crate) const ALONE_MAX: u32 = 64;
/// See [`ALONE_MAX`].
pub(crate) const ANSWERS_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Bytes that a guest may hand to the host's imports within one call.
pub(crate) const IMPORT_BYTES_MAX: usize = 64 * 1024;
/// Log lines kept until they are taken; more are counted and dropped.
pub(crate) const LOG_LINES_MAX: usize = 16;
/// What operators may turn.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long `manifest` and `configure` may take.
    pub start_deadline: Duration,
    /// How long a transform may take for one batch.
    pub transform_deadline: Duration,
    /// How long a partitioner may take for one batch of keys.
    pub partitioner_deadline: Duration,
    /// The most that an instance's memory may grow to, in bytes.
    pub memory_bytes_max: usize,
    /// Instances of all plugins together.
    pub instances_max: u32,
    /// Instructions, roughly, that a record may take when it is run alone because its batch failed.
    /// This and no clock decides that a record is at fault, so that it is the same wherever and
    /// whenever it is run. It should be more than any machine executes within a deadline; a guest
    /// whose code counts for more than it costs can make its own verdicts waver, and no other's.
    pub suspect_fuel: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start_deadline: Duration::from_secs(1),
            transform_deadline: Duration::from_millis(50),
            partitioner_deadline: Duration::from_millis(5),
            memory_bytes_max: millstream_plugin_abi::limits::MEMORY_BYTES_MAX,
            instances_max: 1000,
            suspect_fuel: 1_000_000_000,
        }
    }
}
