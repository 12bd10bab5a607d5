//! Millstream's bytes: Kafka record batches v2, the frames that carry them and the requests around
//! them. Pure functions from bytes to values and back; nothing here does I/O, and no input, however
//! hostile, panics or allocates beyond `millstream_types::limits`.

pub mod api;
pub mod batch;
pub mod builder;
pub mod compression;
pub mod crc;
pub mod frame;
pub mod record;
mod varint;

pub use batch::{Attributes, Batch, BatchError, BatchHeader, IncomingBatch, TimestampType};
pub use builder::{BatchBuilder, BatchFrame, BuildError, ProducerStamp, RecordFields, restamp};
pub use compression::{Codec, CompressionError};
pub use crc::{Crc32c, crc32c};
pub use record::{Header, HeaderKey, HeaderRef, Headers, Record, RecordError, RecordRef, Records};
