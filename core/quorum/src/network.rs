//! The network of a quorum of one: there is no peer to reach, and it says so.

use std::future::Future;
use std::io;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};

use crate::machine::SnapshotBytes;
use crate::types::{RaftTypes, Vote};

/// Makes clients of peers; there are none.
#[derive(Debug)]
pub(crate) struct NoPeers;

/// A client of a peer that is not there: every call fails as unreachable.
#[derive(Debug)]
pub(crate) struct NoPeer {
    target: u64,
}

impl NoPeer {
    fn unreachable(&self) -> Unreachable<RaftTypes> {
        let text = format!("node {} is no peer: this quorum has one node", self.target);
        Unreachable::new(&io::Error::new(io::ErrorKind::NotConnected, text))
    }
}

impl RaftNetworkFactory<RaftTypes> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> NoPeer {
        NoPeer { target }
    }
}

type Rpc<T> = Result<T, RPCError<RaftTypes>>;

impl RaftNetworkV2<RaftTypes> for NoPeer {
    type SnapshotData = SnapshotBytes;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<RaftTypes>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Rpc<VoteResponse<RaftTypes>> {
        Err(self.unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Rpc<VoteResponse<RaftTypes>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: openraft::type_config::alias::SnapshotOf<RaftTypes, SnapshotBytes>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<RaftTypes>, StreamingError<RaftTypes>> {
        Err(self.unreachable().into())
    }
}
