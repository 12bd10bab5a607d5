//! What goes in and what comes out: records, their headers, and where they landed.

use std::sync::Arc;

use bytes::Bytes;
use millstream_wire::{Header, HeaderKey};

/// A record to be produced. Make the topic's `Arc<str>` once and clone it where sends are hot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProducerRecord {
    /// The topic, by name.
    pub topic: Arc<str>,
    /// The partition; `None` lets the key choose, or without a key the batch being filled.
    pub partition: Option<u32>,
    /// The key; records of one key go to one partition, in order.
    pub key: Option<Bytes>,
    /// The value; `None` is a null, which a compacted topic takes for a deletion.
    pub value: Option<Bytes>,
    /// The headers, at most [`RECORD_HEADERS_MAX`](millstream_types::limits::RECORD_HEADERS_MAX).
    pub headers: Vec<Header>,
    /// Milliseconds since the Unix epoch; `None` is the time of the send.
    pub timestamp: Option<i64>,
}

impl ProducerRecord {
    /// A record with a value and nothing else, for `topic`.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
            timestamp: None,
        }
    }

    /// The same record with a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same record for a partition of the caller's choice.
    #[must_use]
    pub fn with_partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The same record with one more header.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<HeaderKey>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { key: key.into(), value: Some(value.into()) });
        self
    }

    /// The same record with a timestamp, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp_ms: i64) -> Self {
        self.timestamp = Some(timestamp_ms);
        self
    }
}

/// Where a record landed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordMetadata {
    /// The partition that holds it.
    pub partition: u32,
    /// Its offset in the partition.
    pub offset: i64,
    /// The timestamp it is stored with, in milliseconds since the Unix epoch: the broker's on a
    /// topic with `message.timestamp.type=LogAppendTime`.
    pub timestamp: i64,
}

/// One record as consumed. Its bytes share the batch's memory: keeping one keeps its batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerRecord {
    /// The topic, by name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch; negative where the producer gave none.
    pub timestamp: i64,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a null.
    pub value: Option<Bytes>,
    /// The headers, in the order they were written.
    pub headers: Vec<Header>,
}
