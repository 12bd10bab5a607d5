//! The broker's answer to every front: finds the partition and opens sessions on it; unary calls
//! are in `admin` and `offsets`.

use std::sync::{Arc, OnceLock};

use millstream_env::clock::Clock;
use millstream_quorum::Quorum;
use millstream_service::{
    LeaderHint, OpenProduce, OpenSubscription, ProduceOpened, Request, RequestContext, Response,
    Service, ServiceError, SubscriptionOpened,
};
use millstream_types::limits::{PRODUCE_IN_FLIGHT_MAX, SUBSCRIPTION_FRAME_BYTES};
use millstream_types::{
    BrokerId, ErrorCode, LeaderEpoch, PartitionIndex, TimestampMs, TopicId, TopicPartition,
};
use millstream_wire::api::StartAt;
use tokio::sync::Semaphore;

use crate::archive::{Archives, Restores};
use crate::handle::PartitionHandle;
use crate::ids::Ids;
use crate::offsets;
use crate::partitions::Partitions;
use crate::produce::{LogProduceSession, is_allocated};
use crate::read_memory::ReadMemory;
use crate::stats::{Metrics, Stats};
use crate::subscription::LogSubscription;

/// Everything that a request may need.
#[derive(Debug)]
pub(crate) struct BrokerService {
    pub(crate) broker: BrokerId,
    pub(crate) quorum: Arc<Quorum>,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) archives: Arc<Archives>,
    pub(crate) restores: Arc<Restores>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Ids,
    pub(crate) stats: Arc<Stats>,
    pub(crate) read_memory: Arc<ReadMemory>,
    /// Turns to build a long reply.
    pub(crate) builds: Arc<Semaphore>,
    /// Set once the front, which has counters of its own, is bound.
    pub(crate) metrics: OnceLock<Metrics>,
}

impl BrokerService {
    /// The partition's handle and the epoch of its leadership, if it is led here and in the epoch
    /// that the caller knows of.
    pub(crate) fn leader(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        known: Option<LeaderEpoch>,
    ) -> Result<(Arc<PartitionHandle>, LeaderEpoch), ServiceError> {
        let id = TopicPartition { topic, partition };
        let Some(handle) = self.partitions.get(id) else {
            return Err(self.not_here(topic, partition));
        };
        let epoch = handle.leading()?;
        if known.is_some_and(|known| known < epoch) {
            return Err(ServiceError::new(
                ErrorCode::FencedLeaderEpoch,
                format!("partition {id} is in leader epoch {epoch}; ask for the metadata again"),
            ));
        }
        Ok((handle, epoch))
    }

    /// Why a partition is not served here, with the leader's endpoint where there is one.
    fn not_here(&self, topic: TopicId, partition: PartitionIndex) -> ServiceError {
        let state = self.quorum.state();
        let Some(found) = state.topic(topic) else {
            let message = format!("no topic has id {topic}; it may have been deleted");
            return ServiceError::new(ErrorCode::UnknownTopic, message);
        };
        let Some(assigned) = found.partition(partition) else {
            let message = format!(
                "topic `{}` has partitions 0 to {}, not {partition}",
                found.name,
                found.partitions.len().saturating_sub(1),
            );
            return ServiceError::new(ErrorCode::UnknownPartition, message);
        };
        let message = format!("broker {} does not lead partition {partition}", self.broker);
        let error = ServiceError::new(ErrorCode::NotLeader, message);
        let leader = assigned.leader.and_then(|id| state.broker(id));
        match leader.and_then(|broker| broker.endpoints.first().map(|at| (broker.id, at))) {
            Some((broker, at)) => error.with_leader(LeaderHint {
                broker,
                epoch: assigned.leader_epoch,
                endpoint: format!("{}:{}", at.host, at.port),
            }),
            None => error,
        }
    }
}

impl Service for BrokerService {
    type Produce = LogProduceSession;
    type Subscription = LogSubscription;

    fn reply_bytes_max(&self, request: &Request) -> usize {
        self.reply_bytes(request)
    }

