//! Ranges on their way into the archive, step by step, so that anything can come between two; and
//! what becomes of partitions whose disk is lost.

use std::ops::Range;

use millstream_partition::RangeState;
use millstream_types::{LeaderEpoch, Offset, TimestampMs};

use super::life::Loss;
use super::site::Site;
use super::tidy::GRACE_MS;
use super::{Sabotage, World, new_disk};
use crate::archive::{Change, Head, Object};
use crate::consumer::{Got, read_range};
use crate::invariants::{Checked, one_order, progress};
use crate::ledger::entry_of;

/// How many in a hundred requests to the store fail, and of how many more the answer is lost.
const STORE_FAILS_PER_CENT: u8 = 6;
const ANSWER_LOST_PER_CENT: u8 = 6;
/// Who put an object names it within so long, or gives up: well before what nothing names goes.
const REQUEST_MS_MAX: u64 = GRACE_MS / 2;
/// The most bytes of batches in a range.
const RANGE_BYTES_MAX: usize = 6000;
/// The most batches that a consumer gets from the archive at once.
const ARCHIVED_BATCHES_MAX: usize = 8;
/// Steps within which everything must be archived once nothing goes wrong any more.
const STEPS_TO_END: u32 = 5000;
/// Batches that arrive again after the last disk was lost.
const STRAYS_AT_END: u32 = 40;

/// A change of the archive on its way, as one process knows it.
#[derive(Debug)]
pub(super) struct Upload {
    /// What the newest manifest is to say.
    pub(super) head: Head,
    pub(super) stage: Stage,
    /// When that stage was reached.
    pub(super) since: TimestampMs,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Read from the log.
    Encoded(Object),
    /// The store has what the manifest is to name.
    Ready(Change),
    /// The manifest names it.
    Named,
    /// The metadata knows.
    Told,
}

impl World {
    /// A partition's archiving takes its next step.
    pub(super) fn offload(&mut self) -> Checked {
        let index = self.rng.index(self.sites.len());
        self.offload_step(index)
    }

    /// A request of a process that is gone arrives; nobody hears the answer.
    pub(super) fn late_upload(&mut self) -> Checked {
        let index = self.rng.index(self.sites.len());
        let late = self.sites[index].late.len();
        if late == 0 {
            return Ok(());
        }
        let at = self.rng.index(late);
        let Upload { head, stage, since } = self.sites[index].late.swap_remove(at);
        let now = self.now();
        let names = matches!(stage, Stage::Ready(Change::Add(_)));
        if names && now.since_ms(since) > REQUEST_MS_MAX {
            self.note(format_args!("{index}: manifest {} is given up, late", head.number));
            return Ok(());
        }
        let site = &mut self.sites[index];
        let stage = match stage {
            Stage::Encoded(object) => Stage::Ready(Change::Add(site.archive.put(now, object))),
            Stage::Ready(change) if site.create(head, change) => {
                self.counts.late_ranges += u64::from(change != Change::Trim);
                self.counts.late_trims += u64::from(change == Change::Trim);
                Stage::Named
            }
            Stage::Ready(_) => {
                self.note(format_args!("{index}: manifest {} is another's, late", head.number));
                return Ok(());
            }
            Stage::Named | Stage::Told => {
                site.move_head(head);
                Stage::Told
            }
        };
        self.note(format_args!("{index}: late, to {}: {}", head.end, stage.name()));
        if !matches!(stage, Stage::Told) {
            self.sites[index].late.push(Upload { head, stage, since: now });
        }
        Ok(())
    }

    /// The disk is lost. The partitions begin again on an empty one, with what is archived, in the
    /// leader epoch after the archive's last. Whoever restores has seen to it that the process that
    /// was before is gone for good, with what it had asked of the store.
    pub(super) fn lose_disk(&mut self) -> Checked {
        self.counts.disks_lost += 1;
        self.note(format_args!("the disk is lost"));
        for site in &mut self.sites {
            site.stop(&mut self.rng);
            site.late.clear();
            site.head = site.archive.head();
            let (epoch, end) = site
                .head
                .map_or((site.epoch, Offset::ZERO), |head| (head.leader_epoch.0, head.end));
            site.epoch = epoch;
            // Its log is gone: whatever else it may have lost does not matter.
            site.loss = None;
            if site.ledger.lose_disk(end) {
                for producer in &mut site.producers {
                    producer.may_be_refused = true;
                }
            }
        }
        self.disk = new_disk(&mut self.rng, self.profile.ready_per_cent);
        self.disk.set_faults(self.faults.clone());
        self.start(Loss::Unwritten)
    }

