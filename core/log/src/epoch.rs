//! Which leader epoch each range of offsets was appended in (KIP-101, KIP-279).

use millstream_types::{LeaderEpoch, Offset};

/// The first offset of one leader epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The base offset of its first batch, or the log's start where that batch is gone.
    pub start: Offset,
}

/// The leader epochs of a log, oldest first. Epochs grow strictly and starts grow with them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct EpochHistory {
    starts: Vec<EpochStart>,
}

impl EpochHistory {
    /// From starts in order; `None` when epochs do not grow strictly or starts shrink.
    #[must_use]
    pub fn from_starts(starts: Vec<EpochStart>) -> Option<Self> {
        let ordered =
            starts.windows(2).all(|two| two[0].epoch < two[1].epoch && two[0].start < two[1].start);
        ordered.then_some(Self { starts })
    }

    /// Every epoch that has records in the log, oldest first.
    #[must_use]
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// The newest epoch.
    #[must_use]
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.starts.last().map(|last| last.epoch)
    }

    /// Where the records of the newest epoch not after `epoch` end, and which epoch that is; as
    /// Kafka's `OffsetForLeaderEpoch` answers. `None` when the log knows only newer epochs.
    /// `log_end` is the end of the log.
    #[must_use]
    pub fn end_offset_for_epoch(
        &self,
        epoch: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let after = self.starts.partition_point(|entry| entry.epoch <= epoch);
        let found = self.starts.get(after.checked_sub(1)?)?;
        let end = self.starts.get(after).map_or(log_end, |next| next.start);
        Some((found.epoch, end))
    }

    /// The epochs of the records in `from..to`.
    pub(crate) fn within(&self, from: Offset, to: Offset) -> Self {
        let first = self.starts.partition_point(|entry| entry.start <= from).saturating_sub(1);
        let after = self.starts.partition_point(|entry| entry.start < to).max(first);
        Self { starts: self.starts[first..after].to_vec() }
    }

    /// The epoch that the record at `offset` was appended in.
    pub(crate) fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.starts.partition_point(|entry| entry.start <= offset);
        Some(self.starts.get(after.checked_sub(1)?)?.epoch)
    }

    /// Notes that a batch of `epoch` starts at `start`. The caller has checked that the epoch is
    /// not older than the newest.
    pub(crate) fn note(&mut self, epoch: LeaderEpoch, start: Offset) {
        if self.latest().is_none_or(|latest| latest < epoch) {
            // An epoch that the log begins behind has no record in it.
            self.starts.retain(|known| known.start < start);
            self.starts.push(EpochStart { epoch, start });
        }
    }

    /// Forgets what lies before the log's start.
    pub(crate) fn trim_start(&mut self, start: Offset) {
        let after = self.starts.partition_point(|entry| entry.start <= start);
        if let Some(gone) = after.checked_sub(1) {
            self.starts.drain(..gone);
            self.starts[0].start = start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(starts: &[(i32, i64)]) -> EpochHistory {
        let starts = starts
            .iter()
            .map(|(epoch, start)| EpochStart {
                epoch: LeaderEpoch(*epoch),
                start: Offset::new(*start).unwrap(),
            })
            .collect();
        EpochHistory::from_starts(starts).unwrap()
    }

    #[test]
    fn an_epoch_ends_where_the_next_one_starts() {
        let history = history(&[(1, 0), (4, 10)]);
        let end = |epoch| {
            let (found, end) =
                history.end_offset_for_epoch(LeaderEpoch(epoch), Offset::new(25).unwrap())?;
            Some((found.0, end.value()))
        };
        assert_eq!(end(0), None);
        assert_eq!(end(1), Some((1, 10)));
        assert_eq!(end(3), Some((1, 10)));
        assert_eq!(end(4), Some((4, 25)));
        assert_eq!(end(9), Some((4, 25)));
    }

    #[test]
    fn trimming_keeps_the_epoch_of_the_first_offset() {
        let mut trimmed = history(&[(1, 0), (4, 10), (5, 20)]);
        trimmed.trim_start(Offset::new(15).unwrap());
        assert_eq!(trimmed, history(&[(4, 15), (5, 20)]));
        trimmed.trim_start(Offset::new(20).unwrap());
        assert_eq!(trimmed, history(&[(5, 20)]));
    }

    #[test]
    fn disorder_is_refused() {
        let start =
            |epoch, at| EpochStart { epoch: LeaderEpoch(epoch), start: Offset::new(at).unwrap() };
        assert_eq!(EpochHistory::from_starts(vec![start(2, 0), start(2, 5)]), None);
        assert_eq!(EpochHistory::from_starts(vec![start(1, 5), start(2, 5)]), None);
    }
}
