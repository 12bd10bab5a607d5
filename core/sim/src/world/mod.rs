//! The world of one run: the disk, the clock, a few partitions, their producers and consumers, and
//! the loop in which the seed says what happens next.

mod life;
mod offload;
mod site;
mod tidy;
mod traffic;

use std::sync::Arc;
use std::time::Duration;

use millstream_env::clock::{Clock, SimClock};
use millstream_env::disk::{FaultPlan, SimDisk, SimDiskConfig};
use millstream_env::rng::Rng;
use millstream_log::LogShared;
use millstream_types::{Offset, TimestampMs};

use crate::invariants::{Checked, Violation, progress};
use crate::profile::Profile;
use crate::trace::Trace;
use site::Site;
pub(crate) use tidy::Keeps;

/// When simulated time begins: 1 September 2020.
const START_MS: i64 = 1_598_918_400_000;

/// What a run is asked to do besides its seed and profile.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many events are drawn.
    pub steps: u64,
    /// What is broken on purpose, to see that the oracle notices.
    pub sabotage: Option<Sabotage>,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 1500, sabotage: None }
    }
}

/// A broker that breaks a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Acknowledges what is written but not committed.
    AckWritten,
    /// Shows consumers what is written but not committed.
    ShowWritten,
    /// Forgets idempotent producers as soon as they pause.
    ForgetProducers,
    /// Changes the batches that it was given.
    ChangeBytes,
    /// Comes back with an empty disk.
    LoseDisk,
    /// Tells the metadata of a range before a manifest names it.
    HeadFirst,
    /// Archives what a power cut can take.
    ArchiveUnsynced,
    /// Lets the log forget a range before the metadata knows that it is archived.
    ForgetFirst,
    /// Carries no producers' state from range to range.
    DropProducers,
    /// Removes objects that no manifest names at once, whoever may be about to name them.
    CollectAtOnce,
    /// Gives up all that is archived, whatever retention asks for.
    GiveUpAll,
}

/// How often what happened, over one run or several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches given a new place.
    pub placed: u64,
    /// Batches recognised as stored before.
    pub recognised: u64,
    /// Acknowledgements that reached their producer.
    pub acked: u64,
    /// Batches that consumers read.
    pub read: u64,
    /// Batches refused because the partition had lost track of their producer.
    pub refused: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Power cuts within the opening of partitions.
    pub cuts_while_opening: u64,
    /// Batches that a power cut took, none of them promised.
    pub lost: u64,
    /// Deaths of the process, and ends in good order.
    pub restarts: u64,
    /// Appends refused because the disk was full.
    pub no_space: u64,
    /// Failed syncs, each followed by a repair.
    pub fences: u64,
    /// Bits turned over.
    pub rotten_bits: u64,
    /// Partitions that reported damage, when opened or read.
    pub damage_reported: u64,
    /// Segments that retention removed.
    pub trimmed: u64,
    /// Ranges that a manifest names.
    pub archived: u64,
    /// Requests to the store that failed, or whose answers were lost.
    pub store_faults: u64,
    /// Manifests that another had created first.
    pub superseded: u64,
    /// Ranges that a process archived that was gone by then.
    pub late_ranges: u64,
    /// Manifests that gave up ranges.
    pub given_up: u64,
    /// Of those, how many a process wrote that was gone by then.
    pub late_trims: u64,
    /// Objects removed that no manifest named.
    pub collected: u64,
    /// Heads that a crash had kept from the metadata.
    pub heads_caught_up: u64,
    /// Batches that consumers read from the archive.
    pub read_archived: u64,
    /// Openings that waited for the store.
    pub waited: u64,
    /// Partitions opened from what a range's end says.
    pub begun: u64,
    /// Disks lost.
    pub disks_lost: u64,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.placed += other.placed;
        self.recognised += other.recognised;
        self.acked += other.acked;
        self.read += other.read;
        self.refused += other.refused;
        self.power_cuts += other.power_cuts;
        self.cuts_while_opening += other.cuts_while_opening;
        self.lost += other.lost;
        self.restarts += other.restarts;
        self.no_space += other.no_space;
        self.fences += other.fences;
        self.rotten_bits += other.rotten_bits;
        self.damage_reported += other.damage_reported;
        self.trimmed += other.trimmed;
        self.archived += other.archived;
        self.store_faults += other.store_faults;
        self.superseded += other.superseded;
        self.late_ranges += other.late_ranges;
        self.given_up += other.given_up;
        self.late_trims += other.late_trims;
        self.collected += other.collected;
        self.heads_caught_up += other.heads_caught_up;
        self.read_archived += other.read_archived;
        self.waited += other.waited;
        self.begun += other.begun;
        self.disks_lost += other.disks_lost;
    }
}

/// A run in which every property held.
#[derive(Debug)]
pub struct Outcome {
    /// What happened, with the final disk.
    pub trace: Trace,
    /// How often.
    pub counts: Counts,
}

/// A run in which a property did not hold.
#[derive(Debug, thiserror::Error)]
#[error("seed {seed} of profile {profile}, step {step}: {violation}")]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// The run's profile.
    pub profile: &'static str,
    /// The event after which it was seen.
    pub step: u64,
    /// What does not hold.
    pub violation: Violation,
    /// What happened until then.
    pub trace: Trace,
}