    async fn unary(
        &self,
        _context: RequestContext,
        request: Request,
    ) -> Result<Response, ServiceError> {
        Ok(match request {
            Request::Metadata(request) => Response::Metadata(self.metadata(request).await?),
            Request::CreateTopic(request) => {
                Response::CreateTopic(self.create_topic(request).await?)
            }
            Request::DeleteTopic(request) => {
                Response::DeleteTopic(self.delete_topic(request).await?)
            }
            Request::AlterTopic(request) => Response::AlterTopic(self.alter_topic(request).await?),
            Request::DescribeTopics(request) => {
                Response::DescribeTopics(self.describe_topics(request).await?)
            }
            Request::ListOffsets(request) => {
                Response::ListOffsets(self.list_offsets(request).await?)
            }
            Request::InitProducer(request) => {
                Response::InitProducer(self.init_producer(&request).await?)
            }
            Request::BrokerStatus(_) => Response::BrokerStatus(self.broker_status()),
            Request::ArchiveStatus(request) => {
                Response::ArchiveStatus(self.archive_status(&request).await)
            }
            Request::VerifyArchive(request) => {
                Response::VerifyArchive(self.verify_archive(&request).await?)
            }
            Request::ArchivedTopics(_) => Response::ArchivedTopics(self.archived_topics().await?),
            Request::RestoreTopic(request) => {
                Response::RestoreTopic(self.restore_topic(request).await?)
            }
        })
    }

    async fn open_produce(
        &self,
        _context: RequestContext,
        open: OpenProduce,
    ) -> Result<(ProduceOpened, LogProduceSession), ServiceError> {
        let (handle, leader_epoch) = self.leader(open.topic, open.partition, open.leader_epoch)?;
        if let Some(producer) = open.producer {
            is_allocated(producer.id, &self.quorum.state())?;
        }
        let batch_bytes_max = handle.with(millstream_partition::Partition::batch_bytes_max)?;
        let opened = ProduceOpened {
            leader_epoch,
            batch_bytes_max: u32::try_from(batch_bytes_max).unwrap_or(u32::MAX),
            in_flight_max: u32::try_from(PRODUCE_IN_FLIGHT_MAX).unwrap_or(u32::MAX),
        };
        let quorum = Arc::clone(&self.quorum);
        let archives = Arc::clone(&self.archives);
        Ok((opened, LogProduceSession::new(handle, open.acks, quorum, archives)))
    }

    async fn subscribe(
        &self,
        _context: RequestContext,
        open: OpenSubscription,
    ) -> Result<(SubscriptionOpened, LogSubscription), ServiceError> {
        let (handle, leader_epoch) = self.leader(open.topic, open.partition, None)?;
        // As of before the search, so that what comes during it is not skipped.
        let behind = handle.with(|partition| partition.positions().high_watermark)?;
        let by_time = match open.start {
            StartAt::Timestamp(timestamp) => {
                offsets::at_timestamp(&handle, &self.archives, timestamp).await?
            }
            StartAt::Earliest | StartAt::Latest | StartAt::Offset(_) => None,
        };
        let (log_start, high_watermark) = handle
            .with(|partition| (partition.earliest(), partition.positions().high_watermark))?;
        let start = match open.start {
            StartAt::Earliest => log_start,
            StartAt::Latest => high_watermark,
            StartAt::Offset(offset) => offset,
            StartAt::Timestamp(_) => by_time.map_or(behind, |(offset, _)| offset),
        };
        if start < log_start || start > high_watermark {
            return Err(ServiceError::new(
                ErrorCode::OffsetOutOfRange,
                format!("offset {start} is outside of {log_start} to {high_watermark}"),
            ));
        }
        let asked = usize::try_from(open.frame_bytes_max).unwrap_or(usize::MAX);
        let max_bytes = match asked {
            0 => SUBSCRIPTION_FRAME_BYTES,
            asked => asked.min(SUBSCRIPTION_FRAME_BYTES),
        };
        let (memory, stats) = (Arc::clone(&self.read_memory), Arc::clone(&self.stats));
        let archives = Arc::clone(&self.archives);
        let subscription = LogSubscription::new(handle, start, max_bytes, memory, stats, archives);
        Ok((SubscriptionOpened { start, log_start, high_watermark, leader_epoch }, subscription))
    }
}

/// The timestamp of an answer that has none.
pub(crate) const NO_TIMESTAMP: TimestampMs = TimestampMs::NONE;
