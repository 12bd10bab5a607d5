//! Every body of the native protocol as a struct, with its bytes. `docs/protocol.md` specifies the
//! layouts; the golden frames in `golden/v1.txt` hold them still.
//!
//! Bodies come in three shapes, one for each shape of the service: unary calls ([`Call`],
//! [`Response`]), produce sessions ([`OpenProduce`], [`ProduceAck`]) and subscriptions
//! ([`OpenSubscription`], [`Progress`], [`End`]). A frame that answers another is a [`Reply`].
//! Decoders take any bytes without panicking, allocate in proportion to what they are given, and
//! ignore bytes after the last field that they know.

mod archive;
mod call;
mod cluster;
mod codec;
mod common;
mod hello;
mod produce;
mod reply;
mod subscribe;
mod topics;

pub use archive::{
    ARCHIVE_PARTITIONS_MAX, ArchivePartitionStatus, ArchiveStatusRequest, ArchiveStatusResponse,
    ArchivedTopicEntry, ArchivedTopicsRequest, ArchivedTopicsResponse, RestoreTopicRequest,
    RestoreTopicResponse, RestoredRange, VerifyArchiveRequest, VerifyArchiveResponse,
};
pub use call::{
    API_VERSION, ApiKey, Call, Request, RequestError, Response, read_response, request_frame,
    response_frame,
};
pub use cluster::{
    BROKERS_MAX, BrokerMetadata, BrokerStatusRequest, BrokerStatusResponse, InitProducerRequest,
    InitProducerResponse, ListOffsetsRequest, ListOffsetsResponse, METRICS_MAX, MetadataRequest,
    MetadataResponse, Metric, MetricValue, OffsetSpec, PartitionMetadata, PartitionOffset,
    REPLICAS_MAX, TopicMetadata,
};
pub use codec::{DecodeError, EncodeError, FrameBody};
pub use common::{
    CommandId, ENDPOINT_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX, LeaderHint, ProducerIdentity,
    ServiceError, TraceId,
};
pub use hello::{Hello, HelloReply, MAGIC};
pub use produce::{Acks, OpenProduce, ProduceAck, ProduceOpened};
pub use reply::Reply;
pub use subscribe::{
    End, OpenSubscription, Progress, StartAt, SubscriptionOpened, batches_prefix,
    read_batches_prefix,
};
pub use topics::{
    AlterTopicRequest, AlterTopicResponse, CONFIG_VALUE_BYTES_MAX, CONFIGS_MAX, ConfigEntry,
    ConfigSource, CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse,
    DescribeTopicsRequest, DescribeTopicsResponse, PartitionDescription, TopicDescription,
};

#[cfg(test)]
mod tests;