/// Runs a seed.
///
/// # Errors
/// The first property that does not hold.
pub fn simulate(
    seed: u64,
    profile: &'static Profile,
    options: Options,
) -> Result<Outcome, Box<Failure>> {
    let mut world = World::new(seed, profile, options);
    match world.run() {
        Ok(()) => Ok(Outcome { trace: world.trace, counts: world.counts }),
        Err(violation) => {
            let World { step, trace, .. } = world;
            Err(Box::new(Failure { seed, profile: profile.name, step, violation, trace }))
        }
    }
}

struct World {
    profile: &'static Profile,
    options: Options,
    rng: Rng,
    disk: Arc<SimDisk>,
    clock: SimClock,
    /// What is planned to go wrong with the disk.
    faults: FaultPlan,
    sites: Vec<Site>,
    /// What the logs of this life of the process share.
    shared: Arc<LogShared>,
    /// Whether a bit was ever turned over: damage may be reported from then on.
    rotten: bool,
    /// Whether the run is at its end, where nothing goes wrong any more.
    over: bool,
    step: u64,
    trace: Trace,
    counts: Counts,
}

/// What the seed draws, in the order of [`crate::Mix`].
const EVENTS: [fn(&mut World) -> Checked; 20] = [
    World::produce,
    World::resend,
    World::stray,
    World::lose_ack,
    World::disk_step,
    World::pass_time,
    World::maintain,
    World::consume,
    World::seek,
    World::audit_one,
    World::plan_power_cut,
    World::kill,
    World::close,
    World::toggle_space,
    World::plan_sync_failure,
    World::rot,
    World::offload,
    World::late_upload,
    World::tidy,
    World::lose_disk,
];

impl World {
    fn new(seed: u64, profile: &'static Profile, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let ready_per_cent = profile.ready_per_cent;
        let disk = new_disk(&mut rng, ready_per_cent);
        let sites = Site::all(&mut rng, profile, options.sabotage);
        Self {
            profile,
            options,
            rng,
            disk,
            clock: SimClock::new(TimestampMs(START_MS)),
            faults: FaultPlan::default(),
            sites,
            shared: LogShared::new(life::SHARED),
            rotten: false,
            over: false,
            step: 0,
            trace: Trace::default(),
            counts: Counts::default(),
        }
    }

    fn run(&mut self) -> Checked {
        self.open_all()?;
        let weights = self.profile.mix.weights();
        for step in 1..=self.options.steps {
            self.step = step;
            let event = draw(&mut self.rng, &weights);
            let fenced_before = self.disk.is_fenced();
            EVENTS[event](self)?;
            self.after_step(fenced_before)?;
        }
        self.step += 1;
        self.finish()?;
        let disk = Arc::clone(&self.disk);
        let noted = self.trace.note_disk(self.step, disk.as_ref());
        noted.or_else(|error| progress::without_cause("the disk was not read", &error))
    }

    /// What follows from the last event at once, and what always holds.
    fn after_step(&mut self, fenced_before: bool) -> Checked {
        if !self.disk.is_on() {
            return self.restart_after_power_cut();
        }
        self.collect_acks()?;
        let before: Vec<Offset> =
            self.sites.iter().map(|site| site.ledger.high_watermark).collect();
        for site in &mut self.sites {
            site.check()?;
        }
        if fenced_before && self.disk.is_fenced() {
            self.check_fence(&before)?;
        } else if !self.disk.is_fenced()
            && let Some(error) = self.sites.iter().find_map(|site| site.failed.as_ref())
        {
            return progress::without_cause("a log failed", error);
        }
        // The broker exits, and somebody repairs it after a while.
        if self.disk.is_fenced() && self.rng.chance(10) {
            return self.repair();
        }
        Ok(())
    }

    /// Everything goes well from here on: all that is outstanding ends, and all is there.
    fn finish(&mut self) -> Checked {
        self.over = true;
        self.faults = FaultPlan::default();
        self.disk.set_faults(self.faults.clone());
        if !self.disk.is_on() {
            self.restart_after_power_cut()?;
        }
        if self.disk.is_fenced() {
            self.repair()?;
        }
        self.open_waiting()?;
        self.complete_all()?;
        self.settle()?;
        self.audit_all()?;
        if self.profile.archived {
            self.finish_archive()?;
        }
        self.close()?;
        self.settle()?;
        self.audit_all()
    }

    fn now(&self) -> TimestampMs {
        self.clock.wall()
    }

    fn note(&mut self, event: std::fmt::Arguments<'_>) {
        self.trace.note(self.step, event);
    }

    fn pass_time(&mut self) -> Checked {
        let ms = if self.rng.chance(10) { self.rng.below(20_000) } else { self.rng.below(500) };
        self.clock.advance(Duration::from_millis(ms));
        self.note(format_args!("{ms} ms pass"));
        Ok(())
    }
}

/// A disk with nothing on it.
fn new_disk(rng: &mut Rng, ready_per_cent: u8) -> Arc<SimDisk> {
    let config = SimDiskConfig { ready_per_cent, ..SimDiskConfig::default() };
    Arc::new(SimDisk::new(rng.next_u64(), config))
}

/// Draws an index by weight.
fn draw(rng: &mut Rng, weights: &[u32]) -> usize {
    let mut left = rng.below(weights.iter().map(|weight| u64::from(*weight)).sum());
    for (index, weight) in weights.iter().enumerate() {
        match left.checked_sub(u64::from(*weight)) {
            Some(less) => left = less,
            None => return index,
        }
    }
    0
}
