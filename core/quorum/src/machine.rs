//! Openraft's state machine: applies committed commands, publishes images, saves snapshots.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use millstream_meta::{MetaMachine, MetaState, SnapshotError};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use crate::error::StorageFault;
use crate::snapshot_file::SnapshotFiles;
use crate::types::{LogId, RaftTypes, Reply, SnapshotMeta, StoredMembership};

/// A snapshot's data: what [`MetaMachine::to_snapshot`] wrote.
pub(crate) type SnapshotBytes = Bytes;
type Snapshot = openraft::type_config::alias::SnapshotOf<RaftTypes, SnapshotBytes>;
type Responder = openraft::storage::ApplyResponder<RaftTypes>;

/// How many entries are applied before an image is published and their proposers are answered.
const ENTRIES_APPLIED_MAX: usize = 64;

/// The metadata as openraft drives it.
#[derive(Debug)]
pub(crate) struct MachineStore {
    machine: MetaMachine,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    files: Arc<SnapshotFiles>,
    images: watch::Sender<Arc<MetaState>>,
}

impl MachineStore {
    /// The machine before any entry; openraft installs the newest snapshot itself.
    pub(crate) fn new(files: Arc<SnapshotFiles>, images: watch::Sender<Arc<MetaState>>) -> Self {
        Self {
            machine: MetaMachine::new(),
            last_applied: None,
            membership: StoredMembership::default(),
            files,
            images,
        }
    }

    fn publish(&self) {
        self.images.send_replace(Arc::new(self.machine.state().clone()));
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() }
    }

    /// Publishes before it answers, so that a proposer finds its own change.
    fn answer(&self, replies: &mut Vec<(Responder, Reply)>) {
        self.publish();
        replies.drain(..).for_each(|(responder, reply)| responder.send(reply));
    }
}

impl RaftStateMachine<RaftTypes> for MachineStore {
    type SnapshotData = SnapshotBytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<RaftTypes>, io::Error>> + Unpin + OptionalSend,
    {
        let mut replies = Vec::new();
        let mut applied = 0_usize;
        while let Some(next) = poll_fn(|cx| Pin::new(&mut entries).poll_next(cx)).await {
            let (entry, responder) = next?;
            let reply = match entry.payload {
                EntryPayload::Blank => Reply(None),
                EntryPayload::Normal(command) => Reply(Some(self.machine.apply(command))),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Reply(None)
                }
            };
            self.last_applied = Some(entry.log_id);
            replies.extend(responder.map(|responder| (responder, reply)));
            applied += 1;
            if applied.is_multiple_of(ENTRIES_APPLIED_MAX) {
                self.answer(&mut replies);
            }
        }
        self.answer(&mut replies);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let files = Arc::clone(&self.files);
        // Copies pointers for the state, and the few thousand outcomes kept for retries.
        SnapshotBuilder { machine: self.machine.clone(), meta: self.meta(), files }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotBytes,
    ) -> Result<(), io::Error> {
        let files = Arc::clone(&self.files);
        let saved_meta = meta.clone();
        self.machine = blocking(move || {
            let machine = MetaMachine::from_snapshot(&snapshot).map_err(io::Error::other)?;
            files.save(&saved_meta, &snapshot)?;
            Ok(machine)
        })
        .await?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let files = Arc::clone(&self.files);
        let newest = blocking(move || Ok(files.newest()?)).await?;
        Ok(newest.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// An image to be saved as a snapshot, while the machine goes on.
#[derive(Debug)]
pub(crate) struct SnapshotBuilder {
    machine: MetaMachine,
    meta: SnapshotMeta,
    files: Arc<SnapshotFiles>,
}

impl RaftSnapshotBuilder<RaftTypes> for SnapshotBuilder {
    type SnapshotData = SnapshotBytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (machine, meta) = (self.machine.clone(), self.meta.clone());
        let files = Arc::clone(&self.files);
        blocking(move || {
            let data = machine.to_snapshot().map_err(unwritable)?;
            files.save(&meta, &data)?;
            Ok(Snapshot { meta, snapshot: data.into() })
        })
        .await
    }
}

fn unwritable(error: SnapshotError) -> StorageFault {
    StorageFault::Unwritable(error.to_string().into())
}

/// Runs disk work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
