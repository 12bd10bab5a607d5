//! The demo's second half: once everything is archived, the broker's local copies go and all is
//! read again; then a broker that has nothing but a copy of the archive brings the topic back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use millstream_client::{AlterTopic, ArchiveStatus, Client};
use millstream_env::clock::{Clock as _, SystemClock};
use serde::Serialize;

use super::compare::Side;
use super::{TOPIC, connection, read_back};
use crate::connect::connect;
use crate::own_broker::{Options, OwnBroker};
use crate::values::as_f64;

/// How long archiving may take beyond the topic's `archive.lag.max.ms`.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(60);
/// How long the local copies may take to go. The demo's broker looks every [`MAINTENANCE`].
const DROPPED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often the demo's broker applies retention: nobody should have to watch it do nothing.
pub(super) const MAINTENANCE: Duration = Duration::from_millis(500);

/// What the archive holds, and what came back from it.
#[derive(Serialize, Debug)]
pub(super) struct Archived {
    pub(super) objects: u64,
    pub(super) log_bytes: u64,
    pub(super) parquet_bytes: u64,
    pub(super) local: Local,
    /// Through the same broker, once its local copies were gone.
    pub(super) replayed: Reading,
    /// Through another, which had nothing but the archive.
    pub(super) restored: Reading,
    /// The objects, as a glob.
    pub(super) parquet: String,
}

/// What was on the broker's own disk before and after its local copies went.
#[derive(Clone, Copy, Serialize, Debug)]
pub(super) struct Local {
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    /// How many records the archive alone has.
    pub(super) records_gone: u64,
}

/// All records, read once.
#[derive(Serialize, Debug)]
pub(super) struct Reading {
    pub(super) records: u64,
    pub(super) seconds: f64,
    pub(super) mb_per_second: f64,
    pub(super) checksum: String,
}

impl Reading {
    /// `bytes` are those of all keys and values.
    pub(super) fn new(read: &Side, seconds: f64, bytes: u64) -> Self {
        Self {
            records: read.records(),
            seconds,
            mb_per_second: as_f64(bytes) / seconds / 1e6,
            checksum: read.checksum(),
        }
    }
}

/// Where the demo's broker keeps its archive.
pub(super) fn location(dir: &Path) -> PathBuf {
    dir.join("archive")
}

/// Waits until every record is in the archive.
pub(super) async fn wait(client: &Client) -> Result<ArchiveStatus> {
    let topic = [TOPIC.to_owned()];
    let clock = SystemClock::new();
    loop {
        let status = client.admin().archive_status(Some(&topic)).await?;
        let whole = status.partitions.iter().all(|it| it.end == it.high_watermark);
        if whole && !status.partitions.is_empty() {
            return Ok(status);
        }
        if clock.monotonic() > ARCHIVED_WITHIN {
            let errors = status.partitions.iter().filter_map(|it| it.error.clone());
            let error = status.store_error.into_iter().chain(errors).next();
            bail!("the records were not archived in time: {}", error.unwrap_or_default());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Has every archived segment go from the broker's disk, and waits until it has. The newest segment
/// of each partition stays: it is the one that the next record goes to, or after.
pub(super) async fn drop_local(client: &Client) -> Result<Local> {
    let admin = client.admin();
    let (before, _) = local(client).await?;
    let mut forget = AlterTopic::default();
    forget.configs.insert("local.retention.ms".to_owned(), Some("0".to_owned()));
    admin.alter_topic(TOPIC, forget).await?;
    let clock = SystemClock::new();
    loop {
        let (bytes, segments) = local(client).await?;
        if segments <= 1 {
            let status = admin.archive_status(Some(&[TOPIC.to_owned()])).await?;
            let starts = status.partitions.iter().map(|it| it.local_start);
            let records_gone = starts.filter_map(|start| u64::try_from(start).ok()).sum();
            return Ok(Local { bytes_before: before, bytes_after: bytes, records_gone });
        }
        if clock.monotonic() > DROPPED_WITHIN {
            bail!(
                "local.retention.ms=0 was set, but after {} s archived segments are still on the \
                 broker's disk: {bytes} bytes, up to {segments} segments a partition",
                DROPPED_WITHIN.as_secs()
            );
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The bytes of the topic on the broker's disk, and the segments of the partition that has most.
async fn local(client: &Client) -> Result<(u64, u32)> {
    let topics = client.admin().describe_topics([TOPIC]).await?;
    let topic = topics.first().context("the topic is gone")?;
    if let Some(error) = topic.partitions.iter().find_map(|it| it.error) {
        bail!("a partition does not say what it holds: {error}");
    }
    let bytes = topic.partitions.iter().map(|it| it.size_bytes).sum();
    Ok((bytes, topic.partitions.iter().map(|it| it.segments).max().unwrap_or(0)))
}

/// Restores the topic on an empty broker from a copy of the archive in `dir`, and reads all of it;
/// returns what it saw, and how long reading took.
pub(super) async fn restore(dir: &Path, expected: usize) -> Result<(Side, f64)> {
    let empty = tempfile::Builder::new().prefix("millstream-demo-").tempdir();
    let empty = empty.context("cannot make a temporary directory")?;
    let archive = location(dir);
    // A copy: who restores a topic takes its archive over, and the first broker goes on with its
    // own.
    let copy = empty.path().join("archive");
    copy_folder(&archive, &copy).with_context(|| format!("cannot copy {}", archive.display()))?;
    let options =
        Options { dir: empty.path().join("restored"), archive: Some(copy), ..Options::default() };
    let broker = OwnBroker::start(&options).await?;
    let client = connect(&connection(&broker.ready)).await?;
    client.admin().restore_topic(TOPIC, None).await?;
    let clock = SystemClock::new();
    let (read, _) = read_back(&client, expected, "reading what was restored").await?;
    let seconds = clock.monotonic().as_secs_f64();
    client.close().await;
    broker.stop().await?;
    Ok((read, seconds))
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
