//! What a bucket alone tells of its topics: which there are, their configs, their partitions, and
//! what a partition knew where its archive ends. A broker that has nothing else starts from this.
//!
//! A topic's configs say whose the topic is: the newest names the cluster that wrote it. Whoever
//! restores the topic writes one of its own first, and whoever removes it one that says so; both
//! take the next number, so that only one of them goes on.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use millstream_types::limits::{TOPIC_NAME_BYTES_MAX, TOPIC_PARTITIONS_MAX};
use millstream_types::{ClusterId, PartitionIndex, TopicId};
use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveError, PartitionArchive, number_of};
use crate::footer::{Identity, RangeEnd, is_false, optional_text, text};
use crate::manifest::{Head, MANIFEST_BYTES_MAX, ManifestError, cluster_of, taken_over};
use crate::store::{Created, Listed, Store, StoreError};

/// The version of config objects that this build writes, and the newest that it reads.
pub const CONFIG_VERSION: u32 = 1;
/// The largest config object that is read.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Configs of one topic that are listed.
const CONFIGS_MAX: usize = 100_000;
/// Objects of one topic that are listed.
const OBJECTS_MAX: usize = 10_000_000;
/// How often another writer may be first before a call gives up.
const TRIES: usize = 16;
/// Partitions that are taken over at once.
const TAKE_OVERS_MAX: usize = 16;

/// A topic's config as the caller has it: names and JSON values, opaque here.
pub type ConfigMap = serde_json::Map<String, serde_json::Value>;

/// Why a topic's config could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The store's answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object is not the JSON that it should be.
    #[error("`{key}` cannot be read: {reason}")]
    Unreadable {
        /// Which object.
        key: String,
        /// Why.
        reason: String,
    },
    /// A later build wrote it.
    #[error(
        "`{key}` is of version {version}; this build reads up to {CONFIG_VERSION}: use a newer one"
    )]
    Version {
        /// Which object.
        key: String,
        /// Its version.
        version: u32,
    },
    /// Another cluster has restored the topic.
    #[error("{}", taken_over(*cluster))]
    TakenOver {
        /// Which one.
        cluster: ClusterId,
    },
    /// There is nothing to make the topic of: its config never came, or it is being removed.
    #[error("`{folder}` has no config: the topic was being deleted")]
    Gone {
        /// The topic's folder.
        folder: String,
    },
    /// A manifest, looked at for whose it is.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Others write the topic's config again and again.
    #[error("others kept writing `{key}`: try again")]
    Contended {
        /// The last number that was tried.
        key: String,
    },
}

impl TopicError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retriable(),
            Self::Contended { .. } => true,
            Self::Unreadable { .. }
            | Self::Version { .. }
            | Self::TakenOver { .. }
            | Self::Gone { .. }
            | Self::Manifest(_) => false,
        }
    }
}

/// A topic that the store has something of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedTopic {
    /// Its name when it was archived.
    pub topic: String,
    /// Its identity.
    pub topic_id: TopicId,
    /// Its partitions that have been archived from, in order.
    pub partitions: Vec<PartitionIndex>,
}

/// A partition as the store alone tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedPartition<E = RangeEnd> {
    /// How far its archive has come.
    pub head: Head,
    /// Leader epochs and producers where it ends, or what is kept of these; `None` once retention
    /// has given up every range.
    pub end: Option<E>,
}

#[derive(Serialize, Deserialize)]
struct ConfigObject {
    version: u32,
    number: u64,
    /// The cluster that wrote it; older ones do not say.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_text")]
    cluster: Option<ClusterId>,
    topic: String,
    #[serde(with = "text")]
    topic_id: TopicId,
    config: ConfigMap,
    /// Whether that cluster is removing the topic.
    #[serde(default, skip_serializing_if = "is_false")]
    removed: bool,
}

