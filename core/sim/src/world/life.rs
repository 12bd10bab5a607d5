//! How the process and the disk end, and how they come back.

use std::path::Path;
use std::sync::Arc;

use millstream_env::disk::{Disk, FaultPlan};
use millstream_log::{LogShared, OpenError, SharedLimits};
use millstream_partition::RecoverError;
use millstream_replica::Durability;
use millstream_types::Offset;

use super::site::Opening;
use super::{Sabotage, World};
use crate::invariants::{
    Checked, acked_is_kept, archive_holds, durable_is_kept, one_order, progress,
};

/// So small that handles, indices and tails are always being given up.
pub(super) const SHARED: SharedLimits =
    SharedLimits { tail_bytes_max: 6000, sealed_handles_max: 2, index_bytes_max: 1024 };
/// Operations within which a planned power cut comes.
const CUT_WITHIN_OPS: u64 = 12;
/// Syncs within which a planned failure comes.
const FAIL_WITHIN_SYNCS: u64 = 4;

/// What the end of the last life may have taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// What was not written: the process died.
    Unwritten,
    /// What was not synced: the power was cut.
    Unsynced,
}

impl World {
    /// The first start.
    pub(super) fn open_all(&mut self) -> Checked {
        self.start(Loss::Unwritten)
    }

    /// Plans a power cut, or cuts the power at once.
    pub(super) fn plan_power_cut(&mut self) -> Checked {
        if self.faults.power_cut_after.is_none() {
            let within = if self.rng.chance(30) { 0 } else { self.rng.below(CUT_WITHIN_OPS) };
            self.faults.power_cut_after = Some(self.disk.ops() + within);
            self.disk.set_faults(self.faults.clone());
            self.note(format_args!("the power goes off after {within} operations"));
        }
        Ok(())
    }

    /// Plans that a sync fails.
    pub(super) fn plan_sync_failure(&mut self) -> Checked {
        if self.faults.fail_sync.is_none() {
            let within = 1 + self.rng.below(FAIL_WITHIN_SYNCS);
            self.faults.fail_sync = Some(self.disk.syncs() + within);
            self.disk.set_faults(self.faults.clone());
            self.note(format_args!("sync {within} from now fails"));
        }
        Ok(())
    }

    /// The disk becomes full, or has room again.
    pub(super) fn toggle_space(&mut self) -> Checked {
        let full = self.faults.space_bytes_max.is_none();
        self.faults.space_bytes_max = full.then_some(0);
        self.disk.set_faults(self.faults.clone());
        self.note(format_args!("the disk is full: {full}"));
        Ok(())
    }

    /// The power is off: what was not durable is lost, and the machine starts again.
    pub(super) fn restart_after_power_cut(&mut self) -> Checked {
        self.counts.power_cuts += 1;
        self.note(format_args!("power cut"));
        self.disk.crash();
        self.start(Loss::Unsynced)
    }

    /// A sync has failed and the broker has exited: the machine is started again by hand.
    pub(super) fn repair(&mut self) -> Checked {
        self.counts.fences += 1;
        self.note(format_args!("repair"));
        self.disk.crash();
        self.start(Loss::Unsynced)
    }

    /// The process dies. After a failed sync it would not start again without a repair.
    pub(super) fn kill(&mut self) -> Checked {
        if self.disk.is_fenced() {
            return Ok(());
        }
        self.counts.restarts += 1;
        self.note(format_args!("kill"));
        self.start(Loss::Unwritten)
    }

    /// The process ends in good order.
    pub(super) fn close(&mut self) -> Checked {
        if self.disk.is_fenced() {
            return Ok(());
        }
        self.counts.restarts += 1;
        self.note(format_args!("close"));
        for site in &mut self.sites {
            if let Some(partition) = site.partition.take() {
                partition.close();
            }
        }
        self.start(Loss::Unwritten)
    }

    /// A bit turns over while the broker is down. Everything is at rest and synced before, also
    /// what replicated topics leave to chance, so that the newest mark vouches for all of it:
    /// damage above a mark is a torn tail, and rightly so.
    pub(super) fn rot(&mut self) -> Checked {
        if self.disk.is_fenced() || self.faults.space_bytes_max.is_some() {
            return Ok(());
        }
        self.settle()?;
        for site in 0..self.sites.len() {
            self.sync_site(site)?;
        }
        self.settle()?;
        for site in 0..self.sites.len() {
            self.maintain_site(site)?;
        }
        self.settle()?;
        self.collect_acks()?;
        for site in &mut self.sites {
            site.check()?;
            if let Some(partition) = site.partition.take() {
                partition.close();
            }
        }
        self.disk.run_until_idle();
        self.disk.set_faults(FaultPlan { rot_bits: 1, ..self.faults.clone() });
        self.counts.rotten_bits += 1;
        self.rotten = true;
        self.note(format_args!("a bit turns over"));
        self.start(Loss::Unwritten)
    }

    fn sync_site(&mut self, index: usize) -> Checked {
        let now = self.now();
        let Some(partition) = &mut self.sites[index].partition else { return Ok(()) };
        let synced = partition.sync(now);
        synced.or_else(|error| progress::without_cause("no sync", &error))
    }

