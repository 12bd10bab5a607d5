//! How long replies become, found before any of them is built: a short request may name much, and
//! what cannot be sent must not be built. Long replies are built apart from the threads that serve
//! the network, a few at a time.

use std::collections::BTreeSet;

use millstream_meta::{MetaState, Topic, TopicConfig};
use millstream_service::{Request, ServiceError};
use millstream_types::ErrorCode;
use millstream_types::limits::{CONTROL_BODY_BYTES_MAX, TOPIC_NAME_BYTES_MAX};
use millstream_wire::api::{ARCHIVE_PARTITIONS_MAX, ERROR_MESSAGE_BYTES_MAX};

use crate::service::BrokerService;

/// Long replies that are built at the same time.
pub(crate) const BUILDS_MAX: usize = 2;
/// Longer replies are not built by the threads that serve the network.
const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Of so many names each is not looked at before the reply is built: it counts as long.
const NAMES_COUNTED_MAX: usize = 256;
/// What stands before a response: the frame's header, the status, the response's length.
const STATUS_BYTES: usize = 24;
/// What a reply about topics may come to.
const RESPONSE_BYTES_MAX: usize = CONTROL_BODY_BYTES_MAX - STATUS_BYTES;
/// One partition's answer to ListOffsets.
const OFFSET_BYTES: usize = 27;
/// One partition's row of ArchiveStatus, without its topic's name and its last error.
pub(crate) const ARCHIVED_BYTES: usize = 96;
/// What may be left for errors after the rows of an ArchiveStatus and what stands before them.
pub(crate) const ARCHIVE_ROWS_BYTES_MAX: usize =
    RESPONSE_BYTES_MAX - 2 * (2 + ERROR_MESSAGE_BYTES_MAX) - 4;
/// What of a row's error is foreseen; few partitions have one.
const ARCHIVED_ERROR_BYTES: usize = 250;
/// A store's topics are known only once they are listed.
const ARCHIVED_TOPICS_BYTES: usize = 256 * 1024;

// As many rows as a reply may have always fit, if their errors are cut.
const _: () = assert!(
    ARCHIVE_PARTITIONS_MAX * (ARCHIVED_BYTES + TOPIC_NAME_BYTES_MAX) < ARCHIVE_ROWS_BYTES_MAX
);

/// A reply that has an entry for each topic. `docs/protocol.md` has the layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Metadata,
    Descriptions,
}

impl About {
    /// The bytes of an entry without name, configs and partitions.
    const fn topic_bytes(self) -> usize {
        match self {
            Self::Metadata => 24,
            Self::Descriptions => 30,
        }
    }

    /// The bytes of a partition without leader and replicas.
    const fn partition_bytes(self) -> usize {
        match self {
            Self::Metadata => 17,
            Self::Descriptions => 55,
        }
    }

    fn entry_bytes(self, topic: &Topic, configs_bytes: usize) -> usize {
        let mut bytes = self.topic_bytes() + topic.name.len();
        if self == Self::Descriptions {
            let set = topic.overrides.iter().map(|(name, value)| name.len() + value.len());
            bytes += configs_bytes + set.sum::<usize>();
        }
        for partition in &topic.partitions {
            let brokers = partition.replicas.len() + partition.in_sync.len();
            let leader = usize::from(partition.leader.is_some());
            bytes += self.partition_bytes() + 4 * (brokers + leader);
        }
        bytes
    }

    /// Bytes of the configs of a topic that sets none.
    fn configs_bytes(self) -> usize {
        match self {
            Self::Metadata => 0,
            Self::Descriptions => {
                let all = TopicConfig::default();
                all.describe_all().map(|(name, value)| 5 + name.len() + value.len()).sum()
            }
        }
    }

    /// How long the reply becomes at most; no further than a reply may be.
    pub(crate) fn bytes_max(self, state: &MetaState, names: Option<&[String]>) -> usize {
        let mut bytes = self.head_bytes(state);
        let configs_bytes = self.configs_bytes();
        let mut add = |entry_bytes: usize| {
            bytes += entry_bytes;
            bytes < CONTROL_BODY_BYTES_MAX
        };
        match names {
            Some(names) if names.len() > NAMES_COUNTED_MAX => return CONTROL_BODY_BYTES_MAX,
            Some(names) => {
                let entry = |name: &String| match state.topic_named(name) {
                    Some(topic) => self.entry_bytes(topic, configs_bytes),
                    None => self.topic_bytes() + name.len(),
                };
                let _all = names.iter().map(entry).all(&mut add);
            }
            None => {
                let entry = |topic: &_| self.entry_bytes(topic, configs_bytes);
                let _all = state.topics().map(|topic| entry(topic)).all(&mut add);
            }
        }
        bytes.min(CONTROL_BODY_BYTES_MAX)
    }

