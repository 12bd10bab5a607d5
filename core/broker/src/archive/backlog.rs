//! What waits to be archived, and which topics may add to it.
//!
//! All archived topics have `archive.backlog_bytes_max` together. Once that is passed, those take
//! no more that have more than their fair share of it waiting, and only those: a topic whose
//! archive is stuck may fill the bound by itself and stops nobody else. What waits in all stays
//! below twice the bound so, but for what comes between two looks and for the shares of topics that
//! are archived in time, each of which may have what a working archive leaves waiting, up to the
//! bound.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use millstream_types::{PartitionIndex, TopicId};

/// Ranges of each of its partitions that a topic which is archived in time may always have
/// waiting: one that is on its way, and one that comes meanwhile.
const IN_TIME_RANGES: u64 = 2;
/// How much longer than `archive.lag.max.ms` a partition may wait and still be archived in time.
const IN_TIME_MORE: Duration = Duration::from_secs(60);

/// What waits of one topic.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) topic: TopicId,
    pub(super) bytes: u64,
    partitions: u64,
    /// Whether no partition has failed since its last range, or waits too long.
    in_time: bool,
    failure: Option<(PartitionIndex, String)>,
}

/// Why a topic takes no more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    bytes: u64,
    share: u64,
    failure: Option<(PartitionIndex, String)>,
}

/// What waits, as of the last look.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: AtomicU64,
    /// The topics that take no more.
    refused: RwLock<BTreeMap<TopicId, String>>,
}

impl Waiting {
    pub(super) const fn new(topic: TopicId) -> Self {
        Self { topic, bytes: 0, partitions: 0, in_time: true, failure: None }
    }

    /// Counts a partition: its bytes, how long it has waited of the `lag_max` that it may, and what
    /// failed last, if nothing has succeeded since.
    pub(super) fn add(
        &mut self,
        partition: PartitionIndex,
        bytes: u64,
        waited: Duration,
        lag_max: Duration,
        failure: Option<&String>,
    ) {
        self.partitions += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        // What failed while nothing waited, or waits now, holds nothing up.
        let failure = failure.filter(|_| bytes > 0);
        self.in_time &= failure.is_none() && waited <= lag_max.saturating_add(IN_TIME_MORE);
        if self.failure.is_none() {
            self.failure = failure.map(|failure| (partition, failure.clone()));
        }
    }

    /// What may wait of it whatever waits of others: an even part of the bound, and what a working
    /// archive leaves waiting as long as it works, of which one topic may fill the bound.
    fn share(&self, topics: usize, bytes_max: u64, range_bytes: u64) -> u64 {
        let even = bytes_max / (topics as u64).max(1);
        let working = range_bytes.saturating_mul(IN_TIME_RANGES).saturating_mul(self.partitions);
        if self.in_time { even.max(working.min(bytes_max)) } else { even }
    }
}

/// The topics that take no more. `topics` are all that are archived.
pub(super) fn refused(
    topics: &mut [Waiting],
    bytes_max: u64,
    range_bytes: u64,
) -> Vec<(TopicId, Refusal)> {
    if total(topics) <= bytes_max {
        return Vec::new();
    }
    let count = topics.len();
    let mut refused = Vec::new();
    for topic in topics {
        let share = topic.share(count, bytes_max, range_bytes);
        if topic.bytes > share {
            let (bytes, failure) = (topic.bytes, topic.failure.take());
            refused.push((topic.topic, Refusal { bytes, share, failure }));
        }
    }
    refused
}

/// What waits of all of them.
pub(super) fn total(topics: &[Waiting]) -> u64 {
    topics.iter().fold(0, |sum, topic| sum.saturating_add(topic.bytes))
}

impl Refusal {
    /// What a producer is told: whose turn it is to do what.
    pub(super) fn message(&self, topic: &str, bytes_max: u64) -> String {
        let Self { bytes, share, .. } = self;
        let failure = match &self.failure {
            Some((partition, failure)) => format!("partition {partition} failed last: {failure}"),
            None => "nothing of it has failed: the archive takes less than comes".to_owned(),
        };
        format!(
            "{bytes} bytes of topic `{topic}` wait to be archived, more than its share of {share}, \
             and in all more than archive.backlog_bytes_max = {bytes_max} wait; {failure}; see \
             `millstream archive status`"
        )
    }
}

