//! Administration of topics. Topics are named here and identified by id everywhere else.

use std::collections::BTreeMap;

use millstream_types::limits::{NAME_BYTES_MAX, REQUEST_TOPICS_MAX, TOPIC_PARTITIONS_MAX};
use millstream_types::{BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicId};

use super::cluster::{REPLICAS_MAX, put_topic_filter, take_topic_filter};
use super::codec::{DecodeError, Decoder, Encoder, Field, put_list, take_list};
use super::common::CommandId;

/// The most configs that one request may name.
pub const CONFIGS_MAX: usize = 256;
/// The longest value of a config, in bytes.
pub const CONFIG_VALUE_BYTES_MAX: usize = 4096;

fn put_configs(out: &mut Encoder<'_>, configs: &BTreeMap<String, String>) {
    out.count("configs", configs.len(), CONFIGS_MAX);
    for (name, value) in configs {
        out.string("config name", name, NAME_BYTES_MAX);
        out.string("config value", value, CONFIG_VALUE_BYTES_MAX);
    }
}

fn take_configs(input: &mut Decoder<'_>) -> Result<BTreeMap<String, String>, DecodeError> {
    let mut configs = BTreeMap::new();
    for _ in 0..input.count("configs", CONFIGS_MAX, 4)? {
        let name = input.string("config name", NAME_BYTES_MAX)?;
        let value = input.string("config value", CONFIG_VALUE_BYTES_MAX)?;
        if configs.insert(name, value).is_some() {
            return Err(DecodeError::DuplicateKey("configs"));
        }
    }
    Ok(configs)
}

/// Creates a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateTopicRequest {
    /// Its name.
    pub name: String,
    /// How many partitions; 0 asks for the broker's default.
    pub partitions: u32,
    /// How many replicas of each; 0 asks for the broker's default.
    pub replication_factor: u16,
    /// Configs that differ from the defaults, by name.
    pub configs: BTreeMap<String, String>,
    /// Whether an existing topic of that name is a success, whatever its settings.
    pub if_not_exists: bool,
    /// Names this change, so that a retry does not make it twice.
    pub command: CommandId,
}

/// The topic exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateTopicResponse {
    /// Its id.
    pub topic: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// How many replicas each has.
    pub replication_factor: u16,
    /// Whether this request made it; false when it was there before.
    pub created: bool,
}

/// Deletes a topic and its records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteTopicRequest {
    /// Its name.
    pub name: String,
    /// Whether it is a success that no such topic exists.
    pub if_exists: bool,
    /// Names this change, so that a retry does not make it twice.
    pub command: CommandId,
}

/// No topic of that name exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteTopicResponse {
    /// The topic that this request deleted; `None` when there was none.
    pub topic: Option<TopicId>,
}

/// Changes a topic's configs, or adds partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterTopicRequest {
    /// Its name.
    pub name: String,
    /// Configs to set, by name.
    pub set: BTreeMap<String, String>,
    /// Configs to put back to their defaults.
    pub remove: Vec<String>,
    /// The new count of partitions, never fewer than now; `None` leaves it.
    pub partitions: Option<u32>,
    /// Names this change, so that a retry does not make it twice.
    pub command: CommandId,
}

/// The topic is as was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterTopicResponse {
    /// Its id.
    pub topic: TopicId,
    /// How many partitions it has now.
    pub partitions: u32,
}

/// Asks for settings and sizes of topics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribeTopicsRequest {
    /// The topics' names; `None` asks for all.
    pub topics: Option<Vec<String>>,
}

/// Settings and sizes of topics, in the order of the names asked for, or by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribeTopicsResponse {
    /// One entry for each topic.
    pub topics: Vec<TopicDescription>,
}

/// One topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicDescription {
    /// [`ErrorCode::None`], or why only the name says anything.
    pub error: ErrorCode,
    /// Its name.
    pub name: String,
    /// Its id.
    pub topic: TopicId,
    /// How many replicas each partition has.
    pub replication_factor: u16,
    /// Every config, defaults included, by name.
    pub configs: Vec<ConfigEntry>,
    /// Every partition, in order.
    pub partitions: Vec<PartitionDescription>,
}

/// Where a config's value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigSource {
    /// Nobody set it.
    Default,
    /// It was set on the topic.
    Topic,
}

impl Field for ConfigSource {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&match self {
            Self::Default => 0_u8,
            Self::Topic => 1,
        });
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        match input.take::<u8>(what)? {
            0 => Ok(Self::Default),
            1 => Ok(Self::Topic),
            value => Err(DecodeError::BadValue { what, value: value.into() }),
        }
    }
}

/// One config of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where the value comes from.
    pub source: ConfigSource,
}

/// One partition's place and size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionDescription {
    /// The partition.
    pub partition: PartitionIndex,
    /// [`ErrorCode::None`], or why offsets and sizes are missing and read 0.
    pub error: ErrorCode,
    /// Who leads it, if anyone.
    pub leader: Option<BrokerId>,
    /// The leadership.
    pub leader_epoch: LeaderEpoch,
    /// Who holds a copy.
    pub replicas: Vec<BrokerId>,
    /// Which of them are in sync.
    pub in_sync: Vec<BrokerId>,
    /// The first offset that it still has.
    pub log_start: Offset,
    /// One past the last committed record.
    pub high_watermark: Offset,
    /// One past the last record.
    pub log_end: Offset,
    /// Bytes of batches on the leader's disk.
    pub bytes: u64,
    /// Segments on the leader's disk.
    pub segments: u32,
}