    /// Archives all there is, loses the disk, and compares.
    pub(super) fn finish_archive(&mut self) -> Checked {
        for index in 0..self.sites.len() {
            let mut steps = 0;
            while !self.sites[index].is_archived_whole() {
                self.offload_step(index)?;
                self.settle()?;
                steps += 1;
                if steps > STEPS_TO_END {
                    return progress::stuck(format!("{index} is never archived"));
                }
            }
        }
        for site in &mut self.sites {
            site.check()?;
        }
        self.lose_disk()?;
        for _ in 0..STRAYS_AT_END {
            self.stray()?;
        }
        self.settle()?;
        for site in &mut self.sites {
            site.check()?;
        }
        self.audit_all()
    }

    /// Whether the store does not do what it is asked.
    pub(super) fn store_fails(&mut self) -> bool {
        let fails = !self.over && self.rng.chance(STORE_FAILS_PER_CENT);
        self.counts.store_faults += u64::from(fails);
        fails
    }

    fn answer_is_lost(&mut self) -> bool {
        let lost = !self.over && self.rng.chance(ANSWER_LOST_PER_CENT);
        self.counts.store_faults += u64::from(lost);
        lost
    }

    fn offload_step(&mut self, index: usize) -> Checked {
        if self.sites[index].waits {
            // After a failed sync the broker opens nothing more: it exits.
            return if self.disk.is_fenced() { Ok(()) } else { self.open_site(index) };
        }
        if self.sites[index].partition.is_none() {
            return Ok(());
        }
        let Some(upload) = self.sites[index].upload.take() else { return self.begin_range(index) };
        // Until it is through, what the store has is not known for sure.
        self.sites[index].seen = None;
        let Upload { head, stage, .. } = upload;
        let asks_store = matches!(stage, Stage::Encoded(_) | Stage::Ready(_));
        if asks_store && self.store_fails() {
            self.note(format_args!("{index}: the store fails"));
            return Ok(());
        }
        let now = self.now();
        let site = &mut self.sites[index];
        let stage = match stage {
            Stage::Encoded(object) => Stage::Ready(Change::Add(site.archive.put(now, object))),
            Stage::Ready(change) if site.create(head, change) => {
                self.counts.archived += u64::from(change != Change::Trim);
                self.counts.given_up += u64::from(change == Change::Trim);
                Stage::Named
            }
            Stage::Ready(_) => {
                self.counts.superseded += 1;
                self.note(format_args!("{index}: manifest {} is another's", head.number));
                return Ok(());
            }
            Stage::Named => {
                site.move_head(head);
                Stage::Told
            }
            Stage::Told => {
                site.take_up_head();
                site.seen = Some(Some(head));
                self.note(format_args!("{index}: archived from {} to {}", head.start, head.end));
                return Ok(());
            }
        };
        if asks_store && self.answer_is_lost() {
            self.note(format_args!("{index}: {}, the answer is lost", stage.name()));
            return Ok(());
        }
        self.note(format_args!("{index}: to {}: {}", head.end, stage.name()));
        self.sites[index].upload = Some(Upload { head, stage, since: now });
        Ok(())
    }

    /// Reads the next range from the log, after whatever a crash has left undone.
    fn begin_range(&mut self, index: usize) -> Checked {
        if self.sites[index].seen.is_none() && self.store_fails() {
            return Ok(());
        }
        let site = &self.sites[index];
        let seen = site.seen.unwrap_or_else(|| site.archive.head());
        let (sync, bytes_max) = (self.rng.chance(30), 1 + self.rng.index(RANGE_BYTES_MAX));
        let now = self.now();
        let site = &mut self.sites[index];
        site.seen = Some(seen);
        if let Some(head) = seen {
            self.counts.heads_caught_up += u64::from(site.move_head(head));
            site.take_up_head();
        }
        let Some(partition) = &mut site.partition else { return Ok(()) };
        if sync && let Err(error) = partition.sync(now) {
            let unwell = self.disk.is_fenced() || !self.disk.is_on();
            site.failed.get_or_insert(error.clone());
            return if unwell { Ok(()) } else { progress::without_cause("no sync", &error) };
        }
        let from = seen.map_or(partition.log().start(), |head| head.end);
        let until = if self.options.sabotage == Some(Sabotage::ArchiveUnsynced) {
            partition.positions().high_watermark
        } else {
            partition.archivable_end()
        };
        if from < partition.log().start() || from > partition.log().end() {
            return progress::stuck(format!(
                "{index} is archived to {from}, which its log has not"
            ));
        }
        if from >= until {
            return Ok(());
        }
        match self.encode(index, seen, &(from..until), bytes_max) {
            Ok(Some(upload)) => self.encoded(index, upload),
            Ok(None) => Ok(()),
            Err(problem) => self.unreadable(index, &problem),
        }
    }

