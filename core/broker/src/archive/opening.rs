//! The archive's store, opened and probed once for all who ask.
//!
//! Whoever asks waits a while at most, and while it is known not to answer not at all: partitions
//! by the thousand may need it at a start. The probe itself goes on meanwhile, as long as its calls
//! may take, so that a store that is slow is had in the end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use millstream_env::clock::{Clock, Monotonic};
use millstream_tiered::{DiskCache, ReadCache, Store, StoreError};
use tokio::sync::watch;

use crate::config::ArchiveSection;
use crate::ids::Ids;

/// How long those who ask wait for an opening, all together.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a failed opening answers for the next.
const FAILED_FOR: Duration = Duration::from_secs(5);
/// Where ranges of objects are kept, below the data directory.
const DISK_CACHE_DIR: &str = "archive-cache";

/// Where objects lie, as the operator said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    Directory(PathBuf),
    S3(String),
}

/// The store, once it was probed.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) cache: Arc<ReadCache>,
    /// Files behind `cache`, of a store that is not a directory.
    pub(super) disk: Option<Arc<DiskCache>>,
}

#[derive(Debug)]
enum State {
    Closed,
    /// Ends, or is dropped, when the opening does.
    Opening {
        since: Monotonic,
        ended: watch::Receiver<()>,
    },
    Failed {
        error: StoreError,
        until: Monotonic,
    },
}

#[derive(Debug)]
pub(super) struct Opening {
    location: Location,
    config: ArchiveSection,
    cache_dir: PathBuf,
    clock: Arc<dyn Clock>,
    opened: OnceLock<Opened>,
    state: Mutex<State>,
}

impl Location {
    /// What the operator's words mean in a data directory.
    pub(super) fn new(location: &str, dir: &Path) -> Self {
        match location {
            "" => Self::Directory(dir.join("archive")),
            url if url.starts_with("s3://") => Self::S3(url.to_owned()),
            path => Self::Directory(PathBuf::from(path)),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Directory(dir) => dir.display().to_string(),
            Self::S3(url) => url.clone(),
        }
    }
}

impl Opening {
    pub(super) fn new(
        location: Location,
        config: &ArchiveSection,
        dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            location,
            config: config.clone(),
            cache_dir: dir.join(DISK_CACHE_DIR),
            clock,
            opened: OnceLock::new(),
            state: Mutex::new(State::Closed),
        })
    }

    /// The store, if it is open by now.
    pub(super) fn peek(&self) -> Option<&Opened> {
        self.opened.get()
    }

    /// The store, opened by the first who asks.
    pub(super) async fn get(self: &Arc<Self>) -> Result<&Opened, StoreError> {
        loop {
            if let Some(opened) = self.opened.get() {
                return Ok(opened);
            }
            let (mut ended, left) = self.join()?;
            // It ends by dropping the sender, whatever became of it.
            if tokio::time::timeout(left, ended.changed()).await.is_err() {
                return Err(self.silent());
            }
        }
    }

    /// Joins the opening that is under way, or starts one: its end, and how long to wait for it.
    fn join(self: &Arc<Self>) -> Result<(watch::Receiver<()>, Duration), StoreError> {
        let now = self.clock.monotonic();
        let mut state = self.state();
        match &*state {
            State::Failed { error, until } if now < *until => return Err(error.clone()),
            // Without a sender it has ended in some other way than it should.
            State::Opening { since, ended } if ended.has_changed().is_ok() => {
                let left = PATIENCE.saturating_sub(now.saturating_sub(*since));
                let joined = (ended.clone(), left);
                return if left.is_zero() { Err(self.silent()) } else { Ok(joined) };
            }
            _ => {}
        }
        let (sender, ended) = watch::channel(());
        *state = State::Opening { since: now, ended: ended.clone() };
        drop(state);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let opened = this.open().await;
            *this.state() = match opened {
                Ok(opened) => {
                    // There is one opening at a time.
                    let _first = this.opened.set(opened);
                    State::Closed
                }
                Err(error) => {
                    let until = this.clock.monotonic().saturating_add(FAILED_FOR);
                    State::Failed { error, until }
                }
            };
            drop(sender);
        });
        Ok((ended, PATIENCE))
    }

    async fn open(&self) -> Result<Opened, StoreError> {
        let store = match &self.location {
            Location::Directory(dir) => Store::directory(dir)?,
            Location::S3(url) => self.s3(url)?,
        };
        let nonce = u128::from_be_bytes(Ids::random().unwrap_or_default());
        store.probe(nonce).await?;
        tracing::info!(store = ?store, "the archive's store lets exactly one writer win");
        let disk = self.disk_cache().await;
        let cache =
            ReadCache::with_disk(store.clone(), self.config.cache_bytes, disk.as_ref().cloned());
        Ok(Opened { store, cache, disk })
    }

    /// The files behind the memory. A directory needs none: its objects are files already.
    async fn disk_cache(&self) -> Option<Arc<DiskCache>> {
        let bytes_max = match self.location {
            Location::Directory(_) => 0,
            Location::S3(_) => self.config.disk_cache_bytes_max,
        };
        let dir = self.cache_dir.clone();
        let opened = tokio::task::spawn_blocking(move || match bytes_max {
            0 => {
                DiskCache::clear(&dir);
                None
            }
            bytes_max => Some(DiskCache::open(&dir, bytes_max)),
        });
        opened.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the archive's disk cache could not be opened");
            None
        })
    }

    fn s3(&self, url: &str) -> Result<Store, StoreError> {
        let mut settings = Vec::new();
        let path_style = if self.config.s3_path_style { "false" } else { "true" };
        settings.push(("aws_virtual_hosted_style_request", path_style));
        for (name, value) in
            [("aws_endpoint", &self.config.s3_endpoint), ("aws_region", &self.config.s3_region)]
        {
            if !value.is_empty() {
                settings.push((name, value));
            }
        }
        Store::s3(url, &settings)
    }

    fn silent(&self) -> StoreError {
        StoreError::Unavailable {
            store: self.location.name().into(),
            what: "opening",
            key: "the store".to_owned(),
            reason: format!("no answer within {PATIENCE:?}"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
