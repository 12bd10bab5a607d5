//! The power goes off at every operation of a whole quorum under topic commands: every acknowledged
//! command is in the state afterwards, the state is the one after some prefix of the commands, and
//! asking again under the same id gives what an undisturbed history gives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_env::disk::{Disk, FaultPlan};
use millstream_meta::{Command, CommandBody, CommandId, MetaMachine, MetaState, Outcome};
use millstream_types::{BrokerId, ClusterId, TimestampMs, TopicId};

use super::{DIRECTORY, PoweredDisk};
use crate::{Quorum, QuorumConfig, QuorumError};

const NODE: BrokerId = BrokerId(1);

fn config() -> QuorumConfig {
    QuorumConfig {
        // Small, so that snapshots, purges and new files fall into the workload.
        snapshot_every_entries: 5,
        segment_bytes_max: 1024,
        start_timeout: Duration::from_secs(20),
        ..QuorumConfig::new(NODE, DIRECTORY)
    }
}

/// The first command is the bootstrap.
fn commands() -> Vec<Command> {
    let cluster = ClusterId::from_bytes([5; 16]);
    let mut bodies = vec![
        CommandBody::InitCluster { cluster, format: 1 },
        CommandBody::RegisterBroker { broker: NODE, endpoints: vec![], directories: vec![] },
    ];
    for n in 1..4_u8 {
        let topic = TopicId::from_bytes([n; 16]);
        bodies.push(CommandBody::CreateTopic {
            name: format!("t{}", n % 2),
            topic,
            partitions: 2,
            replication_factor: 1,
            configs: BTreeMap::new(),
        });
        bodies.push(CommandBody::AlterTopicConfigs {
            topic,
            set: BTreeMap::from([("retention.ms".to_owned(), n.to_string())]),
            remove: BTreeSet::new(),
        });
        bodies.push(CommandBody::AllocateProducerIds { broker: NODE, count: 10 });
        bodies.push(CommandBody::AddPartitions { topic, total: 3 });
        if n < 3 {
            bodies.push(CommandBody::DeleteTopic { topic });
        }
    }
    let commands = bodies.into_iter().zip(1..);
    commands.map(|(body, n)| Command::new(CommandId(n), TimestampMs(7), body)).collect()
}

/// The history that nothing disturbs: each command's outcome and the state after it.
fn undisturbed() -> Vec<(Outcome, MetaState)> {
    let mut machine = MetaMachine::new();
    let apply = |command| {
        let outcome = machine.apply(command);
        (outcome, machine.state().clone())
    };
    commands().into_iter().map(apply).collect()
}

async fn start(disk: &Arc<dyn Disk>) -> Result<Quorum, QuorumError> {
    Quorum::start(Arc::clone(disk), config(), || commands().into_iter().take(1).collect()).await
}

/// Proposes everything, in order, until something fails; how many commands were acknowledged.
async fn run(disk: &Arc<dyn Disk>, expected: &[(Outcome, MetaState)]) -> usize {
    let Ok(quorum) = start(disk).await else { return 0 };
    let mut acknowledged = 1;
    for (command, (outcome, state)) in commands().into_iter().zip(expected).skip(1) {
        let Ok(answer) = quorum.propose(command).await else { break };
        assert_eq!(answer, *outcome);
        assert_eq!(*quorum.state(), *state);
        acknowledged += 1;
    }
    quorum.shutdown().await;
    acknowledged
}

async fn verify(disk: &Arc<dyn Disk>, expected: &[(Outcome, MetaState)], acknowledged: usize) {
    let quorum = start(disk).await.unwrap();
    let found = quorum.state();
    let prefixes = acknowledged.max(1)..=(acknowledged + 1).min(expected.len());
    let prefix = prefixes.clone().find(|prefix| expected[prefix - 1].1 == *found);
    assert!(prefix.is_some(), "not the state after {prefixes:?} commands: {found:?}");
    for (command, (outcome, _)) in commands().into_iter().zip(expected) {
        assert_eq!(quorum.propose(command).await.unwrap(), *outcome);
    }
    assert_eq!(*quorum.state(), expected.last().unwrap().1);
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_command_survives_a_power_cut_at_every_operation() {
    let expected = undisturbed();
    let measured = PoweredDisk::new(0, FaultPlan::default());
    let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&measured);
    assert_eq!(run(&disk, &expected).await, expected.len());
    let ops = measured.0.ops();
    assert!(ops > 60, "{ops}");
    for (cut, seed) in (0..=ops).flat_map(|cut| (0..3).map(move |seed| (cut, seed))) {
        let plan = FaultPlan { power_cut_after: Some(cut), ..FaultPlan::default() };
        let powered = PoweredDisk::new(seed, plan);
        let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&powered);
        let acknowledged = run(&disk, &expected).await;
        powered.power_cycle();
        verify(&disk, &expected, acknowledged).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_quorum_and_loses_nothing() {
    let expected = undisturbed();
    for fail_sync in 1..40 {
        let plan = FaultPlan { fail_sync: Some(fail_sync), ..FaultPlan::default() };
        let powered = PoweredDisk::new(fail_sync, plan);
        let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&powered);
        let acknowledged = run(&disk, &expected).await;
        powered.power_cycle();
        verify(&disk, &expected, acknowledged).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_quorum_says_so() {
    let powered = PoweredDisk::new(0, FaultPlan::default());
    let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&powered);
    let quorum = start(&disk).await.unwrap();
    let fail_sync = Some(powered.0.syncs() + 1);
    powered.0.set_faults(FaultPlan { fail_sync, ..FaultPlan::default() });
    quorum.propose(commands().swap_remove(1)).await.unwrap_err();
    let failure = tokio::time::timeout(Duration::from_secs(20), quorum.failure()).await.unwrap();
    assert!(failure.to_string().contains("fenced"), "{failure}");
    quorum.propose(commands().swap_remove(1)).await.unwrap_err();
    quorum.shutdown().await;
}
