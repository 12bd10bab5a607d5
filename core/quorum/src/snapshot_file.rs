//! Snapshots on disk, one file each, all numbers little-endian:
//!
//! ```text
//! magic "MSTRSNAP" | version u32 | node u32 | meta length u32 | data length u64 | crc32c u32
//! meta: JSON of the last log id and membership | data: the state machine's snapshot
//! ```
//!
//! The checksum covers everything else. A snapshot is written under a temporary name, synced, and
//! renamed, so that one with a proper name is whole; damage to it is corruption, since the log
//! before it may be gone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use millstream_env::disk::{Disk, DiskError, OpenMode};
use millstream_types::BrokerId;
use serde::{Deserialize, Serialize};

use crate::blocking::BlockingFile;
use crate::error::StorageFault;
use crate::form::{LogIdForm, StoredMembershipForm};
use crate::types::{LogId, SnapshotMeta};
use crate::wal::format::{Reader, checksum};

/// The version of the files that this build writes, and the only one that it reads so far.
const SNAPSHOT_FILE_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"MSTRSNAP";
const CHECKED_HEADER_BYTES: usize = 28;
const HEADER_BYTES: usize = CHECKED_HEADER_BYTES + 4;
const TEMPORARY_NAME: &str = "snapshot.tmp";

#[derive(Serialize, Deserialize)]
struct MetaForm {
    last: Option<LogIdForm>,
    membership: StoredMembershipForm,
}

/// The snapshots in one directory, of which the newest counts. Blocks on the disk.
#[derive(Debug)]
pub(crate) struct SnapshotFiles {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    node: BrokerId,
    /// The newest snapshot's name; the lock also keeps saves from each other's temporary file.
    newest: Mutex<Option<Named>>,
    /// Closes when the last user of the files is gone. Fields drop in order: the disk before it.
    _alive: Alive,
}

/// Held by what uses the disk; its receiver ends when nothing does.
pub(crate) type Alive = tokio::sync::mpsc::Sender<std::convert::Infallible>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    last: Option<LogId>,
    name: String,
}

impl SnapshotFiles {
    /// Finds the newest snapshot, verifies it, and removes older ones and what a crash left.
    ///
    /// # Errors
    /// [`StorageFault`], as for the write-ahead log.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        node: BrokerId,
        alive: Alive,
    ) -> Result<Self, StorageFault> {
        let directory = directory.to_owned();
        let files = Self { disk, directory, node, newest: Mutex::new(None), _alive: alive };
        files.disk.create_dir_all(&files.directory)?;
        let mut names = Vec::new();
        for entry in files.disk.list(&files.directory)? {
            if entry.name == TEMPORARY_NAME {
                files.remove(&entry.name)?;
            } else if is_snapshot(&entry.name) {
                names.push(entry.name);
            }
        }
        // The digits are padded, so names sort as their indexes do.
        names.sort_unstable();
        if let Some(name) = names.pop() {
            let (meta, _) = files.read(&name)?;
            names.iter().try_for_each(|older| files.remove(older))?;
            *files.lock() = Some(Named { last: meta.last_log_id, name });
        }
        Ok(files)
    }

    /// The newest snapshot.
    ///
    /// # Errors
    /// [`StorageFault`], as for the write-ahead log.
    pub(crate) fn newest(&self) -> Result<Option<(SnapshotMeta, Bytes)>, StorageFault> {
        let newest = self.lock();
        newest.as_ref().map(|newest| self.read(&newest.name)).transpose()
    }

    /// Makes a snapshot durable and removes the one before. One that is no newer than what is
    /// there is dropped.
    ///
    /// # Errors
    /// What the disk fails with; the newest snapshot is then still there.
    pub(crate) fn save(&self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), StorageFault> {
        let mut newest = self.lock();
        if newest.as_ref().is_some_and(|newest| newest.last >= meta.last_log_id) {
            return Ok(());
        }
        let name = name_of(meta);
        let temporary = self.directory.join(TEMPORARY_NAME);
        self.remove(TEMPORARY_NAME)?;
        let mut file = BlockingFile::open(&self.disk, &temporary, OpenMode::CreateNew)?;
        file.write(0, &[self.encode(meta, data)?.into(), Bytes::copy_from_slice(data)])?;
        file.sync()?;
        drop(file);
        self.disk.rename(&temporary, &self.directory.join(&name))?;
        let saved = Named { last: meta.last_log_id, name };
        let older = newest.replace(saved.clone()).filter(|older| older.name != saved.name);
        if let Some(older) = older
            && let Err(error) = self.remove(&older.name)
        {
            // The next start removes it.
            tracing::warn!(%error, file = older.name, "an old snapshot could not be removed");
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Named>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, name: &str) -> Result<(), StorageFault> {
        match self.disk.remove_file(&self.directory.join(name)) {
            Ok(()) | Err(DiskError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Header and meta.
    fn encode(&self, meta: &SnapshotMeta, data: &[u8]) -> Result<Vec<u8>, StorageFault> {
        let form = MetaForm {
            last: meta.last_log_id.as_ref().map(LogIdForm::from),
            membership: StoredMembershipForm::from(&meta.last_membership),
        };
        let unwritable = |text: String| StorageFault::Unwritable(text.into());
        let meta = serde_json::to_vec(&form).map_err(|error| unwritable(error.to_string()))?;
        let meta_len =
            u32::try_from(meta.len()).map_err(|_| unwritable("a huge membership".to_owned()))?;
        let mut head = Vec::with_capacity(HEADER_BYTES + meta.len());
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&SNAPSHOT_FILE_VERSION.to_le_bytes());
        head.extend_from_slice(&self.node.0.to_le_bytes());
        head.extend_from_slice(&meta_len.to_le_bytes());
        head.extend_from_slice(&(data.len() as u64).to_le_bytes());
        let crc = checksum(&[&head, &meta, data]);
        head.extend_from_slice(&crc.to_le_bytes());
        head.extend_from_slice(&meta);
        Ok(head)
    }

    fn read(&self, name: &str) -> Result<(SnapshotMeta, Bytes), StorageFault> {
        let path = self.directory.join(name);
        let bytes = BlockingFile::open(&self.disk, &path, OpenMode::Existing)?.read_all()?;
        self.decode(name, &bytes)
    }

    /// What the file `name` holds, all of it being `bytes`.
    fn decode(&self, name: &str, bytes: &Bytes) -> Result<(SnapshotMeta, Bytes), StorageFault> {
        let corrupt = |what: String| StorageFault::Corrupt {
            file: name.to_owned(),
            directory: self.directory.clone(),
            position: 0,
            what,
        };
        let Some(header) = Header::decode(bytes) else {
            return Err(corrupt("its checksum or length does not hold".to_owned()));
        };
        if header.version != SNAPSHOT_FILE_VERSION {
            let (found, known) = (header.version, SNAPSHOT_FILE_VERSION);
            return Err(StorageFault::UnknownVersion { file: name.to_owned(), found, known });
        }
        if header.node != self.node.0 {
            let (found, expected) = (header.node, self.node);
            return Err(StorageFault::WrongNode { file: name.to_owned(), found, expected });
        }
        let (meta, data) = (bytes.slice(HEADER_BYTES..header.data), bytes.slice(header.data..));
        let form: MetaForm =
            serde_json::from_slice(&meta).map_err(|error| corrupt(error.to_string()))?;
        let last_membership = form
            .membership
            .try_into()
            .map_err(|error: crate::form::FormError| corrupt(error.to_string()))?;
        let last_log_id = form.last.map(LogId::from);
        Ok((SnapshotMeta { last_log_id, last_membership }, data))
    }
}

/// A file's header, and where its data begins.
struct Header {
    version: u32,
    node: u32,
    data: usize,
}

impl Header {
    /// The header of a whole, sound file; `None` for any other bytes.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.take()? != MAGIC {
            return None;
        }
        let version = u32::from_le_bytes(reader.take()?);
        let node = u32::from_le_bytes(reader.take()?);
        let meta_len = usize::try_from(u32::from_le_bytes(reader.take()?)).ok()?;
        let data_len = usize::try_from(u64::from_le_bytes(reader.take()?)).ok()?;
        let crc = u32::from_le_bytes(reader.take()?);
        let data = HEADER_BYTES.checked_add(meta_len)?;
        let sound = data.checked_add(data_len) == Some(bytes.len())
            && crc == checksum(&[bytes.get(..CHECKED_HEADER_BYTES)?, reader.0]);
        sound.then_some(Self { version, node, data })
    }
}

