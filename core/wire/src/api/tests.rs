//! Every body: its golden bytes, both ways, cut at every byte, followed by fields of the future.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use millstream_types::limits::FRAME_HEADER_BYTES;
use millstream_types::{
    BrokerId, ClusterId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    TimestampMs, TopicId,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::frame::{FrameHeader, FrameKind};

const TOPIC: TopicId = TopicId::from_bytes(*b"topic-id-16bytes");
const TRACE: TraceId = TraceId(*b"trace-id-16bytes");
const COMMAND: CommandId = CommandId(*b"command-16-bytes");
const PRODUCER: ProducerIdentity =
    ProducerIdentity { id: ProducerId(0x0102), epoch: ProducerEpoch(3) };

/// The frames of version 1. A line may be added, never changed: clients in the field read these.
const GOLDEN: &str = include_str!("golden/v1.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(name: &str) -> &'static str {
    let found = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or("nothing")
}

fn body_of(frame: &Bytes, kind: FrameKind) -> Bytes {
    let header: [u8; FRAME_HEADER_BYTES] = frame[..FRAME_HEADER_BYTES].try_into().unwrap();
    let header = FrameHeader::decode(header).unwrap();
    assert_eq!(header.kind, Some(kind));
    let body = frame.slice(FRAME_HEADER_BYTES..);
    assert_eq!(header.body_bytes as usize, body.len());
    body
}

/// Checks one frame of `kind` against its golden bytes and `value`, with `decode` as the reader.
fn check_frame<T: PartialEq + Debug, E: Debug>(
    name: &str,
    kind: FrameKind,
    frame: &Bytes,
    value: &T,
    decode: impl Fn(&[u8]) -> Result<T, E>,
) {
    assert_eq!(hex(frame), golden(name), "{name}");
    let body = body_of(frame, kind);
    assert_eq!(&decode(&body).unwrap(), value, "{name}");
    for end in 0..body.len() {
        assert!(decode(&body[..end]).is_err(), "{name} cut at {end}");
    }
    let mut longer = body.to_vec();
    longer.extend_from_slice(b"a later version's field");
    assert_eq!(&decode(&longer).unwrap(), value, "{name} with more behind it");
    let mut damaged = body.to_vec();
    for at in 0..damaged.len() {
        for flip in [0x01, 0x80, 0xff] {
            damaged[at] ^= flip;
            // Any outcome but a panic.
            drop(decode(&damaged));
            damaged[at] ^= flip;
        }
    }
}

fn check<T: FrameBody + PartialEq + Debug>(name: &str, value: &T) {
    check_frame(name, T::KIND, &value.to_frame().unwrap(), value, T::from_body);
}

fn check_request(name: &str, request: impl Into<Request>) {
    let call = Call { deadline_ms: 1500, trace: TRACE, request: request.into() };
    let frame = request_frame(call.deadline_ms, call.trace, &call.request).unwrap();
    check_frame(name, FrameKind::Request, &frame, &call, Call::from_body);
}

fn check_response(name: &str, response: impl Into<Response>) {
    let response = response.into();
    let api = response.api();
    let reply = Ok(response);
    let frame = response_frame(&reply).unwrap();
    check_frame(name, FrameKind::Response, &frame, &reply, |body| read_response(api, body));
}

fn error() -> ServiceError {
    ServiceError {
        code: ErrorCode::NotLeader,
        message: "broker 2 leads".to_owned(),
        leader: Some(LeaderHint {
            broker: BrokerId(2),
            epoch: LeaderEpoch(7),
            endpoint: "two:9092".to_owned(),
        }),
        throttle_ms: 20,
    }
}

#[test]
fn hello() {
    check(
        "hello",
        &Hello {
            version_min: 1,
            version_max: 2,
            client_id: "me".to_owned(),
            namespace: "default".to_owned(),
            software_name: "sdk".to_owned(),
            software_version: "0.1".to_owned(),
        },
    );
    let reply = HelloReply {
        version: 1,
        cluster: ClusterId::from_bytes(*b"cluster-16-bytes"),
        broker: BrokerId(1),
        frame_bytes_max: 2,
        batch_bytes_max: 3,
        streams_max: 4,
        in_flight_max: 5,
        idle_timeout_ms: 6,
    };
    check("hello-reply", &Reply(Ok(reply)));
    check("hello-reply-error", &Reply::<HelloReply>(Err(error())));
}

#[test]
fn produce() {
    let mut open = OpenProduce {
        topic: TOPIC,
        partition: PartitionIndex(4),
        leader_epoch: Some(LeaderEpoch(7)),
        producer: Some(PRODUCER),
        acks: Acks::All,
        trace: TRACE,
    };
    check("open-produce", &open);
    open.leader_epoch = None;
    open.producer = None;
    open.acks = Acks::Leader;
    check("open-produce-plain", &open);
    let opened =
        ProduceOpened { leader_epoch: LeaderEpoch(7), batch_bytes_max: 8, in_flight_max: 9 };
    check("produce-opened", &Reply(Ok(opened)));
    check("produce-opened-error", &Reply::<ProduceOpened>(Err(error())));
    let base_offset = Offset::new(0x0a0b).unwrap();
    let ack = ProduceAck { base_offset, append_time: TimestampMs::NONE, throttle_ms: 1 };
    check("produce-ack", &Reply(Ok(ack)));
    check("produce-ack-error", &Reply::<ProduceAck>(Err(error())));
}

#[test]
fn subscribe() {
    let offset = Offset::new(0x0a0b).unwrap();
    for (name, start) in [
        ("open-subscription-earliest", StartAt::Earliest),
        ("open-subscription-latest", StartAt::Latest),
        ("open-subscription-offset", StartAt::Offset(offset)),
        ("open-subscription-timestamp", StartAt::Timestamp(TimestampMs(-2))),
    ] {
        let partition = PartitionIndex(4);
        let open =
            OpenSubscription { topic: TOPIC, partition, start, frame_bytes_max: 5, trace: TRACE };
        check(name, &open);
    }
    let opened = SubscriptionOpened {
        start: offset,
        log_start: Offset::ZERO,
        high_watermark: Offset::MAX,
        leader_epoch: LeaderEpoch(7),
    };
    check("subscription-opened", &Reply(Ok(opened)));
    check("subscription-opened-error", &Reply::<SubscriptionOpened>(Err(error())));
    check("progress", &Progress { high_watermark: offset, log_start: Offset::ZERO });
    check("end", &End(error()));
    assert_eq!(hex(&batches_prefix(offset)), golden("batches-prefix"));
    assert_eq!(read_batches_prefix(&batches_prefix(offset)), Ok(offset));
    for end in 0..8 {
        assert!(read_batches_prefix(&batches_prefix(offset)[..end]).is_err());
    }
    assert!(read_batches_prefix(&[0xff; 8]).is_err(), "a negative offset");
}

#[test]
fn finding_topics() {
    check_request("metadata-request-all", MetadataRequest { topics: None });
    let topics = Some(vec!["a".to_owned(), "b".to_owned()]);
    check_request("metadata-request", MetadataRequest { topics });
    let partition = PartitionMetadata {
        partition: PartitionIndex(4),
        leader: Some(BrokerId(1)),
        leader_epoch: LeaderEpoch(7),
        replicas: vec![BrokerId(1), BrokerId(2)],
        in_sync: vec![BrokerId(1)],
    };
    let topic = TopicMetadata {
        error: ErrorCode::None,
        name: "a".to_owned(),
        topic: TOPIC,
        partitions: vec![partition],
    };
    let response = MetadataResponse {
        cluster: ClusterId::from_bytes(*b"cluster-16-bytes"),
        brokers: vec![BrokerMetadata { broker: BrokerId(1), endpoint: "one:9092".to_owned() }],
        topics: vec![topic],
    };
    check_response("metadata-response", response);
    for (name, spec) in [
        ("list-offsets-request-earliest", OffsetSpec::Earliest),
        ("list-offsets-request-latest", OffsetSpec::Latest),
        ("list-offsets-request-timestamp", OffsetSpec::Timestamp(TimestampMs(5))),
    ] {
        let partitions = vec![PartitionIndex(0), PartitionIndex(4)];
        check_request(name, ListOffsetsRequest { topic: TOPIC, partitions, spec });
    }
    let offset = PartitionOffset {
        partition: PartitionIndex(4),
        error: ErrorCode::None,
        offset: Some(Offset::ZERO),
        timestamp: TimestampMs(5),
        leader_epoch: LeaderEpoch(7),
    };
    check_response("list-offsets-response", ListOffsetsResponse { partitions: vec![offset] });
}

#[test]
fn changing_topics() {
    let configs: BTreeMap<_, _> = [("retention.ms".to_owned(), "1".to_owned())].into();
    let create = CreateTopicRequest {
        name: "a".to_owned(),
        partitions: 6,
        replication_factor: 3,
        configs: configs.clone(),
        if_not_exists: true,
        command: COMMAND,
    };
    check_request("create-topic-request", create);
    let created =
        CreateTopicResponse { topic: TOPIC, partitions: 6, replication_factor: 3, created: true };
    check_response("create-topic-response", created);
    let delete = DeleteTopicRequest { name: "a".to_owned(), if_exists: false, command: COMMAND };
    check_request("delete-topic-request", delete);
    check_response("delete-topic-response", DeleteTopicResponse { topic: Some(TOPIC) });
    let alter = AlterTopicRequest {
        name: "a".to_owned(),
        set: configs,
        remove: vec!["segment.bytes".to_owned()],
        partitions: Some(12),
        command: COMMAND,
    };
    check_request("alter-topic-request", alter);
    check_response("alter-topic-response", AlterTopicResponse { topic: TOPIC, partitions: 12 });
}

fn described() -> TopicDescription {
    TopicDescription {
        error: ErrorCode::None,
        name: "a".to_owned(),
        topic: TOPIC,
        replication_factor: 1,
        configs: vec![ConfigEntry {
            name: "retention.ms".to_owned(),
            value: "1".to_owned(),
            source: ConfigSource::Topic,
        }],
        partitions: vec![PartitionDescription {
            partition: PartitionIndex(4),
            error: ErrorCode::StorageFenced,
            leader: None,
            leader_epoch: LeaderEpoch(7),
            replicas: vec![BrokerId(1)],
            in_sync: vec![],
            log_start: Offset::ZERO,
            high_watermark: Offset::new(5).unwrap(),
            log_end: Offset::new(6).unwrap(),
            bytes: 7,
            segments: 8,
        }],
    }
}

#[test]
fn archiving() {
    let at = |value| Offset::new(value).unwrap();
    let topics = Some(vec!["t".to_owned()]);
    check_request("archive-status-request", ArchiveStatusRequest { topics, skip: 7 });
    let partition = ArchivePartitionStatus {
        name: "t".to_owned(),
        topic: TOPIC,
        partition: PartitionIndex(2),
        start: at(1),
        end: at(20),
        local_start: at(15),
        high_watermark: at(25),
        backlog_bytes: 3,
        waiting_ms: 4,
        objects: 5,
        object_bytes: 6,
        log_bytes: 7,
        error: "e".to_owned(),
    };
    let response = ArchiveStatusResponse {
        store: "s".to_owned(),
        store_error: String::new(),
        partitions: vec![partition],
    };
    check_response("archive-status-response", response);
    let from = at(9);
    let verify = VerifyArchiveRequest { topic: TOPIC, partition: PartitionIndex(1), from };
    check_request("verify-archive-request", verify);
    let response = VerifyArchiveResponse {
        next: Some(at(10)),
        object: "o".to_owned(),
        records: 1,
        object_bytes: 2,
        compared: 3,
        fault: "f".to_owned(),
    };
    check_response("verify-archive-response", response);
    check_request("archived-topics-request", ArchivedTopicsRequest {});
    let (name, exists) = ("t".to_owned(), true);
    let topics = vec![ArchivedTopicEntry { name, topic: TOPIC, partitions: 4, exists }];
    check_response("archived-topics-response", ArchivedTopicsResponse { topics });
    let (name, topic) = ("t".to_owned(), Some(TOPIC));
    check_request("restore-topic-request", RestoreTopicRequest { command: COMMAND, name, topic });
    let restored = RestoredRange { error: ErrorCode::None, start: at(1), end: at(2) };
    let response = RestoreTopicResponse { topic: TOPIC, partitions: vec![restored] };
    check_response("restore-topic-response", response);
}

#[test]
fn describing() {
    check_request("describe-topics-request", DescribeTopicsRequest { topics: Some(vec![]) });
    let topics = vec![described()];
    check_response("describe-topics-response", DescribeTopicsResponse { topics });
    check_request("init-producer-request-new", InitProducerRequest { producer: None });
    check_request("init-producer-request", InitProducerRequest { producer: Some(PRODUCER) });
    check_response("init-producer-response", InitProducerResponse { producer: PRODUCER });
    check_request("broker-status-request", BrokerStatusRequest {});
    let metrics = vec![
        Metric { name: "n_total".to_owned(), value: MetricValue::Counter(3) },
        Metric { name: "share".to_owned(), value: MetricValue::Gauge(0.5) },
    ];
    check_response("broker-status-response", BrokerStatusResponse { metrics });
}

#[test]
fn a_failed_call() {
    let reply = Err(error());
    let frame = response_frame(&reply).unwrap();
    assert_eq!(hex(&frame), golden("response-error"));
    let body = body_of(&frame, FrameKind::Response);
    for api in ApiKey::ALL {
        assert_eq!(read_response(*api, &body), Ok(Err(error())));
    }
}

#[test]
fn every_golden_frame_is_of_use_here() {
    let source = include_str!("tests.rs");
    for line in GOLDEN.lines() {
        let (name, _) = line.split_once(' ').unwrap();
        assert!(source.contains(&format!("\"{name}\"")), "{name}");
    }
}

#[test]
fn an_unknown_api_is_told_apart_from_a_malformed_request() {
    let request = Request::Metadata(MetadataRequest { topics: None });
    let frame = request_frame(0, TRACE, &request).unwrap();
    let mut body = body_of(&frame, FrameKind::Request).to_vec();
    body[1] = 99;
    let unknown = Call::from_body(&body).unwrap_err();
    assert_eq!(unknown, RequestError::Unsupported { api: 99, version: 1 });
    assert_eq!(ServiceError::from(unknown).code, ErrorCode::UnsupportedVersion);
    body[1] = 1;
    body[3] = 2;
    let newer = Call::from_body(&body).unwrap_err();
    assert_eq!(newer, RequestError::Unsupported { api: 1, version: 2 });
    body[3] = 1;
    *body.last_mut().unwrap() = 9;
    let malformed = Call::from_body(&body).unwrap_err();
    assert_eq!(ServiceError::from(malformed).code, ErrorCode::InvalidRequest);
}

#[test]
fn an_error_code_of_a_later_version_is_still_an_error() {
    let mut out = BytesMut::new();
    End(error()).append_frame(&mut out).unwrap();
    out[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + 2].copy_from_slice(&[0xee, 0xee]);
    let End(read) = End::from_body(&out[FRAME_HEADER_BYTES..]).unwrap();
    assert_eq!(read.code, ErrorCode::Internal);
    assert_eq!(read.message, "broker 2 leads");
}

#[test]
fn a_failure_without_a_code_does_not_read_as_success() {
    let nameless = ServiceError::new(ErrorCode::None, "oops");
    let frame = response_frame(&Err(nameless)).unwrap();
    let body = body_of(&frame, FrameKind::Response);
    let read = read_response(ApiKey::Metadata, &body).unwrap().unwrap_err();
    assert_eq!(read.code, ErrorCode::Internal);
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let long = ServiceError::new(ErrorCode::Internal, "é".repeat(5000));
    let frame = End(long).to_frame().unwrap();
    let End(read) = End::from_body(&frame[FRAME_HEADER_BYTES..]).unwrap();
    assert_eq!(read.message, "é".repeat(ERROR_MESSAGE_BYTES_MAX / 2));
}

#[test]
fn what_is_too_long_is_not_written() {
    let mut out = BytesMut::from(&b"before"[..]);
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        client_id: "x".repeat(256),
        namespace: String::new(),
        software_name: String::new(),
        software_version: String::new(),
    };
    let refused = hello.append_frame(&mut out);
    assert!(matches!(refused, Err(EncodeError::TooLong { what: "client id", .. })), "{refused:?}");
    assert_eq!(&out[..], b"before");
    let metrics =
        vec![Metric { name: "x".repeat(255), value: MetricValue::Counter(3) }; METRICS_MAX + 1];
    let many = Ok(Response::BrokerStatus(BrokerStatusResponse { metrics }));
    assert!(response_frame(&many).is_err());
}

