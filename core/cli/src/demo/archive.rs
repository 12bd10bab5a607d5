//! The demo's second half: once everything is archived, a broker that has nothing but a copy of the
//! archive brings the topic back and replays it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use millstream_client::{ArchiveStatus, Client};
use millstream_env::clock::{Clock as _, SystemClock};
use serde::Serialize;

use super::compare::Side;
use super::{TOPIC, connection, read_back};
use crate::connect::connect;
use crate::own_broker::{Options, OwnBroker};
use crate::values::as_f64;

/// How long archiving may take beyond the topic's `archive.lag.max.ms`.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What the archive holds, and what came back from it alone.
#[derive(Serialize, Debug)]
pub(super) struct Archived {
    pub(super) objects: u64,
    pub(super) log_bytes: u64,
    pub(super) parquet_bytes: u64,
    pub(super) records_replayed: u64,
    pub(super) seconds_replay: f64,
    pub(super) mb_per_second_replay: f64,
    pub(super) checksum_replay: String,
    /// The objects, as a glob.
    pub(super) parquet: String,
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

/// Restores the topic on an empty broker from a copy of the archive in `dir`, and reads all of it;
/// returns what it saw. `bytes` are those of all keys and values.
pub(super) async fn replay(
    dir: &Path,
    status: &ArchiveStatus,
    expected: usize,
    bytes: u64,
) -> Result<(Side, Archived)> {
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
    let (read, _) = read_back(&client, expected, "replaying the archive").await?;
    let seconds = clock.monotonic().as_secs_f64();
    client.close().await;
    broker.stop().await?;
    let archived = Archived {
        objects: status.partitions.iter().map(|it| it.objects).sum(),
        log_bytes: status.partitions.iter().map(|it| it.log_bytes).sum(),
        parquet_bytes: status.partitions.iter().map(|it| it.object_bytes).sum(),
        records_replayed: read.records(),
        seconds_replay: seconds,
        mb_per_second_replay: as_f64(bytes) / seconds / 1e6,
        checksum_replay: read.checksum(),
        parquet: format!("{}/topics/{TOPIC}.*/*/*.parquet", archive.display()),
    };
    Ok((read, archived))
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
