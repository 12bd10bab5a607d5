//! Every topic config in one table: name, kind, default, meaning. It drives parsing, validation
//! and description; nothing else lists the configs.

use millstream_types::limits::{
    BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, BATCH_HEADER_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};

use crate::columns::DeclaredColumns;
use crate::config::{
    CleanupPolicy, CompressionType, Durability, Limit, TimestampType, TopicConfig, ValueFormat,
};

/// One topic config.
#[derive(Debug)]
pub struct ConfigDefinition {
    /// Its name, Kafka's where Kafka has it.
    pub name: &'static str,
    /// What values it takes.
    pub kind: ConfigKind,
    /// Its value when a topic sets none.
    pub default: &'static str,
    /// What it does, in one or two sentences, for `--help` and the documentation.
    pub doc: &'static str,
    pub(crate) access: Access,
}

/// What values a config takes.
#[derive(Clone, Copy, Debug)]
pub enum ConfigKind {
    /// A whole number between `min` and `max`, both included.
    Integer {
        /// The smallest value.
        min: i64,
        /// The largest value.
        max: i64,
        /// What the number counts.
        unit: ConfigUnit,
    },
    /// One of a few words.
    Choice {
        /// The values that are accepted.
        accepted: &'static [&'static str],
        /// Values that Kafka accepts and this build refuses, so that the refusal can say so.
        unsupported: &'static [&'static str],
    },
    /// Columns, as `key:type`, separated by commas.
    Columns,
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigUnit {
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// Replicas.
    Replicas,
}

/// How a config reaches its field of [`TopicConfig`].
#[derive(Debug)]
pub(crate) enum Access {
    Integer(fn(&TopicConfig) -> i64, fn(&mut TopicConfig, i64)),
    Choice(fn(&TopicConfig) -> &'static str, fn(&mut TopicConfig, &str)),
    Columns(fn(&TopicConfig) -> &DeclaredColumns, fn(&mut TopicConfig, DeclaredColumns)),
}

/// The definition of the config named `name`.
#[must_use]
pub fn definition(name: &str) -> Option<&'static ConfigDefinition> {
    CONFIG_TABLE.iter().find(|definition| definition.name == name)
}

const MEBIBYTE: u64 = 1024 * 1024;
const SEGMENT_BYTES_DEFAULT: u64 = 128 * MEBIBYTE;

const _: () = assert!(SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_DEFAULT as u64 == 4 * MEBIBYTE);

const fn millis(min: i64) -> ConfigKind {
    ConfigKind::Integer { min, max: i64::MAX, unit: ConfigUnit::Milliseconds }
}

