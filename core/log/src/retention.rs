//! What of a log may be forgotten, and forgetting it.

use std::sync::Arc;

use millstream_types::{Offset, TimestampMs};

use crate::error::LogError;
use crate::file::SegmentFile;
#[cfg(doc)]
use crate::format::SegmentTimes;
use crate::log::{PartitionLog, Sealed};
use crate::proof::FoundSeal;

/// A segment that retention removed. Its name is gone, durably; its bytes are given back when this
/// is dropped, and no read uses them any more. For a large file that takes as long as hundreds of
/// appends: drop it where nobody waits.
#[derive(Debug)]
pub struct Removed {
    /// The segment's first offset.
    pub base: Offset,
    /// The offset after its last record.
    pub end: Offset,
    /// Bytes of its file.
    pub bytes: u64,
    _file: Arc<SegmentFile>,
}

impl PartitionLog {
    /// Removes the oldest sealed segments that are older than the configured time, or in excess of
    /// the configured size, and end at or before `limit` (the high watermark, or the archived end
    /// where there is an archive). A segment's age counts from [`SegmentTimes::newest`]. Blocks for
    /// one removal and one directory sync a segment, of which it takes no more than `segments_max`:
    /// an owner whose lock others wait for asks for one at a time.
    ///
    /// The newest segment stays, and with it the log's place: a segment goes only once a later
    /// record is durable. Reads under way of a removed segment go on. Also tries again to seal what
    /// found the disk full, and records what is durable.
    ///
    /// # Errors
    /// [`LogError`], latched. What was removed by then is removed: [`PartitionLog::start`] tells.
    pub fn apply_retention(
        &mut self,
        now: TimestampMs,
        limit: Offset,
        segments_max: usize,
    ) -> Result<Vec<Removed>, LogError> {
        self.check_failed()?;
        let mut removed = Vec::new();
        let mut size = self.size_bytes();
        while let Some(first) = self.sealed.front() {
            if removed.len() == segments_max || !self.may_go(first, now, limit, size) {
                break;
            }
            size -= first.file_bytes();
            removed.extend(self.remove_first()?);
        }
        self.retry_seals();
        self.pump().map_err(|error| self.fail(error))?;
        self.refresh_mark()?;
        Ok(removed)
    }

    /// Whether [`PartitionLog::apply_retention`] would remove the newest segment that carries the
    /// producers' state for good, or any while none does: an opening after a power cut would know
    /// only the producers that wrote since. A segment that recovery sealed carries none, and the
    /// newest whose seal it found counts once [`PartitionLog::secure_producers`] has synced it.
    /// Where that does not help the owner rolls and waits for the seal; without a record to roll,
    /// retention waits for one.
    #[must_use]
    pub fn would_forget_producers(&self, now: TimestampMs, limit: Offset) -> bool {
        let mut size = self.size_bytes();
        let unproven = self.unproven.as_ref().map(FoundSeal::base);
        let carrier = self.snapshot.filter(|carrier| Some(*carrier) != unproven);
        for segment in &self.sealed {
            if !self.may_go(segment, now, limit, size) {
                return false;
            }
            if carrier.is_none_or(|carrier| segment.file.base() >= carrier) {
                return true;
            }
            size -= segment.file_bytes();
        }
        false
    }

    /// Submits the sync of the newest state of the producers, if only a seal that recovery found
    /// has it, which a power cut could still take. False when there is none: then only a roll
    /// brings a newer state.
    ///
    /// # Errors
    /// [`LogError`], latched.
    pub fn secure_producers(&mut self) -> Result<bool, LogError> {
        self.check_failed()?;
        let unproven = self.unproven.as_ref().map(FoundSeal::base);
        if unproven.is_none() || unproven != self.snapshot {
            return Ok(false);
        }
        self.prove_seals().map(|_| true).map_err(|error| self.fail(error))
    }

    fn may_go(&self, segment: &Sealed, now: TimestampMs, limit: Offset, size: u64) -> bool {
        let allowed = segment.end <= limit && segment.end < self.durable_end();
        allowed && self.is_due(segment, now, size)
    }

    fn is_due(&self, segment: &Sealed, now: TimestampMs, size: u64) -> bool {
        let newest = segment.times.newest();
        let too_old = self.config.retention_ms.is_some_and(|kept| now.since_ms(newest) > kept);
        // As in Kafka, the log keeps at least the configured size.
        let too_large =
            self.config.retention_bytes.is_some_and(|kept| size - segment.file_bytes() >= kept);
        too_old || too_large
    }

    /// Each removal is durable before the next begins, so that a power cut cannot leave a gap.
    fn remove_first(&mut self) -> Result<Option<Removed>, LogError> {
        let Some(first) = self.sealed.pop_front() else { return Ok(None) };
        self.shared.forget(self.number, first.file.base());
        self.unproven.take_if(|found| found.base() == first.file.base());
        self.start = first.end;
        self.epochs.trim_start(self.start);
        let gone = SegmentFile::remove(&first.file).and_then(|()| self.io.disk.sync_dir(&self.dir));
        gone.map_err(|error| self.fail(error))?;
        let (base, end, bytes) = (first.file.base(), first.end, first.file_bytes());
        Ok(Some(Removed { base, end, bytes, _file: first.file }))
    }
}
