//! How Raft's own values stand in the write-ahead log and in snapshots: JSON of our own, so that
//! a new openraft cannot change what is on disk.

use std::collections::{BTreeMap, BTreeSet};

use millstream_meta::Command;
use openraft::vote::RaftLeaderId;
use openraft::{BasicNode, EntryPayload};
use serde::{Deserialize, Serialize};

use crate::types::{Entry, LogId, Membership, StoredMembership, Vote};

/// Why a form stands for nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("an impossible membership: {0}")]
    Membership(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VoteForm {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LogIdForm {
    term: u64,
    node: u64,
    index: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EntryForm {
    at: LogIdForm,
    payload: PayloadForm,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PayloadForm {
    Blank,
    Command(Command),
    Membership(MembershipForm),
}

/// Voters as the sets of a joint configuration, and every node's address.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MembershipForm {
    voters: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredMembershipForm {
    at: Option<LogIdForm>,
    membership: MembershipForm,
}

impl From<&Vote> for VoteForm {
    fn from(vote: &Vote) -> Self {
        let leader = vote.leader_id();
        let (term, node) = (leader.term, leader.node_id);
        Self { term, node, committed: vote.is_committed() }
    }
}

impl From<VoteForm> for Vote {
    fn from(form: VoteForm) -> Self {
        match form.committed {
            true => Self::new_committed(form.term, form.node),
            false => Self::new(form.term, form.node),
        }
    }
}

impl From<&LogId> for LogIdForm {
    fn from(id: &LogId) -> Self {
        let leader = id.committed_leader_id();
        Self { term: leader.term, node: leader.node_id, index: id.index() }
    }
}

impl From<LogIdForm> for LogId {
    fn from(form: LogIdForm) -> Self {
        let leader: openraft::type_config::alias::LeaderIdOf<crate::types::RaftTypes> =
            RaftLeaderId::new(form.term, form.node);
        Self::new(leader, form.index)
    }
}

impl From<&Membership> for MembershipForm {
    fn from(membership: &Membership) -> Self {
        let nodes = membership.nodes().map(|(id, node)| (*id, node.addr.clone()));
        Self { voters: membership.get_joint_config().clone(), nodes: nodes.collect() }
    }
}

impl TryFrom<MembershipForm> for Membership {
    type Error = FormError;

    fn try_from(form: MembershipForm) -> Result<Self, FormError> {
        if form.voters.is_empty() && form.nodes.is_empty() {
            return Ok(Self::default());
        }
        let nodes = form.nodes.into_iter().map(|(id, addr)| (id, BasicNode { addr }));
        let nodes: BTreeMap<_, _> = nodes.collect();
        Self::new(form.voters, nodes).map_err(|error| FormError::Membership(error.to_string()))
    }
}

impl From<&StoredMembership> for StoredMembershipForm {
    fn from(stored: &StoredMembership) -> Self {
        Self {
            at: stored.log_id().as_ref().map(LogIdForm::from),
            membership: MembershipForm::from(stored.membership()),
        }
    }
}

impl TryFrom<StoredMembershipForm> for StoredMembership {
    type Error = FormError;

    fn try_from(form: StoredMembershipForm) -> Result<Self, FormError> {
        Ok(Self::new(form.at.map(LogId::from), form.membership.try_into()?))
    }
}

impl From<&Entry> for EntryForm {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => PayloadForm::Blank,
            EntryPayload::Normal(command) => PayloadForm::Command(command.clone()),
            EntryPayload::Membership(membership) => PayloadForm::Membership(membership.into()),
        };
        Self { at: LogIdForm::from(&entry.log_id), payload }
    }
}

impl EntryForm {
    /// The entry; a method, because openraft's blanket conversions leave no room for `TryFrom`.
    pub(crate) fn into_entry(self) -> Result<Entry, FormError> {
        let payload = match self.payload {
            PayloadForm::Blank => EntryPayload::Blank,
            PayloadForm::Command(command) => EntryPayload::Normal(command),
            PayloadForm::Membership(form) => EntryPayload::Membership(form.try_into()?),
        };
        Ok(Entry { log_id: self.at.into(), payload })
    }
}
