//! The power goes off at every operation of a workload: votes, entries, truncations and purges that
//! were answered as durable are there afterwards, and nothing that was never written is.

use std::sync::Arc;

use millstream_env::disk::{Disk, FaultPlan};
use openraft::storage::RaftLogStorage;

use super::{Opened, PoweredDisk, blank, log_id};
use crate::types::{Entry, LogId, Vote};

/// What the log must hold at least, and may hold at most.
#[derive(Debug, Clone, Default)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    log: Vec<LogId>,
}

#[derive(Debug, Clone)]
enum Step {
    Vote(Vote),
    Append(Vec<Entry>),
    Truncate(LogId),
    Purge(LogId),
    Committed(LogId),
}

impl Model {
    fn after(&self, step: &Step) -> Self {
        let mut next = self.clone();
        match step {
            Step::Vote(vote) => next.vote = Some(*vote),
            Step::Append(entries) => next.log.extend(entries.iter().map(|entry| entry.log_id)),
            Step::Truncate(last) => next.log.retain(|id| id.index() <= last.index()),
            Step::Purge(upto) => {
                next.purged = Some(*upto);
                next.log.retain(|id| id.index() > upto.index());
            }
            Step::Committed(_) => {}
        }
        next
    }

    fn of(opened: &Opened) -> Self {
        let recovered = &opened.recovered;
        let log = recovered.log.values().map(|entry| entry.log_id).collect();
        Self { vote: recovered.vote, purged: recovered.purged, log }
    }
}

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        (self.vote, self.purged, &self.log) == (other.vote, other.purged, &other.log)
    }
}

fn workload() -> Vec<Step> {
    let mut steps = vec![Step::Vote(Vote::new(1, 0)), Step::Vote(Vote::new_committed(1, 0))];
    for index in 0..6 {
        steps.push(Step::Append(vec![blank(1, index)]));
        steps.push(Step::Committed(log_id(1, index)));
    }
    steps.push(Step::Append((6..9).map(|index| blank(1, index)).collect()));
    steps.push(Step::Purge(log_id(1, 3)));
    steps.push(Step::Truncate(log_id(1, 6)));
    steps.push(Step::Vote(Vote::new_committed(2, 0)));
    steps.push(Step::Append((7..12).map(|index| blank(2, index)).collect()));
    steps.push(Step::Committed(log_id(2, 11)));
    steps.push(Step::Purge(log_id(2, 11)));
    steps.push(Step::Append(vec![blank(2, 12)]));
    steps
}

async fn perform(opened: &mut Opened, step: &Step) -> std::io::Result<()> {
    match step.clone() {
        Step::Vote(vote) => opened.store.save_vote(&vote).await,
        Step::Append(entries) => opened.append(entries).await,
        Step::Truncate(last) => opened.store.truncate_after(Some(last)).await,
        Step::Purge(upto) => opened.store.purge(upto).await,
        Step::Committed(id) => opened.store.save_committed(Some(id)).await,
    }
}

/// Runs the workload until it fails; the states that the log may be found in.
async fn run(disk: &Arc<dyn Disk>, segment_bytes_max: u64) -> Vec<Model> {
    let mut model = Model::default();
    let Ok(mut opened) = Opened::new(disk, segment_bytes_max) else { return vec![model] };
    for step in workload() {
        let next = model.after(&step);
        if perform(&mut opened, &step).await.is_err() {
            opened.end();
            return vec![model, next];
        }
        model = next;
    }
    opened.end();
    vec![model]
}

/// An append is several records; a crash may keep some of them.
fn is_between(found: &Model, allowed: &[Model]) -> bool {
    let partly = |before: &Model, after: &Model| {
        found.vote == after.vote
            && found.purged == after.purged
            && found.log.starts_with(&before.log)
            && after.log.starts_with(&found.log)
    };
    match allowed {
        [before, after] => found == before || found == after || partly(before, after),
        _ => allowed.contains(found),
    }
}

