//! The columns of an archive object: a public contract, specified in `docs/archive-format.md`.
//! Names and field ids stay; columns may be added behind them.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Metadata, Schema, SchemaRef, TimeUnit};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::values::{ValueColumn, column_name, data_type};

/// Bytes of a page before compression, about: what a reader of a time range has to decompress.
const PAGE_BYTES: usize = 256 * 1024;
const ZSTD_LEVEL: i32 = 1;

pub(crate) const PARTITION: &str = "partition";
pub(crate) const OFFSET: &str = "offset";
pub(crate) const TIMESTAMP: &str = "timestamp";
pub(crate) const KEY: &str = "key";
pub(crate) const VALUE: &str = "value";
pub(crate) const HEADERS: &str = "headers";
pub(crate) const LEADER_EPOCH: &str = "leader_epoch";
pub(crate) const PRODUCER_ID: &str = "producer_id";
pub(crate) const PRODUCER_EPOCH: &str = "producer_epoch";
pub(crate) const BATCH_SEQUENCE: &str = "batch_base_sequence";
pub(crate) const BATCH_OFFSET: &str = "batch_base_offset";
pub(crate) const BATCH_LAST_DELTA: &str = "batch_last_offset_delta";
pub(crate) const BATCH_ATTRIBUTES: &str = "batch_attributes";
pub(crate) const BATCH_BASE_TIMESTAMP: &str = "batch_base_timestamp_ms";
pub(crate) const BATCH_MAX_TIMESTAMP: &str = "batch_max_timestamp_ms";

/// The columns that every object has; what else it has is for queries alone.
pub(crate) const FIXED: [&str; 15] = [
    PARTITION,
    OFFSET,
    TIMESTAMP,
    KEY,
    VALUE,
    HEADERS,
    LEADER_EPOCH,
    PRODUCER_ID,
    PRODUCER_EPOCH,
    BATCH_SEQUENCE,
    BATCH_OFFSET,
    BATCH_LAST_DELTA,
    BATCH_ATTRIBUTES,
    BATCH_BASE_TIMESTAMP,
    BATCH_MAX_TIMESTAMP,
];

/// The field id of the first typed column.
const VALUE_FIELD_ID: i32 = 1000;

/// The timestamp column's type.
pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

/// The fields of one header.
pub(crate) fn header_fields() -> Fields {
    Fields::from(vec![
        field("key", DataType::Utf8, false, 8),
        field("value", DataType::Binary, true, 9),
        field("key_raw", DataType::Binary, true, 10),
    ])
}

/// The element of the list of headers.
pub(crate) fn header_element() -> Arc<Field> {
    Arc::new(field("element", DataType::Struct(header_fields()), false, 7))
}

/// All columns, in the order in which they are written; `values` are the typed ones. A view is
/// Arrow's way to have bytes where they are; in Parquet it is binary like any other.
pub(crate) fn schema(values: &[ValueColumn]) -> SchemaRef {
    let mut fields = vec![
        field(PARTITION, DataType::Int32, false, 1),
        field(OFFSET, DataType::Int64, false, 2),
        field(TIMESTAMP, timestamp_type(), true, 3),
        field(KEY, DataType::Binary, true, 4),
        field(VALUE, DataType::BinaryView, true, 5),
        field(HEADERS, DataType::List(header_element()), false, 6),
        field(LEADER_EPOCH, DataType::Int32, false, 11),
        field(PRODUCER_ID, DataType::Int64, false, 12),
        field(PRODUCER_EPOCH, DataType::Int32, false, 13),
        field(BATCH_SEQUENCE, DataType::Int32, false, 14),
        field(BATCH_OFFSET, DataType::Int64, false, 15),
        field(BATCH_LAST_DELTA, DataType::Int32, false, 16),
        field(BATCH_ATTRIBUTES, DataType::Int32, false, 17),
        field(BATCH_BASE_TIMESTAMP, DataType::Int64, true, 18),
        field(BATCH_MAX_TIMESTAMP, DataType::Int64, true, 19),
    ];
    let typed = values.iter().zip(VALUE_FIELD_ID..);
    fields.extend(typed.map(|(column, id)| {
        field(&column_name(&column.key), data_type(column.value_type), true, id)
    }));
    Arc::new(Schema::new(fields))
}

fn field(name: &str, data_type: DataType, nullable: bool, id: i32) -> Field {
    let id = [(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())];
    Field::new(name, data_type, nullable).with_metadata(id.into_iter().collect::<Metadata>())
}

/// How the columns are written; measured choices, see the specification.
pub(crate) fn properties() -> Result<WriterProperties, ParquetError> {
    let column = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("millstream ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_data_page_size_limit(PAGE_BYTES)
        // Row groups end where the encoder says: between two batches.
        .set_max_row_group_row_count(None)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_column_statistics_enabled(column(VALUE), EnabledStatistics::None)
        .set_column_dictionary_enabled(column(VALUE), false);
    // Numbers that grow with each record or batch: their differences are what compresses.
    for name in [OFFSET, TIMESTAMP, BATCH_OFFSET, BATCH_SEQUENCE] {
        properties = properties
            .set_column_dictionary_enabled(column(name), false)
            .set_column_encoding(column(name), Encoding::DELTA_BINARY_PACKED);
    }
    Ok(properties.build())
}

/// Writes rows of these columns into memory; `values` are the typed ones.
pub(crate) fn writer(
    values: &[ValueColumn],
    properties: WriterProperties,
) -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
    // Readers that are not Arrow's should not find its schema, and no reader needs it.
    let options =
        ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(Vec::new(), schema(values), options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_every_object_are_all_named() {
        let schema = schema(&[]);
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, FIXED);
    }
}
