//! Any sequence of commands keeps the invariants, replays to the same state, and is idempotent.

use std::collections::{BTreeMap, BTreeSet};

use millstream_meta::*;
use millstream_types::{
    BrokerId, ClusterId, Digest, DirectoryId, LeaderEpoch, Offset, ProducerId, TimestampMs, TopicId,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

fn topic() -> impl Strategy<Value = TopicId> {
    (0..6_u8).prop_map(|byte| TopicId::from_bytes([byte; 16]))
}

fn broker() -> impl Strategy<Value = BrokerId> {
    (0..4_u32).prop_map(BrokerId)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "a.b", "a_b", "c-d"]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn config_name() -> impl Strategy<Value = String> {
    let names: Vec<_> = CONFIG_TABLE.iter().map(|definition| definition.name).collect();
    prop_oneof![9 => prop::sample::select(names).prop_map(str::to_owned), 1 => any::<String>()]
}

fn config_value() -> impl Strategy<Value = String> {
    let words =
        vec!["fsync", "replicated", "delete", "compact", "producer", "LogAppendTime", "a:double"];
    prop_oneof![
        4 => (-2..100_000_i64).prop_map(|value| value.to_string()),
        4 => prop::sample::select(words).prop_map(str::to_owned),
        1 => any::<i64>().prop_map(|value| value.to_string()),
        1 => any::<String>(),
    ]
}

fn configs() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop_oneof![
        3 => Just(BTreeMap::new()),
        2 => btree_map(config_name(), config_value(), 0..3),
    ]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let front = prop_oneof![9 => Just("quic".to_owned()), 1 => any::<String>()];
    (front, "[a-z]{1,8}", any::<u16>()).prop_map(|(front, host, port)| Endpoint {
        front,
        host,
        port,
    })
}

fn body() -> impl Strategy<Value = CommandBody> {
    let count = prop_oneof![8 => 0..40_u32, 1 => any::<u32>()];
    let directory = (0..6_u8).prop_map(|byte| DirectoryId::from_bytes([byte; 16]));
    prop_oneof![
        1 => ((0..2_u8), (0..3_u32)).prop_map(|(byte, format)| CommandBody::InitCluster {
            cluster: ClusterId::from_bytes([byte; 16]),
            format,
        }),
        3 => (broker(), vec(endpoint(), 0..3), vec(directory, 0..2)).prop_map(
            |(broker, endpoints, directories)| CommandBody::RegisterBroker {
                broker,
                endpoints,
                directories,
            }
        ),
        6 => (name(), topic(), count.clone(), 0..4_u16, configs()).prop_map(
            |(name, topic, partitions, replication_factor, configs)| CommandBody::CreateTopic {
                name,
                topic,
                partitions,
                replication_factor,
                configs,
            }
        ),
        2 => topic().prop_map(|topic| CommandBody::DeleteTopic { topic }),
        3 => (topic(), configs(), btree_set(config_name(), 0..2)).prop_map(
            |(topic, set, remove): (_, _, BTreeSet<_>)| CommandBody::AlterTopicConfigs {
                topic,
                set,
                remove,
            }
        ),
        3 => (topic(), count.clone())
            .prop_map(|(topic, total)| CommandBody::AddPartitions { topic, total }),
        3 => (topic(), configs(), btree_set(config_name(), 0..2), count.clone()).prop_map(
            |(topic, set, remove, total): (_, _, BTreeSet<_>, _)| CommandBody::AlterTopic {
                topic,
                set,
                remove,
                total,
            }
        ),
        2 => (broker(), count)
            .prop_map(|(broker, count)| CommandBody::AllocateProducerIds { broker, count }),
        4 => (restore(), topic(), 0..4_u32, vec(restored(), 0..4)).prop_map(
            |(of, topic, first, partitions)| CommandBody::RestorePartitions {
                of,
                topic,
                first,
                partitions,
            }
        ),
        3 => (name(), topic(), vec(restored(), 0..3), prop::option::of(restore())).prop_map(
            |(name, topic, partitions, parts)| CommandBody::RestoreTopic {
                name,
                topic,
                replication_factor: 1,
                configs: BTreeMap::new(),
                partitions,
                producers_from: ProducerId(0),
                other_producers: Vec::new(),
                parts,
            }
        ),
    ]
}

