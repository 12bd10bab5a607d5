//! The rows of one row group, as Arrow columns being built.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, ListArray, RecordBatch, StructArray};
use arrow_buffer::OffsetBuffer;
use arrow_schema::ArrowError;
use millstream_types::TimestampMs;
use millstream_wire::{BatchHeader, Headers, RecordRef};

use crate::schema;

/// Microseconds in a millisecond.
pub(crate) const US: i64 = 1000;
/// What a record counts besides its key, value and headers, so that records without any are
/// bounded, too.
pub(crate) const ROW_BYTES: usize = 16;
/// What a header counts besides its key and value.
pub(crate) const HEADER_BYTES: usize = 4;

/// Rows being gathered.
#[derive(Debug)]
pub(crate) struct Columns {
    partition: i32,
    offset: Int64Builder,
    timestamp: TimestampMicrosecondBuilder,
    key: BinaryBuilder,
    value: BinaryBuilder,
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
}

impl Columns {
    pub(crate) fn new(partition: i32) -> Self {
        Self {
            partition,
            offset: Int64Builder::new(),
            timestamp: TimestampMicrosecondBuilder::new().with_data_type(schema::timestamp_type()),
            key: BinaryBuilder::new(),
            value: BinaryBuilder::new(),
            header_ends: vec![0],
            header_key: StringBuilder::new(),
            header_value: BinaryBuilder::new(),
            header_key_raw: BinaryBuilder::new(),
            leader_epoch: Int32Builder::new(),
            producer_id: Int64Builder::new(),
            producer_epoch: Int32Builder::new(),
            batch_sequence: Int32Builder::new(),
            batch_offset: Int64Builder::new(),
            batch_last_delta: Int32Builder::new(),
            batch_attributes: Int32Builder::new(),
            batch_base_timestamp: Int64Builder::new(),
            batch_max_timestamp: Int64Builder::new(),
            bytes: 0,
            rows: 0,
        }
    }

    /// About the bytes that the rows take: keys, values, headers, and a little for each.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a record; what its batch says follows with [`Columns::end_batch`].
    pub(crate) fn record(&mut self, record: &RecordRef<'_>) {
        let timestamp = record.timestamp;
        let micros = (timestamp != TimestampMs::NONE).then(|| timestamp.0.saturating_mul(US));
        self.offset.append_value(record.offset.value());
        self.timestamp.append_option(micros);
        self.key.append_option(record.key);
        self.value.append_option(record.value);
        let (key, value) = (record.key.map_or(0, <[u8]>::len), record.value.map_or(0, <[u8]>::len));
        self.bytes += ROW_BYTES + key + value;
        self.headers(record.headers);
        self.rows += 1;
    }

    fn headers(&mut self, headers: Headers<'_>) {
        for header in headers {
            if let Ok(text) = std::str::from_utf8(header.key) {
                self.header_key.append_value(text);
                self.header_key_raw.append_null();
            } else {
                self.header_key.append_value(String::from_utf8_lossy(header.key));
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
    pub(crate) fn end_batch(
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
        for _ in 0..rows {
            self.batch_base_timestamp.append_option(base_timestamp);
            self.batch_max_timestamp.append_option(max_timestamp);
        }
    }

    /// The rows, in the schema's order of columns; none are left.
    pub(crate) fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut partition = Int32Builder::new();
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
        RecordBatch::try_new(schema::schema(), columns)
    }
}
