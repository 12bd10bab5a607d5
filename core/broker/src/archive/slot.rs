//! What this broker knows of one partition's archive.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_env::clock::Monotonic;
use millstream_tiered::{ArchiveError, ArchiveReader, Identity, PartitionArchive};
use millstream_types::TopicPartition;

use super::{Archives, Opened, to_store};

/// After a first failure, and what it doubles up to.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// How a partition's archiving stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// Since when there has been something to archive.
    pub(crate) waiting_since: Option<Monotonic>,
    /// Failures since the last success.
    pub(crate) failures: u32,
    /// Not before this is it tried again.
    pub(crate) next_try: Monotonic,
    /// What failed last, until something succeeds.
    pub(crate) last_error: Option<String>,
    /// Whether a range is on its way.
    pub(crate) busy: bool,
}

/// A range of a partition is on its way, until this is dropped, however its task ends.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Slot>);

impl Busy {
    pub(crate) fn new(slot: &Arc<Slot>) -> Self {
        slot.status().busy = true;
        Self(Arc::clone(slot))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.status().busy = false;
    }
}

/// One partition. Its archive is opened when it is first needed, and again after an error, since
/// only the store knows then how far it has come.
#[derive(Debug)]
pub(crate) struct Slot {
    id: TopicPartition,
    identity: Identity,
    archive: tokio::sync::Mutex<Option<PartitionArchive>>,
    /// Readers of what is archived fork this one, so that none waits for a range on its way.
    published: Mutex<Option<ArchiveReader>>,
    status: Mutex<Status>,
}

/// The archive, held; nobody else of this broker changes it meanwhile.
pub(crate) type Held<'a> = tokio::sync::MutexGuard<'a, Option<PartitionArchive>>;

impl Slot {
    pub(crate) fn new(id: TopicPartition, identity: Identity) -> Self {
        Self {
            id,
            identity,
            archive: tokio::sync::Mutex::default(),
            published: Mutex::default(),
            status: Mutex::default(),
        }
    }

    pub(crate) const fn id(&self) -> TopicPartition {
        self.id
    }

    pub(crate) const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The partition's archive, opened. Setting it to `None` has it opened anew by the next.
    pub(crate) async fn lock(&self, archives: &Archives) -> Result<Held<'_>, ArchiveError> {
        let mut held = self.archive.lock().await;
        if held.is_none() {
            let opened = archives.opened().await?;
            let state = archives.quorum.state();
            let head = state.archive_head(self.id.topic, self.id.partition).map(to_store);
            let (store, identity) = (opened.store.clone(), self.identity.clone());
            let archive = PartitionArchive::open(store, identity, head.as_ref()).await?;
            self.publish(&archive, opened);
            *held = Some(archive);
        }
        Ok(held)
    }

    /// Whether somebody is at work on the archive, so that others had better go first.
    pub(crate) fn is_held(&self) -> bool {
        self.archive.try_lock().is_err()
    }

    /// Has readers see what is archived now.
    pub(crate) fn publish(&self, archive: &PartitionArchive, opened: &Opened) {
        *self.published() = Some(archive.reader(&opened.cache));
    }

    /// A reader of what is archived.
    pub(crate) async fn reader(&self, archives: &Archives) -> Result<ArchiveReader, ArchiveError> {
        loop {
            if let Some(reader) = &*self.published() {
                return Ok(reader.fork());
            }
            // Opening publishes.
            drop(self.lock(archives).await?);
        }
    }

    fn published(&self) -> MutexGuard<'_, Option<ArchiveReader>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the slot's turn has come, as far as earlier failures go.
    pub(crate) fn may_try(&self, now: Monotonic) -> bool {
        let status = self.status();
        !status.busy && now >= status.next_try
    }

    /// Notes a failure and when to try again.
    pub(crate) fn failed(&self, now: Monotonic, error: String) {
        let mut status = self.status();
        let doubled = BACKOFF_FIRST.saturating_mul(1 << status.failures.min(10));
        status.failures = status.failures.saturating_add(1);
        status.next_try = now.saturating_add(doubled.min(BACKOFF_MAX));
        status.last_error = Some(error);
    }

    /// Notes that something worked.
    pub(crate) fn succeeded(&self) {
        let mut status = self.status();
        status.failures = 0;
        status.next_try = Monotonic::ZERO;
        status.last_error = None;
    }
}