/// Every topic config, sorted by name.
pub static CONFIG_TABLE: &[ConfigDefinition] = &[
    ConfigDefinition {
        name: "archive.lag.max.ms",
        kind: millis(1000),
        default: "600000",
        doc: "How long a committed record may wait before it is archived, however few there are. \
              Only for remote.storage.enable=true. The default is 10 minutes.",
        access: Access::Integer(
            |c| signed(c.archive_lag_max_ms),
            |c, value| {
                c.archive_lag_max_ms = unsigned(value);
            },
        ),
    },
    ConfigDefinition {
        name: "archive.value.columns",
        kind: ConfigKind::Columns,
        default: "",
        doc: "The typed columns that archive.value.format=json adds, such as \
              `id:bigint,price:double,paid:boolean,note:varchar`; none are inferred then. Columns \
              that a partition has already keep their place and type.",
        access: Access::Columns(
            |c| &c.archive_value_columns,
            |c, columns| {
                c.archive_value_columns = columns;
            },
        ),
    },
    ConfigDefinition {
        name: "archive.value.format",
        kind: ConfigKind::Choice { accepted: &["none", "json"], unsupported: &[] },
        default: "none",
        doc: "What the archive makes of values: `json` adds typed columns for the keys of values \
              that are JSON objects, beside the raw values, which stay as they are. Columns and \
              their types are those of archive.value.columns, or inferred, and then only added \
              to. Only for remote.storage.enable=true.",
        access: Access::Choice(
            |c| c.archive_value_format.as_str(),
            |c, value| {
                c.archive_value_format = match value {
                    "json" => ValueFormat::Json,
                    _ => ValueFormat::None,
                };
            },
        ),
    },
    ConfigDefinition {
        name: "cleanup.policy",
        kind: ConfigKind::Choice {
            accepted: &["delete"],
            unsupported: &["compact", "compact,delete", "delete,compact"],
        },
        default: "delete",
        doc: "What happens to old records: `delete` drops whole segments by retention.ms and \
              retention.bytes. Compaction is not supported yet.",
        access: Access::Choice(
            |c| c.cleanup_policy.as_str(),
            |c, _| {
                c.cleanup_policy = CleanupPolicy::Delete;
            },
        ),
    },
    ConfigDefinition {
        name: "compression.type",
        kind: ConfigKind::Choice {
            accepted: &["producer"],
            unsupported: &["uncompressed", "none", "gzip", "snappy", "lz4", "zstd"],
        },
        default: "producer",
        doc: "The codec that batches are stored with: `producer` keeps each batch as it came. \
              Recompression by the broker is not supported yet.",
        access: Access::Choice(
            |c| c.compression_type.as_str(),
            |c, _| {
                c.compression_type = CompressionType::Producer;
            },
        ),
    },
    ConfigDefinition {
        name: "durability",
        kind: ConfigKind::Choice { accepted: &["fsync", "replicated"], unsupported: &[] },
        default: "fsync",
        doc: "When a record counts as written: `fsync` waits until it is on the disk of every \
              in-sync replica; `replicated` only until they have it in memory, so that a power cut \
              of all of them can lose acknowledged records.",
        access: Access::Choice(
            |c| c.durability.as_str(),
            |c, value| {
                c.durability = match value {
                    "replicated" => Durability::Replicated,
                    _ => Durability::Fsync,
                };
            },
        ),
    },
    ConfigDefinition {
        name: "local.retention.bytes",
        kind: ConfigKind::Integer { min: -2, max: i64::MAX, unit: ConfigUnit::Bytes },
        default: "-2",
        doc: "How many bytes of a partition stay on a broker's disk once they are archived: its \
              oldest segments are deleted there, and stay readable. -1 for no limit, -2 for \
              retention.bytes. Only for remote.storage.enable=true.",
        access: Access::Integer(
            |c| local_limit(c.local_retention_bytes),
            |c, value| {
                c.local_retention_bytes = from_local_limit(value);
            },
        ),
    },
    ConfigDefinition {
        name: "local.retention.ms",
        kind: ConfigKind::Integer { min: -2, max: i64::MAX, unit: ConfigUnit::Milliseconds },
        default: "-2",
        doc: "How long an archived segment stays on a broker's disk after its latest record; it \
              stays readable from the archive. -1 for ever, -2 for retention.ms. Only for \
              remote.storage.enable=true.",
        access: Access::Integer(
            |c| local_limit(c.local_retention_ms),
            |c, value| {
                c.local_retention_ms = from_local_limit(value);
            },
        ),
    },
    ConfigDefinition {
        name: "max.message.bytes",
        kind: ConfigKind::Integer {
            min: (BATCH_HEADER_BYTES as u64).cast_signed(),
            max: (BATCH_BYTES_MAX as u64).cast_signed(),
            unit: ConfigUnit::Bytes,
        },
        default: "4194304",
        doc: "The largest record batch that the topic takes, compressed, header included. The \
              default is 4 MiB; Kafka's is 1 MiB.",
        access: Access::Integer(
            |c| signed(c.max_message_bytes),
            |c, value| {
                c.max_message_bytes = unsigned(value);
            },
        ),
    },
    ConfigDefinition {
        name: "message.timestamp.after.max.ms",
        kind: millis(0),
        default: "3600000",
        doc: "How far a record's timestamp may lie after the broker's clock before the record is \
              refused. Only for message.timestamp.type=CreateTime.",
        access: Access::Integer(
            |c| signed(c.message_timestamp_after_max_ms),
            |c, value| {
                c.message_timestamp_after_max_ms = unsigned(value);
            },
        ),
    },
    ConfigDefinition {
        name: "message.timestamp.before.max.ms",
        kind: millis(0),
        default: "9223372036854775807",
        doc: "How far a record's timestamp may lie before the broker's clock before the record is \
              refused. Only for message.timestamp.type=CreateTime.",
        access: Access::Integer(
            |c| signed(c.message_timestamp_before_max_ms),
            |c, value| {
                c.message_timestamp_before_max_ms = unsigned(value);
            },
        ),
    },
    ConfigDefinition {
        name: "message.timestamp.type",
        kind: ConfigKind::Choice { accepted: &["CreateTime", "LogAppendTime"], unsupported: &[] },
        default: "CreateTime",
        doc: "Which timestamp records carry: the producer's (`CreateTime`), or the broker's at the \
              time of the append (`LogAppendTime`).",
        access: Access::Choice(
            |c| c.message_timestamp_type.as_str(),
            |c, value| {
                c.message_timestamp_type = match value {
                    "LogAppendTime" => TimestampType::LogAppendTime,
                    _ => TimestampType::CreateTime,
                };
            },
        ),
    },
    ConfigDefinition {
        name: "min.insync.replicas",
        kind: ConfigKind::Integer { min: 1, max: u16::MAX as i64, unit: ConfigUnit::Replicas },
        default: "1",
        doc: "How many replicas must be in sync for acks=all to be answered. At most the \
              topic's replication factor.",
        access: Access::Integer(
            |c| i64::from(c.min_insync_replicas),
            |c, value| {
                c.min_insync_replicas = u16::try_from(value).unwrap_or(u16::MAX);
            },
        ),
    },
    ConfigDefinition {
        name: "remote.storage.enable",
        kind: ConfigKind::Choice { accepted: &["false", "true"], unsupported: &[] },
        default: "false",
        doc: "Whether the topic is archived: its records are laid down as Parquet in the brokers' \
              archive, where they stay for retention.ms and retention.bytes, and are read from \
              there once local.retention.ms or local.retention.bytes took them off the brokers' \
              disks. Cannot be turned off again.",
        access: Access::Choice(
            |c| if c.remote_storage_enable { "true" } else { "false" },
            |c, value| {
                c.remote_storage_enable = value == "true";
            },
        ),
    },
    ConfigDefinition {
        name: "retention.bytes",
        kind: ConfigKind::Integer { min: -1, max: i64::MAX, unit: ConfigUnit::Bytes },
        default: "-1",
        doc: "How large one partition may grow before its oldest segments are deleted; -1 for no \
              limit.",
        access: Access::Integer(
            |c| limit(c.retention_bytes),
            |c, value| {
                c.retention_bytes = u64::try_from(value).ok();
            },
        ),
    },
    ConfigDefinition {
        name: "retention.ms",
        kind: ConfigKind::Integer { min: -1, max: i64::MAX, unit: ConfigUnit::Milliseconds },
        default: "604800000",
        doc: "How long a segment is kept after its latest record; -1 for ever. The default is 7 \
              days.",
        access: Access::Integer(
            |c| limit(c.retention_ms),
            |c, value| {
                c.retention_ms = u64::try_from(value).ok();
            },
        ),
    },
    ConfigDefinition {
        name: "segment.bytes",
        kind: ConfigKind::Integer {
            min: SEGMENT_BYTES_MIN.cast_signed(),
            max: SEGMENT_BYTES_MAX.cast_signed(),
            unit: ConfigUnit::Bytes,
        },
        default: "134217728",
        doc: "The size at which a segment file is sealed and a new one begun. The default is 128 \
              MiB; Kafka's is 1 GiB.",
        access: Access::Integer(
            |c| signed(c.segment_bytes),
            |c, value| {
                c.segment_bytes = unsigned(value);
            },
        ),
    },
    ConfigDefinition {
        name: "segment.ms",
        kind: millis(1),
        default: "604800000",
        doc: "The age at which a segment file is sealed even when it is not full. The default is 7 \
              days.",
        access: Access::Integer(
            |c| signed(c.segment_ms),
            |c, value| {
                c.segment_ms = unsigned(value);
            },
        ),
    },
];

/// A size that came from the table, so fits.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A value that the table's range keeps from being negative.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// -1 for no limit, -2 for that of the whole topic.
fn local_limit(value: Option<Limit>) -> i64 {
    value.map_or(-2, |value| limit(value.at_most()))
}

fn from_local_limit(value: i64) -> Option<Limit> {
    match value {
        -1 => Some(Limit::None),
        value => u64::try_from(value).ok().map(Limit::AtMost),
    }
}

/// -1 for no limit.
fn limit(value: Option<u64>) -> i64 {
    value.map_or(-1, signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_documented() {
        assert!(CONFIG_TABLE.is_sorted_by(|a, b| a.name < b.name));
        for definition in CONFIG_TABLE {
            assert!(definition.doc.ends_with('.'), "{}", definition.name);
        }
    }

    #[test]
    fn the_defaults_that_are_periods_are_a_week() {
        for name in ["retention.ms", "segment.ms"] {
            assert_eq!(definition(name).unwrap().default, (7 * 24 * 60 * 60 * 1000).to_string());
        }
    }
}
