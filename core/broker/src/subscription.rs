//! A subscription: committed batches of one partition, pushed in order. The tail comes from
//! memory; older data is read by the disk's threads into memory that has a bound, and while there
//! is plenty of that, one read ahead of what is being sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_log::{Cursor, FileRead, Load, Loaded, ReadError, ReadPlan};
use millstream_service::{Progress as Report, ServiceError, Subscription, SubscriptionEvent};
use millstream_types::{ErrorCode, Offset};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use crate::archive::{Archives, Feed};
use crate::handle::{PartitionHandle, Progress, Source, read_error};
use crate::produce::stopping;
use crate::read_memory::{Borrower, Loan, ReadMemory};
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
    memory: Arc<ReadMemory>,
    borrower: Arc<Borrower>,
    /// Memory for the next read.
    loan: Option<Loan>,
    /// What a single batch turned out to need; 0: nothing out of the ordinary.
    needed_bytes: usize,
    /// The read that is under way; its result comes next.
    reading: Option<JoinHandle<Result<Load, ReadError>>>,
    /// What was delivered last.
    last: Delivered,
    /// Serves what the log has forgotten.
    feed: Feed,
    /// Whether the tail was reported since the last batches.
    reported: bool,
    stats: Arc<Stats>,
}

/// Where batches began, how much they were, and whether they came from the archive, whose batches
/// are not the same bytes as the log's.
#[derive(Debug, Clone, Copy)]
struct Delivered {
    from: Cursor,
    bytes: usize,
    archived: bool,
}

impl LogSubscription {
    pub(crate) fn new(
        partition: Arc<PartitionHandle>,
        start: Offset,
        max_bytes: usize,
        memory: Arc<ReadMemory>,
        stats: Arc<Stats>,
        archives: Arc<Archives>,
    ) -> Self {
        let progress = partition.watch();
        let from = Cursor::from(start);
        let feed = Feed::new(archives, partition.id());
        Self {
            partition,
            progress,
            from,
            max_bytes,
            memory,
            borrower: Arc::default(),
            loan: None,
            needed_bytes: 0,
            reading: None,
            feed,
            last: Delivered { from, bytes: 0, archived: false },
            reported: false,
            stats,
        }
    }

    /// Starts the next read if it needs the disk and there is memory to spare; what the tail holds
    /// is left for later.
    fn read_ahead(&mut self) -> Result<(), ServiceError> {
        if let Source::Log(ReadPlan::File(read)) =
            self.partition.source(self.from, self.max_bytes)?
            && let Some(loan) = self.memory.take_spare(read.room_bytes(), &self.borrower)
        {
            self.reading = Some(start(read, loan));
        }
        Ok(())
    }

    /// Where the next batches are. What retention gave up while they were on their way stays in the
    /// store for its grace, and is read on from there.
    fn source(&self) -> Result<Source, ServiceError> {
        match self.partition.source(self.from, self.max_bytes) {
            Err(error) if error.code == ErrorCode::OffsetOutOfRange && self.last.archived => {
                Ok(Source::Archive)
            }
            source => source,
        }
    }

    fn deliver(&mut self, batches: Vec<Bytes>, next: Cursor) -> SubscriptionEvent {
        let bytes = batches.iter().map(Bytes::len).sum();
        self.last = Delivered { from: self.from, bytes, archived: false };
        self.from = next;
        self.reported = false;
        self.stats.served(bytes);
        let high_watermark = self.progress.borrow().high_watermark;
        SubscriptionEvent::Batches { batches, high_watermark }
    }

