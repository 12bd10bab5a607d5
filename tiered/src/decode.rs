//! From an object back to the batches of its range.
//!
//! An object is read in two kinds of pieces, each with one ranged request and checked by its CRC
//! before Parquet looks at it: the footer, once, and row groups. Row groups begin and end between
//! batches, so that each is replayed alone.

use std::any::Any;
use std::io::Read;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, BinaryArray, ListArray, PrimitiveArray, RecordBatch, StringArray};
use bytes::{Buf as _, Bytes};
use millstream_types::limits::{BATCH_BYTES_MAX, BATCH_DECOMPRESSED_BYTES_MAX, BATCH_RECORDS_MAX};
use millstream_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use millstream_wire::{
    Attributes, Batch, BatchBuilder, BatchFrame, BuildError, Codec, HeaderRef, ProducerStamp,
    RecordFields, crc32c,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;

use crate::columns::{ROW_BYTES, US};
use crate::encode::ROW_GROUP_BYTES_MAX;
use crate::error::FormatError;
use crate::footer::{Facts, Group, Identity, RangeEnd};
use crate::pages;
use crate::rebuilt;
use crate::schema;

/// Parquet's magic, which ends every file.
const MAGIC: &[u8] = b"PAR1";
const TRAILER_BYTES: usize = 8;
/// A row group is ended by the batch that fills it, which can be the largest one.
const GROUP_ROWS_MAX: usize = ROW_GROUP_BYTES_MAX / ROW_BYTES + BATCH_RECORDS_MAX as usize;
/// Of a row group's columns, decompressed: that batch, the group before it, and as much again for
/// lengths and what batches say.
pub(crate) const GROUP_BYTES_MAX: usize = 2 * (ROW_GROUP_BYTES_MAX + BATCH_DECOMPRESSED_BYTES_MAX);

/// An object's footer: what it holds and where.
#[derive(Debug)]
pub struct ObjectReader {
    facts: Facts,
    parquet: ArrowReaderMetadata,
    bare: Vec<Batch>,
}

impl ObjectReader {
    /// Reads a footer: an object's bytes from [`Summary::footer_start`](crate::Summary) to its
    /// end.
    ///
    /// # Errors
    /// [`FormatError`]: these bytes are not the footer of an archive object of a version that
    /// this build knows.
    pub fn open(footer: &[u8]) -> Result<Self, FormatError> {
        let length = footer.len().checked_sub(TRAILER_BYTES).ok_or(FormatError::Truncated)?;
        let (thrift, trailer) = footer.split_at(length);
        let told = trailer.get(..4).and_then(|told| told.try_into().ok()).map(u32::from_le_bytes);
        if !trailer.ends_with(MAGIC)
            || told.and_then(|told| usize::try_from(told).ok()) != Some(length)
        {
            return Err(FormatError::Truncated);
        }
        let parquet = guarded(|| Ok(ParquetMetaDataReader::decode_metadata(thrift)?))?;
        let facts = Facts::from_key_values(parquet.file_metadata().key_value_metadata())?;
        if facts.row_groups.len() != parquet.num_row_groups() {
            return Err(FormatError::Inconsistent("another number of row groups"));
        }
        if let Some(group) = facts.row_groups.iter().max_by_key(|group| group.length) {
            // Typed columns are no larger than the values that they are of.
            let copies = if facts.value_columns.is_empty() { 1 } else { 2 };
            let (actual, max) = (group.length, copies * GROUP_BYTES_MAX as u64);
            if actual > max {
                let what = "stored bytes of a row group";
                return Err(FormatError::TooLarge { what, actual, max });
            }
        }
        let bare = facts.bare()?;
        // The archive writes no schema of Arrow's: one that is there is not ours.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let parquet = guarded(|| Ok(ArrowReaderMetadata::try_new(Arc::new(parquet), options)?))?;
        Ok(Self { facts, parquet, bare })
    }

    /// Of which partition it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.facts.identity
    }

    /// The first offset.
    #[must_use]
    pub fn base(&self) -> Offset {
        Offset::new(self.facts.base_offset).unwrap_or(Offset::ZERO)
    }

    /// The offset after the last.
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset::new(self.facts.end_offset).unwrap_or(Offset::ZERO)
    }

    /// Records, not counting those of control batches.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.facts.records
    }

    /// What the partition knew at the range's end.
    ///
    /// # Errors
    /// [`FormatError::Inconsistent`].
    pub fn range_end(&self) -> Result<RangeEnd, FormatError> {
        self.facts.range_end()
    }

    /// How many parts the object is read in; at least one.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.facts.row_groups.len().max(1)
    }

    /// The part that holds `offset`, or the nearest.
    #[must_use]
    pub fn part_of(&self, offset: Offset) -> usize {
        let after = self.facts.row_groups.partition_point(|group| group.base <= offset.value());
        after.saturating_sub(1)
    }

    /// Which of the object's bytes a part needs; empty for one that the footer holds.
    #[must_use]
    pub fn span(&self, part: usize) -> Range<u64> {
        match self.facts.row_groups.get(part) {
            Some(group) => group.start..group.start.saturating_add(group.length),
            None => 0..0,
        }
    }

    /// Whether a part may hold a record at or after `time`, by the statistics of its row group.
    pub(crate) fn may_reach(&self, part: usize, time: TimestampMs) -> bool {
        let metadata = self.parquet.metadata();
        if part >= metadata.num_row_groups() {
            return false;
        }
        let columns = metadata.row_group(part).columns();
        let column =
            columns.iter().find(|column| column.column_path().string() == schema::TIMESTAMP);
        let statistics = column.and_then(|column| column.statistics());
        let Some(Statistics::Int64(statistics)) = statistics else { return true };
        // A record without a time counts as -1, and is null in the column.
        let null = statistics.null_count_opt() != Some(0) && time <= TimestampMs::NONE;
        null || statistics.max_opt().is_none_or(|max| max.div_euclid(US) >= time.0)
    }

    /// The batches of a part, in order, from the bytes of its span. They are not compressed, unless
    /// one is too large for that.
    ///
    /// # Errors
    /// [`FormatError`]: the bytes are not those that were written.
    pub fn replay(&self, part: usize, bytes: Bytes) -> Result<Vec<Bytes>, FormatError> {
        let mut batches = match self.facts.row_groups.get(part) {
            Some(group) => self.rebuild(part, group, bytes)?,
            None => Vec::new(),
        };
        let (from, to) = self.offsets_of(part);
        let bare = self
            .bare
            .iter()
            .filter(|batch| (from..to).contains(&batch.header().base_offset.value()));
        batches
            .extend(bare.map(|batch| (batch.header().base_offset.value(), batch.bytes().clone())));
        batches.sort_by_key(|(base, _)| *base);
        Ok(batches.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// Takes other bytes for a part's; for fuzzing alone.
    #[cfg(fuzzing)]
    pub(crate) fn expect_crc(&mut self, part: usize, crc32c: u32) {
        if let Some(group) = self.facts.row_groups.get_mut(part) {
            group.crc32c = crc32c;
        }
    }

    /// The offsets that a part answers for.
    fn offsets_of(&self, part: usize) -> (i64, i64) {
        let groups = &self.facts.row_groups;
        let from = match groups.get(part) {
            Some(group) if part > 0 => group.base,
            _ => self.facts.base_offset,
        };
        let to = groups.get(part + 1).map_or(self.facts.end_offset, |next| next.base);
        (from, to)
    }

    /// The columns that batches are made of. Typed ones say nothing that the values do not, and
    /// are never decoded.
    fn fixed(&self) -> ProjectionMask {
        let schema = self.parquet.parquet_schema();
        let roots = schema.root_schema().get_fields().iter().enumerate();
        let fixed = roots.filter(|(_, root)| schema::FIXED.contains(&root.name()));
        ProjectionMask::roots(schema, fixed.map(|(index, _)| index))
    }

    fn rebuild(
        &self,
        part: usize,
        group: &Group,
        bytes: Bytes,
    ) -> Result<Vec<(i64, Bytes)>, FormatError> {
        let actual = crc32c(&bytes);
        if actual != group.crc32c {
            return Err(FormatError::Crc { what: "row group", expected: group.crc32c, actual });
        }
        let (bytes, kept) = split_kept(bytes, group.kept_bytes)?;
        let about = self.parquet.metadata().row_group(part);
        let rows = bounded("rows of a row group", about.num_rows(), GROUP_ROWS_MAX)?;
        let fixed = self.fixed();
        let repeated = pages::check(about, &fixed, rows, group.start, &bytes)?;
        let reader = GroupBytes { start: group.start, bytes };
        for one in repeated {
            guarded(|| pages::measure(reader.clone(), about.column(one.column), rows, one))?;
        }
        let columns = guarded(|| {
            let mut read =
                ParquetRecordBatchReaderBuilder::new_with_metadata(reader, self.parquet.clone())
                    .with_projection(fixed)
                    .with_row_groups(vec![part])
                    .with_batch_size(rows.max(1))
                    .build()?;
            Ok(read.next().transpose()?)
        })?;
        let Some(columns) = columns else { return Ok(Vec::new()) };
        if columns.num_rows() != rows {
            return Err(FormatError::Inconsistent("another number of rows"));
        }
        Rows::new(&columns)?.batches(kept)
    }
}

/// A row group's bytes, and those of its last batch where that stands whole behind them.
fn split_kept(bytes: Bytes, kept_bytes: u64) -> Result<(Bytes, Option<Batch>), FormatError> {
    if kept_bytes == 0 {
        return Ok((bytes, None));
    }
    let max = BATCH_BYTES_MAX as u64;
    if kept_bytes > max {
        let what = "bytes of a batch that is kept";
        return Err(FormatError::TooLarge { what, actual: kept_bytes, max });
    }
    let kept = usize::try_from(kept_bytes).ok();
    let at = kept.and_then(|kept| bytes.len().checked_sub(kept));
    let at = at.ok_or(FormatError::Inconsistent("a batch that is kept is not there"))?;
    // Not a part of them: it is kept for longer.
    let kept = Batch::validate(Bytes::copy_from_slice(&bytes[at..]))?;
    Ok((bytes.slice(..at), Some(kept)))
}

/// Runs what calls Parquet's reader, which panics on some bytes that nobody wrote. Whatever it was
/// at is dropped, so that nothing half done is seen.
fn guarded<T>(read: impl FnOnce() -> Result<T, FormatError>) -> Result<T, FormatError> {
    #[cfg(fuzzing)]
    let _expected = crate::fuzz::Guard::new();
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

fn panicked(panic: &(dyn Any + Send)) -> FormatError {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    FormatError::Panicked(text.unwrap_or_default())
}

pub(crate) fn bounded(what: &'static str, actual: i64, max: usize) -> Result<usize, FormatError> {
    let actual = u64::try_from(actual).or(Err(FormatError::Inconsistent("a negative size")))?;
    match usize::try_from(actual) {
        Ok(fits) if fits <= max => Ok(fits),
        _ => Err(FormatError::TooLarge { what, actual, max: max as u64 }),
    }
}

/// The columns of a row group, typed.
struct Rows<'a> {
    offset: &'a PrimitiveArray<Int64Type>,
    timestamp: &'a PrimitiveArray<TimestampMicrosecondType>,
    key: &'a BinaryArray,
    value: &'a BinaryArray,
    headers: &'a ListArray,
    header_key: &'a StringArray,
    header_value: &'a BinaryArray,
    header_key_raw: &'a BinaryArray,
    leader_epoch: &'a PrimitiveArray<Int32Type>,
    producer_id: &'a PrimitiveArray<Int64Type>,
    producer_epoch: &'a PrimitiveArray<Int32Type>,
    batch_sequence: &'a PrimitiveArray<Int32Type>,
    batch_offset: &'a PrimitiveArray<Int64Type>,
    batch_last_delta: &'a PrimitiveArray<Int32Type>,
    batch_attributes: &'a PrimitiveArray<Int32Type>,
    batch_base_timestamp: &'a PrimitiveArray<Int64Type>,
    batch_max_timestamp: &'a PrimitiveArray<Int64Type>,
}

impl<'a> Rows<'a> {
    fn new(columns: &'a RecordBatch) -> Result<Self, FormatError> {
        let column =
            |name: &'static str| columns.column_by_name(name).ok_or(FormatError::Column(name));
        let int32 =
            |name| column(name)?.as_primitive_opt::<Int32Type>().ok_or(FormatError::Column(name));
        let int64 =
            |name| column(name)?.as_primitive_opt::<Int64Type>().ok_or(FormatError::Column(name));
        let binary = |name| column(name)?.as_binary_opt::<i32>().ok_or(FormatError::Column(name));
        let wrong = || FormatError::Column(schema::HEADERS);
        let headers = column(schema::HEADERS)?.as_list_opt::<i32>().ok_or_else(wrong)?;
        let header = headers.values().as_struct_opt().ok_or_else(wrong)?;
        let part = |name: &str| header.column_by_name(name).ok_or_else(wrong);
        Ok(Self {
            offset: int64(schema::OFFSET)?,
            timestamp: column(schema::TIMESTAMP)?
                .as_primitive_opt()
                .ok_or(FormatError::Column(schema::TIMESTAMP))?,
            key: binary(schema::KEY)?,
            value: binary(schema::VALUE)?,
            headers,
            header_key: part("key")?.as_string_opt().ok_or_else(wrong)?,
            header_value: part("value")?.as_binary_opt().ok_or_else(wrong)?,
            header_key_raw: part("key_raw")?.as_binary_opt().ok_or_else(wrong)?,
            leader_epoch: int32(schema::LEADER_EPOCH)?,
            producer_id: int64(schema::PRODUCER_ID)?,
            producer_epoch: int32(schema::PRODUCER_EPOCH)?,
            batch_sequence: int32(schema::BATCH_SEQUENCE)?,
            batch_offset: int64(schema::BATCH_OFFSET)?,
            batch_last_delta: int32(schema::BATCH_LAST_DELTA)?,
            batch_attributes: int32(schema::BATCH_ATTRIBUTES)?,
            batch_base_timestamp: int64(schema::BATCH_BASE_TIMESTAMP)?,
            batch_max_timestamp: int64(schema::BATCH_MAX_TIMESTAMP)?,
        })
    }

    /// Every batch with its base offset, in the order of the rows. Of the last one the rows say
    /// what is `kept`, if that is.
    fn batches(&self, mut kept: Option<Batch>) -> Result<Vec<(i64, Bytes)>, FormatError> {
        let bases = self.batch_offset.values();
        let mut batches = Vec::new();
        let mut from = 0;
        while let Some(base) = bases.get(from) {
            let same = bases[from..].iter().take_while(|other| *other == base).count();
            let rows = from..from + same;
            from = rows.end;
            let is_last = from == bases.len();
            let batch = match kept.take_if(|_| is_last) {
                Some(kept) => self.kept(&rows, kept)?,
                None => self.batch(rows)?,
            };
            batches.push((*base, batch));
        }
        Ok(batches)
    }

    /// A batch that is kept, if it is the one that the rows are of.
    fn kept(&self, rows: &Range<usize>, kept: Batch) -> Result<Bytes, FormatError> {
        let (header, frame) = (kept.header(), self.frame(rows)?);
        let same = header.base_offset == frame.base_offset
            && header.last_offset_delta == frame.last_offset_delta
            && usize::try_from(header.record_count).is_ok_and(|count| count == rows.len());
        if same {
            Ok(kept.into_bytes())
        } else {
            Err(FormatError::Inconsistent("a batch that is kept is not that of its rows"))
        }
    }

    fn batch(&self, rows: Range<usize>) -> Result<Bytes, FormatError> {
        let frame = self.frame(&rows)?;
        let rebuild =
            |source| FormatError::Rebuild { base_offset: frame.base_offset.value(), source };
        let [plain, compressed] = rebuilt::WAYS;
        match self.build(&frame, rows.clone(), plain) {
            // It was compressed when it was small enough.
            Err(BuildError::TooLarge { .. }) => {
                self.build(&frame, rows, compressed).map_err(rebuild)
            }
            built => built.map_err(rebuild),
        }
    }

    fn frame(&self, rows: &Range<usize>) -> Result<BatchFrame, FormatError> {
        let row = rows.start;
        let out_of_range = FormatError::Inconsistent("a batch's field is out of its range");
        let Some(base_offset) = Offset::new(self.batch_offset.value(row)) else {
            return Err(out_of_range);
        };
        let attributes = u16::try_from(self.batch_attributes.value(row)).ok();
        let last_offset_delta = u32::try_from(self.batch_last_delta.value(row)).ok();
        let epoch = i16::try_from(self.producer_epoch.value(row)).ok();
        let (Some(attributes), Some(last_offset_delta), Some(epoch)) =
            (attributes.and_then(Attributes::from_bits), last_offset_delta, epoch)
        else {
            return Err(out_of_range);
        };
        let timestamps = || rows.clone().map(|row| self.timestamp_of(row));
        let written = |column: &PrimitiveArray<Int64Type>| {
            column.is_valid(row).then(|| TimestampMs(column.value(row)))
        };
        let first = self.timestamp_of(row);
        Ok(BatchFrame {
            base_offset,
            leader_epoch: LeaderEpoch(self.leader_epoch.value(row)),
            attributes,
            last_offset_delta,
            base_timestamp: written(self.batch_base_timestamp).unwrap_or(first),
            max_timestamp: written(self.batch_max_timestamp)
                .unwrap_or_else(|| timestamps().max().unwrap_or(first)),
            producer: ProducerStamp {
                id: ProducerId(self.producer_id.value(row)),
                epoch: ProducerEpoch(epoch),
                base_sequence: self.batch_sequence.value(row),
            },
        })
    }

    fn timestamp_of(&self, row: usize) -> TimestampMs {
        if self.timestamp.is_null(row) {
            TimestampMs::NONE
        } else {
            TimestampMs(self.timestamp.value(row).div_euclid(US))
        }
    }

    fn build(
        &self,
        frame: &BatchFrame,
        rows: Range<usize>,
        codec: Codec,
    ) -> Result<Bytes, BuildError> {
        let mut builder = BatchBuilder::new(codec, self.bytes_of(&rows));
        for row in rows {
            let offset = self.offset.value(row);
            let record = RecordFields {
                offset: Offset::new(offset).unwrap_or(Offset::MAX),
                timestamp: self.timestamp_of(row),
                key: self.key.is_valid(row).then(|| self.key.value(row)),
                value: self.value.is_valid(row).then(|| self.value.value(row)),
            };
            builder.append_framed(frame, record, self.headers_of(row))?;
        }
        builder.build_framed(frame)
    }

    /// About what the rows take in a batch.
    fn bytes_of(&self, rows: &Range<usize>) -> usize {
        let of = |column: &BinaryArray| {
            let ends = column.value_offsets();
            usize::try_from(ends[rows.end] - ends[rows.start]).unwrap_or(0)
        };
        of(self.key) + of(self.value) + rows.len() * ROW_BYTES
    }

    fn headers_of(&self, row: usize) -> impl ExactSizeIterator<Item = HeaderRef<'_>> + Clone {
        let ends = self.headers.value_offsets();
        let index = |end: i32| usize::try_from(end).unwrap_or(0);
        (index(ends[row])..index(ends[row + 1])).map(|at| HeaderRef {
            key: if self.header_key_raw.is_valid(at) {
                self.header_key_raw.value(at)
            } else {
                self.header_key.value(at).as_bytes()
            },
            value: self.header_value.is_valid(at).then(|| self.header_value.value(at)),
        })
    }
}