    /// Ends what is left of the last life and begins the next, as often as it takes.
    pub(super) fn start(&mut self, loss: Loss) -> Checked {
        let mut loss = loss;
        loop {
            for site in &mut self.sites {
                site.stop(&mut self.rng);
                site.loss = site.loss.max(Some(loss));
                site.epoch += 1;
            }
            self.disk.restart();
            self.faults.fail_sync = None;
            self.faults.power_cut_after = None;
            if self.options.sabotage == Some(Sabotage::LoseDisk) {
                let gone = self.disk.remove_dir_all(Path::new("topics"));
                gone.or_else(|error| progress::without_cause("removal", &error))?;
            }
            self.plan_for_opening();
            let opened = self.open_sites();
            if self.disk.is_on() && !self.disk.is_fenced() {
                return opened;
            }
            self.note(format_args!("the power goes off, or a sync fails, while opening"));
            self.counts.cuts_while_opening += 1;
            self.disk.crash();
            loss = Loss::Unsynced;
        }
    }

    /// Opening is no safer than anything else.
    fn plan_for_opening(&mut self) {
        if self.over {
            return;
        }
        let mix = self.profile.mix;
        if mix.power_cut > 0 && self.rng.chance(15) {
            let within = self.rng.below(CUT_WITHIN_OPS);
            self.faults.power_cut_after = Some(self.disk.ops() + within);
            self.disk.set_faults(self.faults.clone());
        }
        if mix.fail_sync > 0 && self.rng.chance(5) {
            let within = 1 + self.rng.below(FAIL_WITHIN_SYNCS);
            self.faults.fail_sync = Some(self.disk.syncs() + within);
            self.disk.set_faults(self.faults.clone());
        }
    }

    fn open_sites(&mut self) -> Checked {
        self.shared = LogShared::new(SHARED);
        (0..self.sites.len()).try_for_each(|index| self.open_site(index))
    }

    /// Opens a partition, unless it waits for a store that is away.
    pub(super) fn open_site(&mut self, index: usize) -> Checked {
        if self.sites[index].damaged {
            return Ok(());
        }
        let now = self.now();
        let away = self.profile.archived && self.store_fails();
        let (disk, shared) = (Arc::clone(&self.disk), Arc::clone(&self.shared));
        match self.sites[index].open(disk, shared, now, away) {
            Ok(Opening::Waits) => {
                self.counts.waited += 1;
                self.note(format_args!("{index}: waits for the store"));
                Ok(())
            }
            Ok(opening) => {
                self.counts.begun += u64::from(opening == Opening::Begun);
                self.reopened(index)
            }
            Err(error) => self.not_opened(index, &error),
        }
    }

    /// Opens the partitions that wait.
    pub(super) fn open_waiting(&mut self) -> Checked {
        for index in 0..self.sites.len() {
            if self.sites[index].waits {
                self.open_site(index)?;
            }
        }
        Ok(())
    }

    /// Compares what came back with what had to.
    fn reopened(&mut self, index: usize) -> Checked {
        let site = &mut self.sites[index];
        let loss = site.loss.take().unwrap_or(Loss::Unwritten);
        let Some(partition) = &site.partition else { return Ok(()) };
        let (start, end) = (partition.log().start(), partition.log().end());
        archive_holds::reopened(&site.archive, start..end)?;
        let promised_to_keep =
            loss == Loss::Unwritten || site.config.replica.durability == Durability::Fsync;
        if promised_to_keep {
            acked_is_kept::reopened(&site.ledger, end)?;
            one_order::reopened(&site.ledger, end)?;
        }
        let ledger = &mut site.ledger;
        let kept = match loss {
            Loss::Unwritten => ledger.written.max(ledger.durable),
            Loss::Unsynced => ledger.durable,
        };
        durable_is_kept::reopened(ledger, start, end, kept)?;
        let lost = u64::try_from(ledger.placed.range(end..).count()).unwrap_or(u64::MAX);
        if ledger.lose_from(end) {
            for producer in &mut site.producers {
                producer.may_be_refused = true;
            }
        }
        ledger.start = start;
        ledger.high_watermark = Offset::ZERO;
        ledger.written = partition.log().written_end();
        self.counts.lost += lost;
        self.note(format_args!("{index}: opened {start}..{end}, {lost} batches lost"));
        Ok(())
    }

    fn not_opened(&mut self, index: usize, error: &RecoverError) -> Checked {
        if !self.disk.is_on() || self.disk.is_fenced() {
            return Ok(());
        }
        let damage = !matches!(error, RecoverError::Log(OpenError::Disk(_)));
        if !damage || !self.rotten {
            return progress::without_cause("a partition was not opened", error);
        }
        self.sites[index].damaged = true;
        self.counts.damage_reported += 1;
        self.note(format_args!("{index}: not opened: {error}"));
        Ok(())
    }

    /// Lets the disk and the partitions finish what they have begun.
    pub(super) fn settle(&mut self) -> Checked {
        let now = self.now();
        loop {
            self.disk.run_until_idle();
            let waiting = self.sites.iter().any(super::site::Site::has_completions);
            if !waiting {
                break;
            }
            for site in &mut self.sites {
                site.take_completions(now);
            }
        }
        if !self.disk.is_on() || self.disk.is_fenced() {
            return Ok(());
        }
        for site in &self.sites {
            let Some(partition) = &site.partition else { continue };
            let positions = partition.positions();
            if !partition.is_idle() || positions.high_watermark < positions.end {
                let index = site.index;
                return progress::stuck(format!("{index} stands still at {positions:?}"));
            }
        }
        Ok(())
    }
}
