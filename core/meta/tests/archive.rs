//! The archive's heads in the metadata, and what becomes of an archived topic that is deleted or
//! restored.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use millstream_meta::*;
use millstream_types::{
    BrokerId, ClusterId, Digest, DirectoryId, LeaderEpoch, Offset, PartitionIndex, ProducerId,
    TimestampMs, TopicId,
};

const TOPIC: TopicId = TopicId::from_bytes([0xa1; 16]);

struct Driver {
    machine: MetaMachine,
    next: u128,
}

impl Driver {
    /// A cluster of one broker with an archived topic of two partitions.
    fn started() -> Self {
        let mut driver = Self { machine: MetaMachine::new(), next: 1 };
        let cluster = ClusterId::from_bytes([7; 16]);
        driver.apply(CommandBody::InitCluster { cluster, format: FORMAT_VERSION }).unwrap();
        driver
            .apply(CommandBody::RegisterBroker {
                broker: BrokerId(1),
                endpoints: Vec::new(),
                directories: vec![DirectoryId::from_bytes([1; 16])],
            })
            .unwrap();
        driver
            .apply(CommandBody::CreateTopic {
                name: "orders".to_owned(),
                topic: TOPIC,
                partitions: 2,
                replication_factor: 1,
                configs: archived(),
            })
            .unwrap();
        driver
    }

    fn apply(&mut self, body: CommandBody) -> Outcome {
        let command = Command::new(CommandId(self.next), TimestampMs(1_000), body);
        self.next += 1;
        let outcome = self.machine.apply(command);
        assert_eq!(self.machine.state().check(), Ok(()));
        let snapshot = self.machine.to_snapshot().unwrap();
        assert_eq!(MetaMachine::from_snapshot(&snapshot).unwrap(), self.machine);
        outcome
    }

    fn move_head(&mut self, partition: u32, head: ArchiveHead) -> u64 {
        let moved = MovedHead { topic: TOPIC, partition: PartitionIndex(partition), head };
        match self.apply(CommandBody::MoveArchiveHeads { heads: vec![moved] }) {
            Ok(Applied::ArchiveHeadsMoved { count }) => count,
            other => panic!("{other:?}"),
        }
    }

    fn head(&self) -> Option<ArchiveHead> {
        self.machine.state().archive_head(TOPIC, PartitionIndex(0)).copied()
    }
}

fn archived() -> BTreeMap<String, String> {
    BTreeMap::from([("remote.storage.enable".to_owned(), "true".to_owned())])
}

fn head(number: u64, start: i64, end: i64, epoch: i32) -> ArchiveHead {
    ArchiveHead {
        number,
        digest: Digest::from_bytes([0x5a; 32]),
        start: Offset::new(start).unwrap(),
        end: Offset::new(end).unwrap(),
        leader_epoch: LeaderEpoch(epoch),
    }
}

#[test]
fn a_head_moves_forwards_only() {
    let mut driver = Driver::started();
    assert_eq!(driver.move_head(0, head(0, 0, 10, 1)), 1);
    assert_eq!(driver.move_head(0, head(1, 0, 20, 1)), 1);
    let passed_over = [
        head(1, 0, 20, 1),
        head(0, 0, 30, 1),
        head(2, 0, 15, 1),
        head(2, 0, 30, 0),
        head(2, 40, 30, 1),
    ];
    for stale in passed_over {
        assert_eq!(driver.move_head(0, stale), 0, "{stale:?}");
        assert_eq!(driver.head(), Some(head(1, 0, 20, 1)));
    }
    // Retention gives up the oldest, up to all of it.
    assert_eq!(driver.move_head(0, head(2, 20, 20, 3)), 1);
    assert_eq!(driver.move_head(0, head(3, 10, 20, 3)), 0, "what is given up does not come back");
    assert_eq!(driver.move_head(7, head(0, 0, 1, 0)), 0, "there is no such partition");
}

