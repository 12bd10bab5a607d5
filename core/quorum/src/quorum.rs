//! The quorum as the broker uses it: start, propose, read, stop. Openraft stays behind it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use millstream_env::disk::Disk;
use millstream_meta::{Command, MetaState, Outcome};
use millstream_types::BrokerId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::{BasicNode, SnapshotPolicy};
use tokio::sync::{mpsc, watch};

use crate::error::{ProposeError, QuorumError, StorageFault};
use crate::machine::MachineStore;
use crate::network::NoPeers;
use crate::snapshot_file::{Alive, SnapshotFiles};
use crate::store::LogStore;
use crate::types::{Raft, RaftTypes, broker_of, node_of};
use crate::wal;

/// The largest command, in bytes of its JSON form.
///
/// Far more than any command that the state machine accepts; it bounds what waits in memory.
pub const COMMAND_BYTES_MAX: usize = 256 * 1024;

/// How long storage may take to finish at shutdown.
const STORAGE_END_WAIT: Duration = Duration::from_secs(10);

/// How a metadata quorum runs.
#[derive(Debug, Clone)]
pub struct QuorumConfig {
    /// This node. Its id must never have been another node's, nor this node's before it lost its
    /// metadata directory: Raft cannot detect a reused id.
    pub node: BrokerId,
    /// The directory of log and snapshots, relative to the disk's root.
    pub directory: PathBuf,
    /// After how many log entries a snapshot is made and the log before it removed; at least 1.
    pub snapshot_every_entries: u64,
    /// The size at which a file of the write-ahead log is followed by a new one, in bytes.
    pub segment_bytes_max: u64,
    /// How long [`Quorum::start`] waits for a leader.
    pub start_timeout: Duration,
}

impl QuorumConfig {
    /// The defaults: snapshots every 5,000 entries, log files of 8 MiB, 10 seconds to start.
    #[must_use]
    pub fn new(node: BrokerId, directory: impl Into<PathBuf>) -> Self {
        Self {
            node,
            directory: directory.into(),
            snapshot_every_entries: 5_000,
            segment_bytes_max: 8 * 1024 * 1024,
            start_timeout: Duration::from_secs(10),
        }
    }
}

/// One node of the metadata quorum; the only one, for now.
///
/// Dropping it without [`Quorum::shutdown`] stops it in the background, and is safe at any time, as
/// a crash is.
#[derive(Debug)]
pub struct Quorum {
    raft: RaftHandle,
    images: watch::Receiver<Arc<MetaState>>,
    storage: JoinHandle<()>,
    snapshots_ended: mpsc::Receiver<Infallible>,
}

/// [`Raft`], which has no `Debug` of its own.
struct RaftHandle(Raft);

impl std::fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raft").field("node", self.0.node_id()).finish_non_exhaustive()
    }
}

