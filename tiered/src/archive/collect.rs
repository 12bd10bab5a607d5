//! Removes what nothing needs any more from a partition's folder, each after a time of grace:
//! objects that retention gave up, objects that no manifest came to name, and files of writers that
//! died. Manifests stay: a number that is free again could be taken by whoever stalled long ago, in
//! a former leadership or in a cluster that has lost the archive, and would not tell it so.
//!
//! All ages are the store's: how long ago it wrote an object, or the manifest that gave it up. So
//! nothing is remembered between two looks, and a broker that starts often removes as much.

use std::collections::{BTreeMap, BTreeSet};

use millstream_types::TimestampMs;

use super::{ArchiveError, LISTED_MAX, PartitionArchive, number_of};
use crate::manifest::Head;
use crate::store::{Listed, StoreError};

/// What a listing of the folder showed.
struct Found {
    /// Objects by name, of those that are called as ranges are.
    objects: BTreeMap<String, Listed>,
    manifests: BTreeMap<u64, Listed>,
}

impl Found {
    fn new(folder: &str, listed: Vec<Listed>) -> Self {
        let (mut objects, mut manifests) = (BTreeMap::new(), BTreeMap::new());
        for found in listed {
            let Some(name) = found.key.strip_prefix(folder) else { continue };
            let Some(name) = name.strip_prefix('/') else { continue };
            if range_of(name).is_some() {
                objects.insert(name.to_owned(), found);
            } else if name.starts_with("manifest/")
                && let Some(number) = number_of(name)
            {
                manifests.insert(number, found);
            }
        }
        Self { objects, manifests }
    }
}

impl PartitionArchive {
    /// Removes objects that nothing needs any more, once `grace_ms` have passed: since a manifest
    /// gave an object up, or since an object was written that none came to name. Returns how many.
    ///
    /// What may be named yet stays, however old it is: an object that begins where the archive ends
    /// can be on its way to a manifest by whoever stalled in between, in a former leadership or as
    /// a call that this one has given up. That is over for good once this archive has itself
    /// written a manifest after the object: whoever stalled finds its number taken, and itself
    /// fenced.
    ///
    /// # Errors
    /// [`ManifestError::TakenOver`](crate::ManifestError::TakenOver) where it is another cluster's
    /// to clean up, and any other [`ArchiveError`]; what is removed by then stays so.
    pub async fn collect(
        &mut self,
        now: TimestampMs,
        grace_ms: u64,
    ) -> Result<usize, ArchiveError> {
        let before = self.chain.head().copied();
        let found = Found::new(&self.folder, self.store.list(&self.folder, LISTED_MAX).await?);
        // Only now: what another leadership named by then is named here, too, and what it names
        // from now on was not listed.
        self.catch_up().await?;
        self.check_owner()?;
        let (Some(before), Some(head)) = (before, self.chain.head().copied()) else {
            return Ok(0);
        };
        if head.leader_epoch != before.leader_epoch {
            return Ok(0);
        }
        let is_due = |it: &Listed| now.since_ms(TimestampMs(it.modified_ms)) >= grace_ms;
        let settled = found.manifests.iter().rev().find(|(_, it)| is_due(it)).map(|(at, _)| *at);
        let removable = self.objects_to_remove(&found, &head, settled, is_due).await?;
        self.store.delete_all(&removable).await?;
        let until = now.0.saturating_sub_unsigned(grace_ms);
        let unfinished = self.store.remove_unfinished(&self.folder, until).await?;
        Ok(removable.len() + unfinished)
    }

    /// Of the objects that were found, those that nothing needs. `settled` is the newest manifest
    /// that is as old as the grace.
    async fn objects_to_remove(
        &self,
        found: &Found,
        head: &Head,
        settled: Option<u64>,
        is_due: impl Fn(&Listed) -> bool,
    ) -> Result<Vec<String>, ArchiveError> {
        let named: BTreeSet<&str> = self.entries().map(|entry| entry.object.as_str()).collect();
        let unnamed = |(name, _): &(&String, &Listed)| !named.contains(name.as_str());
        let unnamed: Vec<_> = found.objects.iter().filter(unnamed).collect();
        let ours = self.written.filter(|number| *number == head.number);
        let ours = ours.and_then(|number| found.manifests.get(&number));
        // Asked for only where something was given up.
        let mut given_up_to = None;
        let mut removable = Vec::new();
        for (name, object) in unnamed {
            let Some((base, end)) = range_of(name).filter(|_| is_due(object)) else { continue };
            let goes = if end <= head.start {
                if given_up_to.is_none() {
                    given_up_to = Some(self.start_at(settled, head).await?);
                }
                given_up_to.is_some_and(|start| end <= start)
            } else {
                base < head.end || ours.is_some_and(|it| object.modified_ms < it.modified_ms)
            };
            if goes {
                removable.push(object.key.clone());
            }
        }
        Ok(removable)
    }

    /// Where the archive started by manifest `number`; before everything if there is none.
    async fn start_at(&self, number: Option<u64>, head: &Head) -> Result<i64, ArchiveError> {
        let Some(number) = number.filter(|number| *number < head.number) else {
            return Ok(if number.is_some() { head.start } else { 0 });
        };
        match self.manifest(number).await {
            Ok(bytes) => Ok(self.chain.start_of(number, &bytes)?),
            Err(StoreError::NotFound { .. }) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// The range that an object's name tells, if it is the name of one.
fn range_of(name: &str) -> Option<(i64, i64)> {
    let mut parts = name.strip_suffix(".parquet")?.splitn(3, '-');
    let base: i64 = parts.next()?.parse().ok()?;
    let end: i64 = parts.next()?.parse().ok()?;
    parts.next().map(|_| (base, end))
}
