//! Archive and log together hold the partition: the metadata's head follows the manifests, the log
//! forgets only what the head covers and never ends before it, and both say the same of an offset.

use std::ops::Range;

use millstream_partition::Partition;
use millstream_types::{Offset, TimestampMs};

use super::{Checked, violated};
use crate::archive::{Archive, Head};
use crate::ledger::{Entry, Ledger};
use crate::world::Keeps;

pub(crate) const NAME: &str = "archive holds";

/// After every step: what the metadata has, and what the partition was told, is in the store, and
/// what is in the store was `durable` in the log before.
pub(crate) fn standing(
    partition: &Partition,
    head: Option<Head>,
    archive: &Archive,
    durable: Offset,
) -> Checked {
    if let Some(head) = head.filter(|head| archive.manifest(head.number) != Some(*head)) {
        return violated(NAME, format!("the metadata has {head:?}, which the store has not"));
    }
    if let Some(range) = archive.lacks() {
        return violated(NAME, format!("a manifest names {range:?}, whose object is gone"));
    }
    let archived = head.map_or(Offset::ZERO, |head| head.end);
    let told = partition.archive();
    if told.end > archived {
        return violated(NAME, format!("archived to {archived}, the partition has {told:?}"));
    }
    let (start, earliest) = (partition.log().start(), partition.earliest());
    if start > archived {
        return violated(NAME, format!("archived to {archived}, the log starts at {start}"));
    }
    if !told.is_empty() && earliest > told.start {
        return violated(NAME, format!("{told:?} is archived, the earliest is {earliest}"));
    }
    let stored = archive.head().map_or(Offset::ZERO, |head| head.end);
    if stored > durable {
        return violated(NAME, format!("archived to {stored}, the log is durable to {durable}"));
    }
    Ok(())
}

/// A log that was opened again reaches at least to where the archive ends.
pub(crate) fn reopened(archive: &Archive, log: Range<Offset>) -> Checked {
    match archive.head() {
        Some(head) if log.end < head.end => violated(
            NAME,
            format!("archived to {}, the log came back as {}..{}", head.end, log.start, log.end),
        ),
        _ => Ok(()),
    }
}

/// Retention is about to give up everything before `to`: each batch is too old, or as much as is
/// asked for lies behind it. `slack` is how far off an estimate of what is not archived may be.
pub(crate) fn given_up(
    ledger: &Ledger,
    to: Offset,
    keeps: Keeps,
    now: TimestampMs,
    slack: u64,
) -> Checked {
    let mut behind = slack;
    for entry in ledger.placed.values().rev() {
        let too_old = keeps.ms.is_some_and(|kept| now.since_ms(entry.newest) > kept);
        let too_large = keeps.bytes.is_some_and(|kept| behind >= kept);
        if entry.next <= to && entry.base >= ledger.archive_start && !too_old && !too_large {
            return violated(NAME, format!("{} is given up before its time", entry.base));
        }
        behind += entry.body.len() as u64;
    }
    Ok(())
}

/// Joins the archive with the log, which was read from its start: where both have an offset they
/// must agree. What was given up is left out, though the log may have it still.
pub(crate) fn joined(archive: &Archive, log: Vec<Entry>) -> Result<Vec<Entry>, super::Violation> {
    let mut all: Vec<Entry> = archive.entries().cloned().collect();
    let start = archive.start();
    let end = all.last().map_or(start, |entry| entry.next);
    for entry in log.into_iter().filter(|entry| entry.next > start) {
        if entry.base >= end {
            all.push(entry);
            continue;
        }
        let found = all.binary_search_by_key(&entry.base, |archived| archived.base);
        let archived = found.ok().and_then(|at| all.get(at));
        if archived != Some(&entry) {
            violated(NAME, format!("the log has {entry:?}, the archive {archived:?}"))?;
        }
    }
    Ok(all)
}
