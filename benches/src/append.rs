//! The ceiling of an append: 1 MiB at a time into preallocated files, one thread, as the log lays
//! its segments out.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use millstream_cli::Usage;
use millstream_env::clock::{Clock as _, SystemClock};
use rustix::fs::FallocateFlags;
use serde::Serialize;

const BATCH_BYTES: usize = 1024 * 1024;
const SEGMENT_BYTES: u64 = 128 * 1024 * 1024;

/// What one run of appends did.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Append {
    /// Whether each append was followed by fdatasync.
    pub synced: bool,
    /// Millions of bytes a second.
    pub mb_per_second: f64,
    /// Processor seconds for each 10^9 bytes.
    pub cpu_seconds_per_gb: f64,
}

/// Appends `bytes` to files below `dir`, which are removed afterwards.
///
/// # Errors
/// The disk refuses.
pub fn run(dir: &Path, bytes: u64, synced: bool) -> Result<Append> {
    let dir = tempfile::tempdir_in(dir).context("cannot make a temporary directory")?;
    let batch = vec![0x5a_u8; BATCH_BYTES];
    let began = Usage::own().unwrap_or_default();
    let clock = SystemClock::new();
    let mut written = 0;
    while written < bytes {
        let segment = preallocated(&dir.path().join(format!("{written}.seg")))?;
        let mut at = 0;
        while at < SEGMENT_BYTES && written < bytes {
            segment.write_all_at(&batch, at).context("cannot append")?;
            if synced {
                segment.sync_data().context("cannot sync")?;
            }
            at += BATCH_BYTES as u64;
            written += BATCH_BYTES as u64;
        }
    }
    let seconds = clock.monotonic().as_secs_f64();
    let cpu = Usage::own().unwrap_or_default().cpu_seconds - began.cpu_seconds;
    let gigabytes = crate::quic::gigabytes(written);
    Ok(Append {
        synced,
        mb_per_second: gigabytes * 1000.0 / seconds,
        cpu_seconds_per_gb: cpu / gigabytes,
    })
}

fn preallocated(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SEGMENT_BYTES)
        .context("cannot preallocate")?;
    Ok(file)
}
