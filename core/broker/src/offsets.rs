//! Offsets by their meaning: the earliest, the latest, and the first record at or after a time.

use std::sync::Arc;

use millstream_log::{Cursor, ReadPlan};
use millstream_service::ServiceError;
use millstream_types::{ErrorCode, Offset, TimestampMs};
use millstream_wire::api::{ListOffsetsRequest, ListOffsetsResponse, OffsetSpec, PartitionOffset};
use millstream_wire::batch::Batch;

use crate::archive::{Archives, Feed};
use crate::handle::{PartitionHandle, read_error};
use crate::replies::each_once;
use crate::service::{BrokerService, NO_TIMESTAMP};

/// Bytes read at once while searching for a time.
const SEARCH_BYTES: usize = 256 * 1024;

/// A record's offset and timestamp, if it was found, and where to read on.
type Searched = (Option<(Offset, TimestampMs)>, Option<Cursor>);

impl BrokerService {
    pub(crate) async fn list_offsets(
        &self,
        request: ListOffsetsRequest,
    ) -> Result<ListOffsetsResponse, ServiceError> {
        let wanted = each_once(request.partitions);
        let mut partitions = Vec::with_capacity(wanted.len());
        for partition in wanted {
            // There may be very many, and looking at one need not wait for anything.
            tokio::task::consume_budget().await;
            let found = match self.leader(request.topic, partition, None) {
                Ok((handle, leader_epoch)) => find(&handle, &self.archives, request.spec)
                    .await
                    .map(|found| (found, leader_epoch)),
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
    archives: &Arc<Archives>,
    spec: OffsetSpec,
) -> Result<Option<(Offset, TimestampMs)>, ServiceError> {
    let (earliest, high_watermark) =
        handle.with(|partition| (partition.earliest(), partition.positions().high_watermark))?;
    match spec {
        OffsetSpec::Earliest => Ok(Some((earliest, NO_TIMESTAMP))),
        OffsetSpec::Latest => Ok(Some((high_watermark, NO_TIMESTAMP))),
        OffsetSpec::Timestamp(timestamp) => at_timestamp(handle, archives, timestamp).await,
    }
}

/// The first committed record whose timestamp is `timestamp` or later, and its timestamp.
pub(crate) async fn at_timestamp(
    handle: &Arc<PartitionHandle>,
    archives: &Arc<Archives>,
    timestamp: TimestampMs,
) -> Result<Option<(Offset, TimestampMs)>, ServiceError> {
    // The log may have forgotten what is in the archive.
    let cold = handle.with(|partition| partition.earliest() < partition.log().start())?;
    if cold {
        let found = Feed::new(Arc::clone(archives), handle.id()).find_time(timestamp).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    let lookup = handle.with(|partition| {
        let committed = partition.positions().high_watermark;
        partition.log().offset_for_timestamp(timestamp, committed)
    })?;
    let Some(lookup) = lookup else { return Ok(None) };
    let hit = blocking(move || lookup.load().map_err(|error| read_error(&error))).await?;
    let mut at = match hit {
        Some(hit) => hit.cursor,
        None => return Ok(None),
    };
    // The batch was found by its header; where that promised a timestamp which none of its records
    // has, the search goes on behind it.
    loop {
        let plan = handle.read(at, SEARCH_BYTES)?;
        if matches!(plan, ReadPlan::Empty) {
            return Ok(None);
        }
        let (found, next) = blocking(move || search(plan, timestamp)).await?;
        match (found, next) {
            (Some(found), _) => return Ok(Some(found)),
            (None, Some(next)) if next.offset() > at.offset() => at = next,
            (None, _) => return Ok(None),
        }
    }
}

/// Looks for the record in what was planned to be read; returns where to read on, too. Blocks.
fn search(plan: ReadPlan, timestamp: TimestampMs) -> Result<Searched, ServiceError> {
    let (pieces, next) = match plan {
        ReadPlan::Memory { batches, next } => (batches, next),
        ReadPlan::File(read) => {
            let loaded = read.load().map_err(|error| read_error(&error))?;
            (vec![loaded.batches], loaded.next)
        }
        ReadPlan::Empty => return Ok((None, None)),
    };
    for mut rest in pieces {
        while !rest.is_empty() {
            let (batch, behind) = Batch::split_first(&rest)
                .map_err(|error| ServiceError::new(error.code(), error.to_string()))?;
            rest = behind;
            let found = first_record_at(&batch, timestamp)?;
            if found.is_some() {
                return Ok((found, Some(next)));
            }
        }
    }
    Ok((None, Some(next)))
}

/// Runs what may block where it may.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(read).await.map_err(|error| {
        ServiceError::new(ErrorCode::Internal, format!("the read ended: {error}"))
    })?
}

/// Looks inside the batch, as far as the record.
fn first_record_at(
    batch: &Batch,
    timestamp: TimestampMs,
) -> Result<Option<(Offset, TimestampMs)>, ServiceError> {
    if batch.header().max_timestamp < timestamp {
        return Ok(None);
    }
    let corrupt = |reason: String| ServiceError::new(ErrorCode::CorruptBatch, reason);
    for record in batch.records().map_err(|error| corrupt(error.to_string()))? {
        let record = record.map_err(|error| corrupt(error.to_string()))?;
        if record.timestamp >= timestamp {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}
