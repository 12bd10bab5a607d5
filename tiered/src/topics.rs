//! What a bucket alone tells of its topics: which there are, their configs, their partitions, and
//! what a partition knew where its archive ends. A broker that has nothing else starts from this.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_types::limits::{TOPIC_NAME_BYTES_MAX, TOPIC_PARTITIONS_MAX};
use millstream_types::{ClusterId, PartitionIndex, TopicId};
use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveError, PartitionArchive};
use crate::footer::{Identity, RangeEnd, text};
use crate::manifest::Head;
use crate::store::{Created, Store, StoreError};

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
            Self::Unreadable { .. } | Self::Version { .. } => false,
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
pub struct ArchivedPartition {
    /// How far its archive has come.
    pub head: Head,
    /// Leader epochs and producers where it ends; `None` once retention has given up every range.
    pub end: Option<RangeEnd>,
}

#[derive(Serialize, Deserialize)]
struct ConfigObject {
    version: u32,
    number: u64,
    topic: String,
    #[serde(with = "text")]
    topic_id: TopicId,
    config: ConfigMap,
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
            // As the archive writes them: `05` and `+5` are nobody's.
            let index =
                |name: &String| name.parse().ok().filter(|at: &u32| at.to_string() == *name);
            let indices = names.iter().filter_map(index);
            let indices = indices.filter(|index| *index < TOPIC_PARTITIONS_MAX);
            let mut partitions: Vec<_> = indices.map(PartitionIndex).collect();
            partitions.sort();
            topics.push(Self { topic: topic.to_owned(), topic_id, partitions });
        }
        Ok(topics)
    }

    /// Writes the topic's config unless the newest in the store says the same. Returns the number
    /// under which it stands. Repeating a call that failed is safe.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn write_config(&self, store: &Store, config: &ConfigMap) -> Result<u64, TopicError> {
        let mut number = match self.newest_config(store).await? {
            Some((number, newest)) if newest == *config => return Ok(number),
            newest => newest.map_or(0, |(number, _)| number.saturating_add(1)),
        };
        for _ in 0..TRIES {
            let key = self.config_key(number);
            let bytes = self.encode(&key, number, config)?;
            let taken = store.create(&key, bytes).await? == Created::Taken;
            // An earlier try of this call may have got through.
            if !taken || self.config(store, number).await? == *config {
                return Ok(number);
            }
            number = number.saturating_add(1);
        }
        Err(TopicError::Contended { key: self.config_key(number) })
    }

    /// The topic's newest config in the store and its number.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn newest_config(
        &self,
        store: &Store,
    ) -> Result<Option<(u64, ConfigMap)>, TopicError> {
        let listed = store.list(&format!("{}/config", self.folder()), CONFIGS_MAX).await?;
        let number = |key: &str| key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok();
        let Some(newest) = listed.iter().filter_map(|object| number(&object.key)).max() else {
            return Ok(None);
        };
        Ok(Some((newest, self.config(store, newest).await?)))
    }

    async fn config(&self, store: &Store, number: u64) -> Result<ConfigMap, TopicError> {
        let key = self.config_key(number);
        let bytes = store.get(&key, CONFIG_BYTES_MAX).await?;
        self.decode(&key, number, &bytes)
    }

    pub(crate) fn decode(
        &self,
        key: &str,
        number: u64,
        bytes: &[u8],
    ) -> Result<ConfigMap, TopicError> {
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
        Ok(object.config)
    }

    /// The number and the topic that a config says it is of; for fuzzing alone.
    #[cfg(fuzzing)]
    pub(crate) fn of_config(bytes: &[u8]) -> Option<(u64, Self)> {
        let object: ConfigObject = serde_json::from_slice(bytes).ok()?;
        Some((object.number, Self::new(object.topic, object.topic_id)))
    }

    pub(crate) fn encode(
        &self,
        key: &str,
        number: u64,
        config: &ConfigMap,
    ) -> Result<Bytes, TopicError> {
        let (topic, topic_id, config) = (self.topic.clone(), self.topic_id, config.clone());
        let object = ConfigObject { version: CONFIG_VERSION, number, topic, topic_id, config };
        let unreadable = |reason: String| TopicError::Unreadable { key: key.to_owned(), reason };
        let bytes = serde_json::to_vec_pretty(&object);
        let bytes = bytes.map_err(|error| unreadable(error.to_string()))?;
        if bytes.len() as u64 > CONFIG_BYTES_MAX {
            return Err(unreadable(format!("more than {CONFIG_BYTES_MAX} bytes")));
        }
        Ok(bytes.into())
    }

    /// What the store tells of each partition: how far it is archived, and what it knew there.
    /// Nothing of the cluster's metadata is asked.
    ///
    /// # Errors
    /// [`ArchiveError`]: a partition whose archive does not hold together is told, not left out.
    pub async fn partitions(
        &self,
        store: &Store,
        cluster: ClusterId,
    ) -> Result<BTreeMap<PartitionIndex, ArchivedPartition>, ArchiveError> {
        let mut found = BTreeMap::new();
        for partition in &self.partitions {
            let (topic, topic_id, partition) = (self.topic.clone(), self.topic_id, *partition);
            let identity = Identity { cluster, topic, topic_id, partition };
            let archive = PartitionArchive::open(store.clone(), identity, None).await?;
            // A folder without a manifest holds the rest of attempts, and no archive.
            let Some(head) = archive.head().copied() else { continue };
            let end = archive.range_end().await?;
            found.insert(partition, ArchivedPartition { head, end });
        }
        Ok(found)
    }

    /// Removes everything that the store has of the topic: its configs first, without which nobody
    /// takes what is left for a topic to restore. Repeating a call that failed goes on. Returns how
    /// many objects went.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove(&self, store: &Store) -> Result<usize, StoreError> {
        let folder = self.folder();
        let configs = format!("{folder}/config/");
        let listed = store.list(&folder, OBJECTS_MAX).await?;
        let (configs, others): (Vec<_>, Vec<_>) =
            listed.into_iter().map(|object| object.key).partition(|key| key.starts_with(&configs));
        store.delete_all(&configs).await?;
        store.delete_all(&others).await?;
        Ok(configs.len() + others.len())
    }

    fn folder(&self) -> String {
        format!("topics/{}.{}", self.topic, self.topic_id)
    }

    fn config_key(&self, number: u64) -> String {
        format!("{}/config/{number:020}.json", self.folder())
    }
}

#[cfg(test)]
mod tests;
