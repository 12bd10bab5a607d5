//! The rows of one row group, as Arrow columns being built.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BinaryViewBuilder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, ListArray, RecordBatch, StructArray};
use arrow_buffer::{Buffer, OffsetBuffer};
use arrow_schema::ArrowError;
use millstream_types::TimestampMs;
use millstream_wire::{Batch, BatchHeader, Codec, Headers, RecordError, RecordRef};

use crate::schema;

/// Microseconds in a millisecond.
pub(crate) const US: i64 = 1000;
/// What a record counts besides its key, value and headers, so that records without any are
/// bounded, too.
pub(crate) const ROW_BYTES: usize = 16;
/// What a header counts besides its key and value.
pub(crate) const HEADER_BYTES: usize = 4;
/// Bytes of a batch from which on its memory is shared: less is not worth a buffer of its own.
const SHARED_BYTES_MIN: usize = 4 * 1024;

/// What of a key is text, with a question mark for each part that is not: never longer than the
/// key, whose bytes stand beside it.
fn legible(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    for chunk in key.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push('?');
        }
    }
    text
}

/// Rows being gathered.
#[derive(Debug)]
pub(crate) struct Columns {
    partition: i32,
    offset: Int64Builder,
    timestamp: TimestampMicrosecondBuilder,
    key: BinaryBuilder,
    /// Where it can be, in the memory of the batches.
    value: BinaryViewBuilder,
    header_ends: Vec<i32>,
    header_key: StringBuilder,
    header_value: BinaryBuilder,
    header_key_raw: BinaryBuilder,
    leader_epoch: Int32Builder,
    producer_id: Int64Builder,
    producer_epoch: Int32Builder,
    batch_sequence: Int32Builder,
    batch_offset: Int64Builder,
    batch_last_delta: Int32Builder,
    batch_attributes: Int32Builder,
    batch_base_timestamp: Int64Builder,
    batch_max_timestamp: Int64Builder,
    /// About the bytes that the rows take.
    bytes: usize,
    rows: usize,
    /// Of the rows that were taken last; nothing if none were.
    before: Size,
}

/// The memory of a batch that its records' values lie in, as they are.
struct Shared<'a> {
    bytes: &'a [u8],
    /// Its number in the column.
    block: u32,
}

impl Shared<'_> {
    /// Where `value` begins, and its length. `None` for one that does not lie here, as an empty one
    /// need not.
    fn place(&self, value: &[u8]) -> Option<(u32, u32)> {
        let at = value.as_ptr().addr().checked_sub(self.bytes.as_ptr().addr())?;
        let end = at.checked_add(value.len()).filter(|end| *end <= self.bytes.len())?;
        Some((u32::try_from(at).ok()?, u32::try_from(end - at).ok()?))
    }
}

/// How much rows take, to have memory for as many again.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    rows: usize,
    key_bytes: usize,
}

impl Size {
    /// With room to be a little larger.
    const fn with_room(self) -> Self {
        Self { rows: self.rows + self.rows / 16, key_bytes: self.key_bytes + self.key_bytes / 16 }
    }
}

impl Columns {
    pub(crate) fn new(partition: i32) -> Self {
        Self::with_capacity(partition, Size::default())
    }

    fn with_capacity(partition: i32, size: Size) -> Self {
        let Size { rows, key_bytes } = size;
        let int32 = || Int32Builder::with_capacity(rows);
        let int64 = || Int64Builder::with_capacity(rows);
        let mut header_ends = Vec::with_capacity(rows + 1);
        header_ends.push(0);
        Self {
            partition,
            offset: int64(),
            timestamp: TimestampMicrosecondBuilder::with_capacity(rows)
                .with_data_type(schema::timestamp_type()),
            key: BinaryBuilder::with_capacity(rows, key_bytes),
            value: BinaryViewBuilder::with_capacity(rows),
            header_ends,
            header_key: StringBuilder::new(),
            header_value: BinaryBuilder::new(),
            header_key_raw: BinaryBuilder::new(),
            leader_epoch: int32(),
            producer_id: int64(),
            producer_epoch: int32(),
            batch_sequence: int32(),
            batch_offset: int64(),
            batch_last_delta: int32(),
            batch_attributes: int32(),
            batch_base_timestamp: int64(),
            batch_max_timestamp: int64(),
            bytes: 0,
            rows: 0,
            before: Size::default(),
        }
    }