    fn head_bytes(self, state: &MetaState) -> usize {
        let brokers = match self {
            Self::Metadata => state.brokers().map(|broker| {
                let host = broker.endpoints.first().map_or(0, |at| at.host.len());
                host + ":65535".len() + 6
            }),
            Self::Descriptions => return STATUS_BYTES,
        };
        STATUS_BYTES + 24 + brokers.sum::<usize>()
    }

    /// Refuses a reply that would be too long, before any of it is there.
    fn check(self, state: &MetaState, asked: &[Asked<'_>]) -> Result<(), ServiceError> {
        let configs_bytes = self.configs_bytes();
        let mut bytes = self.head_bytes(state);
        for (place, entry) in asked.iter().enumerate() {
            bytes += match entry {
                Asked::Known(topic) => self.entry_bytes(topic, configs_bytes),
                Asked::Unknown(name) => self.topic_bytes() + name.len(),
            };
            if bytes <= CONTROL_BODY_BYTES_MAX {
                continue;
            }
            let message = match entry {
                Asked::Known(topic) if place == 0 => self.too_large(topic),
                _ => format!(
                    "the answer for {} topics is longer than a reply may be, 4 MiB; the first \
                     {place} of them fit: ask for fewer at once, by name",
                    asked.len(),
                ),
            };
            return Err(ServiceError::new(ErrorCode::LimitExceeded, message));
        }
        Ok(())
    }

    fn too_large(self, topic: &Topic) -> String {
        let (name, count) = (&topic.name, topic.partitions.len());
        match self {
            Self::Metadata => format!(
                "the metadata of topic `{name}` is longer than a reply may be, 4 MiB: it has \
                 {count} partitions of {} replicas",
                topic.replication_factor
            ),
            Self::Descriptions => format!(
                "topic `{name}` has {count} partitions, and the description of so many is longer \
                 than a reply may be, 4 MiB; `millstream topic list` has its size, and Metadata \
                 and ListOffsets have each partition's leader and offsets"
            ),
        }
    }
}

/// A topic that a reply has an entry for.
#[derive(Debug)]
pub(crate) enum Asked<'a> {
    Known(&'a Topic),
    Unknown(&'a str),
}

/// What a reply about topics has entries for, in order: those that were named, each once, or all
/// by name.
///
/// # Errors
/// `limit-exceeded` when so many entries are longer than a reply.
pub(crate) fn select<'a>(
    about: About,
    state: &'a MetaState,
    names: Option<&'a [String]>,
) -> Result<Vec<Asked<'a>>, ServiceError> {
    let asked: Vec<Asked<'a>> = match names {
        Some(names) => {
            let find = |name| match state.topic_named(name) {
                Some(topic) => Asked::Known(topic),
                None => Asked::Unknown(name),
            };
            each_once(names.iter().map(String::as_str)).into_iter().map(find).collect()
        }
        None => {
            let mut topics: Vec<&Topic> = state.topics().map(|topic| &**topic).collect();
            topics.sort_by(|a, b| a.name.cmp(&b.name));
            topics.into_iter().map(Asked::Known).collect()
        }
    };
    about.check(state, &asked)?;
    Ok(asked)
}

/// What a request names, each at its first place: a short one may name a thing very often.
pub(crate) fn each_once<T: Ord + Copy>(named: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    named.into_iter().filter(|one| seen.insert(*one)).collect()
}

impl BrokerService {
    /// How long the reply to a request becomes at most, as far as the request and the metadata say.
    pub(crate) fn reply_bytes(&self, request: &Request) -> usize {
        let state = self.quorum.state();
        match request {
            Request::Metadata(request) => {
                About::Metadata.bytes_max(&state, request.topics.as_deref())
            }
            Request::DescribeTopics(request) => {
                About::Descriptions.bytes_max(&state, request.topics.as_deref())
            }
            Request::ListOffsets(request) => {
                STATUS_BYTES + 4 + OFFSET_BYTES * request.partitions.len()
            }
            Request::ArchiveStatus(_) => {
                let archived = state.topics().filter(|topic| topic.config.remote_storage_enable);
                let rows: usize = archived.map(|topic| topic.partitions.len()).sum();
                let row_bytes = ARCHIVED_BYTES + TOPIC_NAME_BYTES_MAX + ARCHIVED_ERROR_BYTES;
                STATUS_BYTES + rows.min(ARCHIVE_PARTITIONS_MAX) * row_bytes
            }
            Request::ArchivedTopics(_) => ARCHIVED_TOPICS_BYTES,
            // Of a topic that is not there yet nobody knows; memory must not wait for the restore.
            Request::RestoreTopic(_)
            | Request::CreateTopic(_)
            | Request::DeleteTopic(_)
            | Request::AlterTopic(_)
            | Request::InitProducer(_)
            | Request::BrokerStatus(_)
            | Request::VerifyArchive(_) => 0,
        }
    }

