//! The archive as a whole: ranges through objects, objects through stores.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod analytics;
mod python;
mod replay;
mod sample;
mod stores;
mod values;
