//! The data directory's identity: which cluster, broker and directory it belongs to. Written once,
//! checked at every start, so that no directory is ever opened as something else.

use std::path::Path;
use std::str::FromStr;

use millstream_env::disk::{Disk, DiskError, FileDiskError};
use millstream_types::{BrokerId, ClusterId, DirectoryId};
use serde::{Deserialize, Serialize};

use crate::files::{read_file, replace_file};

const IDENTITY_FILE: &str = "millstream.json";
const FENCED_FILE: &str = "FENCED";
const MAGIC: &str = "millstream-data";
const VERSION: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The directory is in use by another broker, or cannot be opened.
    #[error(transparent)]
    Open(#[from] FileDiskError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The identity file is damaged or of another program.
    #[error("{IDENTITY_FILE} is no identity of a Millstream data directory: {reason}")]
    NotOurs {
        /// What is wrong with it.
        reason: String,
    },
    /// The directory was written by a later build.
    #[error(
        "the data directory has format {found}; this build reads up to {VERSION}. Use the newer \
         build that wrote it"
    )]
    TooNew {
        /// Its format.
        found: u32,
    },
    /// The directory belongs to another broker.
    #[error(
        "the data directory belongs to broker {found}, but broker.id is {configured}. Set \
         broker.id = {found}, or give this broker a directory of its own"
    )]
    OtherBroker {
        /// The directory's broker.
        found: u32,
        /// The configured broker.
        configured: u32,
    },
    /// A sync failed when the directory was last in use.
    #[error(
        "the data directory is fenced, since a sync failed: {reason}. Check the disk, then start \
         once with --repair, which reads every segment from the device again"
    )]
    Fenced {
        /// What failed.
        reason: String,
    },
}

/// Who a data directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// The broker.
    pub(crate) broker: BrokerId,
    /// The directory itself.
    pub(crate) directory: DirectoryId,
}

#[derive(Debug, Serialize, Deserialize)]
struct IdentityFile {
    magic: String,
    version: u32,
    cluster_id: String,
    broker_id: u32,
    directory_id: String,
}

/// Reads the directory's identity, or gives an empty directory one made of `fresh` ids.
///
/// # Errors
/// [`DirectoryError`].
pub(crate) fn identify(
    disk: &dyn Disk,
    broker: BrokerId,
    fresh: impl FnOnce() -> (ClusterId, DirectoryId),
) -> Result<Identity, DirectoryError> {
    let Some(bytes) = read_file(disk, Path::new(IDENTITY_FILE))? else {
        let (cluster, directory) = fresh();
        let identity = Identity { cluster, broker, directory };
        write_identity(disk, &identity)?;
        return Ok(identity);
    };
    read_identity(&bytes, broker)
}

/// What the identity file says, if it says that the directory is this broker's.
fn read_identity(bytes: &[u8], broker: BrokerId) -> Result<Identity, DirectoryError> {
    let file: IdentityFile = serde_json::from_slice(bytes)
        .map_err(|error| DirectoryError::NotOurs { reason: error.to_string() })?;
    if file.magic != MAGIC {
        return Err(DirectoryError::NotOurs { reason: format!("its magic is `{}`", file.magic) });
    }
    if file.version > VERSION {
        return Err(DirectoryError::TooNew { found: file.version });
    }
    if file.broker_id != broker.0 {
        return Err(DirectoryError::OtherBroker { found: file.broker_id, configured: broker.0 });
    }
    Ok(Identity {
        cluster: parse_id(&file.cluster_id)?,
        broker,
        directory: parse_id(&file.directory_id)?,
    })
}

/// Refuses a directory that a failed sync has fenced.
///
/// # Errors
/// [`DirectoryError::Fenced`].
pub(crate) fn check_fence(disk: &dyn Disk) -> Result<(), DirectoryError> {
    match read_file(disk, Path::new(FENCED_FILE))? {
        None => Ok(()),
        Some(bytes) => {
            let reason = String::from_utf8_lossy(&bytes).trim().to_owned();
            Err(DirectoryError::Fenced { reason })
        }
    }
}

/// Lifts the fence, once everything was read again.
///
/// # Errors
/// [`DirectoryError::Disk`].
pub(crate) fn lift_fence(disk: &dyn Disk) -> Result<(), DirectoryError> {
    match disk.remove_file(Path::new(FENCED_FILE)) {
        Ok(()) => Ok(disk.sync_dir(Path::new(""))?),
        Err(DiskError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Leaves word, for the next start, that a sync failed. The disk itself is fenced by then, so
/// this goes past it and may fail; then the broker's exit is the only word.
pub(crate) fn leave_fence(root: &Path, reason: &str) {
    use std::io::Write as _;
    let written = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).open(root.join(FENCED_FILE))?;
        writeln!(file, "{reason}")?;
        file.sync_all()?;
        std::fs::OpenOptions::new().read(true).open(root)?.sync_all()
    };
    if let Err(error) = written() {
        tracing::error!(%error, "the fence could not be written down, or not for good");
    }
}

fn write_identity(disk: &dyn Disk, identity: &Identity) -> Result<(), DirectoryError> {
    Ok(replace_file(disk, Path::new(IDENTITY_FILE), encode_identity(identity)?.into())?)
}

fn encode_identity(identity: &Identity) -> Result<Vec<u8>, DirectoryError> {
    let file = IdentityFile {
        magic: MAGIC.to_owned(),
        version: VERSION,
        cluster_id: identity.cluster.to_string(),
        broker_id: identity.broker.0,
        directory_id: identity.directory.to_string(),
    };
    let mut bytes = serde_json::to_vec_pretty(&file)
        .map_err(|error| DirectoryError::NotOurs { reason: error.to_string() })?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn parse_id<T: FromStr>(text: &str) -> Result<T, DirectoryError>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| DirectoryError::NotOurs { reason: format!("`{text}`: {error}") })
}

/// What reads as an identity of broker 1 is written and read the same; for fuzzing alone.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let Ok(identity) = read_identity(bytes, BrokerId(1)) else { return };
    let written = encode_identity(&identity).expect("what was read is written");
    let again = read_identity(&written, BrokerId(1)).expect("what was written is read");
    assert_eq!(again, identity);
}
