//! What an operator asks about the archive: how far it is, whether it holds what it should, and
//! which topics it could bring back.

use millstream_types::limits::{NAME_BYTES_MAX, REQUEST_TOPICS_MAX, TOPIC_PARTITIONS_MAX};
use millstream_types::{ErrorCode, Offset, PartitionIndex, TopicId};

use super::cluster::{put_topic_filter, take_topic_filter};
use super::codec::{DecodeError, Decoder, Encoder, Field, put_list, take_list};
use super::common::{CommandId, ERROR_MESSAGE_BYTES_MAX};

/// The most partitions whose status one reply tells.
pub const ARCHIVE_PARTITIONS_MAX: usize = 10_000;

/// Asks how far partitions are archived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveStatusRequest {
    /// The topics' names; `None` asks for all that are archived.
    pub topics: Option<Vec<String>>,
    /// How many partitions to pass over, in the order of the reply: those told before.
    pub skip: u32,
}

/// How far partitions are archived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveStatusResponse {
    /// Where objects lie.
    pub store: String,
    /// Why the store cannot be used; empty when it can.
    pub store_error: String,
    /// Partitions that the broker leads, by topic name and index, at most
    /// [`ARCHIVE_PARTITIONS_MAX`]; when there are so many, ask for the next.
    pub partitions: Vec<ArchivePartitionStatus>,
}

/// How far one partition is archived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivePartitionStatus {
    /// The topic's name.
    pub name: String,
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The first offset in the archive.
    pub start: Offset,
    /// The offset after the last there.
    pub end: Offset,
    /// The first offset on the leader's disk.
    pub local_start: Offset,
    /// One past the last committed record.
    pub high_watermark: Offset,
    /// About how many bytes of the log are not archived yet.
    pub backlog_bytes: u64,
    /// For how long there has been something that is not archived.
    pub waiting_ms: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Bytes of the batches in them, as the log had them.
    pub log_bytes: u64,
    /// What failed last and was not made good since; empty for nothing.
    pub error: String,
}

/// Asks for a check of one archived range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyArchiveRequest {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The range that holds this offset, or the first after it.
    pub from: Offset,
}

/// What the check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyArchiveResponse {
    /// Where the next range begins; `None` when this was the last, or there was none.
    pub next: Option<Offset>,
    /// The object's name; empty when there was none.
    pub object: String,
    /// Records in it.
    pub records: u64,
    /// Its bytes.
    pub object_bytes: u64,
    /// Records that the leader's log still had and that were compared with it.
    pub compared: u64,
    /// What is wrong; empty for nothing.
    pub fault: String,
}

/// Asks which topics the store holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ArchivedTopicsRequest {}

/// The topics that the store holds, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedTopicsResponse {
    /// One entry for each.
    pub topics: Vec<ArchivedTopicEntry>,
}

/// One topic in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedTopicEntry {
    /// Its name when it was archived.
    pub name: String,
    /// Its id.
    pub topic: TopicId,
    /// How many of its partitions have been archived from.
    pub partitions: u32,
    /// Whether the cluster has it.
    pub exists: bool,
}

/// Asks for a topic to be made of what the store holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoreTopicRequest {
    /// Names the intent, as in CreateTopic.
    pub command: CommandId,
    /// The topic's name.
    pub name: String,
    /// Its id; `None` where the store holds only one of that name.
    pub topic: Option<TopicId>,
}

/// What was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoreTopicResponse {
    /// The topic, under the id that it had.
    pub topic: TopicId,
    /// One entry for each partition, in order.
    pub partitions: Vec<RestoredRange>,
}

/// What a restored partition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestoredRange {
    /// [`ErrorCode::None`], or why the partition is not open yet.
    pub error: ErrorCode,
    /// The first offset.
    pub start: Offset,
    /// The offset after the last, where the partition goes on.
    pub end: Offset,
}

impl Field for ArchiveStatusRequest {
    const BYTES_MIN: usize = 5;

    fn put(&self, out: &mut Encoder<'_>) {
        put_topic_filter(out, self.topics.as_deref());
        out.put(&self.skip);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { topics: take_topic_filter(input)?, skip: input.take("partitions to skip")? })
    }
}

impl Field for ArchiveStatusResponse {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Encoder<'_>) {
        out.string("store", &self.store, ERROR_MESSAGE_BYTES_MAX);
        out.string("store error", &self.store_error, ERROR_MESSAGE_BYTES_MAX);
        put_list(out, "partitions", &self.partitions, ARCHIVE_PARTITIONS_MAX);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            store: input.string("store", ERROR_MESSAGE_BYTES_MAX)?,
            store_error: input.string("store error", ERROR_MESSAGE_BYTES_MAX)?,
            partitions: take_list(input, "partitions", ARCHIVE_PARTITIONS_MAX)?,
        })
    }
}

