//! Topics of more partitions than one command holds come back in parts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use millstream_meta::*;
use millstream_types::{
    BrokerId, ClusterId, Digest, DirectoryId, LeaderEpoch, Offset, PartitionIndex, ProducerId,
    TimestampMs, TopicId,
};

const TOPIC: TopicId = TopicId::from_bytes([0xa1; 16]);
const OTHER: TopicId = TopicId::from_bytes([0xb2; 16]);
const BROKER: BrokerId = BrokerId(1);

/// A machine, and the commands that brought it where it is.
struct Driver {
    machine: MetaMachine,
    history: Vec<Command>,
}

impl Driver {
    fn started() -> Self {
        let mut driver = Self { machine: MetaMachine::new(), history: Vec::new() };
        let cluster = ClusterId::from_bytes([7; 16]);
        driver.apply(CommandBody::InitCluster { cluster, format: FORMAT_VERSION }).unwrap();
        driver.apply(register(BROKER)).unwrap();
        driver
    }

    fn apply(&mut self, body: CommandBody) -> Outcome {
        let id = CommandId(self.history.len() as u128 + 1);
        let command = Command::new(id, TimestampMs(1_000), body);
        self.history.push(command.clone());
        let outcome = self.machine.apply(command);
        assert_eq!(self.machine.state().check(), Ok(()));
        outcome
    }

    /// As after a crash: of the newest snapshot, or of every command from the first on.
    fn reopen(&mut self, from_snapshot: bool) {
        let reopened = if from_snapshot {
            MetaMachine::from_snapshot(&self.machine.to_snapshot().unwrap()).unwrap()
        } else {
            let mut machine = MetaMachine::new();
            for command in &self.history {
                let json = serde_json::to_vec(command).unwrap();
                machine.apply(serde_json::from_slice(&json).unwrap()).ok();
            }
            machine
        };
        assert_eq!(reopened, self.machine);
        self.machine = reopened;
    }

    fn parts(&self, restore: u128) -> Option<usize> {
        self.machine.state().restore_parts(name(restore))
    }
}

fn register(broker: BrokerId) -> CommandBody {
    let byte = u8::try_from(broker.0).unwrap();
    CommandBody::RegisterBroker {
        broker,
        endpoints: Vec::new(),
        directories: vec![DirectoryId::from_bytes([byte; 16])],
    }
}

fn name(restore: u128) -> RestoreName {
    RestoreName { broker: BROKER, restore: CommandId(restore) }
}

/// No two partitions are alike, and of each tenth nothing was archived.
fn partition(index: u32) -> RestoredPartition {
    let head = ArchiveHead {
        number: u64::from(index),
        digest: Digest::from_bytes([0x5a; 32]),
        start: Offset::ZERO,
        end: Offset::new(i64::from(index) + 1).unwrap(),
        leader_epoch: LeaderEpoch(3),
    };
    let head = (!index.is_multiple_of(10)).then_some(head);
    RestoredPartition { leader_epoch: LeaderEpoch(i32::try_from(index).unwrap()), head }
}

fn part(restore: u128, range: std::ops::Range<u32>) -> CommandBody {
    let (of, topic, first) = (name(restore), TOPIC, range.start);
    CommandBody::RestorePartitions { of, topic, first, partitions: range.map(partition).collect() }
}

fn make(restore: u128, behind: std::ops::Range<u32>) -> CommandBody {
    CommandBody::RestoreTopic {
        name: "orders".to_owned(),
        topic: TOPIC,
        replication_factor: 1,
        configs: BTreeMap::from([("remote.storage.enable".to_owned(), "true".to_owned())]),
        partitions: behind.map(partition).collect(),
        producers_from: ProducerId(5_000),
        other_producers: Vec::new(),
        parts: Some(name(restore)),
    }
}

fn kept(count: u64) -> Outcome {
    Ok(Applied::RestoredPartitionsKept { topic: TOPIC, count })
}

#[test]
fn three_thousand_partitions_come_back_in_parts_whatever_is_repeated() {
    let mut driver = Driver::started();
    for first in [0, 1_000, 2_000] {
        let whole = first..first + 1_000;
        assert_eq!(driver.apply(part(9, whole.clone())), kept(u64::from(first) + 1_000));
        // Its answer was lost: it comes again, under another id.
        assert_eq!(driver.apply(part(9, whole)), kept(u64::from(first) + 1_000));
        driver.reopen(first != 1_000);
        assert_eq!(driver.machine.state().topics_len(), 0, "nobody meets half a topic");
    }
    // A few behind the parts, with the command that makes the topic.
    let restored = driver.apply(make(9, 3_000..3_005));
    assert_eq!(restored, Ok(Applied::TopicRestored { topic: TOPIC }));
    driver.reopen(true);
    driver.reopen(false);
    let state = driver.machine.state();
    let topic = state.topic_named("orders").unwrap();
    assert_eq!((topic.id, topic.partitions.len()), (TOPIC, 3_005));
    for (index, made) in (0..).zip(&topic.partitions) {
        let expected = partition(index);
        assert_eq!(made.leader_epoch.0, expected.leader_epoch.0 + 1);
        let head = state.archive_head(TOPIC, PartitionIndex(index));
        assert_eq!(head, expected.head.as_ref(), "partition {index}");
    }
    assert_eq!(driver.parts(9), None, "what has become a topic is kept no longer");
    assert!(driver.apply(part(9, 0..10)).is_err(), "the topic is there already");
}

