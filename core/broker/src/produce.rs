//! A produce session: batches in, acknowledgements out, for one partition.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use millstream_log::{Cursor, ReadPlan};
use millstream_meta::MetaState;
use millstream_partition::{Placed, TimestampPolicy};
use millstream_quorum::Quorum;
use millstream_service::{ProduceAck, ProduceSession, ServiceError};
use millstream_types::{ErrorCode, Offset, ProducerId, TimestampMs};
use millstream_wire::api::Acks;
use millstream_wire::{BatchHeader, TimestampType};
use tokio::sync::watch;

use crate::archive::Archives;
use crate::handle::{PartitionHandle, Progress, check, is_costly};

/// One producer's stream into one partition.
#[derive(Debug)]
pub(crate) struct LogProduceSession {
    partition: Arc<PartitionHandle>,
    progress: watch::Receiver<Progress>,
    acks: Acks,
    quorum: Arc<Quorum>,
    archives: Arc<Archives>,
}

impl LogProduceSession {
    pub(crate) fn new(
        partition: Arc<PartitionHandle>,
        acks: Acks,
        quorum: Arc<Quorum>,
        archives: Arc<Archives>,
    ) -> Self {
        let progress = partition.watch();
        Self { partition, progress, acks, quorum, archives }
    }

    /// Checks a batch and gives it its place.
    async fn place(&self, bytes: BytesMut) -> Result<Placed, ServiceError> {
        // What does not parse is refused by the check.
        let header = BatchHeader::parse(&bytes).ok();
        if let Some(header) = &header {
            is_allocated(header.producer_id, &self.quorum.state())?;
        }
        let batch = if header.is_some_and(|header| is_costly(&header)) {
            let checked = tokio::task::spawn_blocking(move || check(bytes)).await;
            checked.map_err(|error| {
                ServiceError::new(ErrorCode::Internal, format!("a check ended: {error}"))
            })??
        } else {
            check(bytes)?
        };
        let mut placed = self.partition.append(batch, &self.archives)?;
        self.archives.pace.note_produced();
        if placed.duplicate {
            placed.append_time = first_append_time(&self.partition, placed.base_offset).await;
        }
        Ok(placed)
    }
}

/// The time that a batch, which was stored before, was given then. It is read from the log: to
/// remember it would make every producer's state larger, for an answer that is hardly ever needed.
/// `None` on topics that keep the producers' times, and where retention has taken the batch.
async fn first_append_time(partition: &PartitionHandle, at: Offset) -> Option<TimestampMs> {
    let plan = partition.with(|partition| {
        let is_stamped = partition.timestamps() == TimestampPolicy::LogAppendTime;
        // Any size will do: the read takes whole batches, and one at least.
        is_stamped.then(|| partition.log().read(Cursor::from(at), partition.log().end(), 1))
    });
    let stored = match plan.ok()??.ok()? {
        ReadPlan::Memory { batches, .. } => batches.into_iter().next()?,
        ReadPlan::File(read) => {
            let loaded = tokio::task::spawn_blocking(move || read.load()).await;
            loaded.ok()?.ok()?.batches
        }
        ReadPlan::Empty => return None,
    };
    let header = BatchHeader::parse(&stored).ok()?;
    let is_stamped = header.attributes.timestamp_type() == TimestampType::LogAppendTime;
    (header.base_offset == at && is_stamped).then_some(header.max_timestamp)
}

impl ProduceSession for LogProduceSession {
    type Ack = Pin<Box<dyn Future<Output = Result<ProduceAck, ServiceError>> + Send>>;

    async fn append(&mut self, batch: BytesMut) -> Self::Ack {
        let placed = self.place(batch).await;
        let progress = self.progress.clone();
        let acks = self.acks;
        Box::pin(async move {
            let placed = placed?;
            until_kept(progress, placed.next_offset, acks).await?;
            Ok(ProduceAck {
                base_offset: placed.base_offset,
                append_time: placed.append_time.unwrap_or(TimestampMs::NONE),
                throttle_ms: 0,
            })
        })
    }
}

/// Refuses a producer id that the cluster never gave out: invented ids would push real producers
/// out of a partition's memory, which is bounded.
pub(crate) fn is_allocated(id: ProducerId, state: &MetaState) -> Result<(), ServiceError> {
    if state.has_allocated(id) || id == ProducerId::NONE {
        return Ok(());
    }
    let message = format!("producer id {id} was never given out; ask for one with InitProducer");
    Err(ServiceError::new(ErrorCode::UnknownProducer, message))
}

/// Waits until everything before `end` is kept as `acks` ask.
async fn until_kept(
    mut progress: watch::Receiver<Progress>,
    end: Offset,
    acks: Acks,
) -> Result<(), ServiceError> {
    let kept = |progress: &Progress| match acks {
        Acks::All => progress.high_watermark >= end,
        Acks::Leader => progress.written >= end,
    };
    let settled = progress
        .wait_for(|progress| kept(progress) || progress.stopped.is_some())
        .await
        .map_err(|_closed| stopping())?;
    match &settled.stopped {
        Some(error) if !kept(&settled) => Err(in_doubt(error)),
        _ => Ok(()),
    }
}

/// The answer to a batch that was appended, where a failed disk leaves open whether it will be
/// there: never a code that says that it is not stored. An idempotent producer that sends it again,
/// once the partition is back, is answered with its first place.
pub(crate) fn in_doubt(error: &ServiceError) -> ServiceError {
    if error.code != ErrorCode::StorageFenced {
        return error.clone();
    }
    let message = format!("the batch may be stored or not: {}", error.message);
    ServiceError::new(ErrorCode::Unavailable, message)
}

/// The error of a partition whose broker goes away.
pub(crate) fn stopping() -> ServiceError {
    ServiceError::new(ErrorCode::Unavailable, "the broker is shutting down; connect again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_appended_batch_is_never_said_to_be_lost() {
        let zero = Offset::ZERO;
        let start = Progress { start: zero, high_watermark: zero, written: zero, stopped: None };
        let (moves, progress) = watch::channel(start);
        let acknowledged = until_kept(progress.clone(), zero.plus(1), Acks::All);
        let failed = ServiceError::new(ErrorCode::StorageFenced, "the disk failed");
        moves.send_modify(|progress| progress.stopped = Some(failed));
        let answer = acknowledged.await.unwrap_err();
        assert_eq!(answer.code, ErrorCode::Unavailable);
        assert!(answer.code.is_retriable() && answer.message.contains("may be stored"));
        // What was kept before the failure is acknowledged, and a deleted topic is named as such.
        moves.send_modify(|progress| progress.high_watermark = zero.plus(1));
        until_kept(progress.clone(), zero.plus(1), Acks::All).await.unwrap();
        let deleted = ServiceError::new(ErrorCode::UnknownTopic, "gone");
        moves.send_modify(|progress| progress.stopped = Some(deleted.clone()));
        assert_eq!(until_kept(progress, zero.plus(2), Acks::All).await, Err(deleted));
    }
}
