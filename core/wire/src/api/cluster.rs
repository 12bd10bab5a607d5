//! What a client asks before it produces or consumes, and what an operator asks a broker.

use millstream_types::limits::{NAME_BYTES_MAX, REQUEST_TOPICS_MAX, TOPIC_PARTITIONS_MAX};
use millstream_types::{
    BrokerId, ClusterId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId,
};

use super::codec::{DecodeError, Decoder, Encoder, Field, put_list, take_list};
use super::common::{ENDPOINT_BYTES_MAX, ProducerIdentity};

/// The most brokers that a reply may list.
pub const BROKERS_MAX: usize = 10_000;
/// The most replicas that a partition may have.
pub const REPLICAS_MAX: usize = 64;
/// The most metrics that a reply may list.
pub const METRICS_MAX: usize = 10_000;

/// Asks where topics and their partitions are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetadataRequest {
    /// The topics' names; `None` asks for all, an empty list for the brokers alone.
    pub topics: Option<Vec<String>>,
}

/// Where topics and their partitions are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetadataResponse {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its brokers.
    pub brokers: Vec<BrokerMetadata>,
    /// The topics, in the order of the names asked for, or by name.
    pub topics: Vec<TopicMetadata>,
}

/// One broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerMetadata {
    /// Its id.
    pub broker: BrokerId,
    /// Where clients reach it, as `host:port`.
    pub endpoint: String,
}

/// One topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicMetadata {
    /// [`ErrorCode::None`], or why only the name says anything.
    pub error: ErrorCode,
    /// Its name.
    pub name: String,
    /// Its id.
    pub topic: TopicId,
    /// Every partition, in order.
    pub partitions: Vec<PartitionMetadata>,
}

/// One partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionMetadata {
    /// The partition.
    pub partition: PartitionIndex,
    /// Who leads it, if anyone.
    pub leader: Option<BrokerId>,
    /// The leadership.
    pub leader_epoch: LeaderEpoch,
    /// Who holds a copy.
    pub replicas: Vec<BrokerId>,
    /// Which of them are in sync.
    pub in_sync: Vec<BrokerId>,
}

/// Which offset of a partition is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetSpec {
    /// The first that it still has.
    Earliest,
    /// One past the last committed record.
    Latest,
    /// The first record whose timestamp is at or after this.
    Timestamp(TimestampMs),
}

/// Asks for offsets of one topic's partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListOffsetsRequest {
    /// The topic.
    pub topic: TopicId,
    /// The partitions.
    pub partitions: Vec<PartitionIndex>,
    /// Which offset of each.
    pub spec: OffsetSpec,
}

/// Offsets, in the order of the partitions asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListOffsetsResponse {
    /// One entry for each partition.
    pub partitions: Vec<PartitionOffset>,
}

/// One partition's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionOffset {
    /// The partition.
    pub partition: PartitionIndex,
    /// [`ErrorCode::None`], or why there is no offset.
    pub error: ErrorCode,
    /// The offset; `None` on an error, or when no record has so late a timestamp.
    pub offset: Option<Offset>,
    /// That record's timestamp where one was asked for, else [`TimestampMs::NONE`].
    pub timestamp: TimestampMs,
    /// The leadership that answers.
    pub leader_epoch: LeaderEpoch,
}

/// Asks for a producer id, or for the next epoch of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitProducerRequest {
    /// The identity to renew; `None` asks for a new one.
    pub producer: Option<ProducerIdentity>,
}

/// The identity to produce under.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitProducerResponse {
    /// Id and epoch.
    pub producer: ProducerIdentity,
}

/// Asks a broker for its counters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BrokerStatusRequest {}

/// A broker's counters.
#[derive(Clone, PartialEq, Debug)]
pub struct BrokerStatusResponse {
    /// One entry for each metric, by name.
    pub metrics: Vec<Metric>,
}

/// One metric.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// Its name, with its unit, as in the metrics endpoint.
    pub name: String,
    /// Its value.
    pub value: MetricValue,
}

/// A metric's value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum MetricValue {
    /// Counts up from 0 since the broker started.
    Counter(u64),
    /// Goes up and down.
    Gauge(f64),
}

/// Writes the names of topics; `None` means all.
pub(crate) fn put_topic_filter(out: &mut Encoder<'_>, topics: Option<&[String]>) {
    out.put(&topics.is_some());
    let Some(names) = topics else { return };
    out.count("topic names", names.len(), REQUEST_TOPICS_MAX);
    for name in names {
        out.string("topic name", name, NAME_BYTES_MAX);
    }
}

/// Reads the names of topics; `None` means all.
pub(crate) fn take_topic_filter(
    input: &mut Decoder<'_>,
) -> Result<Option<Vec<String>>, DecodeError> {
    if !input.take::<bool>("topic filter")? {
        return Ok(None);
    }
    let mut names = Vec::new();
    for _ in 0..input.count("topic names", REQUEST_TOPICS_MAX, 2)? {
        names.push(input.string("topic name", NAME_BYTES_MAX)?);
    }
    Ok(Some(names))
}

impl Field for MetadataRequest {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        put_topic_filter(out, self.topics.as_deref());
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { topics: take_topic_filter(input)? })
    }
}

