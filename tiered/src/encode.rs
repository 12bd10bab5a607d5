//! From the batches of a range to one Parquet object.

use bytes::Bytes;
use millstream_types::limits::BATCH_BYTES_MAX;
use millstream_types::{LeaderEpoch, Offset, TimestampMs};
use millstream_wire::{Batch, RecordError, crc32c};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::columns::Columns;
use crate::error::EncodeError;
use crate::footer::{FORMAT_VERSION, Facts, Group, Identity, PLAIN_VERSION, RangeEnd, to_base64};
use crate::rebuilt;
use crate::schema;
use crate::values::{NewColumns, ValueColumns, Values};

/// Bytes of keys, values and headers after which a row group ends: the fewest requests and bytes
/// for a cold read of a megabyte, as measured.
pub(crate) const ROW_GROUP_BYTES: usize = 3584 * 1024;
/// The most that any build has gathered before it ended a row group; decoders' bounds rest on it.
pub(crate) const ROW_GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
const _: () = assert!(ROW_GROUP_BYTES <= ROW_GROUP_BYTES_MAX);
/// Bytes of batches without rows that an object's footer takes before the range should end.
const BARE_BYTES_MAX: usize = 1024 * 1024;
/// What a batch's rows count without a doubt that it can be made again of them: a record and a
/// header take no more than four times what they count.
const CERTAIN_BYTES: usize = BATCH_BYTES_MAX / 4;
/// The footer's length and Parquet's magic, which end the file.
const TRAILER_BYTES: usize = 8;

/// Takes a range's batches in order and becomes an object. Holds the object's bytes and one row
/// group in memory; the caller ends a range in time, see [`Encoder::log_bytes`].
#[derive(Debug)]
pub struct Encoder {
    facts: Facts,
    columns: Columns,
    /// The base offset of the row group being gathered.
    group_base: Option<Offset>,
    /// The last batch of that row group, which it ends with, if that has to be kept whole.
    kept: Option<Bytes>,
    next: Offset,
    bare_bytes: usize,
    /// What fills the typed columns, if there are to be any.
    values: Option<Values>,
    properties: WriterProperties,
    /// Made with the first row group, which has its say on the columns.
    writer: Option<ArrowWriter<Vec<u8>>>,
}

/// An object that is ready to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncodedObject {
    /// All of it.
    pub bytes: Bytes,
    /// What it holds.
    pub summary: Summary,
}

/// What an object holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The first offset.
    pub base: Offset,
    /// The offset after the last.
    pub end: Offset,
    /// The leader epoch of the last batch.
    pub leader_epoch: LeaderEpoch,
    /// Records, not counting those of control batches.
    pub records: u64,
    /// Batches, control batches and empty ones included.
    pub batches: u64,
    /// Bytes of the batches as the log holds them.
    pub log_bytes: u64,
    /// Records of whose value something is in no typed column that it should be in: it is no JSON
    /// object, or one that does not fit. 0 without typed columns.
    pub unfit_values: u64,
    /// The largest timestamp that a batch's header has; -1 where none has one.
    pub max_timestamp: TimestampMs,
    /// Where the footer starts: the object's bytes from there on open it.
    pub footer_start: u64,
    /// The CRC-32C of the bytes from there to the end.
    pub footer_crc32c: u32,
}

impl Encoder {
    /// For a range that starts at `base`.
    ///
    /// # Errors
    /// The Parquet writer's, and a partition beyond 2^31.
    pub fn new(identity: Identity, base: Offset) -> Result<Self, EncodeError> {
        Self::with_properties(identity, base, schema::properties()?)
    }

