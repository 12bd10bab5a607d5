//! What commands do, told through outcomes and images.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use millstream_meta::*;
use millstream_types::{
    BrokerId, ClusterId, DirectoryId, ErrorCode, LeaderEpoch, PartitionIndex, TimestampMs, TopicId,
};

const BROKER: BrokerId = BrokerId(1);

struct Driver {
    machine: MetaMachine,
    next: u128,
}

impl Driver {
    fn started() -> Self {
        let mut driver = Self { machine: MetaMachine::new(), next: 1 };
        let cluster = ClusterId::from_bytes([7; 16]);
        let init = CommandBody::InitCluster { cluster, format: FORMAT_VERSION };
        assert_eq!(driver.apply(init), Ok(Applied::ClusterInitialised));
        assert_eq!(driver.apply(register(BROKER)), Ok(Applied::BrokerRegistered { epoch: 0 }));
        driver
    }

    fn apply(&mut self, body: CommandBody) -> Outcome {
        let command = Command::new(CommandId(self.next), TimestampMs(1_000), body);
        self.next += 1;
        let outcome = self.machine.apply(command);
        assert_eq!(self.machine.state().check(), Ok(()));
        outcome
    }
}

fn register(broker: BrokerId) -> CommandBody {
    let id = u8::try_from(broker.0).unwrap();
    let endpoint = Endpoint { front: "quic".into(), host: "127.0.0.1".into(), port: 9092 };
    CommandBody::RegisterBroker {
        broker,
        endpoints: vec![endpoint],
        directories: vec![DirectoryId::from_bytes([id; 16])],
    }
}

fn topic_id(byte: u8) -> TopicId {
    TopicId::from_bytes([byte; 16])
}

fn create(name: &str, id: u8, partitions: u32) -> CommandBody {
    CommandBody::CreateTopic {
        name: name.into(),
        topic: topic_id(id),
        partitions,
        replication_factor: 1,
        configs: BTreeMap::new(),
    }
}

fn configs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_topic_is_created_found_grown_and_deleted() {
    let mut driver = Driver::started();
    let topic = topic_id(1);
    assert_eq!(driver.apply(create("a.b", 1, 3)), Ok(Applied::TopicCreated { topic }));
    let image = driver.machine.state().clone();
    let found = image.topic_named("a.b").unwrap();
    assert_eq!((found.id, found.partitions.len(), found.created), (topic, 3, TimestampMs(1_000)));
    assert_eq!(found.partition(PartitionIndex(2)).unwrap().leader, Some(BROKER));
    assert!(found.partition(PartitionIndex(3)).is_none());
    assert!(image.topic_named("a_b").is_none());

    let grow = CommandBody::AddPartitions { topic, total: 5 };
    assert_eq!(driver.apply(grow.clone()), Ok(Applied::PartitionsAdded { topic, total: 5 }));
    assert_eq!(driver.apply(grow).unwrap_err().code(), ErrorCode::InvalidRequest);
    assert_eq!(driver.machine.state().partitions_len(), 5);

    let delete = CommandBody::DeleteTopic { topic };
    assert_eq!(driver.apply(delete.clone()), Ok(Applied::TopicDeleted { topic }));
    assert_eq!(driver.apply(delete).unwrap_err().code(), ErrorCode::UnknownTopic);
    assert_eq!(driver.machine.state().partitions_len(), 0);
    assert_eq!(image.partitions_len(), 3, "an image does not change");
}

#[test]
fn a_command_that_comes_again_has_its_first_outcome() {
    let mut driver = Driver::started();
    let command = Command::new(CommandId(900), TimestampMs(5), create("t", 1, 1));
    let first = driver.machine.apply(command.clone());
    let state = driver.machine.clone();
    assert_eq!(driver.machine.apply(command), first);
    assert_eq!(driver.machine, state);
    let error = driver.apply(create("t", 2, 1)).unwrap_err();
    assert_eq!(error, MetaError::TopicExists { name: "t".into(), topic: topic_id(1) });
}

