//! The cluster's metadata as a deterministic state machine: brokers, topics, their configs and
//! partitions, producer-id blocks. No clock, no entropy, no I/O: identities and times come inside
//! the commands, so that the same commands give the same state on every node and after every
//! restart.
//!
//! [`MetaMachine`] applies [`Command`]s; [`MetaState`] is what it holds, cheap to clone, and what
//! the broker reads. `millstream-quorum` makes the commands durable and orders them.

mod archive;
mod columns;
pub mod command;
pub mod config;
mod config_table;
mod error;
mod form;
mod machine;
mod name;
mod placement;
mod producers;
mod restore;
mod snapshot;
mod state;

pub use archive::{
    ARCHIVE_HEADS_MAX, ArchiveHead, DELETED_TOPICS_MAX, DeletedTopic, MovedHead, TopicHeads,
};
pub use columns::{
    ColumnType, DECLARED_COLUMNS_MAX, DECLARED_KEY_BYTES_MAX, DeclaredColumn, DeclaredColumns,
};
pub use command::{Command, CommandBody, CommandId, Endpoint};
pub use config::{
    CleanupPolicy, CompressionType, ConfigError, Durability, Limit, TimestampType, TopicConfig,
    ValueFormat,
};
pub use config_table::{CONFIG_TABLE, ConfigDefinition, ConfigKind, ConfigUnit, definition};
pub use error::MetaError;
pub use machine::{
    APPLIED_COMMANDS_KEPT, Applied, BROKERS_MAX, CLUSTER_PARTITIONS_MAX, CLUSTER_TOPICS_MAX,
    MetaMachine, Outcome, PRODUCER_ID_BLOCK_MAX,
};
pub use name::validate_topic_name;
pub use placement::place;
pub use producers::OTHER_ORIGINS_MAX;
pub use restore::{RestoreName, RestoredPartition};
pub use snapshot::SnapshotError;
pub use state::{Broker, InvariantError, MetaState, Partition, Topic, TopicChange};

/// The version of the state machine's rules that this build knows. A cluster records the version
/// it was made with; a rule that would apply an old command differently (placement included)
/// needs a new version, so that replay stays identical.
pub const FORMAT_VERSION: u32 = 1;
