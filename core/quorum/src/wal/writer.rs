//! Appends to the write-ahead log. Blocks; runs on the storage thread.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use millstream_env::disk::{Disk, OpenMode};
use millstream_types::BrokerId;

use super::format::{Encoded, FILE_HEADER_BYTES, FileHeader, Record, WAL_VERSION, file_name};
use super::replay::Recovered;
use crate::blocking::BlockingFile;
use crate::error::StorageFault;
use crate::types::{LogId, Vote};

/// Where the log is, whose it is, and when its files are full.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) node: BrokerId,
    pub(super) segment_bytes_max: u64,
}

/// One file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) sequence: u64,
    /// The largest log index among the file's entries.
    pub(super) last_entry_index: Option<u64>,
}

/// The log's end. Its first failure is final: what is on disk after it is unknown, so nothing may
/// be written behind it.
#[derive(Debug)]
pub(crate) struct WalWriter {
    place: Place,
    /// Oldest first; the last is the one that is written.
    segments: VecDeque<Segment>,
    file: BlockingFile,
    end: u64,
    durable: u64,
    /// What a new file repeats, so that older ones can go.
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    failed: Option<StorageFault>,
}

impl WalWriter {
    /// Continues the last file, which is durable up to its end, or begins file `next`.
    pub(super) fn resume(
        place: Place,
        mut segments: VecDeque<Segment>,
        active: Option<(BlockingFile, u64)>,
        next: u64,
        recovered: &Recovered,
    ) -> Result<Self, StorageFault> {
        let last = segments.back().map(|segment| segment.sequence);
        let (file, end) = match active {
            Some(active) if last == Some(next) => active,
            // There is no file yet, or the creation of the last was cut short.
            _ => {
                segments.push_back(Segment { sequence: next, last_entry_index: None });
                begin(&place, next)?
            }
        };
        let mut writer = Self {
            place,
            segments,
            file,
            end,
            durable: end,
            vote: recovered.vote,
            committed: recovered.committed,
            purged: recovered.purged,
            failed: None,
        };
        // The file may be one whose checkpoint was torn; without this, removing older files could
        // remove the only vote. It also marks all that was just read as durable.
        writer.checkpoint()?;
        Ok(writer)
    }

    /// Writes records in order, and makes them and all before them durable if `sync` says so.
    ///
    /// # Errors
    /// What the disk failed with, now or at the first failure.
    pub(crate) fn append(
        &mut self,
        records: &[(Record, Encoded)],
        sync: bool,
    ) -> Result<(), StorageFault> {
        if let Some(first) = &self.failed {
            return Err(first.clone());
        }
        self.try_append(records, sync).or_else(|fault| self.fail(fault))
    }

    /// Stops the log for good: every later append fails.
    ///
    /// # Errors
    /// Always `fault`, or the first one if the log had stopped already.
    pub(crate) fn fail(&mut self, fault: StorageFault) -> Result<(), StorageFault> {
        if let Some(first) = &self.failed {
            return Err(first.clone());
        }
        tracing::error!(%fault, "the metadata log has stopped");
        self.failed = Some(StorageFault::Stopped(fault.to_string().into()));
        Err(fault)
    }

    fn try_append(
        &mut self,
        records: &[(Record, Encoded)],
        sync: bool,
    ) -> Result<(), StorageFault> {
        if self.end >= self.place.segment_bytes_max {
            self.roll()?;
        }
        self.write_group(records, sync)
    }

    fn write_group(
        &mut self,
        records: &[(Record, Encoded)],
        sync: bool,
    ) -> Result<(), StorageFault> {
        let sequence = self.sequence();
        let mut pieces = Vec::with_capacity(records.len() * 2);
        let mut position = self.end;
        for (_, encoded) in records {
            encoded.place(sequence, position, self.durable, &mut pieces);
            position = position.saturating_add(encoded.len());
        }
        if !pieces.is_empty() {
            self.file.write(self.end, &pieces)?;
            self.end = position;
        }
        records.iter().for_each(|(record, encoded)| self.note(record, encoded));
        if sync {
            self.file.sync()?;
            self.durable = self.end;
        }
        Ok(())
    }

    /// Removes files whose entries have all been purged. Best effort: a file that stays is removed
    /// with the next purge.
    pub(crate) fn remove_purged(&mut self) {
        let Some(purged) = self.purged else { return };
        while let Some(oldest) = self.segments.front().copied() {
            let needed = oldest.last_entry_index.is_some_and(|index| index > purged.index());
            if self.segments.len() < 2 || needed {
                return;
            }
            let path = self.place.directory.join(file_name(oldest.sequence));
            // Synced one by one, oldest first: a power cut must not bring back a file whose
            // successor stays gone.
            let removed = self.place.disk.remove_file(&path);
            if let Err(error) =
                removed.and_then(|()| self.place.disk.sync_dir(&self.place.directory))
            {
                tracing::warn!(%error, "a purged metadata log file could not be removed");
                return;
            }
            self.segments.pop_front();
        }
    }

    fn sequence(&self) -> u64 {
        self.segments.back().map_or(1, |segment| segment.sequence)
    }

    fn note(&mut self, record: &Record, encoded: &Encoded) {
        match record {
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(id) => self.committed = *id,
            Record::Purge(id) => self.purged = self.purged.max(Some(*id)),
            Record::Entry(_) | Record::Truncate(_) => {}
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.last_entry_index = segment.last_entry_index.max(encoded.entry_index);
        }
    }

    /// Begins the next file once this one is durable to its end.
    fn roll(&mut self) -> Result<(), StorageFault> {
        self.file.sync()?;
        self.durable = self.end;
        let sequence = self.sequence().saturating_add(1);
        let (file, end) = begin(&self.place, sequence)?;
        (self.file, self.end, self.durable) = (file, end, end);
        self.segments.push_back(Segment { sequence, last_entry_index: None });
        self.checkpoint()
    }

    /// Repeats what the active file needs to stand without older ones, and makes it durable.
    fn checkpoint(&mut self) -> Result<(), StorageFault> {
        let vote = self.vote.map(Record::Vote);
        let purged = self.purged.map(Record::Purge);
        let committed = self.committed.map(|id| Record::Committed(Some(id)));
        let mut records = Vec::new();
        for record in [vote, purged, committed].into_iter().flatten() {
            let encoded = record.encode()?;
            records.push((record, encoded));
        }
        if records.is_empty() { Ok(()) } else { self.write_group(&records, true) }
    }
}

/// Makes a file with its header, durable; returns its end.
fn begin(place: &Place, sequence: u64) -> Result<(BlockingFile, u64), StorageFault> {
    let path = place.directory.join(file_name(sequence));
    let mut file = BlockingFile::open(&place.disk, &path, OpenMode::CreateNew)?;
    let header = FileHeader { version: WAL_VERSION, node: place.node.0, sequence };
    file.write(0, &[Bytes::from(header.encode())])?;
    file.sync()?;
    Ok((file, FILE_HEADER_BYTES as u64))
}
