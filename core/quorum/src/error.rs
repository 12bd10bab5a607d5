//! What can go wrong, told in terms of files and commands.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_env::disk::DiskError;
use millstream_types::{BrokerId, ErrorCode};

/// Why the quorum's files cannot be written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageFault {
    /// The disk refused.
    #[error("metadata storage: {0}")]
    Disk(#[from] DiskError),
    /// Bytes that were durable are damaged.
    #[error(
        "{file} is damaged at byte {position}: {what}. These bytes were durable, so this is not a \
         crash's torn tail: metadata may be lost. Restore the directory {} from a backup, or \
         remove this node and join a new one under a new id; do not delete or edit single files",
        directory.display()
    )]
    Corrupt {
        /// The damaged file's name.
        file: String,
        /// The directory that holds it.
        directory: PathBuf,
        /// Where the damage begins, in bytes.
        position: u64,
        /// What was found.
        what: String,
    },
    /// The files are another node's.
    #[error("{file} belongs to node {found}, this is node {expected}")]
    WrongNode {
        /// The file's name.
        file: String,
        /// The node that wrote it.
        found: u32,
        /// The node that reads it.
        expected: BrokerId,
    },
    /// A later build wrote the file.
    #[error("{file} has version {found}; this build knows {known}")]
    UnknownVersion {
        /// The file's name.
        file: String,
        /// The file's version.
        found: u32,
        /// The newest version that this build knows.
        known: u32,
    },
    /// What was to be written is too large or has no form on disk.
    #[error("metadata storage: a record cannot be written: {0}")]
    Unwritable(Arc<str>),
    /// Storage failed earlier, or its thread has ended.
    #[error("metadata storage has stopped: {0}")]
    Stopped(Arc<str>),
}

impl From<StorageFault> for io::Error {
    fn from(fault: StorageFault) -> Self {
        Self::other(fault)
    }
}

/// Why the quorum did not start, or stopped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QuorumError {
    /// Its files cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageFault),
    /// A setting is out of range.
    #[error("metadata quorum: {0}")]
    InvalidConfig(String),
    /// Raft stopped, for the reason given; take the node out of service.
    #[error("the metadata quorum has stopped: {0}")]
    Fatal(String),
    /// No leader was elected in time.
    #[error("the metadata quorum elected no leader within {waited_ms} ms")]
    NoLeader {
        /// How long it waited, in milliseconds.
        waited_ms: u128,
    },
    /// A bootstrap command was refused or did not go through.
    #[error("the cluster could not be initialised: {0}")]
    Bootstrap(String),
}

/// Why a command has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// Nothing happened: another node leads.
    #[error("this node does not lead the metadata quorum")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<BrokerId>,
    },
    /// Nothing happened: the command is larger than [`crate::COMMAND_BYTES_MAX`].
    #[error("a metadata command of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Its size, in bytes of its JSON form.
        bytes: usize,
        /// The largest size.
        max: usize,
    },
    /// The command may have been applied, or may still be. Ask again under the same command id.
    #[error("it is not known whether the metadata command was applied: {cause}")]
    Unknown {
        /// What went wrong.
        cause: String,
    },
}

impl ProposeError {
    /// The code that crosses the wire for it.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotLeader { .. } => ErrorCode::Unavailable,
            Self::TooLarge { .. } => ErrorCode::LimitExceeded,
            Self::Unknown { .. } => ErrorCode::TimedOut,
        }
    }
}
