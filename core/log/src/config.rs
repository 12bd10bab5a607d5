//! What a topic's configuration says about its logs.

use millstream_types::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

/// The smallest block that one index entry may cover.
const INDEX_INTERVAL_BYTES_MIN: u32 = 4096;

/// How one log rolls, indexes, caches and forgets. Kafka's topic configs of the same names mean
/// the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Bytes of batches after which a segment is rolled (`segment.bytes`).
    pub segment_bytes: u64,
    /// Age in milliseconds after which a segment with records is rolled (`segment.ms`).
    pub segment_ms: u64,
    /// Bytes of batches between two index entries (`index.interval.bytes`). Each entry takes 32
    /// bytes of memory while its segment is not sealed.
    pub index_interval_bytes: u32,
    /// Bytes that the log may take before its oldest segments go; `None` is without limit.
    pub retention_bytes: Option<u64>,
    /// Milliseconds that records are kept; `None` is for ever.
    pub retention_ms: Option<u64>,
    /// Bytes of the newest batches that are kept in memory, within the budget shared by all logs.
    pub tail_bytes_max: u64,
}

impl Default for LogConfig {
    /// Kafka's defaults, save for the index interval: 1 GiB or a week a segment, kept for a week.
    fn default() -> Self {
        const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1024 * 1024 * 1024,
            segment_ms: WEEK_MS,
            index_interval_bytes: 64 * 1024,
            retention_bytes: None,
            retention_ms: Some(WEEK_MS),
            tail_bytes_max: 8 * 1024 * 1024,
        }
    }
}

/// A value of a [`LogConfig`] that is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}; it must lie between {min} and {max}")]
pub struct ConfigError {
    /// The config's name.
    pub key: &'static str,
    /// What it was set to.
    pub value: u64,
    /// The smallest value taken.
    pub min: u64,
    /// The largest value taken.
    pub max: u64,
}

impl LogConfig {
    /// Checks the values against the hard limits.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub const fn validate(&self) -> Result<(), ConfigError> {
        let (value, min, max) = (self.segment_bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        if value < min || value > max {
            return Err(ConfigError { key: "segment.bytes", value, min, max });
        }
        let value = self.index_interval_bytes as u64;
        let (min, max) = (INDEX_INTERVAL_BYTES_MIN as u64, SEGMENT_BYTES_MIN * 1024);
        if value < min || value > max {
            return Err(ConfigError { key: "index.interval.bytes", value, min, max });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_within_the_limits() {
        assert_eq!(LogConfig::default().validate(), Ok(()));
    }

    #[test]
    fn a_segment_beyond_32_bit_positions_is_refused() {
        let config = LogConfig { segment_bytes: SEGMENT_BYTES_MAX + 1, ..LogConfig::default() };
        assert_eq!(config.validate().map_err(|error| error.key), Err("segment.bytes"));
    }
}
