//! Partitions that can be opened only once the archive has said what was known where they begin.
//! They are opened several at a time beside everything else, and wait without costing a request
//! while the store does not answer.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_service::ServiceError;
use millstream_types::{ErrorCode, TopicPartition};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::Partitions;

/// How long a change waits for those of its partitions that the archive has to be asked of.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so many failures in a row the store is taken to be away, and the others are put off.
const FAILURES_MAX: usize = 8;

/// The round that is under way.
#[derive(Debug, Default)]
pub(super) struct Late(Mutex<Option<Round>>);

#[derive(Debug)]
struct Round {
    /// Its sender is dropped when the round ends.
    ended: watch::Receiver<()>,
    task: AbortHandle,
}

/// What became of one partition.
enum Outcome {
    /// It waits no more, or what keeps it waiting is its own.
    Done,
    /// The store did not answer.
    Unavailable,
}

impl Late {
    /// Ends the round that is under way.
    pub(super) fn stop(&self) {
        if let Some(round) = self.round().take() {
            round.task.abort();
        }
    }

    fn round(&self) -> MutexGuard<'_, Option<Round>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a partition waits.
pub(super) fn unavailable(reason: impl Display) -> ServiceError {
    let message = format!("where the partition begins is in the archive: {reason}");
    ServiceError::new(ErrorCode::Unavailable, message)
}

impl Partitions {
    /// Sees that the partitions that wait for the archive are being opened. Waits for nothing.
    pub(crate) fn reopen_waiting(self: &Arc<Self>) {
        if !self.waiting().is_empty() {
            self.start_round();
        }
    }

    /// Waits a while for the partitions that wait for the archive.
    pub(super) async fn wait_for_late(self: &Arc<Self>) {
        let mut ended = self.start_round();
        // Either it has ended, which drops the sender, or it goes on without us.
        let _ended = tokio::time::timeout(PATIENCE, ended.changed()).await;
    }

    /// Joins the round that is under way, or starts one.
    fn start_round(self: &Arc<Self>) -> watch::Receiver<()> {
        let mut round = self.late.round();
        if let Some(round) = &*round
            && round.ended.has_changed().is_ok()
        {
            return round.ended.clone();
        }
        let (sender, ended) = watch::channel(());
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            this.open_waiting().await;
            drop(sender);
        });
        *round = Some(Round { ended: ended.clone(), task: task.abort_handle() });
        ended
    }

    async fn open_waiting(self: Arc<Self>) {
        let (mut line, mut tried) = (VecDeque::new(), BTreeSet::new());
        let mut tasks = JoinSet::new();
        let mut failures = 0;
        loop {
            if line.is_empty() {
                // Others may have come meanwhile.
                let waiting = self.waiting().into_iter();
                line = waiting.filter(|id| !tried.contains(id)).collect();
            }
            while tasks.len() < self.config.open_threads.max(1)
                && failures < FAILURES_MAX
                && let Some(id) = line.pop_front()
            {
                tried.insert(id);
                tasks.spawn(Arc::clone(&self).open_late(id));
            }
            match tasks.join_next().await {
                Some(Ok(Outcome::Done)) => failures = 0,
                Some(_) => failures += 1,
                None => break,
            }
        }
        let waiting = self.waiting().len();
        if waiting > 0 {
            tracing::warn!(waiting, "partitions wait for the archive to say where they begin");
        }
    }

    async fn open_late(self: Arc<Self>, id: TopicPartition) -> Outcome {
        let Some(topic) = self.reflected.read().await.topic(id.topic).cloned() else {
            return Outcome::Done;
        };
        let (this, of) = (Arc::clone(&self), Arc::clone(&topic));
        let at = tokio::task::spawn_blocking(move || this.begins_at(&of, id)).await;
        let asked = match at {
            Ok(Ok(Some(at))) => self.config.archives.beginning(&topic, id, at).await,
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => return self.keep_waiting(id, unavailable(error.message)).await,
            Err(ended) => return self.keep_waiting(id, unavailable(ended)).await,
        };
        let beginning = match asked {
            Ok(beginning) => beginning,
            Err(error) => {
                let away = error.is_retriable();
                let kept = self.keep_waiting(id, unavailable(error)).await;
                return if away { Outcome::Unavailable } else { kept };
            }
        };
        let reflected = self.reflected.read().await;
        let topic = reflected.topic(id.topic).cloned();
        let (Some(topic), true) = (topic, self.is_waiting(id)) else { return Outcome::Done };
        let this = Arc::clone(&self);
        let opening =
            tokio::task::spawn_blocking(move || this.open_with(&topic, id, beginning.as_ref()));
        let Ok(handle) = opening.await else { return Outcome::Done };
        handle.settled().await;
        tracing::info!(partition = %id, "the archive answered; the partition is open");
        self.insert([handle]);
        Outcome::Done
    }

    /// Has a partition wait on, and say why.
    async fn keep_waiting(&self, id: TopicPartition, error: ServiceError) -> Outcome {
        let _reflected = self.reflected.read().await;
        if self.is_waiting(id) {
            self.insert([self.stand_in(id, error)]);
        }
        Outcome::Done
    }

    pub(super) fn is_waiting(&self, id: TopicPartition) -> bool {
        let open = self.opened();
        let handle = open.handles.get(&id).filter(|_| open.closed.is_none());
        handle.is_some_and(|handle| handle.is_waiting())
    }

    /// The partitions that wait for the archive.
    fn waiting(&self) -> Vec<TopicPartition> {
        let open = self.opened();
        let handles = open.handles.values().filter(|_| open.closed.is_none());
        handles.filter(|handle| handle.is_waiting()).map(|handle| handle.id()).collect()
    }
}
