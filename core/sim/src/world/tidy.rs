//! What the archive's retention gives up, and what is removed from the store.

use millstream_env::rng::Rng;
use millstream_types::{Offset, TimestampMs};

use super::offload::{Stage, Upload};
use super::site::Site;
use super::{Sabotage, World};
use crate::archive::{Change, Head};
use crate::invariants::{Checked, archive_holds};
use crate::profile::Profile;

/// How long objects stay that no manifest names.
pub(super) const GRACE_MS: u64 = 12_000;
/// How far off an estimate of unarchived bytes may be, on top of two segments.
const ESTIMATE_BYTES: u64 = 16_000;

/// What the archive's retention keeps of a partition, log and archive together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Keeps {
    pub(crate) ms: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

impl Keeps {
    pub(super) fn draw(rng: &mut Rng, profile: &Profile) -> Self {
        if !profile.archived {
            return Self::default();
        }
        Self {
            ms: rng.chance(50).then(|| 5000 + rng.below(80_000)),
            bytes: rng.chance(50).then(|| 8000 + rng.below(60_000)),
        }
    }
}

impl World {
    /// Retention looks at a partition's archive. Where nothing is to be given up, what no manifest
    /// names is removed.
    pub(super) fn tidy(&mut self) -> Checked {
        let index = self.rng.index(self.sites.len());
        let site = &self.sites[index];
        // One thing at a time: a range on its way has the archive for itself.
        if site.partition.is_none() || site.upload.is_some() {
            return Ok(());
        }
        if site.seen.is_none() && self.store_fails() {
            return Ok(());
        }
        let (now, sabotage) = (self.now(), self.options.sabotage);
        let site = &mut self.sites[index];
        let seen = *site.seen.get_or_insert_with(|| site.archive.head());
        let Some(head) = seen else { return Ok(()) };
        let start = match sabotage {
            Some(Sabotage::GiveUpAll) => Some(head.end).filter(|end| *end > head.start),
            _ => site.kept_from(head, now),
        };
        let Some(start) = start else {
            let grace_ms = if sabotage == Some(Sabotage::CollectAtOnce) { 0 } else { GRACE_MS };
            let removed = site.archive.collect(now, grace_ms, &mut site.noticed);
            self.counts.collected += u64::try_from(removed).unwrap_or_default();
            self.note(format_args!("{index}: {removed} objects removed"));
            return Ok(());
        };
        let slack = 2 * site.config.log.segment_bytes + ESTIMATE_BYTES;
        archive_holds::given_up(&site.ledger, start, site.keeps, now, slack)?;
        let (number, leader_epoch) = (head.number + 1, site.leader_epoch());
        let head = Head { number, start, leader_epoch, ..head };
        site.upload = Some(Upload { head, stage: Stage::Ready(Change::Trim), since: now });
        self.note(format_args!("{index}: gives up everything before {start}"));
        Ok(())
    }
}

impl Site {
    /// Where the archive should start, if that is not where it starts; as the broker decides it.
    fn kept_from(&self, head: Head, now: TimestampMs) -> Option<Offset> {
        let log = self.partition.as_ref()?.log();
        let ranges = self.archive.ranges();
        let held = ranges.iter().filter(|(range, _)| range.end <= head.end);
        let held: Vec<_> = held.filter_map(|(_, name)| self.archive.object(*name)).collect();
        let size = |entries: &[crate::ledger::Entry]| -> u64 {
            entries.iter().map(|entry| entry.body.len() as u64).sum()
        };
        let archived: u64 = held.iter().map(|object| size(&object.entries)).sum();
        let mut bytes = archived + log.bytes_behind(head.end.max(log.start()));
        let mut start = None;
        for object in held {
            let rest = bytes - size(&object.entries);
            let too_large = self.keeps.bytes.is_some_and(|kept| rest >= kept);
            let newest = object.entries.iter().map(|entry| entry.newest).max();
            let newest = newest.unwrap_or(TimestampMs::NONE);
            let too_old = self.keeps.ms.is_some_and(|kept| now.since_ms(newest) > kept);
            if !too_large && !too_old {
                break;
            }
            bytes = rest;
            start = object.entries.last().map(|entry| entry.next);
        }
        start
    }
}