#[test]
fn a_claimed_count_allocates_nothing() {
    // 100,000 partitions claimed in a body of a few bytes.
    let mut body = Vec::new();
    body.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0]);
    body.extend_from_slice(&[0, 0, 0, 4, 0, 1, 0x86, 0xa0]);
    let refused = read_response(ApiKey::ListOffsets, &body).unwrap_err();
    assert!(matches!(refused, DecodeError::Truncated { what: "partitions", .. }), "{refused:?}");
}

#[test]
fn a_config_named_twice_is_refused() {
    let request = CreateTopicRequest {
        name: "a".to_owned(),
        partitions: 1,
        replication_factor: 1,
        configs: [("k1".to_owned(), "v".to_owned()), ("k2".to_owned(), "w".to_owned())].into(),
        if_not_exists: false,
        command: COMMAND,
    };
    let frame = request_frame(0, TRACE, &request.into()).unwrap();
    let mut body = body_of(&frame, FrameKind::Request).to_vec();
    let second = body.windows(2).position(|pair| pair == b"k2").unwrap();
    body[second + 1] = b'1';
    let refused = Call::from_body(&body).unwrap_err();
    assert_eq!(refused, RequestError::Malformed(DecodeError::DuplicateKey("configs")));
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._é-]{0,40}"
}