impl Backlog {
    /// As of the last look.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why a topic takes no more, if so.
    pub(super) fn refusal(&self, topic: TopicId) -> Option<String> {
        self.refused.read().unwrap_or_else(PoisonError::into_inner).get(&topic).cloned()
    }

    /// Notes what a look found; what waited before and which topics were refused then.
    pub(super) fn note(
        &self,
        bytes: u64,
        refused: BTreeMap<TopicId, String>,
    ) -> (u64, BTreeMap<TopicId, String>) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        let mut noted = self.refused.write().unwrap_or_else(PoisonError::into_inner);
        (before, std::mem::replace(&mut *noted, refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn topic(id: u8, bytes: u64, failure: Option<&str>) -> Waiting {
        let mut topic = Waiting::new(TopicId::from_bytes([id; 16]));
        let failure = failure.map(str::to_owned);
        topic.add(PartitionIndex(3), bytes, SECOND, SECOND, failure.as_ref());
        topic
    }

    fn ids(topics: &mut [Waiting], bytes_max: u64, range_bytes: u64) -> Vec<u8> {
        let refused = refused(topics, bytes_max, range_bytes);
        refused.iter().map(|(id, _)| id.to_bytes()[0]).collect()
    }

    #[test]
    fn a_topic_that_is_stuck_stops_itself_alone() {
        let stuck = || topic(1, 1_001, Some("no"));
        assert_eq!(ids(&mut [stuck()], 1_000, 10), [1]);
        assert_eq!(ids(&mut [stuck(), topic(2, 500, None)], 1_000, 10), [1]);
        // Others that fail have their part of the bound; one that does not what is on its way.
        assert_eq!(ids(&mut [stuck(), topic(2, 501, Some("no"))], 1_000, 10), [1, 2]);
        assert_eq!(ids(&mut [stuck(), topic(2, 600, None)], 1_000, 300), [1]);
        assert_eq!(ids(&mut [stuck(), topic(2, 601, None)], 1_000, 300), [1, 2]);
        assert_eq!(ids(&mut [topic(1, 900, Some("no")), topic(2, 100, None)], 1_000, 10), [0; 0]);
    }

    /// One after another fills what it is let; none is ever let by for another's room.
    #[test]
    fn what_waits_in_all_stays_below_twice_the_bound() {
        let (count, bytes_max) = (20_u8, 1_000);
        let mut topics: Vec<Waiting> = (0..count).map(|id| topic(id, 0, Some("no"))).collect();
        for at in 0..topics.len() {
            while !ids(&mut topics, bytes_max, 10).contains(&topics[at].topic.to_bytes()[0]) {
                topics[at].bytes += 1;
            }
        }
        let bytes = total(&topics);
        assert!((bytes_max..2 * bytes_max).contains(&bytes), "{bytes}");
    }

    #[test]
    fn no_number_of_partitions_is_more_than_the_bound() {
        let mut wide = Waiting::new(TopicId::from_bytes([1; 16]));
        for partition in 0..1_000 {
            wide.add(PartitionIndex(partition), 2, SECOND, SECOND, None);
        }
        assert_eq!(ids(&mut [wide, topic(2, 0, None)], 1_000, 300), [1]);
    }

    #[test]
    fn a_topic_that_waits_too_long_is_not_archived_in_time() {
        let mut late = Waiting::new(TopicId::from_bytes([2; 16]));
        late.add(PartitionIndex(0), 400, IN_TIME_MORE + 2 * SECOND, SECOND, None);
        let others = |late| [topic(1, 900, Some("no")), topic(3, 0, None), late];
        assert_eq!(ids(&mut others(late), 1_000, 300), [1, 2]);
    }

    #[test]
    fn the_refusal_names_the_topic_and_its_failure() {
        let refused = refused(&mut [topic(1, 1_001, Some("no bucket"))], 1_000, 10);
        let message = refused[0].1.message("orders", 1_000);
        for part in ["`orders`", "partition 3", "no bucket", "archive.backlog_bytes_max = 1000"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