impl ConfigObject {
    /// Refuses a cluster that the topic is not of.
    fn check_owner(&self, ours: ClusterId) -> Result<(), TopicError> {
        match self.cluster {
            Some(cluster) if cluster != ours => Err(TopicError::TakenOver { cluster }),
            _ => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl ArchivedTopic {
    /// A topic by name and identity, whether or not the store has something of it.
    #[must_use]
    pub const fn new(topic: String, topic_id: TopicId) -> Self {
        Self { topic, topic_id, partitions: Vec::new() }
    }

    /// Every topic in the store, by name. Folders that are not named as a topic's are passed over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(store: &Store) -> Result<Vec<Self>, StoreError> {
        let mut topics = Vec::new();
        for folder in store.folders("topics").await? {
            let Some((topic, topic_id)) = folder.rsplit_once('.') else { continue };
            let Ok(topic_id) = topic_id.parse::<TopicId>() else { continue };
            if topic.is_empty() || topic.len() > TOPIC_NAME_BYTES_MAX {
                continue;
            }
            let names = store.folders(&format!("topics/{folder}")).await?;
            let partitions = partitions_of(&names);
            topics.push(Self { topic: topic.to_owned(), topic_id, partitions });
        }
        Ok(topics)
    }

    /// Writes the topic's config, as `cluster`'s, unless the newest in the store says the same.
    /// Returns the number under which it stands. Repeating a call that failed is safe.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn write_config(
        &self,
        store: &Store,
        cluster: ClusterId,
        config: &ConfigMap,
    ) -> Result<u64, TopicError> {
        for _ in 0..TRIES {
            let newest = self.newest(store).await?;
            let mut next = 0;
            if let Some(newest) = newest {
                newest.check_owner(cluster)?;
                if newest.removed {
                    return Err(self.gone());
                }
                if newest.cluster == Some(cluster) && newest.config == *config {
                    return Ok(newest.number);
                }
                next = newest.number.saturating_add(1);
            }
            if self.create(store, next, cluster, config.clone(), false).await? {
                return Ok(next);
            }
        }
        Err(self.contended())
    }

    /// Makes the topic `cluster`'s, and returns its config. From then on any other cluster that
    /// looks is refused. One that is `cluster`'s already is left as it is.
    ///
    /// # Errors
    /// [`TopicError`]. Repeating a call that failed is safe.
    pub async fn take_over(
        &self,
        store: &Store,
        cluster: ClusterId,
    ) -> Result<ConfigMap, TopicError> {
        for _ in 0..TRIES {
            let newest = self.newest(store).await?.filter(|newest| !newest.removed);
            let Some(newest) = newest else { return Err(self.gone()) };
            if newest.cluster == Some(cluster) {
                return Ok(newest.config);
            }
            let next = newest.number.saturating_add(1);
            if self.create(store, next, cluster, newest.config.clone(), false).await? {
                return Ok(newest.config);
            }
        }
        Err(self.contended())
    }

    /// Refuses a cluster that the topic is not of, as its newest config says. One that says
    /// nothing, or is not there, refuses nobody.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn check_owner(&self, store: &Store, cluster: ClusterId) -> Result<(), TopicError> {
        match self.newest(store).await? {
            Some(newest) => newest.check_owner(cluster),
            None => Ok(()),
        }
    }

