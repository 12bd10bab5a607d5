//! Reads the write-ahead log after a start: what is sound, what is a torn tail, what is corruption.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use millstream_env::disk::{Disk, DiskError, OpenMode};
use millstream_types::BrokerId;

use super::format::{
    FILE_HEADER_BYTES, FileHeader, Record, WAL_VERSION, file_name, sequence_of, sound_record,
};
use super::writer::{Segment, WalWriter};
use crate::blocking::BlockingFile;
use crate::error::StorageFault;
use crate::types::{Entry, LogId, Vote};

/// Raft's durable state, as the write-ahead log gives it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Recovered {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    /// The entries after `purged`, without a hole.
    pub(crate) log: BTreeMap<u64, Entry>,
}

/// Reads the log in `directory`, cuts a torn tail, and makes the rest durable, so that whatever is
/// returned survives the next crash too. The writer continues where the log ends.
///
/// # Errors
/// [`StorageFault::Corrupt`] for damage that is not a torn tail, [`StorageFault::WrongNode`],
/// [`StorageFault::UnknownVersion`], and what the disk fails with.
pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    node: BrokerId,
    segment_bytes_max: u64,
) -> Result<(WalWriter, Recovered), StorageFault> {
    disk.create_dir_all(directory)?;
    let mut sequences: Vec<u64> =
        disk.list(directory)?.iter().filter_map(|entry| sequence_of(&entry.name)).collect();
    sequences.sort_unstable();
    let mut replay = Replay { disk, directory, node, recovered: Recovered::default() };
    replay.refuse_gaps(&sequences)?;
    let mut segments = VecDeque::new();
    let mut active = None;
    for (nth, sequence) in sequences.iter().enumerate() {
        let last = nth + 1 == sequences.len();
        match replay.segment(*sequence, last)? {
            Some((file, end, segment)) => {
                segments.push_back(segment);
                active = Some((file, end));
            }
            None => replay.discard(*sequence)?,
        }
    }
    replay.check_whole(segments.back())?;
    let recovered = replay.recovered;
    // The last file may be left without its bytes on disk: a killed process leaves them in memory.
    if let Some((file, end)) = &mut active {
        file.set_len(*end)?;
        file.sync()?;
    }
    let place = super::writer::Place {
        disk: Arc::clone(disk),
        directory: directory.to_owned(),
        node,
        segment_bytes_max,
    };
    let next = sequences.last().copied().unwrap_or(0).max(1);
    let writer = WalWriter::resume(place, segments, active, next, &recovered)?;
    Ok((writer, recovered))
}

struct Replay<'a> {
    disk: &'a Arc<dyn Disk>,
    directory: &'a Path,
    node: BrokerId,
    recovered: Recovered,
}

