//! Reads a partition's archive in order, ahead of its consumer, and finds offsets by time.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use millstream_types::{Offset, TimestampMs};
use millstream_wire::Batch;
use tokio::task::JoinSet;

use crate::archive::{ArchiveError, Replayed};
use crate::cache::{Ahead, ReadCache};
use crate::error::FormatError;
use crate::manifest::{Entry, Head};

/// Row groups fetched before they are asked for, at most.
const AHEAD_MAX: usize = 8;
/// Bytes of batches that are read in order before anything is fetched ahead: a consumer that wants
/// a megabyte from somewhere pays for no more, even where that ends in another row group.
const IN_ORDER_BYTES: usize = 1024 * 1024;

/// One consumer's way through a partition's archive, as it was when the reader was made. A reader
/// that has gone on where it ended for more than a megabyte fetches ahead: one row group at first,
/// then twice as many each time up to eight, as far as the readers of one cache together may. What
/// it has ahead is given up when it is dropped.
#[derive(Debug)]
pub struct ArchiveReader {
    cache: Arc<ReadCache>,
    folder: Arc<str>,
    ranges: Arc<[Arc<Entry>]>,
    start: i64,
    end: i64,
    /// Where a consumer that reads in order asks next.
    expected: Option<Offset>,
    /// Bytes of batches that were read in order so far.
    in_order_bytes: usize,
    /// Row groups to fetch ahead.
    window: usize,
    /// The row group that was read last.
    last: Option<Place>,
    ahead: JoinSet<()>,
    /// The row groups that are fetched ahead, in order, from the one that was read last on.
    held: VecDeque<(Place, Ahead)>,
}

/// How much a partition's archive holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sizes {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Bytes of their batches, as the log had them.
    pub log_bytes: u64,
}

/// A row group: which range, and which of its parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    range: usize,
    part: usize,
}

impl ArchiveReader {
    pub(crate) fn new(
        cache: Arc<ReadCache>,
        folder: &str,
        head: Option<&Head>,
        entries: &VecDeque<Arc<Entry>>,
    ) -> Self {
        Self {
            cache,
            folder: folder.into(),
            ranges: entries.iter().cloned().collect(),
            start: head.map_or(0, |head| head.start),
            end: head.map_or(0, |head| head.end),
            expected: None,
            in_order_bytes: 0,
            window: 0,
            last: None,
            ahead: JoinSet::new(),
            held: VecDeque::new(),
        }
    }