/// The bytes of one row group as a part of the file that they are of.
#[derive(Clone)]
struct GroupBytes {
    start: u64,
    bytes: Bytes,
}

impl GroupBytes {
    fn rest(&self, at: u64) -> Result<Bytes, ParquetError> {
        let from = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let Some(from) = from.filter(|from| *from <= self.bytes.len()) else {
            return Err(ParquetError::EOF(format!("{at} is outside of the row group")));
        };
        Ok(self.bytes.slice(from..))
    }
}

impl Length for GroupBytes {
    fn len(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }
}

impl ChunkReader for GroupBytes {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(Box::new(self.rest(start)?.reader()))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let rest = self.rest(start)?;
        if rest.len() < length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} are too many")));
        }
        Ok(rest.slice(..length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Encoder;
    use crate::encode::footer_start;
    use crate::faults::{batch_at, identity};
    use parquet::file::metadata::ColumnChunkMetaData;

    const GOLDEN: &[u8] = include_bytes!("../tests/testdata/range-v1.parquet");

    /// The golden object, and its row group.
    fn golden() -> (ObjectReader, Vec<u8>) {
        let object = ObjectReader::open(&GOLDEN[footer_start(GOLDEN).unwrap()..]).unwrap();
        let span = object.span(0);
        let at = |at: u64| usize::try_from(at).unwrap();
        (object, GOLDEN[at(span.start)..at(span.end)].to_vec())
    }

    /// What a store can do that knows the format: the bytes are others, and their CRC fits.
    fn replay(mut object: ObjectReader, group: Vec<u8>) -> Result<Vec<Bytes>, FormatError> {
        object.facts.row_groups[0].crc32c = crc32c(&group);
        object.replay(0, group.into())
    }

    #[test]
    fn pages_that_ask_for_more_than_any_archive_holds_are_refused() {
        // The first column is a dictionary page, whose header's bytes 3 on tell how large it
        // becomes, and a data page with its number of values in byte 35.
        let (object, mut group) = golden();
        assert_eq!((&group[..4], &group[34..36]), (&b"\x15\x04\x15\x08"[..], &b"\x15\x48"[..]));
        group[35] = 63 * 2;
        let Err(FormatError::TooLarge { what, actual, max }) = replay(object, group) else {
            panic!("more values than rows")
        };
        assert_eq!((what, actual, max), ("values of a column", 63, 36));

        let (object, mut group) = golden();
        // 2 GiB, in four bytes more, which the data page gives up.
        group[32] = 7 * 2;
        drop(group.drain(51..55));
        drop(group.splice(3..4, *b"\xfe\xff\xff\xff\x0f"));
        let Err(FormatError::TooLarge { what, .. }) = replay(object, group) else {
            panic!("2 GiB of a page")
        };
        assert_eq!(what, "bytes of a row group");
    }

    /// Some of these bits are enough for a panic in Parquet's reader.
    #[test]
    fn a_changed_page_whose_crc_fits_panics_nobody() {
        let (_, group) = golden();
        for at in 0..group.len() {
            let (object, mut group) = golden();
            group[at] ^= 0x80;
            drop(replay(object, group));
        }
        let (object, _) = golden();
        let refused = replay(object, group[..100].to_vec());
        assert!(matches!(refused, Err(FormatError::Inconsistent(_))), "{refused:?}");
    }

    /// Typed columns cannot stand in the way of records.
    #[test]
    fn typed_columns_are_never_decoded() {
        let bytes: &[u8] = include_bytes!("../tests/testdata/range-v1-typed.parquet");
        let open = || ObjectReader::open(&bytes[footer_start(bytes).unwrap()..]).unwrap();
        let (at, length) = (open().facts.row_groups[0].start, open().facts.row_groups[0].length);
        let index = |at: u64| usize::try_from(at).unwrap();
        let group = bytes[index(at)..index(at + length)].to_vec();
        let sound = replay(open(), group.clone()).unwrap();

        let object = open();
        let typed = object.parquet.metadata().row_group(0).columns().iter();
        let typed = typed.filter(|column| column.column_path().string() == "id");
        let (from, length) = typed.map(ColumnChunkMetaData::byte_range).next().unwrap();
        let from = index(from - at);
        let mut spoilt = group;
        spoilt[from..from + index(length)].fill(0xff);
        assert_eq!(replay(object, spoilt).unwrap(), sound);
    }

    /// Three batches, the second of which is kept whole.
    fn with_one_kept() -> (Bytes, Vec<Batch>) {
        let batches: Vec<Batch> = [0, 1, 3].map(batch_at).into();
        let mut encoder = Encoder::new(identity(), Offset::ZERO).unwrap();
        for (batch, fits) in batches.iter().zip([true, false, true]) {
            encoder.take(batch, |_| Ok(fits)).unwrap();
        }
        (encoder.finish(&RangeEnd::default()).unwrap().bytes, batches)
    }

    fn replay_all(bytes: &Bytes) -> Vec<Bytes> {
        let object = ObjectReader::open(&bytes[footer_start(bytes).unwrap()..]).unwrap();
        let index = |at: u64| usize::try_from(at).unwrap();
        let parts = 0..object.parts();
        let part = |at: usize| {
            let span = object.span(at);
            object.replay(at, bytes.slice(index(span.start)..index(span.end))).unwrap()
        };
        parts.flat_map(part).collect()
    }

    /// Format 2 as it was written first.
    #[test]
    fn the_golden_object_with_a_kept_batch_is_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/range-v2-kept.parquet");
        let (bytes, batches) = with_one_kept();
        if std::env::var_os("MILLSTREAM_GOLDEN").is_some() {
            std::fs::write(path, &bytes).unwrap();
        }
        let originals: Vec<Bytes> = batches.into_iter().map(Batch::into_bytes).collect();
        for bytes in [bytes, std::fs::read(path).unwrap().into()] {
            let footer = &bytes[footer_start(&bytes).unwrap()..];
            let object = ObjectReader::open(footer).unwrap();
            assert_eq!((object.facts.version, object.parts()), (2, 2));
            assert_eq!(object.facts.row_groups[0].kept_bytes, originals[1].len() as u64);
            assert_eq!(replay_all(&bytes), originals);
        }
    }

    #[test]
    fn a_batch_that_is_kept_of_other_rows_is_refused() {
        let (bytes, batches) = with_one_kept();
        let open = || ObjectReader::open(&bytes[footer_start(&bytes).unwrap()..]).unwrap();
        let span = open().span(0);
        let index = |at: u64| usize::try_from(at).unwrap();
        let group = &bytes[index(span.start)..index(span.end)];
        let rows = &group[..group.len() - batches[1].bytes().len()];
        for (kept, told) in [(batches[1].bytes(), None), (batches[2].bytes(), Some("of its rows"))]
        {
            let mut object = open();
            object.facts.row_groups[0].kept_bytes = kept.len() as u64;
            let replayed = replay(object, [rows, kept].concat());
            match told {
                None => assert_eq!(replayed.unwrap().len(), 2),
                Some(told) => {
                    let error = replayed.unwrap_err().to_string();
                    assert!(error.contains(told), "{error}");
                }
            }
        }
        for (kept_bytes, told) in [(u64::MAX, "a batch that is kept: "), (1 << 20, "not there")] {
            let mut object = open();
            object.facts.row_groups[0].kept_bytes = kept_bytes;
            let error = replay(object, group.to_vec()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_panic_of_the_reader_is_an_error() {
        let told: Result<(), _> = guarded(|| unreachable!("by nobody's bytes"));
        assert!(
            matches!(&told, Err(FormatError::Panicked(why)) if why.contains("nobody's bytes")),
            "{told:?}"
        );
    }
}