    /// The topic's newest config in the store and its number; `None` once it is being removed.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn newest_config(
        &self,
        store: &Store,
    ) -> Result<Option<(u64, ConfigMap)>, TopicError> {
        let newest = self.newest(store).await?.filter(|newest| !newest.removed);
        Ok(newest.map(|newest| (newest.number, newest.config)))
    }

    async fn newest(&self, store: &Store) -> Result<Option<ConfigObject>, TopicError> {
        let listed = store.list(&format!("{}/config", self.folder()), CONFIGS_MAX).await?;
        let Some(number) = listed.iter().filter_map(|object| number_of(&object.key)).max() else {
            return Ok(None);
        };
        let key = self.config_key(number);
        let bytes = store.get(&key, CONFIG_BYTES_MAX).await?;
        self.parse(&key, number, &bytes).map(Some)
    }

    /// Creates the config of a number; false when there is one.
    async fn create(
        &self,
        store: &Store,
        number: u64,
        cluster: ClusterId,
        config: ConfigMap,
        removed: bool,
    ) -> Result<bool, TopicError> {
        let key = self.config_key(number);
        let (topic, topic_id, cluster) = (self.topic.clone(), self.topic_id, Some(cluster));
        let version = CONFIG_VERSION;
        let object = ConfigObject { version, number, cluster, topic, topic_id, config, removed };
        Ok(store.create(&key, write(&key, &object)?).await? == Created::Won)
    }

    fn gone(&self) -> TopicError {
        TopicError::Gone { folder: self.folder() }
    }

    fn contended(&self) -> TopicError {
        TopicError::Contended { key: format!("{}/config", self.folder()) }
    }

    fn parse(&self, key: &str, number: u64, bytes: &[u8]) -> Result<ConfigObject, TopicError> {
        let unreadable = |reason: String| TopicError::Unreadable { key: key.to_owned(), reason };
        let parsed = serde_json::from_slice(bytes);
        let Version { version } = parsed.map_err(|error| unreadable(error.to_string()))?;
        if version == 0 || version > CONFIG_VERSION {
            return Err(TopicError::Version { key: key.to_owned(), version });
        }
        let parsed = serde_json::from_slice(bytes);
        let object: ConfigObject = parsed.map_err(|error| unreadable(error.to_string()))?;
        if (object.number, object.topic_id) != (number, self.topic_id) {
            return Err(unreadable("it is of another number or topic".to_owned()));
        }
        Ok(object)
    }

    /// What reads as a topic's config is written and read the same; for fuzzing alone.
    #[cfg(fuzzing)]
    pub(crate) fn check_config(bytes: &[u8]) {
        let Ok(object) = serde_json::from_slice::<ConfigObject>(bytes) else { return };
        let topic = Self::new(object.topic, object.topic_id);
        let Ok(object) = topic.parse("", object.number, bytes) else { return };
        // What is written in full may be larger than what is read.
        let Ok(written) = write("", &object) else { return };
        let read = topic.parse("", object.number, &written).expect("what was written is read");
        let told = |object: ConfigObject| (object.cluster, object.config, object.removed);
        assert_eq!(told(read), told(object));
    }

    /// Makes each of the topic's first `count` partitions, and those that the store has beyond
    /// them, `cluster`'s own, and returns how far each is archived and what `keep` keeps of what it
    /// knew there. Nothing of the cluster's metadata is asked. One that has no archive yet begins
    /// an empty one.
    ///
    /// # Errors
    /// [`ArchiveError`]: a partition whose archive does not hold together is told, not left out.
    /// Others may be taken over by then; a repeated call goes on.
    pub async fn take_over_partitions<E: Send>(
        &self,
        store: &Store,
        cluster: ClusterId,
        count: u32,
        keep: impl Fn(RangeEnd) -> E + Sync,
    ) -> Result<BTreeMap<PartitionIndex, ArchivedPartition<E>>, ArchiveError> {
        let names = store.folders(&self.folder()).await?;
        let beyond = partitions_of(&names).last().map_or(0, |last| last.0.saturating_add(1));
        let indices = (0..count.max(beyond)).map(PartitionIndex);
        let keep = &keep;
        let taken = indices.map(|partition| async move {
            let taken = self.take_over_partition(store, cluster, partition).await;
            taken.map(|(at, ArchivedPartition { head, end })| {
                (at, ArchivedPartition { head, end: end.map(keep) })
            })
        });
        futures_util::stream::iter(taken).buffer_unordered(TAKE_OVERS_MAX).try_collect().await
    }

    async fn take_over_partition(
        &self,
        store: &Store,
        cluster: ClusterId,
        partition: PartitionIndex,
    ) -> Result<(PartitionIndex, ArchivedPartition), ArchiveError> {
        let (topic, topic_id) = (self.topic.clone(), self.topic_id);
        let identity = Identity { cluster, topic, topic_id, partition };
        let archive = PartitionArchive::take_over(store.clone(), identity).await?;
        let (head, end) = (archive.head().copied(), archive.range_end().await?);
        let gone = || ManifestError::Broken { number: 0, reason: "there is none" };
        Ok((partition, ArchivedPartition { head: head.ok_or_else(gone)?, end }))
    }

    /// Removes everything that the store has of the topic, if it is `cluster`'s. Before anything
    /// goes a config says so, with which nobody takes what is left for a topic to restore; it goes
    /// last. Repeating a call that failed goes on. Returns how many objects went.
    ///
    /// # Errors
    /// [`TopicError::TakenOver`] if the topic, or the archive of a partition, is another cluster's,
    /// and any other [`TopicError`].
    pub async fn remove(&self, store: &Store, cluster: ClusterId) -> Result<usize, TopicError> {
        let folder = self.folder();
        let found = store.list(&folder, OBJECTS_MAX).await?;
        if found.is_empty() {
            // What was never finished is nobody's, whoever the topic was of.
            return Ok(store.remove_unfinished(&folder, i64::MAX).await?);
        }
        for (_, key) in newest_manifests(&found) {
            let bytes = store.get(&key, MANIFEST_BYTES_MAX).await?;
            match cluster_of(number_of(&key).unwrap_or(0), &bytes)? {
                Some(other) if other != cluster => {
                    return Err(TopicError::TakenOver { cluster: other });
                }
                _ => {}
            }
        }
        self.bury(store, cluster).await?;
        let found = store.list(&folder, OBJECTS_MAX).await?;
        // Configs last, and of these the newest.
        let configs = format!("{folder}/config/");
        let (mut configs, others): (Vec<_>, Vec<_>) =
            found.into_iter().map(|object| object.key).partition(|key| key.starts_with(&configs));
        configs.sort();
        let count = configs.len() + others.len();
        let newest = configs.pop();
        for keys in [&others, &configs, newest.as_slice()] {
            store.delete_all(keys).await?;
        }
        Ok(count + store.remove_unfinished(&folder, i64::MAX).await?)
    }

    /// Writes that the topic is being removed.
    async fn bury(&self, store: &Store, cluster: ClusterId) -> Result<(), TopicError> {
        for _ in 0..TRIES {
            let newest = self.newest(store).await?;
            if let Some(newest) = &newest {
                newest.check_owner(cluster)?;
                if newest.removed {
                    return Ok(());
                }
            }
            let next = newest.map_or(0, |newest| newest.number.saturating_add(1));
            if self.create(store, next, cluster, ConfigMap::new(), true).await? {
                return Ok(());
            }
        }
        Err(self.contended())
    }

    fn folder(&self) -> String {
        format!("topics/{}.{}", self.topic, self.topic_id)
    }

    fn config_key(&self, number: u64) -> String {
        format!("{}/config/{number:020}.json", self.folder())
    }
}

