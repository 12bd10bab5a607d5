//! The bytes of a write-ahead log file. All numbers are little-endian.
//!
//! ```text
//! file    = header record*
//! header  = magic "MSTRWAL\n" | version u32 | node u32 | sequence u64 | zero u32 | crc32c u32
//! record  = magic "WREC" | payload length u32 | crc32c u32 | durable u64 | kind u8 | payload
//! ```
//!
//! A record's checksum covers the file's sequence number and the record's position, so that bytes
//! of another file or place can never pass for a record here, and then durable, kind and payload.
//! The payload is JSON, see `form`.

use bytes::Bytes;
use serde::Serialize;

use crate::error::StorageFault;
use crate::form::{EntryForm, LogIdForm, VoteForm};
use crate::types::{Entry, LogId, Vote};

/// The version of the files that this build writes, and the only one that it reads so far.
pub(crate) const WAL_VERSION: u32 = 1;
/// Bytes of a file's header.
pub(crate) const FILE_HEADER_BYTES: usize = 32;
/// The largest payload of a record.
pub(crate) const RECORD_BYTES_MAX: usize = 32 * 1024 * 1024;

const FILE_MAGIC: [u8; 8] = *b"MSTRWAL\n";
const RECORD_MAGIC: [u8; 4] = *b"WREC";
const RECORD_HEADER_BYTES: usize = 21;

/// The name of the file with that place in the sequence.
pub(crate) fn file_name(sequence: u64) -> String {
    format!("wal-{sequence:020}.log")
}

/// The place in the sequence that a file's name gives; `None` for names of other files.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("wal-")?.strip_suffix(".log")?;
    let sequence = digits.parse().ok()?;
    (file_name(sequence) == name).then_some(sequence)
}

/// Checksums pieces as if they stood one after the other.
pub(crate) fn checksum(pieces: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    pieces.iter().for_each(|piece| digest.update(piece));
    // A 32-bit algorithm's value fits; the fallback cannot equal a checksum that was written.
    u32::try_from(digest.finalize()).unwrap_or(0)
}

/// A file's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) version: u32,
    pub(crate) node: u32,
    pub(crate) sequence: u64,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FILE_HEADER_BYTES);
        bytes.extend_from_slice(&FILE_MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.node.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        let crc = checksum(&[&bytes]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header that `bytes` begin with; `None` when they begin with no whole, sound header.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let magic = reader.take::<8>()?;
        let version = u32::from_le_bytes(reader.take()?);
        let node = u32::from_le_bytes(reader.take()?);
        let sequence = u64::from_le_bytes(reader.take()?);
        let zero = u32::from_le_bytes(reader.take()?);
        let crc = u32::from_le_bytes(reader.take()?);
        let sound = magic == FILE_MAGIC
            && zero == 0
            && crc == checksum(&[bytes.get(..FILE_HEADER_BYTES - 4)?]);
        sound.then_some(Self { version, node, sequence })
    }
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vote = 1,
    Entry = 2,
    Committed = 3,
    Truncate = 4,
    Purge = 5,
}

impl Kind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Vote),
            2 => Some(Self::Entry),
            3 => Some(Self::Committed),
            4 => Some(Self::Truncate),
            5 => Some(Self::Purge),
            _ => None,
        }
    }
}

/// One change to Raft's durable state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// The vote is now this one.
    Vote(Vote),
    /// The log grows by this entry.
    Entry(Box<Entry>),
    /// The log is committed up to here; `None` for nothing.
    Committed(Option<LogId>),
    /// The log ends with this entry; `None` when it is empty.
    Truncate(Option<LogId>),
    /// The log begins after this entry.
    Purge(LogId),
}

/// A record ready to be placed in a file.
#[derive(Debug)]
pub(crate) struct Encoded {
    kind: Kind,
    payload: Bytes,
    /// The log index, for an entry.
    pub(crate) entry_index: Option<u64>,
}

impl Record {
    /// # Errors
    /// [`StorageFault::Unwritable`] for a payload above [`RECORD_BYTES_MAX`].
    pub(crate) fn encode(&self) -> Result<Encoded, StorageFault> {
        let (kind, payload) = match self {
            Self::Vote(vote) => (Kind::Vote, json(&VoteForm::from(vote))?),
            Self::Entry(entry) => (Kind::Entry, json(&EntryForm::from(&**entry))?),
            Self::Committed(id) => (Kind::Committed, json(&id.as_ref().map(LogIdForm::from))?),
            Self::Truncate(id) => (Kind::Truncate, json(&id.as_ref().map(LogIdForm::from))?),
            Self::Purge(id) => (Kind::Purge, json(&LogIdForm::from(id))?),
        };
        if payload.len() > RECORD_BYTES_MAX {
            let text = format!("{} bytes exceed {RECORD_BYTES_MAX}", payload.len());
            return Err(StorageFault::Unwritable(text.into()));
        }
        let entry_index = match self {
            Self::Entry(entry) => Some(entry.log_id.index()),
            _ => None,
        };
        Ok(Encoded { kind, payload: payload.into(), entry_index })
    }