#[tokio::test]
async fn whatever_was_answered_survives_a_power_cut_at_every_operation() {
    for segment_bytes_max in [128, 1 << 20] {
        let measured = PoweredDisk::new(0, FaultPlan::default());
        let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&measured);
        let whole = run(&disk, segment_bytes_max).await;
        assert_eq!(whole.len(), 1, "the workload succeeds on a sound disk");
        let ops = measured.0.ops();
        assert!(ops > 25, "{ops}");
        for (cut, seed) in (0..=ops).flat_map(|cut| (0..6).map(move |seed| (cut, seed))) {
            let plan = FaultPlan { power_cut_after: Some(cut), ..FaultPlan::default() };
            let powered = PoweredDisk::new(seed, plan);
            let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&powered);
            let allowed = run(&disk, segment_bytes_max).await;
            // Twice, since recovery must survive its own crash.
            for _ in 0..2 {
                powered.power_cycle();
                let opened = Opened::new(&disk, segment_bytes_max);
                let opened = opened.unwrap_or_else(|fault| {
                    panic!("cut after {cut}, seed {seed}, {segment_bytes_max}: {fault}")
                });
                let found = Model::of(&opened);
                assert!(
                    is_between(&found, &allowed),
                    "cut after {cut}, seed {seed}, {segment_bytes_max}: {found:?}, {allowed:?}"
                );
                opened.end();
            }
        }
    }
}

#[tokio::test]
async fn what_a_restarted_process_finds_survives_a_power_cut() {
    let measured = PoweredDisk::new(0, FaultPlan::default());
    let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&measured);
    run(&disk, 300).await;
    for (cut, seed) in (0..=measured.0.ops()).flat_map(|cut| (0..6).map(move |seed| (cut, seed))) {
        let plan = FaultPlan { power_cut_after: Some(cut), ..FaultPlan::default() };
        let powered = PoweredDisk::new(seed, plan);
        let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&powered);
        let allowed = run(&disk, 300).await;
        // The process was killed: what it had written is there, durable or not.
        powered.0.restart();
        let opened = Opened::new(&disk, 300).unwrap();
        let found = Model::of(&opened);
        assert!(is_between(&found, &allowed), "cut after {cut}, seed {seed}: {found:?}");
        opened.end();
        powered.power_cycle();
        let opened = Opened::new(&disk, 300).unwrap();
        assert_eq!(Model::of(&opened), found, "cut after {cut}, seed {seed}");
        opened.end();
    }
}

#[tokio::test]
async fn recovery_survives_a_power_cut_at_every_operation() {
    for (cut, seed) in (0..12).flat_map(|cut| (0..10).map(move |seed| (cut, seed))) {
        let powered = PoweredDisk::new(seed, FaultPlan::default());
        let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&powered);
        let [durable] = &run(&disk, 300).await[..] else { panic!("the disk is sound") };
        // Something that was never answered stands behind it, torn by the next crash.
        let mut opened = Opened::new(&disk, 1 << 20).unwrap();
        opened.store.save_committed(Some(log_id(2, 12))).await.unwrap();
        opened.end();
        powered.power_cycle();
        let done = powered.0.ops();
        let plan = FaultPlan { power_cut_after: Some(done + cut), ..FaultPlan::default() };
        powered.0.set_faults(plan);
        Opened::new(&disk, 300).map(Opened::end).ok();
        powered.power_cycle();
        let opened = Opened::new(&disk, 300).unwrap();
        assert_eq!(&Model::of(&opened), durable, "cut after {cut}, seed {seed}");
        opened.end();
    }
}

#[tokio::test]
async fn a_failed_sync_stops_the_log_for_good() {
    let powered = PoweredDisk::new(1, FaultPlan::default());
    let disk: Arc<dyn Disk> = Arc::<PoweredDisk>::clone(&powered);
    let mut opened = Opened::new(&disk, 1 << 20).unwrap();
    opened.append(vec![blank(1, 0)]).await.unwrap();
    let fail_sync = Some(powered.0.syncs() + 1);
    powered.0.set_faults(FaultPlan { fail_sync, ..FaultPlan::default() });
    opened.append(vec![blank(1, 1)]).await.unwrap_err();
    opened.append(vec![blank(1, 2)]).await.unwrap_err();
    opened.store.save_vote(&Vote::new(9, 0)).await.unwrap_err();
    opened.end();
}
