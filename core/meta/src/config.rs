//! A topic's configs as typed values, read from Kafka-named texts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::columns::DeclaredColumns;
use crate::config_table::{Access, CONFIG_TABLE, ConfigDefinition, ConfigKind, definition};
use crate::error::clip;

/// Declares a config whose values are words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$value_doc])* $value,)* }

        impl $name {
            /// The value as it is written in a config.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)* }
            }
        }
    };
}

words!(
    /// What happens to old records.
    CleanupPolicy {
        /// Whole segments are dropped by age and size.
        Delete = "delete",
    }
);
words!(
    /// The codec that batches are stored with.
    CompressionType {
        /// The one they came with.
        Producer = "producer",
    }
);
words!(
    /// Which timestamp records carry.
    TimestampType {
        /// The producer's.
        CreateTime = "CreateTime",
        /// The broker's, at the time of the append.
        LogAppendTime = "LogAppendTime",
    }
);
words!(
    /// When a record counts as written.
    Durability {
        /// When it is on disk.
        Fsync = "fsync",
        /// When the in-sync replicas have it, on disk or not.
        Replicated = "replicated",
    }
);

words!(
    /// What an archive reads into the values of records.
    ValueFormat {
        /// Nothing.
        None = "none",
        /// JSON objects, whose keys become typed columns.
        Json = "json",
    }
);

/// A topic's configs, defaults filled in. Names, meanings and ranges are in
/// [`crate::CONFIG_TABLE`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicConfig {
    /// `archive.lag.max.ms`.
    pub archive_lag_max_ms: u64,
    /// `archive.value.columns`.
    pub archive_value_columns: DeclaredColumns,
    /// `archive.value.format`.
    pub archive_value_format: ValueFormat,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `compression.type`.
    pub compression_type: CompressionType,
    /// `durability`.
    pub durability: Durability,
    /// `local.retention.bytes`; `None` where `retention.bytes` decides.
    pub local_retention_bytes: Option<Limit>,
    /// `local.retention.ms`; `None` where `retention.ms` decides.
    pub local_retention_ms: Option<Limit>,
    /// `max.message.bytes`.
    pub max_message_bytes: u64,
    /// `message.timestamp.after.max.ms`.
    pub message_timestamp_after_max_ms: u64,
    /// `message.timestamp.before.max.ms`.
    pub message_timestamp_before_max_ms: u64,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `min.insync.replicas`.
    pub min_insync_replicas: u16,
    /// `remote.storage.enable`.
    pub remote_storage_enable: bool,
    /// `retention.bytes`; `None` for no limit.
    pub retention_bytes: Option<u64>,
    /// `retention.ms`; `None` for ever.
    pub retention_ms: Option<u64>,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: u64,
}

/// How much is kept: at most so much, or all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// So many bytes or milliseconds.
    AtMost(u64),
    /// No limit.
    None,
}

impl Limit {
    /// The limit as a number, if there is one.
    #[must_use]
    pub const fn at_most(self) -> Option<u64> {
        match self {
            Self::AtMost(value) => Some(value),
            Self::None => None,
        }
    }
}

/// Why a config was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ConfigError {
    /// No config has this name.
    #[error("`{name}` is not a topic config")]
    Unknown {
        /// The name, cut if long.
        name: String,
    },
    /// The value is no whole number.
    #[error("{name}={value}: not a whole number")]
    NotInteger {
        /// The config.
        name: String,
        /// The value, cut if long.
        value: String,
    },
    /// The value is too small or too large.
    #[error("{name}={value}: not between {min} and {max}")]
    OutOfRange {
        /// The config.
        name: String,
        /// The value.
        value: i64,
        /// The smallest value allowed.
        min: i64,
        /// The largest value allowed.
        max: i64,
    },
    /// The value is none of the config's words.
    #[error("{name}={value}: not one of {accepted}")]
    NotAChoice {
        /// The config.
        name: String,
        /// The value, cut if long.
        value: String,
        /// The words, separated by commas.
        accepted: String,
    },
    /// Kafka has this value, this build does not support it.
    #[error("{name}={value} is not supported yet; supported: {accepted}")]
    NotSupported {
        /// The config.
        name: String,
        /// The value.
        value: String,
        /// The words that are supported, separated by commas.
        accepted: String,
    },
    /// The value declares no columns that an archive could have.
    #[error("{name}={value}: {reason}")]
    NotColumns {
        /// The config.
        name: String,
        /// The value, cut if long.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What would be archived later would leave a gap.
    #[error(
        "remote.storage.enable cannot be turned off again: the archive must not have a gap. Copy \
         the topic to one that is not archived instead"
    )]
    ArchiveStays,
    /// No `acks=all` could ever be answered.
    #[error("min.insync.replicas={min_insync_replicas} exceeds the replication factor {factor}")]
    AboveReplicationFactor {
        /// The config's value.
        min_insync_replicas: u16,
        /// The topic's replication factor.
        factor: u16,
    },
    /// One command both sets and removes the config.
    #[error("`{name}` is both set and removed")]
    SetAndRemoved {
        /// The config.
        name: String,
    },
}

