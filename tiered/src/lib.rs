//! The archive: ranges of a partition become Parquet objects that serve exact replay and SQL.
//!
//! A range runs from one batch to another, below the high watermark. [`Encoder`] turns its batches
//! into one object, [`ObjectReader`] turns an object's row groups back into the same batches: the
//! same records, offsets, timestamps, headers, batch boundaries and producer fields, though not the
//! producer's compressed bytes. The layout is a public contract: `docs/archive-format.md`.
//!
//! This crate is the only home of `object_store`, `arrow` and `parquet`; none of their types leave
//! it, but for those that its own benchmark is shown.

mod archive;
#[doc(hidden)]
pub mod bench_support;
mod cache;
mod check;
#[cfg(test)]
mod clusters;
mod columns;
mod decode;
mod disk_cache;
mod encode;
mod error;
#[cfg(test)]
mod faults;
mod footer;
#[cfg(fuzzing)]
mod fuzz;
mod json;
mod manifest;
mod pages;
mod reader;
mod rebuilt;
mod schema;
mod store;
mod topics;
mod values;
pub mod workers;

pub use archive::{ArchiveError, PartitionArchive, Replayed, Verified};
pub use cache::ReadCache;
pub use decode::ObjectReader;
pub use disk_cache::{DiskCache, DiskCacheCounters};
pub use encode::{EncodedObject, Encoder, Summary};
pub use error::{EncodeError, FormatError};
pub use footer::{FORMAT_VERSION, Identity, RangeEnd};
#[cfg(fuzzing)]
pub use fuzz::{fuzz_manifest, fuzz_object, fuzz_topic_config, is_guarded};
pub use manifest::{Entry, Head, MANIFEST_VERSION, ManifestError};
pub use reader::{ArchiveReader, Sizes};
pub use store::{Created, Listed, Store, StoreCounters, StoreError};
pub use topics::{ArchivedPartition, ArchivedTopic, CONFIG_VERSION, ConfigMap, TopicError};
pub use values::{
    NewColumns, VALUE_COLUMNS_MAX, VALUE_KEY_BYTES_MAX, ValueColumn, ValueColumns, ValueType,
};