#[test]
fn outcomes_are_kept_for_a_bounded_number_of_commands() {
    let mut driver = Driver::started();
    let command = Command::new(CommandId(1 << 100), TimestampMs(5), create("t", 1, 1));
    driver.machine.apply(command.clone()).unwrap();
    for _ in 0..APPLIED_COMMANDS_KEPT {
        let refused = driver.machine.apply(Command::new(
            CommandId(driver.next),
            TimestampMs(5),
            CommandBody::DeleteTopic { topic: topic_id(9) },
        ));
        assert_eq!(refused.unwrap_err().code(), ErrorCode::UnknownTopic);
        driver.next += 1;
    }
    let again = driver.machine.apply(command).unwrap_err();
    assert_eq!(again.code(), ErrorCode::TopicExists);
}

#[test]
fn names_that_collide_in_metrics_are_refused() {
    let mut driver = Driver::started();
    driver.apply(create("a.b", 1, 1)).unwrap();
    let error = driver.apply(create("a_b", 2, 1)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidTopicName);
}

#[test]
fn a_new_topic_is_refused_whole() {
    let mut driver = Driver::started();
    let before = driver.machine.state().clone();
    let cases = [
        (create("", 1, 1), ErrorCode::InvalidTopicName),
        (create("t", 0, 1), ErrorCode::InvalidRequest),
        (create("t", 1, 0), ErrorCode::InvalidRequest),
        (create("t", 1, u32::MAX), ErrorCode::InvalidRequest),
    ];
    for (body, code) in cases {
        assert_eq!(driver.apply(body).unwrap_err().code(), code);
    }
    for (factor, pairs, code) in [
        (2, vec![], ErrorCode::InvalidRequest),
        (0, vec![], ErrorCode::InvalidConfig),
        (1, vec![("min.insync.replicas", "2")], ErrorCode::InvalidConfig),
        (1, vec![("cleanup.policy", "compact")], ErrorCode::InvalidConfig),
    ] {
        let body = CommandBody::CreateTopic {
            name: "t".into(),
            topic: topic_id(1),
            partitions: 1,
            replication_factor: factor,
            configs: configs(&pairs),
        };
        assert_eq!(driver.apply(body).unwrap_err().code(), code);
    }
    assert_eq!(*driver.machine.state(), before);
}

#[test]
fn configs_are_set_and_removed_together() {
    let mut driver = Driver::started();
    let topic = topic_id(1);
    driver.apply(create("t", 1, 1)).unwrap();
    let set = configs(&[("retention.ms", "05"), ("durability", "replicated")]);
    let alter = CommandBody::AlterTopicConfigs { topic, set, remove: BTreeSet::new() };
    assert_eq!(driver.apply(alter), Ok(Applied::TopicConfigsAltered { topic }));
    let altered = driver.machine.state().topic(topic).unwrap().clone();
    assert_eq!(altered.overrides, configs(&[("durability", "replicated"), ("retention.ms", "5")]));
    assert_eq!(altered.config.durability, Durability::Replicated);

    let set = configs(&[("segment.ms", "0")]);
    let remove = BTreeSet::from(["retention.ms".to_owned()]);
    let alter = CommandBody::AlterTopicConfigs { topic, set, remove: remove.clone() };
    assert_eq!(driver.apply(alter).unwrap_err().code(), ErrorCode::InvalidConfig);
    assert_eq!(driver.machine.state().topic(topic), Some(&altered));

    let alter = CommandBody::AlterTopicConfigs { topic, set: BTreeMap::new(), remove };
    driver.apply(alter).unwrap();
    let config = driver.machine.state().topic(topic).unwrap().config.clone();
    assert_eq!(config.retention_ms, TopicConfig::default().retention_ms);
}

#[test]
fn configs_and_partitions_change_together_or_not_at_all() {
    let mut driver = Driver::started();
    let topic = topic_id(1);
    driver.apply(create("t", 1, 2)).unwrap();
    let alter = |value: &str, total| CommandBody::AlterTopic {
        topic,
        set: configs(&[("retention.ms", value)]),
        remove: BTreeSet::new(),
        total,
    };
    let before = driver.machine.state().clone();
    for (value, total, code) in [
        ("5", 1, ErrorCode::InvalidRequest),
        ("5", u32::MAX, ErrorCode::InvalidRequest),
        ("soon", 3, ErrorCode::InvalidConfig),
    ] {
        assert_eq!(driver.apply(alter(value, total)).unwrap_err().code(), code);
        assert_eq!(*driver.machine.state(), before);
    }
    for (value, total) in [("5", 3), ("6", 3)] {
        let outcome = driver.apply(alter(value, total));
        assert_eq!(outcome, Ok(Applied::PartitionsAdded { topic, total }));
        let altered = driver.machine.state().topic(topic).unwrap();
        assert_eq!((altered.partitions.len(), &altered.overrides["retention.ms"][..]), (3, value));
    }
}

