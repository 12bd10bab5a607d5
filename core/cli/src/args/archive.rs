//! The flags of `millstream archive`.

use clap::{Args, Subcommand};
use millstream_client::TopicId;

use super::ConnectionArgs;
use crate::output::OutputArgs;

/// See, verify and restore what is archived
///
/// A topic with remote.storage.enable=true is archived: its committed records go into Parquet
/// objects in a directory or bucket, by default the directory `archive` of the broker's data.
/// Consumers read on from there what has left the broker's disk, DuckDB and others query it, and a
/// new cluster brings its topics back from it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  millstream topic alter orders --config remote.storage.enable=true      archive a topic
  millstream archive status
  millstream archive verify orders
  millstream archive restore --all")]
pub struct ArchiveArgs {
    /// What to do with the archive.
    #[command(subcommand)]
    pub action: ArchiveAction,
}

/// What can be done with the archive. Each action's own arguments describe it, in help as well.
#[derive(Subcommand, Clone, Debug)]
#[expect(missing_docs, reason = "a text here would hide that of the arguments from help")]
pub enum ArchiveAction {
    Status(ArchiveStatusArgs),
    Verify(ArchiveVerifyArgs),
    Restore(ArchiveRestoreArgs),
}

/// Show how far topics are archived, and what waits
///
/// First the store and, if it cannot be used, why. Then for each partition: the offsets in the
/// archive (the last one excluded), where the broker's own log starts, what is not archived yet and
/// for how long there has been something, and how large the objects are beside the batches that the
/// log had. Producers go on while a store is away, until archive.backlog_bytes_max of the broker's
/// config waits.
///
/// In JSON the first line is the store with the totals of all partitions; each further line is a
/// partition and has a `topic`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  millstream archive status
  millstream archive status orders payments
  millstream archive status -o json | jq -r 'select(.topic and .waiting_ms > 900000) | .topic'
  millstream archive status -o json | jq -e -n 'input.store_error == null'")]
pub struct ArchiveStatusArgs {
    /// The topics to show; all that are archived by default
    pub topics: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// Read archived objects again and check every record of them
///
/// Each object is read whole: its checksums, its order of offsets, and that its records are those
/// of the broker's log, as far as that still has them. What comes into the archive meanwhile is
/// left for the next time. Exits with 1 if anything is wrong, or could not be checked.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  millstream archive verify
  millstream archive verify orders --timeout 60s       a slow store, or large objects
  millstream archive verify -o json | jq -r '.faults[].object'")]
pub struct ArchiveVerifyArgs {
    /// The topics to verify; all that are archived by default
    pub topics: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// Bring topics back from the archive alone
///
/// For a cluster that has lost its data, or a new one over the same store: makes each topic under
/// the name, id and settings that it had. Its records are read from the archive; new ones go on at
/// the offset where that ends. What had not been archived is not there. A topic that the cluster
/// has already is left as it is, so that the command can be run again.
///
/// The archive is this cluster's from then on. Another cluster that had it, if it still runs,
/// loses it: it archives and removes nothing more of the topic, which its `archive status` says,
/// and what it had not archived stays on its own disks alone.
///
/// Without topics it lists those that could be restored, and exits with 2.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  millstream archive restore                       list what could be restored
  millstream archive restore orders payments
  millstream archive restore --all
  millstream archive restore orders --id 0d9f6c2be1c84b1f8a52d5a1a3c0e7f4")]
pub struct ArchiveRestoreArgs {
    /// The topics to restore
    pub topics: Vec<String>,
    /// Restore every topic in the store that the cluster does not have
    #[arg(long, conflicts_with = "topics")]
    pub all: bool,
    /// Which of several topics of one name to restore
    #[arg(long, value_name = "ID", requires = "topics", conflicts_with = "all")]
    pub id: Option<TopicId>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}