impl Replay<'_> {
    fn corrupt(&self, sequence: u64, position: usize, what: impl Into<String>) -> StorageFault {
        StorageFault::Corrupt {
            file: file_name(sequence),
            directory: self.directory.to_owned(),
            position: position as u64,
            what: what.into(),
        }
    }

    fn refuse_gaps(&self, sequences: &[u64]) -> Result<(), StorageFault> {
        for pair in sequences.windows(2) {
            let [before, after] = pair else { continue };
            if before.checked_add(1) != Some(*after) {
                let missing = before.saturating_add(1);
                return Err(self.corrupt(missing, 0, "the file is missing"));
            }
        }
        Ok(())
    }

    /// Reads one file; `None` for one whose creation was cut short by a crash.
    fn segment(
        &mut self,
        sequence: u64,
        last: bool,
    ) -> Result<Option<(BlockingFile, u64, Segment)>, StorageFault> {
        let path = self.directory.join(file_name(sequence));
        let file = BlockingFile::open(self.disk, &path, OpenMode::Existing)?;
        let bytes = file.read_all()?;
        let Some(header) = FileHeader::decode(&bytes) else {
            if last && !holds_durable(&bytes, sequence, 0) {
                return Ok(None);
            }
            return Err(self.corrupt(sequence, 0, "its header is damaged"));
        };
        self.check_header(sequence, header)?;
        let mut last_entry_index = None;
        let mut position = FILE_HEADER_BYTES;
        while position < bytes.len() {
            let Some(sound) = sound_record(&bytes, sequence, position) else {
                if last && !holds_durable(&bytes, sequence, position) {
                    tracing::warn!(
                        file = file_name(sequence),
                        position,
                        bytes = bytes.len() - position,
                        "cut the torn tail of the metadata log"
                    );
                    break;
                }
                return Err(self.corrupt(sequence, position, "a record's checksum does not hold"));
            };
            let record = sound.decode().map_err(|what| self.corrupt(sequence, position, what))?;
            if let Record::Entry(entry) = &record {
                last_entry_index = last_entry_index.max(Some(entry.log_id.index()));
            }
            self.take(record).map_err(|what| self.corrupt(sequence, position, what))?;
            position = sound.end;
        }
        Ok(Some((file, position as u64, Segment { sequence, last_entry_index })))
    }

    fn check_header(&self, sequence: u64, header: FileHeader) -> Result<(), StorageFault> {
        let file = file_name(sequence);
        if header.version != WAL_VERSION {
            let (found, known) = (header.version, WAL_VERSION);
            return Err(StorageFault::UnknownVersion { file, found, known });
        }
        if header.node != self.node.0 {
            let (found, expected) = (header.node, self.node);
            return Err(StorageFault::WrongNode { file, found, expected });
        }
        if header.sequence != sequence {
            return Err(self.corrupt(sequence, 0, "it is another file under this name"));
        }
        Ok(())
    }

    /// Applies one record, or says what is impossible about it.
    fn take(&mut self, record: Record) -> Result<(), &'static str> {
        let recovered = &mut self.recovered;
        match record {
            Record::Vote(vote) => recovered.vote = Some(vote),
            Record::Committed(id) => recovered.committed = id,
            Record::Entry(entry) => {
                let index = entry.log_id.index();
                let end = recovered.log.last_key_value().map(|(index, _)| *index);
                // An empty log may continue anywhere: files before it may have been purged, which
                // a later purge record tells; `check_whole` looks at the result.
                if end.is_some_and(|end| end.checked_add(1) != Some(index)) {
                    return Err("an entry does not follow its predecessor");
                }
                recovered.log.insert(index, *entry);
            }
            Record::Truncate(last) => match last {
                None => recovered.log.clear(),
                Some(last) => recovered.log.retain(|index, _| *index <= last.index()),
            },
            Record::Purge(upto) => {
                recovered.log.retain(|index, _| *index > upto.index());
                recovered.purged = recovered.purged.max(Some(upto));
            }
        }
        Ok(())
    }

    /// The log begins right after what was purged, and holds what was committed.
    fn check_whole(&self, last: Option<&Segment>) -> Result<(), StorageFault> {
        let sequence = last.map_or(1, |segment| segment.sequence);
        let recovered = &self.recovered;
        let purged_end = recovered.purged.as_ref().map_or(0, |id| id.index().saturating_add(1));
        let first = recovered.log.first_key_value().map_or(purged_end, |(index, _)| *index);
        if first != purged_end {
            let what = format!("entries {purged_end} to {first} of the log are missing");
            return Err(self.corrupt(sequence, 0, what));
        }
        let last = recovered.log.last_key_value().map(|(_, entry)| entry.log_id);
        if recovered.committed > last.max(recovered.purged) {
            return Err(self.corrupt(sequence, 0, "committed entries of the log are missing"));
        }
        Ok(())
    }

    /// Removes a file whose creation was cut short, so that it can be made anew.
    fn discard(&self, sequence: u64) -> Result<(), StorageFault> {
        let path = self.directory.join(file_name(sequence));
        match self.disk.remove_file(&path) {
            Ok(()) | Err(DiskError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.disk.sync_dir(self.directory)?)
    }
}

/// Whether a sound record after `position` shows that bytes from `position` on were durable.
fn holds_durable(bytes: &[u8], sequence: u64, position: usize) -> bool {
    (position.saturating_add(1)..bytes.len()).any(|candidate| {
        sound_record(bytes, sequence, candidate)
            .is_some_and(|sound| sound.durable > position as u64)
    })
}