impl Field for CreateTopicRequest {
    const BYTES_MIN: usize = 29;

    fn put(&self, out: &mut Encoder<'_>) {
        out.string("topic name", &self.name, NAME_BYTES_MAX);
        out.put(&self.partitions);
        out.put(&self.replication_factor);
        put_configs(out, &self.configs);
        out.put(&self.if_not_exists);
        out.put(&self.command);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            name: input.string("topic name", NAME_BYTES_MAX)?,
            partitions: input.take("partitions")?,
            replication_factor: input.take("replication factor")?,
            configs: take_configs(input)?,
            if_not_exists: input.take("if-not-exists")?,
            command: input.take("command id")?,
        })
    }
}

impl Field for CreateTopicResponse {
    const BYTES_MIN: usize = 23;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.topic);
        out.put(&self.partitions);
        out.put(&self.replication_factor);
        out.put(&self.created);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            topic: input.take("topic id")?,
            partitions: input.take("partitions")?,
            replication_factor: input.take("replication factor")?,
            created: input.take("created")?,
        })
    }
}

impl Field for DeleteTopicRequest {
    const BYTES_MIN: usize = 19;

    fn put(&self, out: &mut Encoder<'_>) {
        out.string("topic name", &self.name, NAME_BYTES_MAX);
        out.put(&self.if_exists);
        out.put(&self.command);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            name: input.string("topic name", NAME_BYTES_MAX)?,
            if_exists: input.take("if-exists")?,
            command: input.take("command id")?,
        })
    }
}

impl Field for DeleteTopicResponse {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.topic);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { topic: input.take("topic id")? })
    }
}

impl Field for AlterTopicRequest {
    const BYTES_MIN: usize = 27;

    fn put(&self, out: &mut Encoder<'_>) {
        out.string("topic name", &self.name, NAME_BYTES_MAX);
        put_configs(out, &self.set);
        out.count("removed configs", self.remove.len(), CONFIGS_MAX);
        for name in &self.remove {
            out.string("config name", name, NAME_BYTES_MAX);
        }
        out.put(&self.partitions);
        out.put(&self.command);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        let name = input.string("topic name", NAME_BYTES_MAX)?;
        let set = take_configs(input)?;
        let mut remove = Vec::new();
        for _ in 0..input.count("removed configs", CONFIGS_MAX, 2)? {
            remove.push(input.string("config name", NAME_BYTES_MAX)?);
        }
        let partitions = input.take("partitions")?;
        Ok(Self { name, set, remove, partitions, command: input.take("command id")? })
    }
}

impl Field for AlterTopicResponse {
    const BYTES_MIN: usize = 20;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.topic);
        out.put(&self.partitions);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { topic: input.take("topic id")?, partitions: input.take("partitions")? })
    }
}

impl Field for DescribeTopicsRequest {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        put_topic_filter(out, self.topics.as_deref());
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { topics: take_topic_filter(input)? })
    }
}

impl Field for DescribeTopicsResponse {
    const BYTES_MIN: usize = 4;

    fn put(&self, out: &mut Encoder<'_>) {
        put_list(out, "topics", &self.topics, REQUEST_TOPICS_MAX);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { topics: take_list(input, "topics", REQUEST_TOPICS_MAX)? })
    }
}

impl Field for ConfigEntry {
    const BYTES_MIN: usize = 5;

    fn put(&self, out: &mut Encoder<'_>) {
        out.string("config name", &self.name, NAME_BYTES_MAX);
        out.string("config value", &self.value, CONFIG_VALUE_BYTES_MAX);
        out.put(&self.source);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            name: input.string("config name", NAME_BYTES_MAX)?,
            value: input.string("config value", CONFIG_VALUE_BYTES_MAX)?,
            source: input.take("config source")?,
        })
    }
}

impl Field for TopicDescription {
    const BYTES_MIN: usize = 30;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.error);
        out.string("topic name", &self.name, NAME_BYTES_MAX);
        out.put(&self.topic);
        out.put(&self.replication_factor);
        put_list(out, "configs", &self.configs, CONFIGS_MAX);
        put_list(out, "partitions", &self.partitions, TOPIC_PARTITIONS_MAX as usize);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            error: input.take("error code")?,
            name: input.string("topic name", NAME_BYTES_MAX)?,
            topic: input.take("topic id")?,
            replication_factor: input.take("replication factor")?,
            configs: take_list(input, "configs", CONFIGS_MAX)?,
            partitions: take_list(input, "partitions", TOPIC_PARTITIONS_MAX as usize)?,
        })
    }
}

impl Field for PartitionDescription {
    const BYTES_MIN: usize = 55;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.partition);
        out.put(&self.error);
        out.put(&self.leader);
        out.put(&self.leader_epoch);
        put_list(out, "replicas", &self.replicas, REPLICAS_MAX);
        put_list(out, "in-sync replicas", &self.in_sync, REPLICAS_MAX);
        out.put(&self.log_start);
        out.put(&self.high_watermark);
        out.put(&self.log_end);
        out.put(&self.bytes);
        out.put(&self.segments);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: input.take("partition")?,
            error: input.take("error code")?,
            leader: input.take("leader")?,
            leader_epoch: input.take("leader epoch")?,
            replicas: take_list(input, "replicas", REPLICAS_MAX)?,
            in_sync: take_list(input, "in-sync replicas", REPLICAS_MAX)?,
            log_start: input.take("log start")?,
            high_watermark: input.take("high watermark")?,
            log_end: input.take("log end")?,
            bytes: input.take("bytes")?,
            segments: input.take("segments")?,
        })
    }
}