impl Quorum {
    /// Recovers the metadata from `config.directory` of `disk`, makes this node leader of a quorum
    /// of one, and returns once every command that was ever acknowledged is in the state.
    ///
    /// While the cluster has no identity, `bootstrap` gives the commands that are proposed before
    /// this returns, [`millstream_meta::CommandBody::InitCluster`] first. A crash in between can
    /// leave the later ones out; what every start needs (registering the broker) is the caller's
    /// to propose after each start.
    ///
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`QuorumError`]; nothing runs on after it.
    pub async fn start(
        disk: Arc<dyn Disk>,
        config: QuorumConfig,
        bootstrap: impl FnOnce() -> Vec<Command> + Send,
    ) -> Result<Self, QuorumError> {
        let raft_config = raft_config(&config)?;
        let (alive, snapshots_ended) = mpsc::channel(1);
        let opened = tokio::task::spawn_blocking({
            let config = config.clone();
            move || open(disk, &config, alive)
        });
        let opened = opened.await.map_err(|error| QuorumError::Fatal(error.to_string()))??;
        let ((log, storage), files) = opened;
        let (publisher, images) = watch::channel(Arc::default());
        let machine = MachineStore::new(Arc::new(files), publisher);
        let node = node_of(config.node);
        let raft = Raft::new(node, Arc::new(raft_config), NoPeers, log, machine)
            .await
            .map_err(|fatal| QuorumError::Fatal(fatal.to_string()))?;
        let quorum = Self { raft: RaftHandle(raft), images, storage, snapshots_ended };
        let started = quorum.lead(node, config.start_timeout).await;
        let started = match started {
            Ok(()) => quorum.bootstrap(bootstrap).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(()) => Ok(quorum),
            Err(error) => {
                quorum.shutdown().await;
                Err(error)
            }
        }
    }

    /// Makes this node leader and waits until it has applied its whole log.
    async fn lead(&self, node: u64, timeout: Duration) -> Result<(), QuorumError> {
        let raft = &self.raft.0;
        let fatal = |error: &dyn std::fmt::Display| QuorumError::Fatal(error.to_string());
        if !raft.is_initialized().await.map_err(|error| fatal(&error))? {
            let members = BTreeMap::from([(node, BasicNode::default())]);
            raft.initialize(members).await.map_err(|error| fatal(&error))?;
        } else if !raft.is_leader() {
            // The process ended between the vote and the election: vote again, at once.
            raft.trigger().elect(false).await.map_err(|error| fatal(&error))?;
        }
        let no_leader = |_| QuorumError::NoLeader { waited_ms: timeout.as_millis() };
        let wait = raft.wait(Some(timeout));
        wait.current_leader(node, "a quorum of one elects itself").await.map_err(no_leader)?;
        raft.wait_for_recovery(Some(timeout)).await.map_err(no_leader)?;
        Ok(())
    }

    async fn bootstrap(&self, commands: impl FnOnce() -> Vec<Command>) -> Result<(), QuorumError> {
        if self.state().cluster().is_some() {
            return Ok(());
        }
        for command in commands() {
            let refused = |error: String| QuorumError::Bootstrap(error);
            let outcome =
                self.propose(command).await.map_err(|error| refused(error.to_string()))?;
            outcome.map_err(|error| refused(error.to_string()))?;
        }
        Ok(())
    }

    /// Proposes a command and waits until it is durable and applied. [`Quorum::state`] then shows
    /// its effect.
    ///
    /// Cancelling the wait does not take the command back. After [`ProposeError::Unknown`], or a
    /// cancelled wait, ask again under the same command id.
    ///
    /// # Errors
    /// [`ProposeError`]; a refusal by the state machine is an [`Outcome`], not an error.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        check_size(&command)?;
        let response = self.raft.0.client_write(command).await.map_err(propose_error)?;
        response.data.0.ok_or_else(|| ProposeError::Unknown {
            cause: "the command's entry was applied as one of Raft's own".to_owned(),
        })
    }

    /// The metadata as last applied. Cheap: one reference count.
    #[must_use]
    pub fn state(&self) -> Arc<MetaState> {
        Arc::clone(&self.images.borrow())
    }

    /// Images as they change; a slow reader sees only the latest. Compare two of them with
    /// [`MetaState::changes_since`]. Closes when the quorum has stopped.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<MetaState>> {
        self.images.clone()
    }

    /// Waits until the quorum stops by itself, which it does only for a reason that the node
    /// must be taken out of service for, a failed sync above all.
    pub async fn failure(&self) -> QuorumError {
        let mut metrics = self.raft.0.metrics();
        loop {
            let running = metrics.borrow_and_update().running_state.clone();
            if let Err(fatal) = running {
                return QuorumError::Fatal(fatal.to_string());
            }
            if metrics.changed().await.is_err() {
                return QuorumError::Fatal("raft has ended".to_owned());
            }
        }
    }

    /// Stops, and returns once nothing of it runs or writes any more. Proposals that wait end as
    /// unknown.
    pub async fn shutdown(self) {
        let Self { raft, images, storage, mut snapshots_ended } = self;
        if let Err(error) = raft.0.shutdown().await {
            tracing::warn!(%error, "the metadata quorum did not stop cleanly");
        }
        drop((raft, images));
        let end = async {
            // Raft's tasks end one after the other, and a snapshot may still be written.
            snapshots_ended.recv().await;
            tokio::task::spawn_blocking(move || storage.join()).await
        };
        match tokio::time::timeout(STORAGE_END_WAIT, end).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the metadata log's thread panicked"),
            Err(_) => tracing::error!("the metadata quorum's storage does not end"),
        }
    }
}

/// Opens log and snapshots, and starts the storage thread. Blocks on the disk.
fn open(
    disk: Arc<dyn Disk>,
    config: &QuorumConfig,
    alive: Alive,
) -> Result<((LogStore, JoinHandle<()>), SnapshotFiles), StorageFault> {
    let directory = &config.directory;
    let (writer, recovered) =
        wal::recover(&disk, directory, config.node, config.segment_bytes_max)?;
    let files = SnapshotFiles::open(disk, directory, config.node, alive)?;
    Ok((LogStore::start(writer, recovered)?, files))
}

fn raft_config(config: &QuorumConfig) -> Result<openraft::Config, QuorumError> {
    let invalid = |text: String| QuorumError::InvalidConfig(text);
    if config.snapshot_every_entries == 0 || config.segment_bytes_max == 0 {
        return Err(invalid("snapshots and log files need a size of at least 1".to_owned()));
    }
    let raft_config = openraft::Config {
        cluster_name: "metadata".to_owned(),
        // Nobody waits for an election in a quorum of one, so ticks are few.
        heartbeat_interval: 500,
        election_timeout_min: 1_500,
        election_timeout_max: 3_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every_entries),
        // There is no follower that could still want them.
        max_in_snapshot_log_to_keep: 0,
        api_channel_size: Some(1_024),
        ..openraft::Config::default()
    };
    raft_config.validate().map_err(|error| invalid(error.to_string()))
}

/// Whether a command is small enough to be proposed.
///
/// # Errors
/// [`ProposeError::TooLarge`].
pub fn check_size(command: &Command) -> Result<(), ProposeError> {
    let bytes = serde_json::to_vec(command).map(|json| json.len()).unwrap_or(usize::MAX);
    if bytes > COMMAND_BYTES_MAX {
        return Err(ProposeError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
    }
    Ok(())
}

fn propose_error(error: RaftError<RaftTypes, ClientWriteError<RaftTypes>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader {
            leader_id,
            ..
        })) => ProposeError::NotLeader { leader: leader_id.and_then(broker_of) },
        error => ProposeError::Unknown { cause: error.to_string() },
    }
}
