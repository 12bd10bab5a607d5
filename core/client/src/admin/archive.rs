//! Administration of the archive: how far it is, whether it holds what it should, and topics
//! brought back from it.

use std::collections::BTreeMap;

use millstream_types::{ErrorCode, Offset, PartitionIndex, TopicId};
use millstream_wire::api;

use super::{Admin, unexpected};
use crate::error::AdminError;

/// How far a cluster's topics are archived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveStatus {
    /// Where objects lie.
    pub store: String,
    /// Why the store cannot be used; `None` when it can.
    pub store_error: Option<String>,
    /// The archived partitions that have a leader, by topic name and index.
    pub partitions: Vec<ArchivedPartition>,
}

/// How far one partition is archived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedPartition {
    /// The topic's name.
    pub topic: String,
    /// The topic's identity.
    pub topic_id: TopicId,
    /// The partition's index within the topic.
    pub partition: u32,
    /// The first offset in the archive.
    pub start: i64,
    /// The offset after the last in the archive; `start` when it holds nothing.
    pub end: i64,
    /// The first offset on the leader's disk.
    pub local_start: i64,
    /// The offset after the last committed record.
    pub high_watermark: i64,
    /// About how many bytes of the log are not archived yet.
    pub backlog_bytes: u64,
    /// For how many milliseconds there has been something that is not archived.
    pub waiting_ms: u64,
    /// Objects that hold the archive.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Bytes of the batches in them, as the log had them.
    pub log_bytes: u64,
    /// What failed last and was not made good since.
    pub error: Option<String>,
}

/// What [`Admin::verify_archive`] found in one archived range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedRange {
    /// The object that holds the range; `None` when there was no range left to check.
    pub object: Option<String>,
    /// Records in it.
    pub records: u64,
    /// Its bytes.
    pub object_bytes: u64,
    /// Records that the leader's log still had and that were compared with it.
    pub compared: u64,
    /// What is wrong with it; `None` for nothing.
    pub fault: Option<String>,
    /// Where the next range begins; `None` when this was the last.
    pub next: Option<i64>,
}

/// One topic in the archive's store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedTopic {
    /// Its name when it was archived.
    pub name: String,
    /// Its identity; the store may hold several of one name.
    pub id: TopicId,
    /// How many of its partitions have been archived from.
    pub partitions: u32,
    /// Whether the cluster has it; it need not be restored then.
    pub exists: bool,
}

/// What [`Admin::restore_topic`] brought back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoredTopic {
    /// The topic's identity, which it had before.
    pub id: TopicId,
    /// Its partitions, in order from 0.
    pub partitions: Vec<RestoredPartition>,
}

/// What a restored partition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestoredPartition {
    /// Its index within the topic.
    pub partition: u32,
    /// Why it is not open yet; `None` when it is.
    pub error: Option<ErrorCode>,
    /// The first offset that it holds.
    pub start: i64,
    /// The offset after the last, where it goes on.
    pub end: i64,
}

impl Admin {
    /// How far the named topics are archived, or all topics where none is named; one that is not
    /// there or not archived has no partition in the answer. Asks every broker for those that it
    /// leads.
    ///
    /// # Errors
    /// A broker cannot be reached.
    pub async fn archive_status(
        &self,
        topics: Option<&[String]>,
    ) -> Result<ArchiveStatus, AdminError> {
        let metadata = self.client.cluster.metadata(Some(Vec::new())).await?;
        let mut joined: Option<(String, String)> = None;
        // A partition may be told twice: by two leaders, or again when one before it is new.
        let mut partitions = BTreeMap::new();
        for broker in &metadata.brokers {
            let mut skip = 0;
            loop {
                let request = api::ArchiveStatusRequest { topics: topics.map(<[_]>::to_vec), skip };
                let page = match self.client.cluster.call_at_once(&broker.endpoint, request).await?
                {
                    api::Response::ArchiveStatus(page) => page,
                    other => return Err(unexpected(&other)),
                };
                let (_, error) = joined.get_or_insert((page.store, String::new()));
                if error.is_empty() {
                    *error = page.store_error;
                }
                let told = page.partitions.len();
                for status in page.partitions {
                    partitions.insert((status.name.clone(), status.partition.0), status);
                }
                if told < api::ARCHIVE_PARTITIONS_MAX {
                    break;
                }
                skip += u32::try_from(told).unwrap_or(u32::MAX);
            }
        }
        let Some((store, store_error)) = joined else {
            return Err(AdminError::Protocol { reason: "metadata without brokers".to_owned() });
        };
        Ok(ArchiveStatus {
            store,
            store_error: words(store_error),
            partitions: partitions.into_values().map(archived_partition).collect(),
        })
    }