    /// Builds a reply of `bytes`, where it holds nobody up.
    pub(crate) async fn build<T: Send + 'static>(
        &self,
        bytes: usize,
        build: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        if bytes <= INLINE_BYTES_MAX {
            return Ok(build());
        }
        let failed = |error: &dyn std::fmt::Display| {
            ServiceError::new(ErrorCode::Internal, format!("the reply was not built: {error}"))
        };
        let turn = self.builds.clone().acquire_owned().await.map_err(|error| failed(&error))?;
        let built = tokio::task::spawn_blocking(move || {
            // Until its end, whether or not anybody still waits for it.
            let _turn = turn;
            build()
        });
        built.await.map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_meta::{Command, CommandBody, CommandId, Endpoint, MetaMachine};
    use millstream_types::{BrokerId, ClusterId, DirectoryId, TimestampMs, TopicId};
    use millstream_wire::api::response_frame;

    use super::*;
    use crate::admin;

    fn state(topics: &[(&str, u32)]) -> MetaState {
        let mut machine = MetaMachine::default();
        let mut bodies = vec![
            CommandBody::InitCluster {
                cluster: ClusterId::from_bytes([1; 16]),
                format: millstream_meta::FORMAT_VERSION,
            },
            CommandBody::RegisterBroker {
                broker: BrokerId(1),
                endpoints: vec![Endpoint {
                    front: "quic".to_owned(),
                    host: "127.0.0.1".to_owned(),
                    port: 9092,
                }],
                directories: vec![DirectoryId::from_bytes([3; 16])],
            },
        ];
        for (name, partitions) in topics {
            bodies.push(CommandBody::CreateTopic {
                name: (*name).to_owned(),
                topic: TopicId::from_bytes([u8::try_from(bodies.len()).unwrap(); 16]),
                partitions: *partitions,
                replication_factor: 1,
                configs: BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]),
            });
        }
        for (body, id) in bodies.into_iter().zip(1..) {
            machine.apply(Command::new(CommandId(id), TimestampMs(1), body)).unwrap();
        }
        machine.state().clone()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_name_that_comes_again_is_answered_once() {
        let state = state(&[("big", 10_000), ("small", 1)]);
        let mut asked = names(&["small", "nowhere"]);
        asked.extend(vec!["big".to_owned(); 5000]);
        asked.extend(names(&["nowhere", "small"]));
        let metadata = admin::metadata(&state, Some(&asked)).unwrap();
        let answered: Vec<&str> = metadata.topics.iter().map(|topic| &*topic.name).collect();
        assert_eq!(answered, ["small", "nowhere", "big"]);
        assert_eq!(metadata.topics[1].error, ErrorCode::UnknownTopic);
        for about in [About::Metadata, About::Descriptions] {
            let bytes_max = about.bytes_max(&state, Some(&asked));
            assert_eq!(bytes_max, CONTROL_BODY_BYTES_MAX, "it takes the room of the longest");
        }
    }

    #[test]
    fn a_reply_is_as_long_as_was_said_before() {
        let state = state(&[("a", 1), ("b", 1000), ("c", 20_000)]);
        let (some, none) = (names(&["c", "nowhere", "a"]), names(&[]));
        for asked in [None, Some(&*some), Some(&*none)] {
            let said = About::Metadata.bytes_max(&state, asked);
            let metadata = admin::metadata(&state, asked).unwrap();
            let frame = response_frame(&Ok(metadata.into())).unwrap();
            assert!(frame.len() <= said && said <= frame.len() + 64, "{} {said}", frame.len());
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_advice() {
        let state = state(&[("a", 30_000), ("b", 30_000), ("c", 30_000), ("d", 90_000)]);
        let message = |about, asked: Option<&[String]>| {
            let error = select(about, &state, asked).unwrap_err();
            assert_eq!(error.code, ErrorCode::LimitExceeded);
            error.message
        };
        let all = message(About::Metadata, None);
        assert!(all.contains("4 topics") && all.contains("first 3"), "{all}");
        let some = names(&["a", "b", "c"]);
        assert!(select(About::Metadata, &state, Some(&some)).is_ok());
        let described = message(About::Descriptions, Some(&some));
        assert!(described.contains("first 2"), "{described}");
        let alone = message(About::Descriptions, Some(&names(&["d"])));
        assert!(alone.contains("topic `d` has 90000 partitions"), "{alone}");
        assert!(select(About::Metadata, &state, Some(&names(&["d"]))).is_ok());
    }
}
