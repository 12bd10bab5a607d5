//! `millstream archive`.

mod restore;
mod status;
mod verify;

use anyhow::{Error, Result};
use millstream_client::ArchivedPartition;

use crate::args::{ArchiveAction, ArchiveArgs};
use crate::failure::advised;

const TURN_IT_ON: &str = "archive a topic with `millstream topic alter NAME --config \
                          remote.storage.enable=true`";

pub(crate) async fn run(args: ArchiveArgs) -> Result<()> {
    match args.action {
        ArchiveAction::Status(args) => status::run(args).await,
        ArchiveAction::Verify(args) => verify::run(args).await,
        ArchiveAction::Restore(args) => restore::run(args).await,
    }
}

/// The topics to ask for; none named asks for all.
fn filter(topics: &[String]) -> Option<&[String]> {
    (!topics.is_empty()).then_some(topics)
}

/// The first of the named topics of which nothing is archived, as an error.
fn not_archived(topics: &[String], partitions: &[ArchivedPartition]) -> Option<Error> {
    let is_archived = |name: &String| partitions.iter().any(|status| status.topic == *name);
    let missing = topics.iter().find(|name| !is_archived(name))?;
    Some(advised(format!("there is no archived topic {missing}"), TURN_IT_ON))
}

/// Offsets from `start` to before `end`, for people.
fn offsets(start: i64, end: i64) -> String {
    format!("{start}-{end}")
}

#[cfg(test)]
fn archived_partition(topic: &str, partition: u32) -> ArchivedPartition {
    ArchivedPartition {
        topic: topic.to_owned(),
        topic_id: millstream_client::TopicId::from_bytes([7; 16]),
        partition,
        start: 0,
        end: 120_000,
        local_start: 90_000,
        high_watermark: 123_456,
        backlog_bytes: 3 << 20,
        waiting_ms: 63_250,
        objects: 4,
        object_bytes: 40 << 20,
        log_bytes: 100 << 20,
        error: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_without_archived_partitions_is_named() {
        let partitions = [archived_partition("orders", 0)];
        let names = ["orders", "clicks"].map(str::to_owned);
        assert!(not_archived(&names[..1], &partitions).is_none());
        assert!(not_archived(&[], &partitions).is_none());
        let error = not_archived(&names, &partitions).map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("there is no archived topic clicks"));
    }
}
