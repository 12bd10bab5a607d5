//! A produce session: batches in, acknowledgements out, for one partition.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use millstream_service::{ProduceAck, ProduceSession, ServiceError};
use millstream_types::{Offset, TimestampMs};
use millstream_wire::api::Acks;
use tokio::sync::watch;

use crate::handle::{PartitionHandle, Progress};

/// One producer's stream into one partition.
#[derive(Debug)]
pub(crate) struct LogProduceSession {
    partition: Arc<PartitionHandle>,
    progress: watch::Receiver<Progress>,
    acks: Acks,
}

impl LogProduceSession {
    pub(crate) fn new(partition: Arc<PartitionHandle>, acks: Acks) -> Self {
        let progress = partition.watch();
        Self { partition, progress, acks }
    }
}

impl ProduceSession for LogProduceSession {
    type Ack = Pin<Box<dyn Future<Output = Result<ProduceAck, ServiceError>> + Send>>;

    fn append(&mut self, batch: BytesMut) -> Self::Ack {
        let placed = self.partition.append(batch);
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
        // The batch may be stored all the same: an idempotent producer that sends it again is
        // answered with its first place.
        Some(error) if !kept(&settled) => Err(error.clone()),
        _ => Ok(()),
    }
}

/// The error of a partition whose broker goes away.
pub(crate) fn stopping() -> ServiceError {
    ServiceError::new(
        millstream_types::ErrorCode::Unavailable,
        "the broker is shutting down; connect again",
    )
}