    fn encode(
        &mut self,
        index: usize,
        seen: Option<Head>,
        range: &Range<Offset>,
        bytes_max: usize,
    ) -> Result<Option<Upload>, Got> {
        let now = self.now();
        let site = &self.sites[index];
        let Some(partition) = &site.partition else { return Ok(None) };
        let mut before = seen
            .and_then(|head| site.archive.range_ending(head.end))
            .map(|object| (object.epochs.clone(), object.producers.clone()))
            .unwrap_or_default();
        if self.options.sabotage == Some(Sabotage::DropProducers) {
            before.1.clear();
        }
        let state = RangeState::resume(&before.0, &before.1);
        let mut state = state.map_err(|error| Got::Damage(error.to_string()))?;
        let batches = read_range(partition, range, bytes_max)?;
        let mut end = range.start;
        for batch in &batches {
            state.stored(batch.header(), now);
            end = batch.header().next_offset();
        }
        let head = Head {
            number: seen.map_or(0, |head| head.number + 1),
            start: seen.map_or(range.start, |head| head.start),
            end,
            leader_epoch: LeaderEpoch(site.epoch),
        };
        let entries = batches.iter().map(entry_of).collect();
        let (epochs, producers) = (state.epochs().to_vec(), state.producers());
        let stage = Stage::Encoded(Object { entries, epochs, producers });
        Ok(Some(Upload { head, stage, since: now }))
    }

    fn encoded(&mut self, index: usize, upload: Upload) -> Checked {
        let head = upload.head;
        let site = &mut self.sites[index];
        if self.options.sabotage == Some(Sabotage::HeadFirst) {
            site.move_head(head);
        }
        if self.options.sabotage == Some(Sabotage::ForgetFirst)
            && let Some(partition) = &mut site.partition
        {
            partition.set_archive(head.start..head.end);
        }
        site.upload = Some(upload);
        self.note(format_args!("{index}: read up to {}", head.end));
        Ok(())
    }

    /// A consumer reads from the archive what the log has forgotten.
    pub(super) fn consume_archived(
        &mut self,
        index: usize,
        consumer: usize,
        from: Offset,
    ) -> Checked {
        let most = 1 + self.rng.index(ARCHIVED_BATCHES_MAX);
        let Site { archive, head, ledger, consumers, .. } = &mut self.sites[index];
        let from = from.max(archive.start());
        if from >= ledger.start {
            // Retention gave up all that the log has not.
            self.note(format_args!("{index}: consumer {consumer} moved to the log"));
            return Ok(());
        }
        let up_to = head.map_or(Offset::ZERO, |head| head.end);
        let kept = archive.entries().filter(|entry| entry.next > from && entry.next <= up_to);
        let entries: Vec<_> = kept.take(most).cloned().collect();
        one_order::read(ledger, from, up_to, &entries)?;
        let count = entries.len();
        if let Some(last) = entries.last() {
            consumers[consumer].seek(last.next);
        }
        ledger.read.extend(entries.into_iter().map(|entry| (entry.base, entry)));
        self.counts.read_archived += u64::try_from(count).unwrap_or_default();
        self.note(format_args!("{index}: consumer {consumer} got {count} archived from {from}"));
        Ok(())
    }
}

impl Stage {
    const fn name(&self) -> &'static str {
        match self {
            Self::Encoded(_) => "read",
            Self::Ready(_) => "put",
            Self::Named => "named",
            Self::Told => "told",
        }
    }
}

impl Site {
    /// Creates a manifest, unless one of its number exists; what it gives up need not be anywhere.
    fn create(&mut self, head: Head, change: Change) -> bool {
        let created = self.archive.create(head, change);
        self.ledger.archive_start = self.archive.start();
        created
    }

    /// The metadata takes a head, if it can follow the one that stands.
    fn move_head(&mut self, head: Head) -> bool {
        let moves = self.head.is_none_or(|standing| standing.admits(&head));
        if moves {
            self.head = Some(head);
        }
        moves
    }

    /// The partition is told what the metadata has.
    fn take_up_head(&mut self) {
        if let (Some(partition), Some(head)) = (&mut self.partition, self.head) {
            partition.set_archive(head.start..head.end);
        }
    }

    /// Whether all that it has is archived, and the partition knows.
    fn is_archived_whole(&self) -> bool {
        let Some(partition) = &self.partition else { return true };
        self.upload.is_none() && partition.archive().end == partition.log().end()
    }
}