impl Default for TopicConfig {
    /// Every config at its table default.
    fn default() -> Self {
        // Every field is overwritten from the table below; the table's own test proves that its
        // defaults parse.
        let mut config = Self {
            archive_lag_max_ms: 0,
            archive_value_columns: DeclaredColumns::default(),
            archive_value_format: ValueFormat::None,
            cleanup_policy: CleanupPolicy::Delete,
            compression_type: CompressionType::Producer,
            durability: Durability::Fsync,
            local_retention_bytes: None,
            local_retention_ms: None,
            max_message_bytes: 0,
            message_timestamp_after_max_ms: 0,
            message_timestamp_before_max_ms: 0,
            message_timestamp_type: TimestampType::CreateTime,
            min_insync_replicas: 0,
            remote_storage_enable: false,
            retention_bytes: None,
            retention_ms: None,
            segment_bytes: 0,
            segment_ms: 0,
        };
        for definition in CONFIG_TABLE {
            if let Ok(value) = parse(definition, definition.default) {
                store(definition, &mut config, value);
            }
        }
        config
    }
}

impl TopicConfig {
    /// The defaults with `overrides` on top.
    ///
    /// # Errors
    /// [`ConfigError`] for the first override, by name, that is unknown or out of range.
    pub fn from_overrides(overrides: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (name, text) in overrides {
            let definition = lookup(name)?;
            store(definition, &mut config, parse(definition, text)?);
        }
        Ok(config)
    }

    /// How long a partition's records stay on the brokers' disks once they are archived, in
    /// milliseconds; `None` for ever.
    #[must_use]
    pub fn local_retention_ms(&self) -> Option<u64> {
        tighter(self.local_retention_ms, self.retention_ms)
    }

    /// How many bytes of a partition stay on a broker's disk once they are archived; `None` for no
    /// limit.
    #[must_use]
    pub fn local_retention_bytes(&self) -> Option<u64> {
        tighter(self.local_retention_bytes, self.retention_bytes)
    }

    /// The value of the config named `name`, as it would be written; `None` for no such config.
    #[must_use]
    pub fn describe(&self, name: &str) -> Option<String> {
        definition(name).map(|definition| load(definition, self))
    }

    /// Every config's name and value, sorted by name.
    pub fn describe_all(&self) -> impl Iterator<Item = (&'static str, String)> {
        CONFIG_TABLE.iter().map(|definition| (definition.name, load(definition, self)))
    }
}

/// A local limit, which is never beyond the whole topic's.
fn tighter(local: Option<Limit>, whole: Option<u64>) -> Option<u64> {
    let local = local.map_or(whole, Limit::at_most);
    match (local, whole) {
        (Some(local), Some(whole)) => Some(local.min(whole)),
        (local, whole) => local.or(whole),
    }
}

/// The one spelling of a value: numbers without spaces or leading zeros.
///
/// # Errors
/// As [`TopicConfig::from_overrides`].
pub(crate) fn canonical(name: &str, text: &str) -> Result<String, ConfigError> {
    Ok(match parse(lookup(name)?, text)? {
        Value::Integer(value) => value.to_string(),
        Value::Choice(word) => word.to_owned(),
        Value::Columns(columns) => columns.to_string(),
    })
}

/// A value that its definition accepts.
enum Value {
    Integer(i64),
    Choice(&'static str),
    Columns(DeclaredColumns),
}

fn lookup(name: &str) -> Result<&'static ConfigDefinition, ConfigError> {
    definition(name).ok_or_else(|| ConfigError::Unknown { name: clip(name) })
}

