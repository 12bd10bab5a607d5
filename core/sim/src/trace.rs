//! What happened, line by line, and a digest of it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_env::disk::{Completions, Disk, DiskResult, FileId, OpToken, OpenMode};

/// FNV-1a (RFC draft-eastlake-fnv), 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The events of a run in order. Two runs of one seed have equal traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    text: String,
    digest: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { text: String::new(), digest: FNV_OFFSET }
    }
}

impl Trace {
    /// Every event, one a line.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A digest of all events, and of the disk's files once the run is over.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, step: u64, event: std::fmt::Arguments<'_>) {
        let from = self.text.len();
        // Writing to a string does not fail.
        let _infallible = writeln!(self.text, "{step:>6} {event}");
        let line = self.text.get(from..).unwrap_or_default();
        self.digest = fnv(self.digest, line.as_bytes());
    }

    /// Notes every file of the disk with its length and a digest of its bytes.
    pub(crate) fn note_disk(&mut self, step: u64, disk: &dyn Disk) -> DiskResult<()> {
        let mut dirs = vec![PathBuf::new()];
        while let Some(dir) = dirs.pop() {
            for entry in disk.list(&dir)? {
                let path = dir.join(&entry.name);
                if entry.is_dir {
                    dirs.push(path);
                } else {
                    let bytes = read_file(disk, &path)?;
                    let (len, sum) = (bytes.len(), fnv(FNV_OFFSET, &bytes));
                    self.note(step, format_args!("file {} {len} {sum:016x}", path.display()));
                }
            }
        }
        Ok(())
    }
}

/// For a file that is only read.
#[derive(Debug)]
struct NoCompletions;

impl Completions for NoCompletions {
    fn complete(&self, _: FileId, _: OpToken, _: DiskResult<()>) {}
}

fn read_file(disk: &dyn Disk, path: &Path) -> DiskResult<bytes::Bytes> {
    let file = disk.open(path, OpenMode::Existing, Arc::new(NoCompletions))?;
    let len = usize::try_from(disk.len(file)?).unwrap_or(usize::MAX);
    let bytes = disk.read_at(file, 0, len);
    disk.close(file);
    bytes
}

fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_fnv_1a() {
        assert_eq!(fnv(FNV_OFFSET, b"foobar"), 0x8594_4171_f739_67e8);
    }
}
