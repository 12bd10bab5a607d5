//! The JSON forms that this build writes and every later build must read. The files in `testdata/`
//! never change; a new form gets a new version and new files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use millstream_meta::*;
use millstream_types::{
    BrokerId, ClusterId, Digest, DirectoryId, LeaderEpoch, Offset, PartitionIndex, ProducerId,
    TimestampMs, TopicId,
};

fn commands() -> Vec<Command> {
    let topic = TopicId::from_bytes([0xa1; 16]);
    let endpoint = Endpoint { front: "quic".into(), host: "broker-1.example".into(), port: 9092 };
    let overrides = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let bodies = vec![
        CommandBody::InitCluster { cluster: ClusterId::from_bytes([0xc0; 16]), format: 1 },
        CommandBody::RegisterBroker {
            broker: BrokerId(1),
            endpoints: vec![endpoint],
            directories: vec![DirectoryId::from_bytes([0xd1; 16])],
        },
        CommandBody::CreateTopic {
            name: "flights".into(),
            topic,
            partitions: 2,
            replication_factor: 1,
            configs: overrides(&[("retention.ms", "3600000")]),
        },
        CommandBody::AlterTopicConfigs {
            topic,
            set: overrides(&[("durability", "replicated")]),
            remove: ["retention.ms".to_owned()].into(),
        },
        CommandBody::AddPartitions { topic, total: 3 },
        CommandBody::AllocateProducerIds { broker: BrokerId(1), count: 1000 },
        CommandBody::DeleteTopic { topic: TopicId::from_bytes([0xa2; 16]) },
    ];
    let commands = bodies.into_iter().zip(1..);
    commands
        .map(|(body, n)| Command::new(CommandId(n), TimestampMs(1_700_000_000_000), body))
        .collect()
}

/// What version 2 added.
fn commands_of_version_2() -> Vec<Command> {
    let body = CommandBody::AlterTopic {
        topic: TopicId::from_bytes([0xa1; 16]),
        set: [("durability".to_owned(), "replicated".to_owned())].into(),
        remove: ["retention.ms".to_owned()].into(),
        total: 3,
    };
    vec![Command::new(CommandId(8), TimestampMs(1_700_000_000_000), body)]
}

/// What version 3 added.
fn commands_of_version_3() -> Vec<Command> {
    let topic = TopicId::from_bytes([0xa1; 16]);
    let head = ArchiveHead {
        number: 7,
        digest: Digest::from_bytes([0x5a; 32]),
        start: Offset::new(100).unwrap(),
        end: Offset::new(2000).unwrap(),
        leader_epoch: LeaderEpoch(4),
    };
    let bodies = vec![
        CommandBody::MoveArchiveHeads {
            heads: vec![MovedHead { topic, partition: PartitionIndex(1), head }],
        },
        CommandBody::RestoreTopic {
            name: "payments".into(),
            topic: TopicId::from_bytes([0xb2; 16]),
            replication_factor: 1,
            configs: [("remote.storage.enable".to_owned(), "true".to_owned())].into(),
            partitions: vec![
                RestoredPartition { leader_epoch: LeaderEpoch(4), head: Some(head) },
                RestoredPartition { leader_epoch: LeaderEpoch(0), head: None },
            ],
            producers_from: ProducerId(5000),
            other_producers: Vec::new(),
            parts: None,
        },
        CommandBody::ForgetDeletedTopic { topic },
    ];
    let commands = bodies.into_iter().zip(9..);
    commands
        .map(|(body, n)| Command::new(CommandId(n), TimestampMs(1_700_000_000_000), body))
        .collect()
}

/// What version 4 added.
fn commands_of_version_4() -> Vec<Command> {
    let body = CommandBody::RestoreTopic {
        name: "clicks".into(),
        topic: TopicId::from_bytes([0xb4; 16]),
        replication_factor: 1,
        configs: [("remote.storage.enable".to_owned(), "true".to_owned())].into(),
        partitions: vec![RestoredPartition { leader_epoch: LeaderEpoch(0), head: None }],
        producers_from: ProducerId(0),
        other_producers: vec![ProducerId::from_parts(0x0012_3456, 41).unwrap()],
        parts: None,
    };
    vec![Command::new(CommandId(12), TimestampMs(1_700_000_000_000), body)]
}

fn parts() -> RestoreName {
    RestoreName { broker: BrokerId(1), restore: CommandId(0xfeed) }
}