#[test]
fn archiving_cannot_be_turned_off() {
    let mut driver = Driver::started();
    let off = BTreeMap::from([("remote.storage.enable".to_owned(), "false".to_owned())]);
    let by_setting =
        CommandBody::AlterTopicConfigs { topic: TOPIC, set: off, remove: BTreeSet::new() };
    let remove = BTreeSet::from(["remote.storage.enable".to_owned()]);
    let by_removing = CommandBody::AlterTopicConfigs { topic: TOPIC, set: BTreeMap::new(), remove };
    for body in [by_setting, by_removing] {
        let refused = driver.apply(body).unwrap_err();
        assert_eq!(refused, MetaError::InvalidConfig(ConfigError::ArchiveStays));
    }
}

#[test]
fn a_deleted_topic_is_remembered_until_its_objects_are_gone() {
    let mut driver = Driver::started();
    driver.move_head(0, head(0, 0, 10, 1));
    driver.apply(CommandBody::DeleteTopic { topic: TOPIC }).unwrap();
    assert_eq!(driver.head(), None);
    let buried: Vec<_> = driver.machine.state().deleted_topics().collect();
    let expected = DeletedTopic { name: "orders".into(), deleted: TimestampMs(1_000) };
    assert_eq!(buried, [(TOPIC, &expected)]);
    let again = CommandBody::CreateTopic {
        name: "orders".to_owned(),
        topic: TOPIC,
        partitions: 1,
        replication_factor: 1,
        configs: archived(),
    };
    assert_eq!(driver.apply(again.clone()), Err(MetaError::InvalidTopicId { topic: TOPIC }));
    for _ in 0..2 {
        let forgotten = driver.apply(CommandBody::ForgetDeletedTopic { topic: TOPIC });
        assert_eq!(forgotten, Ok(Applied::DeletedTopicForgotten { topic: TOPIC }));
    }
    assert_eq!(driver.apply(again), Ok(Applied::TopicCreated { topic: TOPIC }));
}

#[test]
fn a_restored_topic_goes_on_where_its_archive_ends() {
    let mut driver = Driver::started();
    let topic = TopicId::from_bytes([0xb2; 16]);
    let restore = |partitions, producers_from| CommandBody::RestoreTopic {
        name: "payments".to_owned(),
        topic,
        replication_factor: 1,
        configs: archived(),
        partitions,
        producers_from: ProducerId(producers_from),
        other_producers: Vec::new(),
        parts: None,
    };
    let never = RestoredPartition { leader_epoch: LeaderEpoch(0), head: None };
    let twisted = RestoredPartition { leader_epoch: LeaderEpoch(4), head: Some(head(3, 9, 5, 4)) };
    assert!(driver.apply(restore(vec![twisted], 0)).is_err(), "it ends before it starts");
    let held = RestoredPartition { leader_epoch: LeaderEpoch(4), head: Some(head(3, 5, 9, 4)) };
    let restored = driver.apply(restore(vec![held, never], 5_000));
    assert_eq!(restored, Ok(Applied::TopicRestored { topic }));
    let state = driver.machine.state();
    let made = state.topic(topic).unwrap();
    let epochs: Vec<i32> = made.partitions.iter().map(|it| it.leader_epoch.0).collect();
    assert_eq!(epochs, [5, 1]);
    assert_eq!(state.archive_head(topic, PartitionIndex(0)), Some(&head(3, 5, 9, 4)));
    assert_eq!(state.archive_head(topic, PartitionIndex(1)), None);
    let ids = driver.apply(CommandBody::AllocateProducerIds { broker: BrokerId(1), count: 1 });
    let first = ProducerId(5_000);
    assert_eq!(ids, Ok(Applied::ProducerIdsAllocated { first, count: 1 }));
}