#[test]
fn a_broker_that_comes_back_begins_new_leaderships() {
    let mut driver = Driver::started();
    driver.apply(create("t", 1, 2)).unwrap();
    let before = driver.machine.state().clone();
    assert_eq!(driver.apply(register(BROKER)), Ok(Applied::BrokerRegistered { epoch: 1 }));
    let after = driver.machine.state();
    for partition in &after.topic(topic_id(1)).unwrap().partitions {
        assert_eq!((partition.leader_epoch, partition.partition_epoch), (LeaderEpoch(1), 1));
    }
    assert!(matches!(after.changes_since(&before)[..], [TopicChange::Changed { .. }]));
}

#[test]
fn a_directory_belongs_to_one_broker() {
    let mut driver = Driver::started();
    let CommandBody::RegisterBroker { endpoints, directories, .. } = register(BROKER) else {
        unreachable!("made above")
    };
    let broker = BrokerId(2);
    let stolen = CommandBody::RegisterBroker { broker, endpoints, directories };
    assert!(matches!(driver.apply(stolen), Err(MetaError::InvalidBroker { .. })));
}

#[test]
fn blocks_of_producer_ids_do_not_overlap() {
    let mut driver = Driver::started();
    let mut next = 0;
    for count in [1, 1000, PRODUCER_ID_BLOCK_MAX] {
        let body = CommandBody::AllocateProducerIds { broker: BROKER, count };
        let Ok(Applied::ProducerIdsAllocated { first, count: got }) = driver.apply(body) else {
            panic!("refused")
        };
        assert_eq!((first.0, got), (next, count));
        next += i64::from(count);
    }
    for (broker, count) in [(BrokerId(9), 1), (BROKER, 0), (BROKER, u32::MAX)] {
        assert!(driver.apply(CommandBody::AllocateProducerIds { broker, count }).is_err());
    }
}

#[test]
fn nothing_happens_before_the_cluster_has_an_identity() {
    let mut machine = MetaMachine::new();
    let outcome = machine.apply(Command::new(CommandId(1), TimestampMs(1), register(BROKER)));
    assert_eq!(outcome, Err(MetaError::NotInitialised));
    let body = CommandBody::InitCluster { cluster: ClusterId::NIL, format: 99 };
    let outcome = machine.apply(Command::new(CommandId(2), TimestampMs(1), body));
    assert_eq!(outcome, Err(MetaError::UnknownFormat { format: 99, newest: FORMAT_VERSION }));
    assert_eq!(machine.state(), &MetaState::default());
}

#[test]
fn changes_tell_what_became_of_each_topic() {
    let mut driver = Driver::started();
    driver.apply(create("kept", 1, 1)).unwrap();
    driver.apply(create("gone", 2, 1)).unwrap();
    let old = driver.machine.state().clone();
    driver.apply(CommandBody::DeleteTopic { topic: topic_id(2) }).unwrap();
    driver.apply(create("made", 3, 1)).unwrap();
    let new = driver.machine.state().clone();
    let changes = new.changes_since(&old);
    let gone = old.topic(topic_id(2)).unwrap().clone();
    let made = new.topic(topic_id(3)).unwrap().clone();
    assert_eq!(changes, vec![TopicChange::Deleted(gone), TopicChange::Created(made)]);
    assert!(new.changes_since(&new).is_empty());
}

#[test]
fn ten_thousand_partitions_are_one_command() {
    let mut driver = Driver::started();
    driver.apply(create("wide", 1, 10_000)).unwrap();
    let snapshot = driver.machine.to_snapshot().unwrap();
    assert!(snapshot.len() < 1_000_000, "{} bytes", snapshot.len());
    assert_eq!(MetaMachine::from_snapshot(&snapshot).unwrap(), driver.machine);
}
