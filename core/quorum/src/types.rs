//! Openraft, configured: what the log carries and what nodes are called.

use millstream_meta::{Command, Outcome};
use millstream_types::BrokerId;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The metadata quorum's types: openraft's defaults, our commands and outcomes.
    pub(crate) RaftTypes: D = Command, R = Reply
);

/// What applying an entry gave: an outcome for a command, nothing for Raft's own entries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reply(pub(crate) Option<Outcome>);

pub(crate) type Entry = openraft::type_config::alias::EntryOf<RaftTypes>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<RaftTypes>;
pub(crate) type Membership = openraft::Membership<u64, openraft::BasicNode>;
pub(crate) type Raft = openraft::Raft<RaftTypes, crate::machine::MachineStore>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<RaftTypes>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<RaftTypes>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<RaftTypes>;

/// A broker's name in the quorum.
pub(crate) fn node_of(broker: BrokerId) -> u64 {
    u64::from(broker.0)
}

/// The broker that a name in the quorum stands for; `None` for one that no broker can have.
pub(crate) fn broker_of(node: u64) -> Option<BrokerId> {
    u32::try_from(node).ok().map(BrokerId)
}