    /// Has a partition's leader check the archived range that holds `from`, or the first after it:
    /// the object's checksums, its records, and that they are those of the log as far as that
    /// still has them. Goes on from [`VerifiedRange::next`].
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`; `InvalidRequest` for an offset below 0; `Unavailable`
    /// while the store is away; or the brokers cannot be reached. A range that is damaged is no
    /// error but a [`VerifiedRange::fault`].
    pub async fn verify_archive(
        &self,
        topic: &str,
        partition: u32,
        from: i64,
    ) -> Result<VerifiedRange, AdminError> {
        let Some(offset) = Offset::new(from) else {
            let message = format!("offsets begin at 0, {from} is none");
            return Err(AdminError::Service { code: ErrorCode::InvalidRequest, message });
        };
        let request = |topic| {
            let partition = PartitionIndex(partition);
            api::VerifyArchiveRequest { topic, partition, from: offset }.into()
        };
        let checked = match self.client.cluster.call_leader(topic, partition, request).await? {
            api::Response::VerifyArchive(checked) => checked,
            other => return Err(unexpected(&other)),
        };
        if let Some(next) = checked.next.filter(|next| *next <= offset) {
            let reason = format!("the range after the one at offset {from} begins at {next}");
            return Err(AdminError::Protocol { reason });
        }
        Ok(VerifiedRange {
            object: words(checked.object),
            records: checked.records,
            object_bytes: checked.object_bytes,
            compared: checked.compared,
            fault: words(checked.fault),
            next: checked.next.map(Offset::value),
        })
    }

    /// The topics that the archive's store holds, by name: those of the cluster, and those that
    /// [`restore_topic`](Self::restore_topic) could bring back.
    ///
    /// # Errors
    /// `Unavailable` while the store is away; or the brokers cannot be reached.
    pub async fn archived_topics(&self) -> Result<Vec<ArchivedTopic>, AdminError> {
        let request = api::ArchivedTopicsRequest {};
        let response = match self.client.cluster.call(request.into()).await? {
            api::Response::ArchivedTopics(response) => response,
            other => return Err(unexpected(&other)),
        };
        let topic = |entry: api::ArchivedTopicEntry| ArchivedTopic {
            name: entry.name,
            id: entry.topic,
            partitions: entry.partitions,
            exists: entry.exists,
        };
        Ok(response.topics.into_iter().map(topic).collect())
    }

    /// Makes a topic of what the store holds, under the name, id and configs that it had; its
    /// partitions go on where their archives end. `id` chooses one of several of that name.
    ///
    /// # Errors
    /// `UnknownTopic` when the store holds none such; `TopicExists` when the cluster has a topic of
    /// that name; `InvalidRequest` when the store holds several and `id` chooses none;
    /// `Unavailable` while the store is away; or the brokers cannot be reached.
    pub async fn restore_topic(
        &self,
        name: &str,
        id: Option<TopicId>,
    ) -> Result<RestoredTopic, AdminError> {
        let command = self.client.new_command();
        let request = api::RestoreTopicRequest { command, name: name.to_owned(), topic: id };
        let restored = match self.client.cluster.call(request.into()).await? {
            api::Response::RestoreTopic(restored) => restored,
            other => return Err(unexpected(&other)),
        };
        self.client.cluster.forget(name);
        let partition = |(partition, range): (u32, &api::RestoredRange)| RestoredPartition {
            partition,
            error: (range.error != ErrorCode::None).then_some(range.error),
            start: range.start.value(),
            end: range.end.value(),
        };
        let partitions = (0..).zip(&restored.partitions).map(partition).collect();
        Ok(RestoredTopic { id: restored.topic, partitions })
    }
}

/// On the wire, no words are empty ones.
fn words(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn archived_partition(status: api::ArchivePartitionStatus) -> ArchivedPartition {
    ArchivedPartition {
        topic: status.name,
        topic_id: status.topic,
        partition: status.partition.0,
        start: status.start.value(),
        end: status.end.value(),
        local_start: status.local_start.value(),
        high_watermark: status.high_watermark.value(),
        backlog_bytes: status.backlog_bytes,
        waiting_ms: status.waiting_ms,
        objects: status.objects,
        object_bytes: status.object_bytes,
        log_bytes: status.log_bytes,
        error: words(status.error),
    }
}
