//! Where objects lie: a directory, or a bucket of a store that speaks S3.
//!
//! Every call has a deadline, and its error says whether to try again. Conditional creation is what
//! the archive's correctness rests on, so [`Store::probe`] races it before a store is used.

use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientConfigKey, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMode, PutOptions, PutPayload,
};

mod leftovers;

/// How long one call may take, or one step of a longer one, the client's own retries included.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The slowest line that an object gets through: 1 Mbit/s.
const PUT_BYTES_PER_SECOND: u64 = 128 * 1024;
/// The largest object: what the largest range may be, and what comes on top of it.
pub(crate) const OBJECT_BYTES_MAX: u64 = 1280 * 1024 * 1024;
/// Writers in one round of the probe's race.
const PROBE_WRITERS: usize = 8;
/// Rounds of it.
const PROBE_ROUNDS: usize = 4;
/// Where the probe's objects lie.
const PROBE_PREFIX: &str = "probe";

/// Why a call to the store did not do what it was for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No object has that name.
    #[error("{store}: there is no object `{key}`")]
    NotFound {
        /// The store.
        store: Arc<str>,
        /// The object.
        key: String,
    },
    /// The store did not answer, or not in time, or said that it cannot now. The call may have
    /// been carried out all the same: look before deciding.
    #[error("{store}: {what} `{key}`: {reason}")]
    Unavailable {
        /// The store.
        store: Arc<str>,
        /// What was asked.
        what: &'static str,
        /// Of which object.
        key: String,
        /// What came back.
        reason: String,
    },
    /// The store refuses: credentials, permissions, a bucket that is not there.
    #[error("{store}: {what} `{key}`: {reason}")]
    Refused {
        /// The store.
        store: Arc<str>,
        /// What was asked.
        what: &'static str,
        /// Of which object.
        key: String,
        /// What came back.
        reason: String,
    },
    /// The location cannot be used.
    #[error("archive location `{location}`: {reason}")]
    Location {
        /// As it was given.
        location: String,
        /// Why, and what is expected.
        reason: String,
    },
    /// The store does not keep the promise that the archive needs.
    #[error(
        "{store} cannot hold an archive: of {writers} writers that created the same object at \
         once, {winners} were told that they had. Conditional creation (`If-None-Match: *`) must \
         let exactly one win; use a store that does, such as a local directory, AWS S3 or MinIO"
    )]
    Racy {
        /// The store.
        store: Arc<str>,
        /// How many tried.
        writers: usize,
        /// How many won.
        winners: usize,
    },
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// What became of a conditional creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// The object is there, and it is the caller's.
    Won,
    /// Another object of that name was there. After an earlier attempt whose reply was lost it may
    /// be the caller's own: read it.
    Taken,
}

/// An object as a listing tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written, in milliseconds since the Unix epoch, by the store's clock.
    pub modified_ms: i64,
}

/// What a store was asked for since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreCounters {
    /// Calls, whatever became of them. The client's own retries and a listing's further pages are
    /// not counted.
    pub requests: u64,
    /// Bytes of objects that came back.
    pub read_bytes: u64,
    /// Bytes of objects that were sent and taken.
    pub written_bytes: u64,
}

/// [`StoreCounters`] being counted; nothing is ordered by them.
#[derive(Debug, Default)]
struct Counting {
    requests: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

/// A place for objects. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    /// Where its files are, if it is a directory.
    dir: Option<Arc<FilePath>>,
    counting: Arc<Counting>,
    name: Arc<str>,
    call_timeout: Duration,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.name).finish()
    }
}

impl Store {
    /// A directory, made if it is not there. What is written is synced before a call returns.
    ///
    /// # Errors
    /// [`StoreError::Location`].
    pub fn directory(dir: &FilePath) -> Result<Self, StoreError> {
        let location = dir.display().to_string();
        let made = std::fs::create_dir_all(dir);
        made.map_err(|error| unusable(&location, error.to_string()))?;
        let local = LocalFileSystem::new_with_prefix(dir)
            .map_err(|error| unusable(&location, error.to_string()))?
            .with_fsync(true)
            // Folders of what was removed would look like topics.
            .with_automatic_cleanup(true);
        Ok(Self { dir: Some(dir.into()), ..Self::new(Arc::new(local), &location) })
    }