    /// About the bytes that the rows take: keys, values, headers, and a little for each.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a batch's records; returns how many they were. After an error what was gathered is of
    /// no more use.
    pub(crate) fn batch(&mut self, batch: &Batch) -> Result<usize, RecordError> {
        let mut records = batch.records()?;
        if self.rows == 0 && self.before.rows > 0 {
            // One row group is like the next: memory that grows is memory that is copied.
            *self = Self::with_capacity(self.partition, self.before.with_room());
        }
        let bytes = batch.bytes();
        let is_plain = batch.header().attributes.codec() == Codec::None;
        let shared = (is_plain && bytes.len() >= SHARED_BYTES_MIN)
            .then(|| Shared { bytes, block: self.value.append_block(Buffer::from(bytes.clone())) });
        let (mut rows, mut first, mut max) = (0, TimestampMs::NONE, TimestampMs::NONE);
        while let Some(record) = records.next_ref() {
            let record = record?;
            if rows == 0 {
                (first, max) = (record.timestamp, record.timestamp);
            }
            max = max.max(record.timestamp);
            rows += 1;
            self.record(&record, shared.as_ref());
        }
        self.end_batch(batch.header(), rows, first, max);
        Ok(rows)
    }

    /// Adds a record; what its batch says follows with [`Columns::end_batch`].
    fn record(&mut self, record: &RecordRef<'_>, shared: Option<&Shared<'_>>) {
        let timestamp = record.timestamp;
        let micros = (timestamp != TimestampMs::NONE).then(|| timestamp.0.saturating_mul(US));
        self.offset.append_value(record.offset.value());
        self.timestamp.append_option(micros);
        self.key.append_option(record.key);
        self.value(record.value, shared);
        let (key, value) = (record.key.map_or(0, <[u8]>::len), record.value.map_or(0, <[u8]>::len));
        self.bytes += ROW_BYTES + key + value;
        self.headers(record.headers);
        self.rows += 1;
    }

    fn value(&mut self, value: Option<&[u8]>, shared: Option<&Shared<'_>>) {
        let Some(value) = value else { return self.value.append_null() };
        let place = shared.and_then(|shared| Some((shared.block, shared.place(value)?)));
        if let Some((block, (at, length))) = place
            && self.value.try_append_view(block, at, length).is_ok()
        {
            return;
        }
        self.value.append_value(value);
    }

    fn headers(&mut self, headers: Headers<'_>) {
        for header in headers {
            if let Ok(text) = std::str::from_utf8(header.key) {
                self.header_key.append_value(text);
                self.header_key_raw.append_null();
            } else {
                self.header_key.append_value(legible(header.key));
                self.header_key_raw.append_value(header.key);
            }
            self.header_value.append_option(header.value);
            self.bytes += HEADER_BYTES + header.key.len() + header.value.map_or(0, <[u8]>::len);
        }
        // Bounded by a row group's bytes: every header takes some in its batch.
        self.header_ends.push(i32::try_from(self.header_count()).unwrap_or(i32::MAX));
    }

    fn header_count(&self) -> usize {
        use arrow_array::builder::ArrayBuilder as _;
        self.header_key.len()
    }