    fn decode(kind: Kind, payload: &[u8]) -> Result<Self, crate::form::FormError> {
        let id = |form: Option<LogIdForm>| form.map(LogId::from);
        Ok(match kind {
            Kind::Vote => Self::Vote(serde_json::from_slice::<VoteForm>(payload)?.into()),
            Kind::Entry => {
                let form: EntryForm = serde_json::from_slice(payload)?;
                Self::Entry(Box::new(form.into_entry()?))
            }
            Kind::Committed => Self::Committed(id(serde_json::from_slice(payload)?)),
            Kind::Truncate => Self::Truncate(id(serde_json::from_slice(payload)?)),
            Kind::Purge => Self::Purge(serde_json::from_slice::<LogIdForm>(payload)?.into()),
        })
    }
}

fn json<T: Serialize>(form: &T) -> Result<Vec<u8>, StorageFault> {
    serde_json::to_vec(form).map_err(|error| StorageFault::Unwritable(error.to_string().into()))
}

impl Encoded {
    /// How many bytes the record takes in a file.
    pub(crate) fn len(&self) -> u64 {
        (RECORD_HEADER_BYTES + self.payload.len()) as u64
    }

    /// Adds the record's bytes to `pieces`, as it stands at `position` of file `sequence`, of which
    /// the first `durable` bytes are durable.
    pub(crate) fn place(
        &self,
        sequence: u64,
        position: u64,
        durable: u64,
        pieces: &mut Vec<Bytes>,
    ) {
        let kind = [self.kind as u8];
        let crc = record_checksum(sequence, position, durable, kind, &self.payload);
        // `encode` bounds the payload far below 4 GiB.
        let len = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let mut header = Vec::with_capacity(RECORD_HEADER_BYTES);
        header.extend_from_slice(&RECORD_MAGIC);
        header.extend_from_slice(&len.to_le_bytes());
        header.extend_from_slice(&crc.to_le_bytes());
        header.extend_from_slice(&durable.to_le_bytes());
        header.extend_from_slice(&kind);
        pieces.push(header.into());
        pieces.push(self.payload.clone());
    }
}

/// A record's bytes, found sound.
#[derive(Debug)]
pub(crate) struct Sound<'a> {
    kind: u8,
    payload: &'a [u8],
    /// How much of the file was durable when the record was written.
    pub(crate) durable: u64,
    /// Where the next record begins.
    pub(crate) end: usize,
}

/// The record that stands at `position` of file `sequence`; `None` when there is no whole, sound
/// one.
pub(crate) fn sound_record(file: &[u8], sequence: u64, position: usize) -> Option<Sound<'_>> {
    let mut reader = Reader(file.get(position..)?);
    if reader.take()? != RECORD_MAGIC {
        return None;
    }
    let len = usize::try_from(u32::from_le_bytes(reader.take()?)).ok()?;
    let crc = u32::from_le_bytes(reader.take()?);
    let durable = u64::from_le_bytes(reader.take()?);
    let kind = reader.take::<1>()?;
    let payload = reader.0.get(..len).filter(|_| len <= RECORD_BYTES_MAX)?;
    let place = u64::try_from(position).ok()?;
    let sound = durable <= place && crc == record_checksum(sequence, place, durable, kind, payload);
    let end = position.checked_add(RECORD_HEADER_BYTES)?.checked_add(len)?;
    sound.then_some(Sound { kind: kind[0], payload, durable, end })
}

impl Sound<'_> {
    /// What the record says.
    ///
    /// # Errors
    /// A text saying why this build cannot read it, although its checksum holds.
    pub(crate) fn decode(&self) -> Result<Record, String> {
        let Some(kind) = Kind::from_byte(self.kind) else {
            return Err(format!("a record of kind {}, which this build does not know", self.kind));
        };
        Record::decode(kind, self.payload)
            .map_err(|error| format!("a record that this build cannot read ({error})"))
    }
}

fn record_checksum(
    sequence: u64,
    position: u64,
    durable: u64,
    kind: [u8; 1],
    payload: &[u8],
) -> u32 {
    checksum(&[
        &sequence.to_le_bytes(),
        &position.to_le_bytes(),
        &durable.to_le_bytes(),
        &kind,
        payload,
    ])
}

/// Reads `bytes` as a file of the log, and as the payload of a record of `kind`; for fuzzing alone.
#[cfg(fuzzing)]
pub fn fuzz(kind: u8, bytes: &[u8]) {
    drop(FileHeader::decode(bytes));
    if let Some(record) = sound_record(bytes, 1, 0) {
        drop(record.decode());
    }
    if let Some(kind) = Kind::from_byte(kind) {
        drop(Record::decode(kind, bytes));
    }
}

/// Takes fixed-size pieces off the front of a slice.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}