    /// For a range that starts at `base`, with typed columns beside the values that are JSON
    /// objects: those of `carried`, with which the range before ended, and those that `new` says.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn with_values(
        identity: Identity,
        base: Offset,
        carried: ValueColumns,
        new: NewColumns,
    ) -> Result<Self, EncodeError> {
        let values = Some(Values::new(carried, new));
        Ok(Self { values, ..Self::new(identity, base)? })
    }

    /// Pages are as their decoders see them; for fuzzing alone.
    #[cfg(fuzzing)]
    pub(crate) fn uncompressed(identity: Identity, base: Offset) -> Result<Self, EncodeError> {
        let properties = schema::properties()?.into_builder();
        let properties = properties.set_compression(parquet::basic::Compression::UNCOMPRESSED);
        Self::with_properties(identity, base, properties.build())
    }

    fn with_properties(
        identity: Identity,
        base: Offset,
        properties: WriterProperties,
    ) -> Result<Self, EncodeError> {
        let index = identity.partition.0;
        let partition = i32::try_from(index).or(Err(EncodeError::Partition(index)))?;
        let facts = Facts {
            version: PLAIN_VERSION,
            identity,
            base_offset: base.value(),
            end_offset: base.value(),
            leader_epoch: -1,
            records: 0,
            batches: 0,
            log_bytes: 0,
            max_timestamp_ms: TimestampMs::NONE.0,
            epochs: Vec::new(),
            producers: String::new(),
            row_groups: Vec::new(),
            bare_batches: Vec::new(),
            value_columns: Vec::new(),
            unfit_values: 0,
        };
        let columns = Columns::new(partition);
        Ok(Self {
            facts,
            columns,
            group_base: None,
            kept: None,
            next: base,
            bare_bytes: 0,
            values: None,
            properties,
            writer: None,
        })
    }

    /// The offset that the next batch must start at.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.next
    }

    /// Bytes of the batches taken, as the log holds them: what a caller bounds a range by.
    #[must_use]
    pub const fn log_bytes(&self) -> u64 {
        self.facts.log_bytes
    }

    /// Whether the range should end here whatever its size, since its footer is full.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bare_bytes >= BARE_BYTES_MAX
    }

    /// Takes the next batch.
    ///
    /// # Errors
    /// A batch that does not follow, or whose records cannot be read; the encoder is then of no
    /// more use.
    pub fn push(&mut self, batch: &Batch) -> Result<(), EncodeError> {
        self.take(batch, |bytes| Ok(bytes <= CERTAIN_BYTES || rebuilt::fits(batch)?))
    }

    /// Takes the next batch. It is kept whole, beside its rows, unless `fits` says, of the bytes
    /// that these count, that it can be made again.
    pub(crate) fn take(
        &mut self,
        batch: &Batch,
        fits: impl FnOnce(usize) -> Result<bool, RecordError>,
    ) -> Result<(), EncodeError> {
        let header = batch.header();
        let base_offset = header.base_offset;
        if base_offset != self.next {
            let expected = self.next;
            return Err(EncodeError::OutOfOrder { expected, actual: base_offset });
        }
        if header.record_count == 0 || header.attributes.is_control() {
            self.facts.bare_batches.push(to_base64(batch.bytes()));
            self.bare_bytes += batch.bytes().len();
        } else {
            self.group_base.get_or_insert(base_offset);
            let broken = |source| EncodeError::Record { base_offset, source };
            let before = self.columns.bytes();
            self.facts.records += self.columns.batch(batch).map_err(broken)? as u64;
            if !fits(self.columns.bytes() - before).map_err(broken)? {
                self.kept = Some(batch.bytes().clone());
            }
        }
        self.next = header.next_offset();
        self.facts.leader_epoch = header.leader_epoch.0;
        self.facts.batches += 1;
        self.facts.log_bytes += batch.bytes().len() as u64;
        self.facts.max_timestamp_ms = self.facts.max_timestamp_ms.max(header.max_timestamp.0);
        if self.columns.bytes() >= ROW_GROUP_BYTES || self.kept.is_some() {
            self.end_group()?;
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), EncodeError> {
        let Some(base) = self.group_base.take().filter(|_| !self.columns.is_empty()) else {
            return Ok(());
        };
        let mut rows = self.columns.take()?;
        if let Some(values) = &mut self.values {
            rows = values.beside(&rows)?;
        }
        let mut writer = self.take_writer()?;
        writer.sync().map_err(ParquetError::from)?;
        let start = writer.inner().len();
        writer.write(&rows)?;
        writer.flush()?;
        let kept = self.kept.take();
        if let Some(kept) = &kept {
            // Readers of Parquet pass over what no column is said to be in.
            writer.write_all(kept).map_err(ParquetError::from)?;
            self.facts.version = FORMAT_VERSION;
        }
        writer.sync().map_err(ParquetError::from)?;
        let bytes = &writer.inner()[start..];
        self.facts.row_groups.push(Group {
            base: base.value(),
            start: start as u64,
            length: bytes.len() as u64,
            crc32c: crc32c(bytes),
            kept_bytes: kept.map_or(0, |kept| kept.len() as u64),
        });
        self.writer = Some(writer);
        Ok(())
    }

    /// The writer, made with the columns that are known by now where there is none.
    fn take_writer(&mut self) -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
        if let Some(writer) = self.writer.take() {
            return Ok(writer);
        }
        let typed = self.values.as_mut().map(Values::written).unwrap_or_default();
        schema::writer(typed, self.properties.clone())
    }

    /// Ends the range. `end` is what the partition knew there; of its typed columns the encoder
    /// knows more if it has any.
    ///
    /// # Errors
    /// [`EncodeError::Empty`] without a batch, and the Parquet writer's.
    pub fn finish(mut self, end: &RangeEnd) -> Result<EncodedObject, EncodeError> {
        if self.facts.batches == 0 {
            return Err(EncodeError::Empty);
        }
        self.end_group()?;
        let base = self.facts.base_offset;
        self.facts.end_offset = self.next.value();
        let epochs = end.epochs.iter().map(|(epoch, start)| (epoch.0, start.value()));
        self.facts.epochs = epochs.collect();
        self.facts.producers = to_base64(&end.producers);
        // The next range with typed columns goes on from these, whether or not this one has any.
        let known = self.values.as_ref().map_or(&end.value_columns, Values::known);
        self.facts.value_columns = known.as_slice().to_vec();
        self.facts.unfit_values = self.values.as_ref().map_or(0, Values::unfit);
        let mut writer = self.take_writer()?;
        writer.append_key_value_metadata(self.facts.to_key_value()?);
        writer.finish()?;
        writer.sync().map_err(ParquetError::from)?;
        let bytes = Bytes::from(std::mem::take(writer.inner_mut()));
        let footer_start = footer_start(&bytes).ok_or(EncodeError::Empty)?;
        let summary = Summary {
            base: Offset::new(base).unwrap_or(Offset::ZERO),
            end: self.next,
            leader_epoch: LeaderEpoch(self.facts.leader_epoch),
            records: self.facts.records,
            batches: self.facts.batches,
            log_bytes: self.facts.log_bytes,
            unfit_values: self.facts.unfit_values,
            max_timestamp: self.facts.max_timestamp(),
            footer_start: footer_start as u64,
            footer_crc32c: crc32c(&bytes[footer_start..]),
        };
        Ok(EncodedObject { bytes, summary })
    }
}

/// Where the footer of a whole Parquet file starts.
pub(crate) fn footer_start(bytes: &[u8]) -> Option<usize> {
    let trailer_at = bytes.len().checked_sub(TRAILER_BYTES)?;
    let length = bytes.get(trailer_at..trailer_at + 4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?);
    trailer_at.checked_sub(usize::try_from(length).ok()?)
}