/// The partitions that folders are of, in order.
fn partitions_of(folders: &[String]) -> Vec<PartitionIndex> {
    // As the archive writes them: `05` and `+5` are nobody's.
    let index = |name: &String| name.parse().ok().filter(|at: &u32| at.to_string() == *name);
    let indices = folders.iter().filter_map(index);
    let indices = indices.filter(|index| *index < TOPIC_PARTITIONS_MAX);
    let mut partitions: Vec<_> = indices.map(PartitionIndex).collect();
    partitions.sort();
    partitions
}

/// The newest manifest of each partition, by the folder that it lies in.
fn newest_manifests(found: &[Listed]) -> BTreeMap<&str, String> {
    let mut newest: BTreeMap<&str, String> = BTreeMap::new();
    for object in found {
        let Some((folder, _)) = object.key.rsplit_once('/') else { continue };
        if !folder.ends_with("/manifest") || number_of(&object.key).is_none() {
            continue;
        }
        let known = newest.entry(folder).or_default();
        // Numbers have all the same digits.
        if object.key > *known {
            known.clone_from(&object.key);
        }
    }
    newest
}

fn write(key: &str, object: &ConfigObject) -> Result<Bytes, TopicError> {
    let unreadable = |reason: String| TopicError::Unreadable { key: key.to_owned(), reason };
    let bytes = serde_json::to_vec_pretty(object).map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(unreadable(format!("more than {CONFIG_BYTES_MAX} bytes")));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests;