    /// Says of the last `rows` records what their batch's header says. `first` is the timestamp
    /// of the first, `max` the largest: what can be told from them is not written.
    fn end_batch(
        &mut self,
        header: &BatchHeader,
        rows: usize,
        first: TimestampMs,
        max: TimestampMs,
    ) {
        let (id, epoch) = (header.producer_id.0, i32::from(header.producer_epoch.0));
        let base_timestamp = (header.base_timestamp != first).then_some(header.base_timestamp.0);
        let max_timestamp = (header.max_timestamp != max).then_some(header.max_timestamp.0);
        self.leader_epoch.append_value_n(header.leader_epoch.0, rows);
        self.producer_id.append_value_n(id, rows);
        self.producer_epoch.append_value_n(epoch, rows);
        self.batch_sequence.append_value_n(header.base_sequence, rows);
        self.batch_offset.append_value_n(header.base_offset.value(), rows);
        self.batch_last_delta.append_value_n(header.last_offset_delta.cast_signed(), rows);
        self.batch_attributes.append_value_n(i32::from(header.attributes.bits()), rows);
        for (column, timestamp) in [
            (&mut self.batch_base_timestamp, base_timestamp),
            (&mut self.batch_max_timestamp, max_timestamp),
        ] {
            match timestamp {
                Some(timestamp) => column.append_value_n(timestamp, rows),
                None => column.append_nulls(rows),
            }
        }
    }

    /// The rows, in the schema's order of columns; none are left.
    pub(crate) fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        self.before = Size { rows: self.rows, key_bytes: self.key.values_slice().len() };
        let mut partition = Int32Builder::with_capacity(self.rows);
        partition.append_value_n(self.partition, self.rows);
        let ends = std::mem::replace(&mut self.header_ends, vec![0]);
        let headers: Vec<ArrayRef> = vec![
            Arc::new(self.header_key.finish()),
            Arc::new(self.header_value.finish()),
            Arc::new(self.header_key_raw.finish()),
        ];
        let headers = StructArray::try_new(schema::header_fields(), headers, None)?;
        let headers = ListArray::try_new(
            schema::header_element(),
            OffsetBuffer::new(ends.into()),
            Arc::new(headers),
            None,
        )?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
            Arc::new(headers),
            Arc::new(self.leader_epoch.finish()),
            Arc::new(self.producer_id.finish()),
            Arc::new(self.producer_epoch.finish()),
            Arc::new(self.batch_sequence.finish()),
            Arc::new(self.batch_offset.finish()),
            Arc::new(self.batch_last_delta.finish()),
            Arc::new(self.batch_attributes.finish()),
            Arc::new(self.batch_base_timestamp.finish()),
            Arc::new(self.batch_max_timestamp.finish()),
        ];
        (self.bytes, self.rows) = (0, 0);
        RecordBatch::try_new(schema::schema(&[]), columns)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray as _;
    use millstream_wire::{BatchBuilder, ProducerStamp};

    use super::*;

    #[test]
    fn a_key_takes_no_more_room_as_text_than_as_bytes() {
        assert_eq!(legible("ünï".as_bytes()), "ünï");
        assert_eq!(legible(b"a\xff\xfeb\xc3"), "a??b?");
        let bytes = [0xff; 60];
        assert_eq!(legible(&bytes).len(), bytes.len());
    }

    /// In the batch's memory, or copied where it is compressed or small.
    #[test]
    fn values_are_the_same_wherever_they_lie() {
        let long = vec![7; 5000];
        let values: [Option<&[u8]>; 5] =
            [Some(b"short"), None, Some(b""), Some(b"longer than a view"), Some(&long)];
        for (codec, count) in [(Codec::None, 5), (Codec::Zstd, 5), (Codec::None, 4)] {
            let mut columns = Columns::new(0);
            for _twice in 0..2 {
                let mut builder = BatchBuilder::new(codec, 0);
                for value in &values[..count] {
                    builder.append(TimestampMs(1), None, *value, &[]).unwrap();
                }
                let batch = Batch::validate(builder.build(ProducerStamp::NONE).unwrap()).unwrap();
                assert_eq!(columns.batch(&batch).unwrap(), count);
                assert_eq!(columns.batch(&batch).unwrap(), count);
                let rows = columns.take().unwrap();
                let column = rows.column_by_name(schema::VALUE).unwrap().as_binary_view();
                let expected = values[..count].repeat(2);
                assert_eq!(column.iter().collect::<Vec<_>>(), expected, "{codec} {count}");
            }
        }
    }
}