/// Both clusters count from 0; a producer of the one is none of the other's all the same.
#[test]
fn a_restored_topics_producers_are_not_this_clusters() {
    let mut driver = Driver::started();
    let ids = CommandBody::AllocateProducerIds { broker: BrokerId(1), count: 1_000 };
    driver.apply(ids.clone()).unwrap();
    let theirs = ClusterId::from_bytes([9; 16]);
    let id = |number| ProducerId::from_parts(theirs.producer_origin(), number).unwrap();
    let own = driver.machine.state().producer_id(7).unwrap();
    assert_ne!(own, id(7));
    assert!(driver.machine.state().has_allocated(own));
    assert!(!driver.machine.state().has_allocated(id(7)), "nothing of theirs is here");

    let restore = |topic: u8, name: &str, other_producers| CommandBody::RestoreTopic {
        name: name.to_owned(),
        topic: TopicId::from_bytes([topic; 16]),
        replication_factor: 1,
        configs: archived(),
        partitions: vec![RestoredPartition { leader_epoch: LeaderEpoch(0), head: None }],
        producers_from: ProducerId(0),
        other_producers,
        parts: None,
    };
    for wrong in [own, ProducerId(7), ProducerId::NONE] {
        assert!(driver.apply(restore(0xb2, "payments", vec![wrong])).is_err(), "{wrong}");
    }
    driver.apply(restore(0xb2, "payments", vec![id(5_000)])).unwrap();
    driver.apply(restore(0xb3, "refunds", vec![id(20)])).unwrap();
    let state = driver.machine.state();
    let known = [id(7), id(5_000), own].map(|id| state.has_allocated(id));
    assert_eq!(known, [true; 3]);
    let unknown = [id(5_001), ProducerId::from_parts(77, 1).unwrap(), ProducerId(-2)];
    assert_eq!(unknown.map(|id| state.has_allocated(id)), [false; 3]);
    // Their numbers do not move this cluster's.
    let first = ProducerId(1_000);
    assert_eq!(driver.apply(ids), Ok(Applied::ProducerIdsAllocated { first, count: 1_000 }));
}

/// What earlier builds gave out carries no origin, and goes on.
#[test]
fn bare_producer_ids_stay_known() {
    let mut driver = Driver::started();
    driver.apply(CommandBody::AllocateProducerIds { broker: BrokerId(1), count: 10 }).unwrap();
    let state = driver.machine.state();
    assert!(state.has_allocated(ProducerId(9)) && !state.has_allocated(ProducerId(10)));
    assert_eq!(state.producer_id(1 << 39), None, "there are no more");
}

/// A refusal that comes before anything is done elsewhere, and one that would not come.
#[test]
fn a_command_is_checked_without_being_applied() {
    let mut driver = Driver::started();
    let create = |name: &str, topic| CommandBody::CreateTopic {
        name: name.to_owned(),
        topic: TopicId::from_bytes([topic; 16]),
        partitions: 1,
        replication_factor: 1,
        configs: BTreeMap::new(),
    };
    let check = |driver: &Driver, body| {
        let command = Command::new(CommandId(99), TimestampMs(1_000), body);
        driver.machine.state().check_command(command)
    };
    let before = driver.machine.state().clone();
    let exists = check(&driver, create("orders", 0xb2));
    assert!(matches!(exists, Err(MetaError::TopicExists { .. })), "{exists:?}");
    assert_eq!(check(&driver, create("payments", 0xb2)), Ok(()));
    assert_eq!(*driver.machine.state(), before);
    driver.apply(create("payments", 0xb2)).unwrap();
}

#[test]
fn local_retention_is_never_beyond_the_topics() {
    let of = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        TopicConfig::from_overrides(&pairs.collect()).unwrap()
    };
    let whole = ("retention.ms", "1000");
    assert_eq!(of(&[whole]).local_retention_ms(), Some(1000));
    assert_eq!(of(&[whole, ("local.retention.ms", "10")]).local_retention_ms(), Some(10));
    assert_eq!(of(&[whole, ("local.retention.ms", "-1")]).local_retention_ms(), Some(1000));
    assert_eq!(of(&[("local.retention.bytes", "7")]).local_retention_bytes(), Some(7));
    assert_eq!(of(&[("local.retention.bytes", "-1")]).local_retention_bytes(), None);
}
