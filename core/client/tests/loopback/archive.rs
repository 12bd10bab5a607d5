//! Administration of an archive that is made up: ranges of ten offsets, from 5 to 35, of which the
//! second is damaged.

use std::time::Duration;

use millstream_client::{
    AdminError, ArchivedTopic, Client, ErrorCode, RestoredPartition, RestoredTopic, TopicId,
    VerifiedRange,
};
use millstream_service::{Request, Response, ServiceError};
use millstream_types::{Offset, PartitionIndex};
use millstream_wire::api::{
    ARCHIVE_PARTITIONS_MAX, ArchivePartitionStatus, ArchiveStatusRequest, ArchiveStatusResponse,
    ArchivedTopicEntry, ArchivedTopicsResponse, RestoreTopicResponse, RestoredRange,
    VerifyArchiveRequest, VerifyArchiveResponse,
};

use crate::broker::{Cluster, Running, TOPIC};
use crate::{client, single};

/// More than one reply tells.
const PARTITIONS: u32 = 10_007;
const OTHER: TopicId = TopicId::from_bytes([7; 16]);

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// What a broker says of the partitions that it leads.
pub(crate) fn status(request: &ArchiveStatusRequest, leads: bool) -> ArchiveStatusResponse {
    let partition = |index| ArchivePartitionStatus {
        name: "t".to_owned(),
        topic: TOPIC,
        partition: PartitionIndex(index),
        start: offset(5),
        end: offset(35),
        local_start: offset(25),
        high_watermark: offset(40),
        backlog_bytes: 500,
        waiting_ms: 20,
        objects: 3,
        object_bytes: 1000,
        log_bytes: 3000,
        error: if index == 0 { "the store is slow" } else { "" }.to_owned(),
    };
    let named = request.topics.as_ref().is_none_or(|topics| topics.iter().any(|name| name == "t"));
    let all = if leads && named { 0..PARTITIONS } else { 0..0 };
    let page = all.skip(request.skip as usize).take(ARCHIVE_PARTITIONS_MAX);
    ArchiveStatusResponse {
        store: "memory".to_owned(),
        store_error: if leads { "" } else { "no such bucket" }.to_owned(),
        partitions: page.map(partition).collect(),
    }
}

pub(crate) fn verify(request: &VerifyArchiveRequest) -> VerifyArchiveResponse {
    let base = (request.from.value() - 5).max(0) / 10 * 10 + 5;
    if base >= 35 {
        return VerifyArchiveResponse {
            next: None,
            object: String::new(),
            records: 0,
            object_bytes: 0,
            compared: 0,
            fault: String::new(),
        };
    }
    VerifyArchiveResponse {
        next: (base < 25).then(|| offset(base + 10)),
        object: format!("{base}.parquet"),
        records: 10,
        object_bytes: 333,
        compared: if base == 25 { 10 } else { 0 },
        fault: if base == 15 { "row group 0 fails its CRC" } else { "" }.to_owned(),
    }
}

/// The answers that all brokers give.
pub(crate) fn answer(request: Request) -> Result<Response, ServiceError> {
    let topic =
        |topic, exists| ArchivedTopicEntry { name: "t".to_owned(), topic, partitions: 2, exists };
    match request {
        Request::ArchivedTopics(_) => {
            Ok(ArchivedTopicsResponse { topics: vec![topic(TOPIC, true), topic(OTHER, false)] }
                .into())
        }
        Request::RestoreTopic(request) if request.name == "away" => {
            Err(ServiceError::new(ErrorCode::Unavailable, "the store is away"))
        }
        Request::RestoreTopic(request) => {
            let Some(topic) = request.topic else {
                return Err(ServiceError::new(ErrorCode::InvalidRequest, "two of that name"));
            };
            let range = |error, end| RestoredRange { error, start: offset(5), end: offset(end) };
            let partitions = vec![range(ErrorCode::None, 35), range(ErrorCode::Unavailable, 5)];
            Ok(RestoreTopicResponse { topic, partitions }.into())
        }
        other => {
            let message = format!("{:?}", other.api());
            Err(ServiceError::new(ErrorCode::InvalidRequest, message))
        }
    }
}

