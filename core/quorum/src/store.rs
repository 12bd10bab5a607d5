//! Openraft's log storage: the log in memory, the write-ahead log behind it, and the one thread
//! that writes and syncs. Jobs reach the thread in the order in which Raft issued them and are
//! answered in that order; jobs that wait together share one write and one sync.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};
use tokio::sync::{mpsc, oneshot};

use crate::error::StorageFault;
use crate::types::{Entry, LogId, RaftTypes, Vote};
use crate::wal::{Record, Recovered, WalWriter};

/// How many jobs may wait for the storage thread; more make Raft wait.
const JOBS_WAITING_MAX: usize = 256;
/// How many jobs share one write.
const JOBS_GROUPED_MAX: usize = 64;

/// The log as openraft writes it.
#[derive(Debug)]
pub(crate) struct LogStore {
    shared: Arc<Mutex<Recovered>>,
    jobs: mpsc::Sender<Job>,
}

/// The log as openraft reads it.
#[derive(Debug, Clone)]
pub(crate) struct LogReader {
    shared: Arc<Mutex<Recovered>>,
}

impl LogStore {
    /// A store over what was recovered, and the thread that writes it. The thread ends when the
    /// store is dropped and everything handed to it has been written.
    ///
    /// # Errors
    /// [`StorageFault::Stopped`] when no thread can be started.
    pub(crate) fn start(
        writer: WalWriter,
        recovered: Recovered,
    ) -> Result<(Self, JoinHandle<()>), StorageFault> {
        let (jobs, waiting) = mpsc::channel(JOBS_WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("metadata-log".to_owned())
            .spawn(move || run(writer, waiting))
            .map_err(|error| StorageFault::Stopped(error.to_string().into()))?;
        Ok((Self { shared: Arc::new(Mutex::new(recovered)), jobs }, thread))
    }

    async fn submit(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).await.map_err(|_| stopped())
    }

    /// Writes records and waits until they are durable.
    async fn write_durably(&self, records: Vec<Record>) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.submit(Job { records, sync: true, done: Done::Reply(done) }).await?;
        Ok(durable.await.map_err(|_| stopped())??)
    }
}

fn stopped() -> io::Error {
    StorageFault::Stopped("its thread has ended".into()).into()
}

fn lock(shared: &Mutex<Recovered>) -> MutexGuard<'_, Recovered> {
    // No code that holds the lock can leave the log between two states by panicking.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RaftLogReader<RaftTypes> for LogReader {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(entries_in(&lock(&self.shared).log, &range))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(lock(&self.shared).vote)
    }
}

/// Unlike [`BTreeMap::range`], gives nothing for a range that is inverted.
fn entries_in(log: &BTreeMap<u64, Entry>, range: &impl RangeBounds<u64>) -> Vec<Entry> {
    use std::ops::Bound;
    let first = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let following = log.range(first..);
    let within = following.take_while(|(index, _)| range.contains(index));
    within.map(|(_, entry)| entry.clone()).collect()
}

impl RaftLogStorage<RaftTypes> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<RaftTypes>, io::Error> {
        let shared = lock(&self.shared);
        let last = shared.log.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: shared.purged, last_log_id: last.or(shared.purged) })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write_durably(vec![Record::Vote(*vote)]).await?;
        lock(&self.shared).vote = Some(*vote);
        Ok(())
    }

    /// Not synced, and not waited for: the commit point is only a hint that a restart can do
    /// without, since a leader establishes it again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let records = vec![Record::Committed(committed)];
        self.submit(Job { records, sync: false, done: Done::Nobody }).await?;
        lock(&self.shared).committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(lock(&self.shared).committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<RaftTypes>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = <RaftTypes as RaftTypeConfig>::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let records = entries.iter().map(|entry| Record::Entry(Box::new(entry.clone()))).collect();
        {
            let mut shared = lock(&self.shared);
            shared.log.extend(entries.into_iter().map(|entry| (entry.log_id.index(), entry)));
        }
        self.submit(Job { records, sync: true, done: Done::Flushed(callback) }).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.write_durably(vec![Record::Truncate(last)]).await?;
        let mut shared = lock(&self.shared);
        match last {
            None => shared.log.clear(),
            Some(last) => shared.log.retain(|index, _| *index <= last.index()),
        }
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.write_durably(vec![Record::Purge(upto)]).await?;
        let mut shared = lock(&self.shared);
        shared.purged = shared.purged.max(Some(upto));
        shared.log = shared.log.split_off(&upto.index().saturating_add(1));
        Ok(())
    }
}

/// Records to write, and who wants to know.
struct Job {
    records: Vec<Record>,
    sync: bool,
    done: Done,
}

enum Done {
    Nobody,
    Reply(oneshot::Sender<Result<(), StorageFault>>),
    Flushed(IOFlushed<RaftTypes>),
}

impl Done {
    fn tell(self, result: Result<(), StorageFault>) {
        match self {
            Self::Nobody => {}
            // Whoever asked may have been cancelled; nobody is left to tell.
            Self::Reply(reply) => drop(reply.send(result)),
            Self::Flushed(callback) => callback.io_completed(result.map_err(Into::into)),
        }
    }
}

/// The storage thread.
fn run(mut writer: WalWriter, mut waiting: mpsc::Receiver<Job>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut group = vec![first];
        while group.len() < JOBS_GROUPED_MAX {
            let Ok(next) = waiting.try_recv() else { break };
            group.push(next);
        }
        let mut records = Vec::new();
        let mut unwritable = None;
        let sync = group.iter().any(|job| job.sync);
        let mut waiters = Vec::with_capacity(group.len());
        for job in group {
            for record in job.records {
                match record.encode() {
                    Ok(encoded) => records.push((record, encoded)),
                    Err(fault) => unwritable = Some(fault),
                }
            }
            waiters.push(job.done);
        }
        let purges = records.iter().any(|(record, _)| matches!(record, Record::Purge(_)));
        // A record that cannot be written leaves a hole behind which nothing may follow.
        let result = match unwritable {
            Some(fault) => writer.fail(fault),
            None => writer.append(&records, sync),
        };
        let written = result.is_ok();
        waiters.into_iter().for_each(|done| done.tell(result.clone()));
        if written && purges {
            writer.remove_purged();
        }
    }
}