    /// Waits for memory without holding on to what is to be read: a segment that is removed
    /// meanwhile should go.
    async fn borrow(&mut self, room_bytes: usize) -> Result<(), ServiceError> {
        let bytes = self.needed_bytes.max(room_bytes);
        let loan = self.memory.take(bytes, &self.borrower).await;
        self.loan = Some(loan.ok_or_else(stopping)?);
        self.needed_bytes = 0;
        Ok(())
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
            if let Some(reading) = &mut self.reading {
                let loaded = reading.await;
                self.reading = None;
                match loaded.map_err(|error| ended(&error))?.map_err(|error| read_error(&error))? {
                    Load::Done(loaded) => {
                        self.stats.copied(loaded.batches.len());
                        let event = self.deliver(vec![loaded.batches], loaded.next);
                        self.read_ahead()?;
                        return Ok(event);
                    }
                    Load::Needs(bytes) => self.needed_bytes = bytes,
                }
            }
            // Marked as seen before reading, so that no progress slips between the two.
            self.progress.borrow_and_update();
            match self.source()? {
                Source::Log(ReadPlan::Memory { batches, next }) => {
                    self.loan = None;
                    return Ok(self.deliver(batches, next));
                }
                Source::Log(ReadPlan::File(read)) => match self.loan.take() {
                    Some(loan) => self.reading = Some(start(read, loan)),
                    None => {
                        let room_bytes = read.room_bytes();
                        drop(read);
                        self.borrow(room_bytes).await?;
                    }
                },
                Source::Archive => {
                    self.loan = None;
                    let read = self.feed.next(self.from.offset(), self.max_bytes).await?;
                    let event = self.deliver(read.batches, Cursor::from(read.next));
                    self.last.archived = true;
                    return Ok(event);
                }
                Source::Log(ReadPlan::Empty) => {
                    self.loan = None;
                    if let Some(event) = self.wait().await? {
                        return Ok(event);
                    }
                }
            }
        }
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn keeps_others_waiting(&self) -> bool {
        self.borrower.keeps_others_waiting(&self.memory)
    }

    fn overstayed(&self) -> impl Future<Output = ()> + Send + 'static {
        Arc::clone(&self.borrower).overstayed()
    }

    fn pause(&mut self) {
        // A read that has begun ends by itself; what it brings is dropped.
        self.reading = None;
        self.loan = None;
    }

    async fn again(&mut self) -> Result<Vec<Bytes>, ServiceError> {
        let Delivered { from, bytes, archived } = self.last;
        if archived {
            // What is archived never changes, and is cut in the same places.
            let batches = self.feed.next(from.offset(), self.max_bytes).await?.batches;
            let found: usize = batches.iter().map(Bytes::len).sum();
            return if found == bytes { Ok(batches) } else { Err(changed()) };
        }
        let loan = self.memory.take(bytes, &self.borrower).await.ok_or_else(stopping)?;
        let partition = Arc::clone(&self.partition);
        let reading =
            tokio::task::spawn_blocking(move || read_again(&partition, from, bytes, loan));
        let batches = reading.await.map_err(|error| ended(&error))??;
        self.stats.copied(bytes);
        Ok(batches)
    }
}

/// Loads what was planned, into memory that the result keeps.
fn start(read: FileRead, loan: Loan) -> JoinHandle<Result<Load, ReadError>> {
    tokio::task::spawn_blocking(move || {
        Ok(match read.load_within(loan.bytes())? {
            Load::Done(Loaded { batches, next }) => {
                let batches = loan.tie(vec![batches]).pop().unwrap_or_default();
                Load::Done(Loaded { batches, next })
            }
            needs @ Load::Needs(_) => needs,
        })
    })
}

/// The batches from `from` on that are `bytes` together. Blocks.
///
/// They may come out of the tail or of several segments now, wherever they were the first time;
/// batches are whole in each, so that they end in the same place.
fn read_again(
    partition: &PartitionHandle,
    from: Cursor,
    bytes: usize,
    loan: Loan,
) -> Result<Vec<Bytes>, ServiceError> {
    let (mut at, mut left) = (from, bytes);
    let mut pieces = Vec::new();
    while left > 0 {
        let (found, next) = match partition.read(at, left)? {
            ReadPlan::Memory { batches, next } => (batches, next),
            ReadPlan::File(read) => {
                match read.load_within(left).map_err(|error| read_error(&error))? {
                    Load::Done(loaded) => (vec![loaded.batches], loaded.next),
                    Load::Needs(_) => return Err(changed()),
                }
            }
            ReadPlan::Empty => return Err(changed()),
        };
        let found_bytes = found.iter().map(Bytes::len).sum::<usize>();
        left = left.checked_sub(found_bytes).filter(|_| found_bytes > 0).ok_or_else(changed)?;
        pieces.extend(found);
        at = next;
    }
    Ok(loan.tie(pieces))
}

fn changed() -> ServiceError {
    ServiceError::new(ErrorCode::Internal, "what was delivered cannot be had again; subscribe anew")
}

fn ended(error: &JoinError) -> ServiceError {
    ServiceError::new(ErrorCode::Internal, format!("a read ended: {error}"))
}
