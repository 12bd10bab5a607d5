//! A consumer: reads committed batches in order from a cursor, as a subscription does.

use std::ops::Range;

use bytes::Bytes;
use millstream_env::rng::Rng;
use millstream_log::{Cursor, FileRead, ReadError, ReadPlan};
use millstream_partition::Partition;
use millstream_types::Offset;
use millstream_wire::Batch;

use crate::ledger::{Entry, entry_of};

/// Bytes read from the log at once for the archive.
const READ_BYTES: usize = 2048;

/// What a read brought.
#[derive(Debug)]
pub(crate) enum Got {
    /// There is nothing new, or the read goes on later.
    Nothing,
    /// Batches, asked for from an offset up to the high watermark of that time.
    Batches { from: Offset, up_to: Offset, entries: Vec<Entry> },
    /// Retention or a crash took the offset; the cursor stands at the nearest that is left.
    Moved { from: Offset },
    /// The broker reported damage, or the CRC showed it.
    Damage(String),
    /// The read failed otherwise.
    Failed(ReadError),
}

/// One consumer of one partition.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) cursor: Cursor,
    /// A read that was planned and is yet to be loaded, and the high watermark of that time.
    planned: Option<(FileRead, Offset)>,
}

impl Consumer {
    pub(crate) fn new() -> Self {
        Self { cursor: Cursor::from(Offset::ZERO), planned: None }
    }

    /// Starts anew at `offset`.
    pub(crate) fn seek(&mut self, offset: Offset) {
        *self = Self { cursor: Cursor::from(offset), planned: None };
    }

    /// The broker is gone, and the read under way with it.
    pub(crate) fn disconnect(&mut self) {
        self.seek(self.cursor.offset());
    }

    /// Takes a step: plans a read, or loads the one that was planned. `ahead` reads beyond the high
    /// watermark, which no broker may.
    pub(crate) fn step(&mut self, partition: &Partition, rng: &mut Rng, ahead: bool) -> Got {
        let from = self.cursor.offset();
        if let Some((planned, up_to)) = self.planned.take() {
            return match planned.load() {
                Ok(loaded) => self.take(from, up_to, vec![loaded.batches], loaded.next),
                Err(error) => failed(error),
            };
        }
        let max_bytes = 1 + rng.index(8192);
        let positions = partition.positions();
        let up_to = if ahead { positions.written } else { positions.high_watermark };
        let plan = if ahead {
            partition.log().read(self.cursor, up_to, max_bytes)
        } else {
            partition.read(self.cursor, max_bytes)
        };
        match plan {
            Ok(ReadPlan::Memory { batches, next }) => self.take(from, up_to, batches, next),
            Ok(ReadPlan::File(read)) => {
                self.planned = Some((read, up_to));
                Got::Nothing
            }
            Ok(ReadPlan::Empty) if from < up_to => {
                Got::Batches { from, up_to, entries: Vec::new() }
            }
            Ok(ReadPlan::Empty) => Got::Nothing,
            Err(ReadError::OutOfRange { start, end, .. }) => {
                self.seek(from.clamp(start, end));
                Got::Moved { from }
            }
            Err(error) => failed(error),
        }
    }

    fn take(&mut self, from: Offset, up_to: Offset, batches: Vec<Bytes>, next: Cursor) -> Got {
        match decode(batches) {
            Ok(entries) => {
                self.cursor = next;
                Got::Batches { from, up_to, entries }
            }
            Err(damage) => Got::Damage(damage),
        }
    }
}

/// Reads all that is committed.
pub(crate) fn read_all(partition: &Partition, max_bytes: usize) -> Result<Vec<Entry>, Got> {
    let mut entries = Vec::new();
    let mut cursor = Cursor::from(partition.log().start());
    loop {
        let (batches, next) = match partition.read(cursor, max_bytes).map_err(failed)? {
            ReadPlan::Memory { batches, next } => (batches, next),
            ReadPlan::File(read) => {
                let loaded = read.load().map_err(failed)?;
                (vec![loaded.batches], loaded.next)
            }
            ReadPlan::Empty => return Ok(entries),
        };
        let found = decode(batches).map_err(Got::Damage)?;
        if found.is_empty() || next.offset() <= cursor.offset() {
            let (from, up_to) = (cursor.offset(), partition.positions().high_watermark);
            return Err(Got::Batches { from, up_to, entries: Vec::new() });
        }
        entries.extend(found);
        cursor = next;
    }
}

/// Reads the batches of a range, about `bytes_max` of them, as for the archive.
pub(crate) fn read_range(
    partition: &Partition,
    range: &Range<Offset>,
    bytes_max: usize,
) -> Result<Vec<Batch>, Got> {
    let (mut batches, mut bytes) = (Vec::new(), 0);
    let (mut at, mut end) = (Cursor::from(range.start), range.start);
    while end < range.end && bytes < bytes_max {
        let (pieces, next) = match partition.read(at, READ_BYTES).map_err(failed)? {
            ReadPlan::Memory { batches, next } => (batches, next),
            ReadPlan::File(read) => {
                let loaded = read.load().map_err(failed)?;
                (vec![loaded.batches], loaded.next)
            }
            ReadPlan::Empty => {
                return Err(Got::Batches { from: end, up_to: range.end, entries: Vec::new() });
            }
        };
        for mut rest in pieces {
            while !rest.is_empty() && bytes < bytes_max {
                let split = Batch::split_first(&rest);
                let (batch, behind) = split.map_err(|error| Got::Damage(error.to_string()))?;
                rest = behind;
                // A read may begin before where it was asked to, and end behind what is durable.
                if batch.header().base_offset < end {
                    continue;
                }
                if batch.header().next_offset() > range.end {
                    break;
                }
                (end, bytes) = (batch.header().next_offset(), bytes + batch.bytes().len());
                batches.push(batch);
            }
        }
        at = next;
    }
    Ok(batches)
}

fn failed(error: ReadError) -> Got {
    match error {
        ReadError::Corrupt(damage) => Got::Damage(damage.to_string()),
        other => Got::Failed(other),
    }
}

/// Takes batches apart and checks them as a client does: length and CRC.
fn decode(pieces: Vec<Bytes>) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() {
            let (batch, after) = Batch::split_first(&rest).map_err(|error| error.to_string())?;
            entries.push(entry_of(&batch));
            rest = after;
        }
    }
    Ok(entries)
}