fn name_of(meta: &SnapshotMeta) -> String {
    // A snapshot of nothing precedes the one at index 0.
    let end = meta.last_log_id.as_ref().map_or(0, |id| id.index().saturating_add(1));
    format!("snapshot-{end:020}.snap")
}

fn is_snapshot(name: &str) -> bool {
    let digits = name.strip_prefix("snapshot-").and_then(|rest| rest.strip_suffix(".snap"));
    digits.is_some_and(|digits| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Reads `bytes` as a snapshot file of broker 1, as they are or with a header that is made to fit,
/// so that every input can reach what is behind it; writes and reads again what was read, and
/// returns the state machine's part of it. For fuzzing alone.
#[cfg(fuzzing)]
pub fn fuzz(fit: bool, bytes: &[u8]) -> Option<Bytes> {
    let mut bytes = bytes.to_vec();
    if fit {
        let data_len = bytes.len().checked_sub(HEADER_BYTES)?;
        let meta_len = u32::from_le_bytes(*bytes[16..].first_chunk()?) as usize % (data_len + 1);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[16..20].copy_from_slice(&(meta_len as u32).to_le_bytes());
        bytes[20..CHECKED_HEADER_BYTES]
            .copy_from_slice(&((data_len - meta_len) as u64).to_le_bytes());
        let crc = checksum(&[&bytes[..CHECKED_HEADER_BYTES], &bytes[HEADER_BYTES..]]);
        bytes[CHECKED_HEADER_BYTES..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
    let config = millstream_env::disk::SimDiskConfig::default();
    let files = SnapshotFiles {
        disk: Arc::new(millstream_env::disk::SimDisk::new(0, config)),
        directory: PathBuf::new(),
        node: BrokerId(1),
        newest: Mutex::new(None),
        _alive: tokio::sync::mpsc::channel(1).0,
    };
    let read = files.decode("fuzz", &bytes.into()).ok()?;
    let name = name_of(&read.0);
    assert!(is_snapshot(&name), "{name} would not be found again");
    let mut written = files.encode(&read.0, &read.1).expect("what was read is written");
    written.extend_from_slice(&read.1);
    let again = files.decode(&name, &written.into()).expect("what was written is read");
    assert_eq!(again, read);
    Some(read.1)
}