    /// A bucket, given as `s3://bucket` or `s3://bucket/prefix`. Credentials, region and endpoint
    /// come from the usual variables: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT_URL`. `settings` are stronger, see [`Store::s3_with`]. Plain HTTP only to an
    /// endpoint that says `http://`.
    ///
    /// # Errors
    /// [`StoreError::Location`]; also for a setting that means nothing.
    pub fn s3(url: &str, settings: &[(&str, &str)]) -> Result<Self, StoreError> {
        let endpoint = std::env::var("AWS_ENDPOINT_URL").or_else(|_| std::env::var("AWS_ENDPOINT"));
        Self::s3_set(url, AmazonS3Builder::from_env(), endpoint.ok().as_deref(), settings)
    }

    /// [`Store::s3`] with settings given instead of the environment's, by the names that
    /// `object_store` has for them, such as `aws_endpoint`.
    ///
    /// # Errors
    /// [`StoreError::Location`]; also for a name that means nothing.
    pub fn s3_with(url: &str, settings: &[(&str, &str)]) -> Result<Self, StoreError> {
        Self::s3_set(url, AmazonS3Builder::new(), None, settings)
    }

    fn s3_set<'a>(
        url: &str,
        mut builder: AmazonS3Builder,
        mut endpoint: Option<&'a str>,
        settings: &[(&str, &'a str)],
    ) -> Result<Self, StoreError> {
        for (name, value) in settings {
            let key: AmazonS3ConfigKey = name
                .parse()
                .map_err(|error: Error| unusable(url, format!("setting `{name}`: {error}")))?;
            if key == AmazonS3ConfigKey::Endpoint {
                endpoint = Some(*value);
            }
            builder = builder.with_config(key, *value);
        }
        Self::s3_from(url, builder, endpoint)
    }

    fn s3_from(
        url: &str,
        builder: AmazonS3Builder,
        endpoint: Option<&str>,
    ) -> Result<Self, StoreError> {
        let expected = || unusable(url, "expected s3://bucket or s3://bucket/prefix".to_owned());
        let rest = url.strip_prefix("s3://").ok_or_else(expected)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(expected());
        }
        let prefix = Path::parse(prefix.trim_end_matches('/'))
            .map_err(|error| unusable(url, error.to_string()))?;
        // Each call has its own bound; by default a request ends after 30 s, also one that gets on.
        let longest = format!("{} seconds", put_timeout(OBJECT_BYTES_MAX).as_secs());
        let mut builder = builder
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // A body that was damaged on its way is refused.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), longest);
        if let Some(endpoint) = endpoint {
            builder =
                builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        let s3 = builder.build().map_err(|error| unusable(url, error.to_string()))?;
        if prefix.as_ref().is_empty() {
            return Ok(Self::new(Arc::new(s3), url));
        }
        Ok(Self::new(Arc::new(PrefixStore::new(s3, prefix)), url))
    }

    pub(crate) fn new(inner: Arc<dyn ObjectStore>, name: &str) -> Self {
        let counting = Arc::default();
        Self { inner, dir: None, counting, name: name.into(), call_timeout: CALL_TIMEOUT }
    }

    /// What was asked of it so far, by all of its clones.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        StoreCounters {
            requests: self.counting.requests.load(Ordering::Relaxed),
            read_bytes: self.counting.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.counting.written_bytes.load(Ordering::Relaxed),
        }
    }

    /// Writes an object whose name nobody else uses.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let length = bytes.len();
        let put = self.inner.put(&path, PutPayload::from_bytes(bytes));
        let timeout = self.call_timeout.max(put_timeout(length as u64));
        self.call_within(timeout, "writing", key, put).await?;
        add(&self.counting.written_bytes, length);
        Ok(())
    }

    /// Writes an object if there is none of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let length = bytes.len();
        let put = self.inner.put_opts(&path, PutPayload::from_bytes(bytes), options);
        let put = async {
            match put.await {
                Ok(_) => Ok(Created::Won),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::Taken),
                Err(error) => Err(error),
            }
        };
        let created = self.call("creating", key, put).await?;
        if created == Created::Won {
            add(&self.counting.written_bytes, length);
        }
        Ok(created)
    }

    /// Reads an object of at most `max` bytes.
    ///
    /// # Errors
    /// [`StoreError`]; a larger object is refused before it is read.
    pub async fn get(&self, key: &str, max: u64) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let get = async {
            let found = self.inner.get(&path).await?;
            if found.meta.size > max {
                let size = found.meta.size;
                let reason = format!("it has {size} bytes; at most {max} were expected");
                return Ok(Err(self.refused("reading", key, reason)));
            }
            found.bytes().await.map(Ok)
        };
        let bytes = self.call("reading", key, get).await??;
        add(&self.counting.read_bytes, bytes.len());
        Ok(bytes)
    }

    /// Reads a part of an object; exactly that, or an error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let path = self.path(key)?;
        let options =
            GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let get = async { self.inner.get_opts(&path, options).await?.bytes().await };
        let bytes = self.call("reading a part of", key, get).await?;
        add(&self.counting.read_bytes, bytes.len());
        let expected = range.end - range.start;
        if bytes.len() as u64 != expected {
            let reason = format!("{} bytes came of {expected}", bytes.len());
            return Err(self.unavailable("reading a part of", key, reason));
        }
        Ok(bytes)
    }

    /// An object's size, and of its bytes those of `range` that there are: what shows with one
    /// request whether it is as it was written.
    ///
    /// # Errors
    /// [`StoreError`]; also where the object ends before `range` begins.
    pub(crate) async fn read_back(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<(u64, Bytes), StoreError> {
        let path = self.path(key)?;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let get = async {
            let found = self.inner.get_opts(&path, options).await?;
            let size = found.meta.size;
            found.bytes().await.map(|bytes| (size, bytes))
        };
        let (size, bytes) = self.call("reading back", key, get).await?;
        add(&self.counting.read_bytes, bytes.len());
        Ok((size, bytes))
    }

    /// An object's size.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn size(&self, key: &str) -> Result<u64, StoreError> {
        let path = self.path(key)?;
        self.call("looking at", key, self.inner.head(&path)).await.map(|meta| meta.size)
    }

    /// Removes an object; one that is not there is removed already.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let deleted = self.call("removing", key, self.inner.delete(&path)).await;
        match deleted {
            Err(StoreError::NotFound { .. }) => Ok(()),
            deleted => deleted,
        }
    }

    /// Removes objects, several at once; those that are not there are removed already.
    ///
    /// # Errors
    /// [`StoreError`], the first; the others are removed as far as the store removes them.
    pub async fn delete_all(&self, keys: &[String]) -> Result<(), StoreError> {
        let Some(first) = keys.first() else { return Ok(()) };
        let paths: Vec<Path> = keys.iter().map(|key| self.path(key)).collect::<Result<_, _>>()?;
        let paths = futures_util::stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut removed = self.inner.delete_stream(paths);
        let mut failed = None;
        add(&self.counting.requests, 1);
        loop {
            match self.step("removing", first, removed.next()).await? {
                None => return failed.map_or(Ok(()), Err),
                Some(Ok(_) | Err(Error::NotFound { .. })) => {}
                Some(Err(error)) => {
                    failed.get_or_insert(self.error("removing", first, &error));
                }
            }
        }
    }

    /// Removes what writers that died left below the folder `prefix` of a directory, last written
    /// at `until_ms` or before. Returns how many files there were. Elsewhere there are none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn remove_unfinished(
        &self,
        prefix: &str,
        until_ms: i64,
    ) -> Result<usize, StoreError> {
        const WHAT: &str = "removing what was not finished in";
        let Some(dir) = &self.dir else { return Ok(0) };
        let folder = dir.join(self.path(prefix)?.as_ref());
        let removing = tokio::task::spawn_blocking(move || leftovers::remove(&folder, until_ms));
        match self.step(WHAT, prefix, removing).await? {
            Ok(Ok(removed)) => Ok(removed),
            Ok(Err(error)) => Err(self.unavailable(WHAT, prefix, error.to_string())),
            Err(ended) => Err(self.unavailable(WHAT, prefix, ended.to_string())),
        }
    }

    /// Every object whose name begins with the folder `prefix`, in order of name, of at most `max`
    /// objects.
    ///
    /// # Errors
    /// [`StoreError`]; also when there are more than `max`.
    pub async fn list(&self, prefix: &str, max: usize) -> Result<Vec<Listed>, StoreError> {
        let path = self.path(prefix)?;
        add(&self.counting.requests, 1);
        let mut found = Vec::new();
        let mut objects = self.inner.list(Some(&path));
        loop {
            // Each page has its time: there may be thousands.
            let next = self.step("listing", prefix, objects.try_next()).await?;
            let Some(meta) = next.map_err(|error| self.error("listing", prefix, &error))? else {
                break;
            };
            if found.len() == max {
                return Err(self.refused("listing", prefix, format!("more than {max}")));
            }
            found.push(listed(&meta));
        }
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    /// The folders right below `prefix`, without it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(prefix)?;
        let list = self.inner.list_with_delimiter(Some(&path));
        let found = self.call("listing", prefix, list).await?;
        let mut names: Vec<String> = found
            .common_prefixes
            .iter()
            .filter_map(|folder| folder.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Sees that exactly one of several writers that create the same object at once is told that it
    /// did. `nonce` keeps probes of several brokers apart.
    ///
    /// # Errors
    /// [`StoreError::Racy`] names the store; others as the store answers.
    pub async fn probe(&self, nonce: u128) -> Result<(), StoreError> {
        for round in 0..PROBE_ROUNDS {
            let key = format!("{PROBE_PREFIX}/{nonce:032x}-{round}");
            let race = (0..PROBE_WRITERS).map(|writer| {
                let (store, key) = (self.clone(), key.clone());
                async move { store.create(&key, Bytes::from(writer.to_string())).await }
            });
            let results = futures_util::future::join_all(race).await;
            // One more, after the race: a store that ignores the condition lets it win.
            let late = self.create(&key, Bytes::from_static(b"late")).await;
            self.delete(&key).await?;
            let mut winners = 0;
            for result in results.into_iter().chain([late]) {
                winners += usize::from(result? == Created::Won);
            }
            if winners != 1 {
                let (store, writers) = (Arc::clone(&self.name), PROBE_WRITERS + 1);
                return Err(StoreError::Racy { store, writers, winners });
            }
        }
        Ok(())
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        Path::parse(key).map_err(|error| self.refused("naming", key, error.to_string()))
    }

    async fn call<T>(
        &self,
        what: &'static str,
        key: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        self.call_within(self.call_timeout, what, key, call).await
    }

    async fn call_within<T>(
        &self,
        timeout: Duration,
        what: &'static str,
        key: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        add(&self.counting.requests, 1);
        let done = self.step_within(timeout, what, key, call).await?;
        done.map_err(|error| self.error(what, key, &error))
    }

    /// Waits for one answer of the store, as long as one may take.
    async fn step<T>(
        &self,
        what: &'static str,
        key: &str,
        step: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        self.step_within(self.call_timeout, what, key, step).await
    }

    async fn step_within<T>(
        &self,
        timeout: Duration,
        what: &'static str,
        key: &str,
        step: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(timeout, step).await.map_err(|_late| {
            let reason = format!("no answer within {timeout:?}");
            self.unavailable(what, key, reason)
        })
    }

    fn error(&self, what: &'static str, key: &str, error: &Error) -> StoreError {
        match error {
            Error::NotFound { .. } => {
                StoreError::NotFound { store: Arc::clone(&self.name), key: key.to_owned() }
            }
            Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotImplemented { .. }
            | Error::NotSupported { .. }
            | Error::InvalidPath { .. }
            | Error::UnknownConfigurationKey { .. } => self.refused(what, key, error.to_string()),
            _ => self.unavailable(what, key, error.to_string()),
        }
    }

    fn unavailable(&self, what: &'static str, key: &str, reason: String) -> StoreError {
        StoreError::Unavailable { store: Arc::clone(&self.name), what, key: key.to_owned(), reason }
    }

    fn refused(&self, what: &'static str, key: &str, reason: String) -> StoreError {
        StoreError::Refused { store: Arc::clone(&self.name), what, key: key.to_owned(), reason }
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// How long writing so many bytes may take.
fn put_timeout(bytes: u64) -> Duration {
    Duration::from_secs((bytes / PUT_BYTES_PER_SECOND).max(CALL_TIMEOUT.as_secs()))
}

fn unusable(location: &str, reason: String) -> StoreError {
    StoreError::Location { location: location.to_owned(), reason }
}

fn listed(meta: &ObjectMeta) -> Listed {
    Listed {
        key: meta.location.to_string(),
        bytes: meta.size,
        modified_ms: meta.last_modified.timestamp_millis(),
    }
}