impl Field for ArchivePartitionStatus {
    const BYTES_MIN: usize = 96;

    fn put(&self, out: &mut Encoder<'_>) {
        out.string("topic name", &self.name, NAME_BYTES_MAX);
        out.put(&self.topic);
        out.put(&self.partition);
        for offset in [self.start, self.end, self.local_start, self.high_watermark] {
            out.put(&offset);
        }
        out.put(&self.backlog_bytes);
        out.put(&self.waiting_ms);
        out.put(&self.objects);
        out.put(&self.object_bytes);
        out.put(&self.log_bytes);
        out.string("error", &self.error, ERROR_MESSAGE_BYTES_MAX);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            name: input.string("topic name", NAME_BYTES_MAX)?,
            topic: input.take("topic id")?,
            partition: input.take("partition")?,
            start: input.take("archive start")?,
            end: input.take("archive end")?,
            local_start: input.take("local start")?,
            high_watermark: input.take("high watermark")?,
            backlog_bytes: input.take("backlog")?,
            waiting_ms: input.take("waiting time")?,
            objects: input.take("objects")?,
            object_bytes: input.take("object bytes")?,
            log_bytes: input.take("log bytes")?,
            error: input.string("error", ERROR_MESSAGE_BYTES_MAX)?,
        })
    }
}

impl Field for VerifyArchiveRequest {
    const BYTES_MIN: usize = 28;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.topic);
        out.put(&self.partition);
        out.put(&self.from);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            topic: input.take("topic id")?,
            partition: input.take("partition")?,
            from: input.take("offset")?,
        })
    }
}

impl Field for VerifyArchiveResponse {
    const BYTES_MIN: usize = 29;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.next);
        out.string("object", &self.object, ERROR_MESSAGE_BYTES_MAX);
        out.put(&self.records);
        out.put(&self.object_bytes);
        out.put(&self.compared);
        out.string("fault", &self.fault, ERROR_MESSAGE_BYTES_MAX);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            next: input.take("next offset")?,
            object: input.string("object", ERROR_MESSAGE_BYTES_MAX)?,
            records: input.take("records")?,
            object_bytes: input.take("object bytes")?,
            compared: input.take("compared records")?,
            fault: input.string("fault", ERROR_MESSAGE_BYTES_MAX)?,
        })
    }
}

impl Field for ArchivedTopicsRequest {
    const BYTES_MIN: usize = 0;

    fn put(&self, _out: &mut Encoder<'_>) {}

    fn take(_input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {})
    }
}

impl Field for ArchivedTopicsResponse {
    const BYTES_MIN: usize = 4;

    fn put(&self, out: &mut Encoder<'_>) {
        put_list(out, "topics", &self.topics, REQUEST_TOPICS_MAX);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { topics: take_list(input, "topics", REQUEST_TOPICS_MAX)? })
    }
}

impl Field for ArchivedTopicEntry {
    const BYTES_MIN: usize = 23;

    fn put(&self, out: &mut Encoder<'_>) {
        out.string("topic name", &self.name, NAME_BYTES_MAX);
        out.put(&self.topic);
        out.put(&self.partitions);
        out.put(&self.exists);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            name: input.string("topic name", NAME_BYTES_MAX)?,
            topic: input.take("topic id")?,
            partitions: input.take("partitions")?,
            exists: input.take("existence")?,
        })
    }
}

impl Field for RestoreTopicRequest {
    const BYTES_MIN: usize = 19;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.command);
        out.string("topic name", &self.name, NAME_BYTES_MAX);
        out.put(&self.topic);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            command: input.take("command id")?,
            name: input.string("topic name", NAME_BYTES_MAX)?,
            topic: input.take("topic id")?,
        })
    }
}

impl Field for RestoreTopicResponse {
    const BYTES_MIN: usize = 20;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.topic);
        put_list(out, "partitions", &self.partitions, TOPIC_PARTITIONS_MAX as usize);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            topic: input.take("topic id")?,
            partitions: take_list(input, "partitions", TOPIC_PARTITIONS_MAX as usize)?,
        })
    }
}

impl Field for RestoredRange {
    const BYTES_MIN: usize = 18;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.error);
        out.put(&self.start);
        out.put(&self.end);
    }

    fn take(input: &mut Decoder<'_>, _what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            error: input.take("error code")?,
            start: input.take("start")?,
            end: input.take("end")?,
        })
    }
}
