//! A subscription: committed batches of one partition, pushed in order. The tail comes from
//! memory; older data is read by the disk's threads, one read ahead of what is being sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_log::{Cursor, Loaded, ReadError, ReadPlan};
use millstream_service::{Progress as Report, ServiceError, Subscription, SubscriptionEvent};
use millstream_types::{ErrorCode, Offset};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::archive::{Archives, Feed};
use crate::handle::{PartitionHandle, Progress, Source, read_error};
use crate::produce::stopping;
use crate::stats::Stats;

/// How often an idle subscription reports where the partition stands.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// One consumer's stream out of one partition.
#[derive(Debug)]
pub(crate) struct LogSubscription {
    partition: Arc<PartitionHandle>,
    progress: watch::Receiver<Progress>,
    from: Cursor,
    max_bytes: usize,
    /// The read that is under way; its result comes next.
    ahead: Option<JoinHandle<Result<Loaded, ReadError>>>,
    /// Serves what the log has forgotten.
    feed: Feed,
    /// Whether the tail was reported since the last batches.
    reported: bool,
    stats: Arc<Stats>,
}

impl LogSubscription {
    pub(crate) fn new(
        partition: Arc<PartitionHandle>,
        start: Offset,
        max_bytes: usize,
        stats: Arc<Stats>,
        archives: Arc<Archives>,
    ) -> Self {
        let progress = partition.watch();
        let from = Cursor::from(start);
        let feed = Feed::new(archives, partition.id());
        Self { partition, progress, from, max_bytes, ahead: None, feed, reported: false, stats }
    }

    /// Starts the next read if it needs the disk; what memory holds is left for later.
    fn read_ahead(&mut self) -> Result<(), ServiceError> {
        let source = self.partition.source(self.from, self.max_bytes)?;
        if let Source::Log(ReadPlan::File(read)) = source {
            self.ahead = Some(tokio::task::spawn_blocking(move || read.load()));
        }
        Ok(())
    }

    fn deliver(&mut self, batches: Vec<Bytes>, next: Cursor) -> SubscriptionEvent {
        self.from = next;
        self.reported = false;
        self.stats.served(batches.iter().map(Bytes::len).sum());
        let high_watermark = self.progress.borrow().high_watermark;
        SubscriptionEvent::Batches { batches, high_watermark }
    }

    /// Waits for the partition to move, or for the time of a report.
    async fn wait(&mut self) -> Result<Option<SubscriptionEvent>, ServiceError> {
        // A log whose disk has failed stays readable, but nothing will come behind its end.
        if let Some(error) = &self.progress.borrow().stopped {
            return Err(error.clone());
        }
        if self.reported {
            let moved = tokio::time::timeout(REPORT_INTERVAL, self.progress.changed()).await;
            match moved {
                Ok(Ok(())) => return Ok(None),
                Ok(Err(_)) => return Err(stopping()),
                Err(_elapsed) => {}
            }
        }
        self.reported = true;
        let progress = self.progress.borrow();
        let (high_watermark, log_start) = (progress.high_watermark, progress.start);
        Ok(Some(SubscriptionEvent::Progress(Report { high_watermark, log_start })))
    }
}

impl Subscription for LogSubscription {
    async fn next(&mut self) -> Result<SubscriptionEvent, ServiceError> {
        loop {
            if let Some(reading) = &mut self.ahead {
                let loaded = reading.await;
                self.ahead = None;
                let loaded = loaded.map_err(|error| {
                    ServiceError::new(ErrorCode::Internal, format!("a read ended: {error}"))
                })?;
                let loaded = loaded.map_err(|error| read_error(&error))?;
                self.stats.copied(loaded.batches.len());
                let event = self.deliver(vec![loaded.batches], loaded.next);
                self.read_ahead()?;
                return Ok(event);
            }
            // Marked as seen before reading, so that no progress slips between the two.
            self.progress.borrow_and_update();
            match self.partition.source(self.from, self.max_bytes)? {
                Source::Log(ReadPlan::Memory { batches, next }) => {
                    return Ok(self.deliver(batches, next));
                }
                Source::Log(ReadPlan::File(read)) => {
                    self.ahead = Some(tokio::task::spawn_blocking(move || read.load()));
                }
                Source::Archive => {
                    let read = self.feed.read(self.from.offset(), self.max_bytes).await?;
                    return Ok(self.deliver(read.batches, Cursor::from(read.next)));
                }
                Source::Log(ReadPlan::Empty) => {
                    if let Some(event) = self.wait().await? {
                        return Ok(event);
                    }
                }
            }
        }
    }
}
