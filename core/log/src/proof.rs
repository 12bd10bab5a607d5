//! The newest seal that an opening found, until it is known to survive a power cut.
//!
//! A process that dies between the write of a seal and its sync leaves a seal that only the page
//! cache has. The next opening takes the segment by it, and rightly so: the batches under it were
//! durable before it was written. But a power cut can still take it, and with it the producers'
//! state in the footer and whatever later footers say, since an opening reads those of the sealed
//! segments up to the first that is not sealed. So no other seal is written before it is synced,
//! and retention does not count on its footer before.
//!
//! A log has at most one such seal, since all before it were synced when it was written. An opening
//! syncs nothing for it, so that a start with many partitions stays fast: the sync comes once, when
//! the next seal or retention needs it.

use std::sync::Arc;

use millstream_env::disk::{Completions, DiskResult, FileId, OpToken, OpenMode};
use millstream_types::Offset;

use crate::file::SegmentFile;
use crate::unsealed::Io;

#[derive(Debug)]
pub(crate) struct FoundSeal {
    file: Arc<SegmentFile>,
    sync: Option<(FileId, OpToken)>,
}

impl FoundSeal {
    pub(crate) fn new(file: &Arc<SegmentFile>) -> Self {
        Self { file: Arc::clone(file), sync: None }
    }

    pub(crate) fn base(&self) -> Offset {
        self.file.base()
    }

    /// Submits its sync, unless that is under way; true when it is durable at once.
    pub(crate) fn prove(
        &mut self,
        io: &mut Io,
        completions: &Arc<dyn Completions>,
    ) -> DiskResult<bool> {
        if self.sync.is_some() {
            return Ok(false);
        }
        let id = self.file.open_as(OpenMode::Existing, Arc::clone(completions))?;
        self.sync = io.sync(id)?.map(|token| (id, token));
        if self.sync.is_none() {
            self.file.release();
        }
        Ok(self.sync.is_none())
    }

    /// Whether that is the completion of its sync.
    pub(crate) fn is_proven_by(&self, file: FileId, token: OpToken) -> bool {
        self.sync == Some((file, token))
    }

    /// Lets go of the file once its sync has completed.
    pub(crate) fn release(self) {
        self.file.release();
    }
}
