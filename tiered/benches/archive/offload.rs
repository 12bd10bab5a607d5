//! A broker's offload in a process of its own, for its memory; and cold reads of what it left.

use std::fs::OpenOptions;
use std::io::BufReader;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use millstream_tiered::{
    ArchiveReader, Encoder, PartitionArchive, RangeEnd, ReadCache, Store, StoreCounters,
};
use millstream_types::Offset;
use millstream_wire::Batch;
use millstream_wire::batch::peek_total_bytes;

use crate::codec::identity;
use crate::data::{BATCH_BYTES, RANGE_BYTES, Rng};

/// The first argument of the process that offloads.
const OFFLOAD: &str = "offload";
/// Bytes of the log that are read at once.
const READ_BYTES: usize = 1024 * 1024;
/// Enough of a batch to tell its length.
const PREFIX_BYTES: usize = 12;
const FETCHES: u64 = 400;
/// Bytes of batches that a fetch wants.
const FETCH_BYTES: usize = 1024 * 1024;

/// What the mean cold fetch took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch {
    pub(crate) requests: f64,
    pub(crate) read_bytes: f64,
}

/// Offloads `log` into an archive at `dir`, in another process. Returns by how many bytes its
/// memory grew at most.
pub(crate) fn run(log: &Path, dir: &Path) -> Result<u64> {
    let executable = std::env::current_exe().context("cannot find this executable")?;
    let mut command = Command::new(executable);
    command.arg(OFFLOAD).args([log, dir]).stderr(Stdio::inherit());
    let output = command.output().context("cannot start the process that offloads")?;
    anyhow::ensure!(output.status.success(), "the process that offloads failed");
    String::from_utf8(output.stdout)?.trim().parse().context("the process that offloads")
}

/// Does what [`run`] wants where this is that process; returns what to print then.
pub(crate) fn if_asked(arguments: &[String]) -> Result<Option<u64>> {
    let [asked, log, dir] = arguments else { return Ok(None) };
    if asked != OFFLOAD {
        return Ok(None);
    }
    let began = resident_bytes_max()?;
    runtime()?.block_on(offload(Path::new(log), Path::new(dir)))?;
    Ok(Some(resident_bytes_max()?.saturating_sub(began)))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")
}

/// One range after another, with no more of the log in memory than a range takes from it.
async fn offload(log: &Path, dir: &Path) -> Result<()> {
    let mut archive = PartitionArchive::open(Store::directory(dir)?, identity(), None).await?;
    let log = OpenOptions::new().read(true).open(log).context("cannot open the log")?;
    let mut log = BufReader::with_capacity(READ_BYTES, log);
    let mut batch = next_batch(&mut log)?;
    for attempt in 0.. {
        let Some(first) = &batch else { break };
        let mut encoder = Encoder::new(identity(), first.header().base_offset)?;
        while let Some(next) = &batch
            && encoder.log_bytes() < RANGE_BYTES as u64
        {
            encoder.push(next)?;
            batch = next_batch(&mut log)?;
        }
        let object = encoder.finish(&RangeEnd::default())?;
        archive.append(object.summary.leader_epoch, &object, attempt).await?;
    }
    Ok(())
}

fn next_batch(log: &mut impl std::io::Read) -> Result<Option<Batch>> {
    let mut bytes = BytesMut::zeroed(PREFIX_BYTES);
    if log.read(&mut bytes[..1])? == 0 {
        return Ok(None);
    }
    log.read_exact(&mut bytes[1..])?;
    let total = peek_total_bytes(&bytes).context("no batch")?;
    bytes.resize(total, 0);
    log.read_exact(&mut bytes[PREFIX_BYTES..])?;
    Ok(Some(Batch::validate(bytes.freeze())?))
}

/// The most memory that was ever resident in this process.
fn resident_bytes_max() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).context("no VmHWM")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// Fetches from random offsets of the archive at `dir`: the footers are known, and no row group.
pub(crate) fn fetch(dir: &Path) -> Result<Fetch> {
    runtime()?.block_on(async {
        let store = Store::directory(dir)?;
        let archive = PartitionArchive::open(store.clone(), identity(), None).await?;
        let head = archive.head().context("nothing was archived")?;
        // It keeps footers, and nothing else.
        let cache = ReadCache::new(store.clone(), 0);
        let mut reader = archive.reader(&cache);
        for entry in archive.entries() {
            reader.read(Offset::new(entry.base).context("a base")?, 1).await?;
        }
        let before = store.counters();
        let mut rng = Rng::new(11);
        for _ in 0..FETCHES {
            let at = rng.below(head.end.unsigned_abs());
            let at = Offset::new(i64::try_from(at)?).context("an offset")?;
            fetch_one(&mut reader.fork(), at, head.end).await?;
        }
        Ok(mean(before, store.counters()))
    })
}

/// Reads on until no further batch may fit. All that the reader asks for counts.
async fn fetch_one(reader: &mut ArchiveReader, mut at: Offset, end: i64) -> Result<()> {
    let mut left = FETCH_BYTES;
    while left >= BATCH_BYTES && at.value() < end {
        let replayed = reader.read(at, left).await?;
        at = replayed.next;
        left = left.saturating_sub(replayed.batches.iter().map(Bytes::len).sum());
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn mean(before: StoreCounters, after: StoreCounters) -> Fetch {
    let per_fetch = |before: u64, after: u64| (after - before) as f64 / FETCHES as f64;
    Fetch {
        requests: per_fetch(before.requests, after.requests),
        read_bytes: per_fetch(before.read_bytes, after.read_bytes),
    }
}