fn restore() -> impl Strategy<Value = RestoreName> {
    (broker(), 0..2_u128)
        .prop_map(|(broker, restore)| RestoreName { broker, restore: CommandId(restore) })
}

fn restored() -> impl Strategy<Value = RestoredPartition> {
    (-1..9_i32).prop_map(|epoch| {
        let leader_epoch = LeaderEpoch(epoch);
        let (start, end) = (Offset::ZERO, Offset::new(epoch.into()).unwrap_or_default());
        let digest = Digest::from_bytes([1; 32]);
        let head = ArchiveHead { number: 1, digest, start, end, leader_epoch };
        RestoredPartition { leader_epoch, head: (epoch > 4).then_some(head) }
    })
}

/// Commands of which some share an id; the first two make a cluster with one broker.
fn commands() -> impl Strategy<Value = Vec<Command>> {
    let one = (0..60_u128, any::<i64>(), body())
        .prop_map(|(id, at, body)| Command::new(CommandId(id), TimestampMs(at), body));
    vec(one, 0..60).prop_map(|mut commands| {
        let cluster = ClusterId::from_bytes([1; 16]);
        let init = CommandBody::InitCluster { cluster, format: FORMAT_VERSION };
        let register = CommandBody::RegisterBroker {
            broker: BrokerId(1),
            endpoints: Vec::new(),
            directories: Vec::new(),
        };
        let begin = [(1_000, init), (1_001, register)];
        let begin = begin.map(|(id, body)| Command::new(CommandId(id), TimestampMs(0), body));
        commands.splice(0..0, begin);
        commands
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_sequence_keeps_the_invariants_and_replays_the_same(commands in commands()) {
        let mut machine = MetaMachine::new();
        let mut outcomes = BTreeMap::new();
        for command in &commands {
            let before = machine.clone();
            let outcome = machine.apply(command.clone());
            prop_assert_eq!(machine.state().check(), Ok(()));
            if outcome.is_err() {
                prop_assert_eq!(machine.state(), before.state(), "a refusal changes nothing");
            }
            match outcomes.insert(command.id, outcome.clone()) {
                None => {}
                Some(first) => {
                    prop_assert_eq!(first, outcome);
                    prop_assert_eq!(&machine, &before, "a command that comes again does nothing");
                }
            }
        }
        let mut replayed = MetaMachine::new();
        for command in &commands {
            let json = serde_json::to_vec(command).unwrap();
            replayed.apply(serde_json::from_slice(&json).unwrap()).ok();
        }
        prop_assert_eq!(&replayed, &machine);
    }

    #[test]
    fn a_snapshot_in_the_middle_changes_nothing(commands in commands(), at in 0..60_usize) {
        let mut machine = MetaMachine::new();
        let mut restored = MetaMachine::new();
        for (index, command) in commands.into_iter().enumerate() {
            if index == at {
                restored = MetaMachine::from_snapshot(&restored.to_snapshot().unwrap()).unwrap();
            }
            prop_assert_eq!(machine.apply(command.clone()), restored.apply(command));
        }
        prop_assert_eq!(machine, restored);
    }

    #[test]
    fn changes_lead_from_one_image_to_the_next(commands in commands()) {
        let mut machine = MetaMachine::new();
        for command in commands {
            let before = machine.state().clone();
            machine.apply(command).ok();
            let after = machine.state();
            let mut topics: BTreeMap<_, _> =
                before.topics().map(|topic| (topic.id, topic.clone())).collect();
            for change in after.changes_since(&before) {
                match change {
                    TopicChange::Created(topic) => {
                        prop_assert_eq!(topics.insert(topic.id, topic), None);
                    }
                    TopicChange::Changed { old, new } => {
                        prop_assert_eq!(topics.insert(new.id, new), Some(old));
                    }
                    TopicChange::Deleted(topic) => {
                        prop_assert_eq!(topics.remove(&topic.id), Some(topic));
                    }
                }
            }
            prop_assert!(topics.values().eq(after.topics()));
        }
    }

    #[test]
    fn no_bytes_make_the_snapshot_reader_panic(bytes in vec(any::<u8>(), 0..200)) {
        MetaMachine::from_snapshot(&bytes).ok();
        serde_json::from_slice::<Command>(&bytes).ok();
    }
}