#[test]
fn a_restore_that_was_cut_begins_again() {
    let mut driver = Driver::started();
    driver.apply(part(9, 0..1_000)).unwrap();
    driver.apply(part(9, 1_000..2_000)).unwrap();
    driver.reopen(true);
    // The broker died, and starts anew.
    driver.apply(register(BROKER)).unwrap();
    assert_eq!(driver.parts(9), None);
    assert!(driver.apply(make(9, 0..0)).is_err(), "a topic without its parts");
    // In the same process it takes the place of the one before, of the same topic or another.
    driver.apply(part(10, 0..700)).unwrap();
    driver.apply(part(11, 0..500)).unwrap();
    assert_eq!((driver.parts(10), driver.parts(11)), (None, Some(500)));
    assert!(driver.apply(part(10, 700..800)).is_err());
    assert!(driver.apply(make(10, 0..0)).is_err());
    driver.apply(part(11, 500..600)).unwrap();
    driver.apply(make(11, 0..0)).unwrap();
    let state = driver.machine.state();
    assert_eq!(state.topic(TOPIC).unwrap().partitions.len(), 600);
}

#[test]
fn parts_come_in_order_and_within_the_limits() {
    let mut driver = Driver::started();
    assert!(driver.apply(part(9, 1..2)).is_err(), "the first is missing");
    driver.apply(part(9, 0..10)).unwrap();
    let twisted = ArchiveHead {
        start: Offset::new(9).unwrap(),
        end: Offset::new(5).unwrap(),
        ..partition(1).head.unwrap()
    };
    let twisted = RestoredPartition { head: Some(twisted), ..partition(1) };
    let of =
        |of, topic, partitions| CommandBody::RestorePartitions { of, topic, first: 0, partitions };
    let stranger = RestoreName { broker: BrokerId(77), restore: CommandId(9) };
    let refused = [
        part(9, 11..12),
        part(9, 10..1_011),
        part(9, 10..10),
        of(name(9), TOPIC, vec![twisted]),
        of(name(9), TopicId::NIL, vec![partition(0)]),
        of(stranger, TOPIC, vec![partition(0)]),
        CommandBody::RestorePartitions {
            of: name(9),
            topic: OTHER,
            first: 10,
            partitions: vec![partition(10)],
        },
    ];
    let before = driver.machine.state().clone();
    for body in refused {
        assert!(driver.apply(body.clone()).is_err(), "{body:?}");
        assert_eq!(*driver.machine.state(), before);
    }
    // One that came before takes its own place, and that of those behind it.
    assert_eq!(driver.apply(part(9, 10..20)), kept(20));
    assert_eq!(driver.apply(part(9, 5..10)), kept(10));
    for first in (10..100_000).step_by(1_000) {
        let whole = first..(first + 1_000).min(100_000);
        let end = u64::from(whole.end);
        assert_eq!(driver.apply(part(9, whole)), kept(end));
    }
    assert!(driver.apply(part(9, 100_000..100_001)).is_err(), "more than a topic has");
}

/// Each broker has a restore of its own, and what is refused at last keeps its parts.
#[test]
fn brokers_and_refusals_do_not_disturb_a_restore() {
    let mut driver = Driver::started();
    driver.apply(part(9, 0..10)).unwrap();
    driver.apply(register(BrokerId(2))).unwrap();
    let of = RestoreName { broker: BrokerId(2), restore: CommandId(9) };
    let theirs = vec![partition(0)];
    let first = 0;
    driver
        .apply(CommandBody::RestorePartitions { of, topic: OTHER, first, partitions: theirs })
        .unwrap();
    let taken = CommandBody::CreateTopic {
        name: "orders".to_owned(),
        topic: OTHER,
        partitions: 1,
        replication_factor: 1,
        configs: BTreeMap::new(),
    };
    driver.apply(taken).unwrap();
    assert!(matches!(driver.apply(make(9, 0..0)), Err(MetaError::TopicExists { .. })));
    driver.apply(CommandBody::DeleteTopic { topic: OTHER }).unwrap();
    assert_eq!(driver.parts(9), Some(10));
    driver.apply(make(9, 0..0)).unwrap();
    assert_eq!(driver.machine.state().restore_parts(of), Some(1));
    driver.reopen(true);
}