impl Field for MetadataResponse {
    const BYTES_MIN: usize = 24;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.cluster.to_bytes());
        put_list(out, "brokers", &self.brokers, BROKERS_MAX);
        put_list(out, "topics", &self.topics, REQUEST_TOPICS_MAX);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            cluster: ClusterId::from_bytes(input.take("cluster id")?),
            brokers: take_list(input, "brokers", BROKERS_MAX)?,
            topics: take_list(input, "topics", REQUEST_TOPICS_MAX)?,
        })
    }
}

impl Field for BrokerMetadata {
    const BYTES_MIN: usize = 6;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.broker);
        out.string("endpoint", &self.endpoint, ENDPOINT_BYTES_MAX);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            broker: input.take("broker id")?,
            endpoint: input.string("endpoint", ENDPOINT_BYTES_MAX)?,
        })
    }
}

impl Field for TopicMetadata {
    const BYTES_MIN: usize = 24;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.error);
        out.string("topic name", &self.name, NAME_BYTES_MAX);
        out.put(&self.topic);
        put_list(out, "partitions", &self.partitions, TOPIC_PARTITIONS_MAX as usize);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            error: input.take("error code")?,
            name: input.string("topic name", NAME_BYTES_MAX)?,
            topic: input.take("topic id")?,
            partitions: take_list(input, "partitions", TOPIC_PARTITIONS_MAX as usize)?,
        })
    }
}

impl Field for PartitionMetadata {
    const BYTES_MIN: usize = 17;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.partition);
        out.put(&self.leader);
        out.put(&self.leader_epoch);
        put_list(out, "replicas", &self.replicas, REPLICAS_MAX);
        put_list(out, "in-sync replicas", &self.in_sync, REPLICAS_MAX);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: input.take("partition")?,
            leader: input.take("leader")?,
            leader_epoch: input.take("leader epoch")?,
            replicas: take_list(input, "replicas", REPLICAS_MAX)?,
            in_sync: take_list(input, "in-sync replicas", REPLICAS_MAX)?,
        })
    }
}

impl Field for OffsetSpec {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Earliest => out.put(&0_u8),
            Self::Latest => out.put(&1_u8),
            Self::Timestamp(timestamp) => {
                out.put(&3_u8);
                out.put(timestamp);
            }
        }
    }

    /// The numbers are those of a subscription's start; 2, an offset, would ask for itself.
    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        match input.take::<u8>(what)? {
            0 => Ok(Self::Earliest),
            1 => Ok(Self::Latest),
            3 => Ok(Self::Timestamp(input.take("timestamp")?)),
            value => Err(DecodeError::BadValue { what, value: value.into() }),
        }
    }
}

impl Field for ListOffsetsRequest {
    const BYTES_MIN: usize = 21;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.topic);
        put_list(out, "partitions", &self.partitions, TOPIC_PARTITIONS_MAX as usize);
        out.put(&self.spec);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            topic: input.take("topic id")?,
            partitions: take_list(input, "partitions", TOPIC_PARTITIONS_MAX as usize)?,
            spec: input.take("offset spec")?,
        })
    }
}

impl Field for ListOffsetsResponse {
    const BYTES_MIN: usize = 4;

    fn put(&self, out: &mut Encoder<'_>) {
        put_list(out, "partitions", &self.partitions, TOPIC_PARTITIONS_MAX as usize);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { partitions: take_list(input, "partitions", TOPIC_PARTITIONS_MAX as usize)? })
    }
}

impl Field for PartitionOffset {
    const BYTES_MIN: usize = 19;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.partition);
        out.put(&self.error);
        out.put(&self.offset);
        out.put(&self.timestamp);
        out.put(&self.leader_epoch);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: input.take("partition")?,
            error: input.take("error code")?,
            offset: input.take("offset")?,
            timestamp: input.take("timestamp")?,
            leader_epoch: input.take("leader epoch")?,
        })
    }
}

impl Field for InitProducerRequest {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.producer);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { producer: input.take("producer")? })
    }
}

impl Field for InitProducerResponse {
    const BYTES_MIN: usize = 10;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.producer);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { producer: input.take("producer")? })
    }
}

impl Field for BrokerStatusRequest {
    const BYTES_MIN: usize = 0;

    fn put(&self, _out: &mut Encoder<'_>) {}

    fn take(_input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {})
    }
}

impl Field for BrokerStatusResponse {
    const BYTES_MIN: usize = 4;

    fn put(&self, out: &mut Encoder<'_>) {
        put_list(out, "metrics", &self.metrics, METRICS_MAX);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { metrics: take_list(input, "metrics", METRICS_MAX)? })
    }
}

impl Field for Metric {
    const BYTES_MIN: usize = 11;

    fn put(&self, out: &mut Encoder<'_>) {
        out.string("metric name", &self.name, NAME_BYTES_MAX);
        match self.value {
            MetricValue::Counter(value) => {
                out.put(&0_u8);
                out.put(&value);
            }
            MetricValue::Gauge(value) => {
                out.put(&1_u8);
                out.put(&value);
            }
        }
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        let name = input.string("metric name", NAME_BYTES_MAX)?;
        let value = match input.take::<u8>(what)? {
            0 => MetricValue::Counter(input.take("counter")?),
            1 => MetricValue::Gauge(input.take("gauge")?),
            value => return Err(DecodeError::BadValue { what, value: value.into() }),
        };
        Ok(Self { name, value })
    }
}
