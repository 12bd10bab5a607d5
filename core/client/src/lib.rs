//! Millstream's client: a producer that keeps order and makes no duplicates, a consumer that is
//! a `Stream`, and administration, over QUIC.
//!
//! ```no_run
//! use millstream_client::{Client, NewTopic, ProducerRecord, Start};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .bootstrap(["localhost:9092"])
//!     .ca_file("millstream-data/ca.pem")
//!     .connect()
//!     .await?;
//! client.admin().create_topic(NewTopic::new("flights").partitions(6)).await?;
//!
//! let producer = client.producer().build().await?;
//! let delivery = producer.send(ProducerRecord::new("flights", "LAX-SFO").with_key("LAX")).await?;
//! println!("stored at {:?}", delivery.await?);
//! producer.close().await?;
//!
//! let mut consumer = client.consumer().topic("flights").start(Start::Earliest).build().await?;
//! while let Some(batch) = consumer.next_batch().await {
//!     let mut records = batch?.records()?;
//!     while let Some(record) = records.next_ref() {
//!         println!("{:?}", record?.value);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod admin;
mod client;
mod cluster;
mod connections;
mod consumer;
mod error;
mod producer;
mod random;
mod record;

pub use admin::{
    Admin, AlterTopic, ArchiveStatus, ArchivedPartition, ArchivedTopic, BrokerInfo, BrokerStatus,
    ClusterDescription, CreatedTopic, Metric, MetricValue, NewTopic, OffsetSpec,
    PartitionDescription, PartitionOffset, RestoredPartition, RestoredTopic, TopicConfig,
    TopicDescription, TopicSummary, VerifiedRange,
};
pub use client::{Client, ClientBuilder};
pub use consumer::{
    Consumer, ConsumerBuilder, OutOfRange, PartitionLag, PartitionPosition, RecordBatch, Records,
    Start,
};
pub use error::{
    AddressFailure, AddressFailures, AdminError, BuildError, ConnectError, ConsumerError,
    DeliveryError, FlushError, SendError, TrySendError,
};
pub use millstream_types::{ErrorCode, Offset, TimestampMs, TopicId};
pub use millstream_wire::{Codec, Header, HeaderKey, HeaderRef, Headers, RecordRef};
pub use producer::{Acks, Delivery, Producer, ProducerBuilder};
pub use record::{ConsumerRecord, ProducerRecord, RecordMetadata};

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
