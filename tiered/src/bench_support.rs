//! What the crate's benchmark needs and nobody else may use: the parts of which an encoder is made,
//! to be measured each alone. No promise holds here from one version to the next.

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use millstream_wire::{Batch, RecordError};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::columns::Columns;
use crate::{encode, schema};

/// What an encoder gathers before it writes a row group.
pub const ROW_GROUP_BYTES: usize = encode::ROW_GROUP_BYTES;

/// The properties that objects are written with.
///
/// # Errors
/// The Parquet library's.
pub fn properties() -> Result<WriterProperties, ParquetError> {
    schema::properties()
}

/// A writer of an object's columns and of nothing else: without a footer of the archive's.
///
/// # Errors
/// The Parquet library's.
pub fn writer(properties: WriterProperties) -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
    schema::writer(&[], properties)
}

/// The rows of a row group, from batches, as an encoder gathers them.
#[derive(Debug)]
pub struct Rows(Columns);

impl Rows {
    /// Of partition 0.
    #[must_use]
    pub fn new() -> Self {
        Self(Columns::new(0))
    }

    /// Adds a batch's records.
    ///
    /// # Errors
    /// Of a record that cannot be read.
    pub fn push(&mut self, batch: &Batch) -> Result<(), RecordError> {
        self.0.batch(batch).map(drop)
    }

    /// About the bytes gathered: at [`ROW_GROUP_BYTES`] an encoder takes them.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// What was gathered; nothing is left.
    ///
    /// # Errors
    /// The Arrow library's.
    pub fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        self.0.take()
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self::new()
    }
}
