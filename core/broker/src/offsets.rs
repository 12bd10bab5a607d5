//! Offsets by their meaning: the earliest, the latest, and the first record at or after a time.

use std::sync::Arc;

use millstream_log::{ReadError, ReadPlan};
use millstream_service::ServiceError;
use millstream_types::{ErrorCode, Offset, TimestampMs};
use millstream_wire::api::{ListOffsetsRequest, ListOffsetsResponse, OffsetSpec, PartitionOffset};
use millstream_wire::batch::Batch;

use crate::handle::{PartitionHandle, read_error};
use crate::service::{BrokerService, NO_TIMESTAMP};

impl BrokerService {
    pub(crate) async fn list_offsets(
        &self,
        request: ListOffsetsRequest,
    ) -> Result<ListOffsetsResponse, ServiceError> {
        let mut partitions = Vec::with_capacity(request.partitions.len());
        for partition in request.partitions {
            let found = match self.leader(request.topic, partition, None) {
                Ok((handle, leader_epoch)) => {
                    find(&handle, request.spec).await.map(|found| (found, leader_epoch))
                }
                Err(error) => Err(error),
            };
            partitions.push(match found {
                Ok((found, leader_epoch)) => PartitionOffset {
                    partition,
                    error: ErrorCode::None,
                    offset: found.map(|(offset, _)| offset),
                    timestamp: found.map_or(NO_TIMESTAMP, |(_, timestamp)| timestamp),
                    leader_epoch,
                },
                Err(error) => PartitionOffset {
                    partition,
                    error: error.code,
                    offset: None,
                    timestamp: NO_TIMESTAMP,
                    leader_epoch: millstream_types::LeaderEpoch(-1),
                },
            });
        }
        Ok(ListOffsetsResponse { partitions })
    }
}

async fn find(
    handle: &Arc<PartitionHandle>,
    spec: OffsetSpec,
) -> Result<Option<(Offset, TimestampMs)>, ServiceError> {
    let positions = handle.with(millstream_partition::Partition::positions)?;
    match spec {
        OffsetSpec::Earliest => Ok(Some((positions.start, NO_TIMESTAMP))),
        OffsetSpec::Latest => Ok(Some((positions.high_watermark, NO_TIMESTAMP))),
        OffsetSpec::Timestamp(timestamp) => at_timestamp(handle, timestamp).await,
    }
}

/// The first committed record whose timestamp is `timestamp` or later, and its timestamp.
pub(crate) async fn at_timestamp(
    handle: &Arc<PartitionHandle>,
    timestamp: TimestampMs,
) -> Result<Option<(Offset, TimestampMs)>, ServiceError> {
    let lookup = handle.with(|partition| {
        let committed = partition.positions().high_watermark;
        partition.log().offset_for_timestamp(timestamp, committed)
    })?;
    let Some(lookup) = lookup else { return Ok(None) };
    let Some(hit) = blocking(move || lookup.load()).await? else { return Ok(None) };
    let bytes = match handle.read(hit.cursor, 1)? {
        ReadPlan::Memory { batches, .. } => batches.into_iter().next().unwrap_or_default(),
        ReadPlan::File(read) => blocking(move || read.load()).await?.batches,
        ReadPlan::Empty => return Ok(None),
    };
    let (batch, _rest) = Batch::split_first(&bytes)
        .map_err(|error| ServiceError::new(error.code(), error.to_string()))?;
    first_record_at(&batch, timestamp)
}

/// Reads where reading may block.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ServiceError> {
    let done = tokio::task::spawn_blocking(read).await.map_err(|error| {
        ServiceError::new(ErrorCode::Internal, format!("the read ended: {error}"))
    })?;
    done.map_err(|error| read_error(&error))
}

/// Looks inside the batch, as far as the record.
fn first_record_at(
    batch: &Batch,
    timestamp: TimestampMs,
) -> Result<Option<(Offset, TimestampMs)>, ServiceError> {
    let corrupt = |reason: String| ServiceError::new(ErrorCode::CorruptBatch, reason);
    for record in batch.records().map_err(|error| corrupt(error.to_string()))? {
        let record = record.map_err(|error| corrupt(error.to_string()))?;
        if record.timestamp >= timestamp {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}