    /// How much there is.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        for entry in self.ranges.iter() {
            sizes.objects += 1;
            sizes.object_bytes += entry.object_bytes;
            sizes.log_bytes += entry.log_bytes;
        }
        sizes
    }

    /// Another consumer's way through what this reader knows of.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            cache: Arc::clone(&self.cache),
            folder: Arc::clone(&self.folder),
            ranges: Arc::clone(&self.ranges),
            start: self.start,
            end: self.end,
            expected: None,
            in_order_bytes: 0,
            window: 0,
            last: None,
            ahead: JoinSet::new(),
            held: VecDeque::new(),
        }
    }

    /// Batches from the one that holds `offset` on, of at most `bytes_max` bytes together, but
    /// always one. They end where a row group does at the latest.
    ///
    /// # Errors
    /// [`ArchiveError::OutOfRange`] for what the archive did not hold when the reader was made, and
    /// the others as the store and its bytes give cause.
    pub async fn read(
        &mut self,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<Replayed, ArchiveError> {
        let out_of_range = ArchiveError::OutOfRange { offset, start: self.start, end: self.end };
        let at = self.ranges.partition_point(|entry| entry.end <= offset.value());
        let Some(entry) = self.ranges.get(at).filter(|entry| entry.base <= offset.value()) else {
            return Err(out_of_range);
        };
        let key = self.key_of(entry);
        let object = self.cache.footer(&key, entry).await?;
        let place = Place { range: at, part: object.part_of(offset) };
        if self.expected != Some(offset) {
            (self.window, self.in_order_bytes) = (0, 0);
            self.ahead.abort_all();
            self.held.clear();
        } else if self.last != Some(place) && self.in_order_bytes > IN_ORDER_BYTES {
            self.window = (self.window * 2).clamp(1, AHEAD_MAX);
        }
        if self.last != Some(place) {
            self.last = Some(place);
            self.fetch_ahead(place, object.parts());
        }
        let part = self.cache.part(&key, &object, place.part).await?;
        let (mut bytes, mut batches) = (0, Vec::new());
        let mut next = offset;
        for batch in part.from(offset) {
            let with_it = bytes + batch.bytes().len();
            if with_it > bytes_max && !batches.is_empty() {
                break;
            }
            bytes = with_it;
            next = batch.header().next_offset();
            batches.push(Bytes::clone(batch.bytes()));
        }
        if batches.is_empty() {
            let source = FormatError::Inconsistent("no batch of the row group holds an offset");
            return Err(ArchiveError::Object { object: key.to_string(), source });
        }
        self.expected = Some(next);
        self.in_order_bytes = self.in_order_bytes.saturating_add(bytes);
        Ok(Replayed { batches, next })
    }

    fn key_of(&self, entry: &Entry) -> Arc<str> {
        format!("{}/{}", self.folder, entry.object).into()
    }

    /// Starts to fetch what follows `place`, whose range has `parts` parts, as far as there is room
    /// for it. What is there, or on its way, the cache does not fetch again.
    fn fetch_ahead(&mut self, place: Place, parts: usize) {
        while self.ahead.try_join_next().is_some() {}
        // Of the row group that is read now the rest is needed, too.
        while self.held.front().is_some_and(|(held, _)| *held < place) {
            self.held.pop_front();
        }
        let here = (place.part + 1..parts).map(|part| Place { range: place.range, part });
        // The next range's footer and first row group come while this one's last are read.
        let next = Place { range: place.range + 1, part: 0 };
        for place in here.chain([next]).take(self.window) {
            let Some(entry) = self.ranges.get(place.range) else { return };
            if self.held.iter().any(|(held, _)| *held == place) {
                continue;
            }
            if self.ahead.len() >= AHEAD_MAX {
                return;
            }
            let key = self.key_of(entry);
            let Some(ahead) = self.cache.ahead(&key, place.part) else { return };
            self.held.push_back((place, ahead));
            let (cache, entry) = (Arc::clone(&self.cache), Arc::clone(entry));
            self.ahead.spawn(fetch(cache, key, entry, place.part));
        }
    }

    /// The first record at or after a time: its offset and its own time. `None` when there is none
    /// up to the archive's end.
    ///
    /// # Errors
    /// As the store and its bytes give cause.
    pub async fn find_time(
        &self,
        time: TimestampMs,
    ) -> Result<Option<(Offset, TimestampMs)>, ArchiveError> {
        for entry in self.ranges.iter() {
            if entry.max_timestamp_ms < time.0 {
                continue;
            }
            let key = self.key_of(entry);
            let object = self.cache.footer(&key, entry).await?;
            for part in 0..object.parts() {
                if !object.may_reach(part, time) {
                    continue;
                }
                let part = self.cache.part(&key, &object, part).await?;
                let found = first_at(&part.batches, time);
                if let Some(found) = found.map_err(|source| broken(&key, source))? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}

fn broken(key: &Arc<str>, source: FormatError) -> ArchiveError {
    ArchiveError::Object { object: key.to_string(), source }
}

fn first_at(
    batches: &[Batch],
    time: TimestampMs,
) -> Result<Option<(Offset, TimestampMs)>, FormatError> {
    let data = batches.iter().filter(|batch| !batch.header().attributes.is_control());
    for batch in data.filter(|batch| batch.header().record_count > 0) {
        for record in batch.records()? {
            let record = record?;
            if record.timestamp >= time {
                return Ok(Some((record.offset, record.timestamp)));
            }
        }
    }
    Ok(None)
}

/// An error here is met again, and told, by the read that needs the row group.
async fn fetch(cache: Arc<ReadCache>, key: Arc<str>, entry: Arc<Entry>, part: usize) {
    let Ok(object) = cache.footer(&key, &entry).await else { return };
    if part < object.parts() {
        drop(cache.part(&key, &object, part).await);
    }
}

#[cfg(test)]
mod tests;
