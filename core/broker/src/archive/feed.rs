//! Reads a partition's archive for one subscription or search.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use millstream_service::ServiceError;
use millstream_tiered::{ArchiveError, ArchiveReader, Replayed};
use millstream_types::{ErrorCode, Offset, TimestampMs, TopicPartition};

use super::{Archives, PIECE_BYTES, service_error};

/// One reader's way through a partition's archive. It opens the archive at its first read, and
/// again where that has grown since.
#[derive(Debug)]
pub(crate) struct Feed {
    archives: Arc<Archives>,
    id: TopicPartition,
    reader: Option<ArchiveReader>,
}

impl Feed {
    pub(crate) const fn new(archives: Arc<Archives>, id: TopicPartition) -> Self {
        Self { archives, id, reader: None }
    }

    /// A piece of the batches from the one that holds `offset` on, of at most `bytes_max` bytes,
    /// and where to read on, once it is their turn beside what is produced. May be dropped and
    /// called again.
    pub(crate) async fn next(
        &mut self,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<Replayed, ServiceError> {
        let replayed = self.read(offset, bytes_max.min(PIECE_BYTES)).await?;
        let bytes = replayed.batches.iter().map(Bytes::len).sum();
        self.archives.pace.turn(self.archives.clock.as_ref(), bytes).await;
        Ok(replayed)
    }

    /// Batches from the one that holds `offset` on, of at most `bytes_max` bytes, and where to read
    /// on. May be dropped and called again.
    pub(crate) async fn read(
        &mut self,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<Replayed, ServiceError> {
        let mut fresh = self.reader.is_none();
        loop {
            let read = match &mut self.reader {
                Some(reader) => reader.read(offset, bytes_max).await,
                None => {
                    self.reader = Some(self.open().await?);
                    continue;
                }
            };
            match read {
                // It may have been archived since, or taken out of a range that was given up.
                Err(ArchiveError::OutOfRange { .. }) if !fresh => {
                    fresh = true;
                    self.reader = None;
                }
                Err(error) => {
                    self.reader = None;
                    return Err(service_error(&error));
                }
                Ok(replayed) => {
                    let bytes = replayed.batches.iter().map(Bytes::len).sum::<usize>() as u64;
                    self.archives.counters.read_bytes.fetch_add(bytes, Ordering::Relaxed);
                    return Ok(replayed);
                }
            }
        }
    }

    /// The first archived record whose timestamp is `time` or later.
    pub(crate) async fn find_time(
        &mut self,
        time: TimestampMs,
    ) -> Result<Option<(Offset, TimestampMs)>, ServiceError> {
        let reader = self.open().await?;
        reader.find_time(time).await.map_err(|error| service_error(&error))
    }

    async fn open(&self) -> Result<ArchiveReader, ServiceError> {
        let state = self.archives.quorum.state();
        let Some(slot) = self.archives.find(&state, self.id) else {
            let message = "the topic was deleted".to_owned();
            return Err(ServiceError::new(ErrorCode::UnknownTopic, message));
        };
        slot.reader(&self.archives).await.map_err(|error| service_error(&error))
    }
}