#[tokio::test]
async fn the_archives_status_is_joined_from_pages_and_brokers() {
    let cluster = Cluster::new(1);
    let brokers = [Running::start(&cluster).await, Running::start(&cluster).await];
    cluster.set_leader(1);
    let admin = client(&cluster, &[&brokers[0]]).await.admin();
    let status = admin.archive_status(None).await.unwrap();
    assert_eq!(status.store, "memory");
    assert_eq!(status.store_error.as_deref(), Some("no such bucket"));
    let indexes: Vec<u32> = status.partitions.iter().map(|status| status.partition).collect();
    assert_eq!(indexes, (0..PARTITIONS).collect::<Vec<_>>());
    let first = &status.partitions[0];
    assert_eq!((first.topic.as_str(), first.topic_id), ("t", TOPIC));
    let offsets = [first.start, first.end, first.local_start, first.high_watermark];
    assert_eq!(offsets, [5, 35, 25, 40]);
    let sizes = [first.backlog_bytes, first.waiting_ms, first.objects, first.object_bytes];
    assert_eq!((sizes, first.log_bytes), ([500, 20, 3, 1000], 3000));
    assert_eq!(first.error.as_deref(), Some("the store is slow"));
    assert_eq!(status.partitions[1].error, None);

    let none = admin.archive_status(Some(&["another".to_owned()])).await.unwrap();
    assert_eq!(none.partitions, []);
}

#[tokio::test]
async fn ranges_are_verified_by_the_leader_one_after_another() {
    let cluster = Cluster::new(1);
    let brokers = [Running::start(&cluster).await, Running::start(&cluster).await];
    cluster.set_leader(1);
    let admin = client(&cluster, &[&brokers[0]]).await.admin();
    let mut ranges = Vec::new();
    let mut next = Some(0);
    while let Some(from) = next {
        let range = admin.verify_archive("t", 0, from).await.unwrap();
        next = range.next;
        ranges.push(range);
    }
    let range = |base, next, compared, fault: Option<&str>| VerifiedRange {
        object: Some(format!("{base}.parquet")),
        records: 10,
        object_bytes: 333,
        compared,
        fault: fault.map(str::to_owned),
        next,
    };
    let expected = [
        range(5, Some(15), 0, None),
        range(15, Some(25), 0, Some("row group 0 fails its CRC")),
        range(25, None, 10, None),
    ];
    assert_eq!(ranges, expected);
    assert_eq!(cluster.not_leader_answers(), 0);
    assert_eq!(admin.verify_archive("t", 0, 35).await.unwrap().object, None);

    for (partition, from, code) in
        [(1, 0, ErrorCode::UnknownPartition), (0, -1, ErrorCode::InvalidRequest)]
    {
        let error = admin.verify_archive("t", partition, from).await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
    }
}

#[tokio::test]
async fn a_topic_is_restored_under_the_id_that_was_chosen() {
    let (_cluster, _running, client) = single(1).await;
    let admin = client.admin();
    let topics = admin.archived_topics().await.unwrap();
    let topic = |id, exists| ArchivedTopic { name: "t".to_owned(), id, partitions: 2, exists };
    assert_eq!(topics, [topic(TOPIC, true), topic(OTHER, false)]);

    let ambiguous = admin.restore_topic("t", None).await.unwrap_err();
    assert!(matches!(ambiguous, AdminError::Service { code: ErrorCode::InvalidRequest, .. }));
    let restored = admin.restore_topic("t", Some(OTHER)).await.unwrap();
    let unavailable = Some(ErrorCode::Unavailable);
    let partitions = vec![
        RestoredPartition { partition: 0, error: None, start: 5, end: 35 },
        RestoredPartition { partition: 1, error: unavailable, start: 5, end: 5 },
    ];
    assert_eq!(restored, RestoredTopic { id: OTHER, partitions });
}

#[tokio::test]
async fn a_request_that_fails_until_its_time_is_over_tells_why() {
    let cluster = Cluster::new(1);
    let running = Running::start(&cluster).await;
    let client = Client::builder()
        .bootstrap([running.endpoint()])
        .ca_pem(cluster.ca_pem())
        .request_timeout(Duration::from_millis(500))
        .connect()
        .await
        .unwrap();
    let error = client.admin().restore_topic("away", None).await.unwrap_err();
    let (code, message) = (ErrorCode::Unavailable, "the store is away".to_owned());
    assert_eq!(error, AdminError::Service { code, message });
}