fn parse(definition: &ConfigDefinition, text: &str) -> Result<Value, ConfigError> {
    let name = || definition.name.to_owned();
    let text = text.trim();
    match definition.kind {
        ConfigKind::Integer { min, max, .. } => {
            let Ok(value) = text.parse::<i64>() else {
                return Err(ConfigError::NotInteger { name: name(), value: clip(text) });
            };
            if !(min..=max).contains(&value) {
                return Err(ConfigError::OutOfRange { name: name(), value, min, max });
            }
            Ok(Value::Integer(value))
        }
        ConfigKind::Choice { accepted, unsupported } => {
            if let Some(word) = accepted.iter().find(|word| **word == text) {
                return Ok(Value::Choice(word));
            }
            let (value, accepted) = (clip(text), accepted.join(", "));
            if unsupported.contains(&text) {
                return Err(ConfigError::NotSupported { name: name(), value, accepted });
            }
            Err(ConfigError::NotAChoice { name: name(), value, accepted })
        }
        ConfigKind::Columns => match DeclaredColumns::parse(text) {
            Ok(columns) => Ok(Value::Columns(columns)),
            Err(reason) => {
                let reason = clip(&reason);
                Err(ConfigError::NotColumns { name: name(), value: clip(text), reason })
            }
        },
    }
}

fn store(definition: &ConfigDefinition, config: &mut TopicConfig, value: Value) {
    match (&definition.access, value) {
        (Access::Integer(_, set), Value::Integer(value)) => set(config, value),
        (Access::Choice(_, set), Value::Choice(word)) => set(config, word),
        (Access::Columns(_, set), Value::Columns(columns)) => set(config, columns),
        // `parse` goes by `kind`; a test shows that `kind` and `access` agree in every row.
        (Access::Integer(..) | Access::Choice(..) | Access::Columns(..), _) => {}
    }
}

fn load(definition: &ConfigDefinition, config: &TopicConfig) -> String {
    match &definition.access {
        Access::Integer(get, _) => get(config).to_string(),
        Access::Choice(get, _) => get(config).to_owned(),
        Access::Columns(get, _) => get(config).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Result<TopicConfig, ConfigError> {
        TopicConfig::from_overrides(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn every_default_parses_and_describes_itself() {
        let config = TopicConfig::default();
        for definition in CONFIG_TABLE {
            assert!(parse(definition, definition.default).is_ok(), "{}", definition.name);
            assert_eq!(config.describe(definition.name).as_deref(), Some(definition.default));
        }
    }

    #[test]
    fn every_accepted_value_is_kept_in_its_own_field() {
        for row in CONFIG_TABLE {
            let values = match row.kind {
                ConfigKind::Integer { min, max, .. } => vec![min.to_string(), max.to_string()],
                ConfigKind::Choice { accepted, .. } => {
                    accepted.iter().map(|word| (*word).to_owned()).collect()
                }
                ConfigKind::Columns => vec!["id:bigint,note:varchar".to_owned()],
            };
            for value in values {
                let config = of(row.name, &value).unwrap();
                assert_eq!(config.describe(row.name), Some(value.clone()));
                for (name, other) in config.describe_all().filter(|(name, _)| *name != row.name) {
                    assert_eq!(Some(other.as_str()), definition(name).map(|d| d.default));
                }
            }
        }
    }

    #[test]
    fn unsupported_values_are_refused_by_name() {
        let error = of("cleanup.policy", "compact").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cleanup.policy=compact is not supported yet; supported: delete"
        );
        assert!(matches!(of("compression.type", "zstd"), Err(ConfigError::NotSupported { .. })));
        assert!(matches!(of("durability", "maybe"), Err(ConfigError::NotAChoice { .. })));
    }

    #[test]
    fn values_out_of_range_and_unknown_names_are_refused() {
        assert!(matches!(of("retention.ms", "-2"), Err(ConfigError::OutOfRange { .. })));
        assert!(matches!(of("segment.ms", "0"), Err(ConfigError::OutOfRange { .. })));
        assert!(matches!(of("segment.bytes", "1g"), Err(ConfigError::NotInteger { .. })));
        assert!(matches!(of("retention.minutes", "1"), Err(ConfigError::Unknown { .. })));
    }

    #[test]
    fn a_value_has_one_spelling() {
        assert_eq!(canonical("retention.ms", " 007 ").as_deref(), Ok("7"));
        assert_eq!(of("retention.ms", "-1").unwrap().retention_ms, None);
    }
}