fn service_error() -> impl Strategy<Value = ServiceError> {
    let leader = (any::<u32>(), any::<i32>(), name()).prop_map(|(broker, epoch, endpoint)| {
        LeaderHint { broker: BrokerId(broker), epoch: LeaderEpoch(epoch), endpoint }
    });
    (1..=25_u16, name(), option::of(leader), any::<u32>()).prop_map(
        |(code, message, leader, throttle_ms)| {
            let code = ErrorCode::from_code(code).unwrap();
            ServiceError { code, message, leader, throttle_ms }
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let create = (name(), any::<u32>(), any::<u16>(), btree_map(name(), name(), 0..20)).prop_map(
        |(name, partitions, replication_factor, configs)| {
            let (if_not_exists, command) = (partitions % 2 == 0, COMMAND);
            CreateTopicRequest {
                name,
                partitions,
                replication_factor,
                configs,
                if_not_exists,
                command,
            }
            .into()
        },
    );
    let alter = (name(), btree_map(name(), name(), 0..9), vec(name(), 0..9), any::<Option<u32>>())
        .prop_map(|(name, set, remove, partitions)| {
            AlterTopicRequest { name, set, remove, partitions, command: COMMAND }.into()
        });
    let offsets = (any::<[u8; 16]>(), vec(any::<u32>(), 0..50), any::<i64>()).prop_map(
        |(topic, partitions, timestamp)| {
            let partitions = partitions.into_iter().map(PartitionIndex).collect();
            let spec = OffsetSpec::Timestamp(TimestampMs(timestamp));
            ListOffsetsRequest { topic: TopicId::from_bytes(topic), partitions, spec }.into()
        },
    );
    let describe =
        option::of(vec(name(), 0..20)).prop_map(|topics| DescribeTopicsRequest { topics }.into());
    prop_oneof![create, alter, offsets, describe]
}

proptest! {
    #[test]
    fn requests_read_back(deadline_ms: u32, trace: [u8; 16], request in request()) {
        let call = Call { deadline_ms, trace: TraceId(trace), request };
        let frame = request_frame(call.deadline_ms, call.trace, &call.request).unwrap();
        prop_assert_eq!(Call::from_body(&frame[FRAME_HEADER_BYTES..]).unwrap(), call);
    }

    #[test]
    fn errors_read_back(error in service_error()) {
        let frame = response_frame(&Err(error.clone())).unwrap();
        let read = read_response(ApiKey::CreateTopic, &frame[FRAME_HEADER_BYTES..]).unwrap();
        prop_assert_eq!(read, Err(error.clone()));
        let ack = Reply::<ProduceAck>(Err(error));
        let frame = ack.to_frame().unwrap();
        prop_assert_eq!(Reply::from_body(&frame[FRAME_HEADER_BYTES..]).unwrap(), ack);
    }

    #[test]
    fn acknowledgements_read_back(base in 0..i64::MAX, time: i64, throttle_ms: u32) {
        let base_offset = Offset::new(base).unwrap();
        let append_time = TimestampMs(time);
        let ack = Reply(Ok(ProduceAck { base_offset, append_time, throttle_ms }));
        let frame = ack.to_frame().unwrap();
        prop_assert_eq!(Reply::from_body(&frame[FRAME_HEADER_BYTES..]).unwrap(), ack);
    }

    #[test]
    fn descriptions_read_back(names in vec(name(), 0..20), bytes: u64, high in 0..i64::MAX) {
        let topics = names.into_iter().map(|name| {
            let mut topic = described();
            topic.partitions[0].bytes = bytes;
            topic.partitions[0].high_watermark = Offset::new(high).unwrap();
            TopicDescription { name, ..topic }
        });
        let response = Response::from(DescribeTopicsResponse { topics: topics.collect() });
        let frame = response_frame(&Ok(response.clone())).unwrap();
        let read = read_response(ApiKey::DescribeTopics, &frame[FRAME_HEADER_BYTES..]).unwrap();
        prop_assert_eq!(read, Ok(response));
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in vec(any::<u8>(), 0..300)) {
        drop(Hello::from_body(&body));
        drop(Reply::<HelloReply>::from_body(&body));
        drop(OpenProduce::from_body(&body));
        drop(Reply::<ProduceOpened>::from_body(&body));
        drop(Reply::<ProduceAck>::from_body(&body));
        drop(OpenSubscription::from_body(&body));
        drop(Reply::<SubscriptionOpened>::from_body(&body));
        drop(Call::from_body(&body));
        drop(End::from_body(&body));
        for api in ApiKey::ALL {
            drop(read_response(*api, &body));
            let mut request = BytesMut::from(&[0, 0, 0, 1, 0, 0, 0, 0][..]);
            request[..2].copy_from_slice(&api.code().to_be_bytes());
            request.extend_from_slice(&[0; 16]);
            request.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
            request.extend_from_slice(&body);
            drop(Call::from_body(&request));
        }
    }
}