/// What version 5 added.
fn commands_of_version_5() -> Vec<Command> {
    let topic = TopicId::from_bytes([0xb5; 16]);
    let head = ArchiveHead {
        number: 2,
        digest: Digest::from_bytes([0x5a; 32]),
        start: Offset::ZERO,
        end: Offset::new(300).unwrap(),
        leader_epoch: LeaderEpoch(6),
    };
    let bodies = vec![
        CommandBody::RestorePartitions {
            of: parts(),
            topic,
            first: 0,
            partitions: vec![
                RestoredPartition { leader_epoch: LeaderEpoch(6), head: Some(head) },
                RestoredPartition { leader_epoch: LeaderEpoch(0), head: None },
            ],
        },
        CommandBody::RestoreTopic {
            name: "views".into(),
            topic,
            replication_factor: 1,
            configs: [("remote.storage.enable".to_owned(), "true".to_owned())].into(),
            partitions: Vec::new(),
            producers_from: ProducerId(0),
            other_producers: Vec::new(),
            parts: Some(parts()),
        },
    ];
    let commands = bodies.into_iter().zip(13..);
    commands
        .map(|(body, n)| Command::new(CommandId(n), TimestampMs(1_700_000_000_000), body))
        .collect()
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn commands_have_the_form_of_their_version() {
    let versions = [
        ("commands-v1.jsonl", commands()),
        ("commands-v2.jsonl", commands_of_version_2()),
        ("commands-v3.jsonl", commands_of_version_3()),
        ("commands-v4.jsonl", commands_of_version_4()),
        ("commands-v5.jsonl", commands_of_version_5()),
    ];
    for (name, expected) in versions {
        let golden = golden(name);
        assert_eq!(golden.lines().count(), expected.len());
        for (line, command) in golden.lines().zip(expected) {
            assert_eq!(serde_json::to_string(&command).unwrap(), line);
            assert_eq!(serde_json::from_str::<Command>(line).unwrap(), command);
        }
    }
}

#[test]
fn a_snapshot_has_the_form_of_version_1() {
    let mut machine = MetaMachine::new();
    for command in commands() {
        machine.apply(command).ok();
    }
    let golden = golden("snapshot-v1.json");
    let golden = golden.trim_end();
    assert_eq!(String::from_utf8(machine.to_snapshot().unwrap()).unwrap(), golden);
    let read = MetaMachine::from_snapshot(golden.as_bytes()).unwrap();
    assert_eq!(read, machine);
    let topic = read.state().topic_named("flights").unwrap();
    assert_eq!(topic.config.durability, Durability::Replicated);
    assert_eq!(topic.partitions.len(), 3);
    assert_eq!(topic.partitions[0].leader_epoch, LeaderEpoch(0));
    let mut read = read;
    let body = CommandBody::AllocateProducerIds { broker: BrokerId(1), count: 1 };
    let outcome = read.apply(Command::new(CommandId(99), TimestampMs(0), body));
    let first = ProducerId(1000);
    assert_eq!(outcome, Ok(Applied::ProducerIdsAllocated { first, count: 1 }));
}

/// With heads of an archive and a deleted topic, which earlier snapshots of version 1 lack.
#[test]
fn a_snapshot_tells_of_the_archive() {
    let mut machine = MetaMachine::new();
    for command in commands().into_iter().take(2).chain(commands_of_version_3()) {
        machine.apply(command).ok();
    }
    let topic = TopicId::from_bytes([0xb2; 16]);
    let doomed = CommandBody::CreateTopic {
        name: "doomed".into(),
        topic: TopicId::from_bytes([0xd3; 16]),
        partitions: 1,
        replication_factor: 1,
        configs: [("remote.storage.enable".to_owned(), "true".to_owned())].into(),
    };
    let delete = CommandBody::DeleteTopic { topic: TopicId::from_bytes([0xd3; 16]) };
    for (body, id) in [doomed, delete].into_iter().zip(20..) {
        machine.apply(Command::new(CommandId(id), TimestampMs(1_700_000_000_000), body)).unwrap();
    }
    let golden = golden("snapshot-v1-archive.json");
    let golden = golden.trim_end();
    assert_eq!(String::from_utf8(machine.to_snapshot().unwrap()).unwrap(), golden);
    let read = MetaMachine::from_snapshot(golden.as_bytes()).unwrap();
    assert_eq!(read, machine);
    let head = read.state().archive_head(topic, PartitionIndex(0)).unwrap();
    assert_eq!(head.end, Offset::new(2000).unwrap());
}

/// With producers of another cluster, which earlier snapshots of version 1 lack.
#[test]
fn a_snapshot_tells_of_other_clusters_producers() {
    let mut machine = MetaMachine::new();
    for command in commands().into_iter().take(2).chain(commands_of_version_4()) {
        machine.apply(command).unwrap();
    }
    let golden = golden("snapshot-v1-producers.json");
    let golden = golden.trim_end();
    assert_eq!(String::from_utf8(machine.to_snapshot().unwrap()).unwrap(), golden);
    let read = MetaMachine::from_snapshot(golden.as_bytes()).unwrap();
    assert_eq!(read, machine);
    let id = |number| ProducerId::from_parts(0x0012_3456, number).unwrap();
    assert!(read.state().has_allocated(id(41)) && !read.state().has_allocated(id(42)));
}

/// With a restore that has not come to its end, which earlier snapshots of version 1 lack.
#[test]
fn a_snapshot_tells_of_a_restore_under_way() {
    let mut machine = MetaMachine::new();
    let mut later = commands_of_version_5();
    let make = later.pop().unwrap();
    for command in commands().into_iter().take(2).chain(later) {
        machine.apply(command).unwrap();
    }
    let golden = golden("snapshot-v1-restoring.json");
    let golden = golden.trim_end();
    assert_eq!(String::from_utf8(machine.to_snapshot().unwrap()).unwrap(), golden);
    let mut read = MetaMachine::from_snapshot(golden.as_bytes()).unwrap();
    assert_eq!(read, machine);
    assert_eq!(read.state().restore_parts(parts()), Some(2));
    read.apply(make).unwrap();
    assert_eq!(read.state().topic_named("views").unwrap().partitions.len(), 2);
}

#[test]
fn forms_of_a_later_version_are_refused() {
    let command = golden("commands-v1.jsonl").replace("{\"v\":1", "{\"v\":6");
    let error = serde_json::from_str::<Command>(command.lines().next().unwrap()).unwrap_err();
    assert!(error.to_string().contains("command version 6 is not known"), "{error}");
    let snapshot = golden("snapshot-v1.json").replacen("{\"v\":1", "{\"v\":2", 1);
    let error = MetaMachine::from_snapshot(snapshot.as_bytes()).unwrap_err();
    assert!(matches!(error, SnapshotError::UnknownVersion(2)));
}
