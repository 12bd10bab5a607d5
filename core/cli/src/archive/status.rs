//! `millstream archive status`: the store, and how far each partition is archived in it.

use std::collections::BTreeSet;

use anyhow::Result;
use millstream_client::{ArchiveStatus, ArchivedPartition};
use serde::Serialize;

use super::{TURN_IT_ON, filter, not_archived, offsets};
use crate::args::ArchiveStatusArgs;
use crate::connect::connect;
use crate::output::{Align, Out, Table, note};
use crate::values::{as_f64, counted, human_bytes, human_count, human_duration};

/// The store, and what all partitions come to.
#[derive(Serialize, Debug)]
struct Store {
    store: String,
    /// Null while it can be used.
    store_error: Option<String>,
    topics: u64,
    partitions: u64,
    /// Offsets in the archive.
    records: u64,
    backlog_bytes: u64,
    /// Of the partition where something has waited longest.
    waiting_ms: u64,
    objects: u64,
    object_bytes: u64,
    log_bytes: u64,
    /// Bytes of objects for each byte of the log; null while there are none.
    ratio: Option<f64>,
}

#[derive(Serialize, Debug)]
struct PartitionRow {
    topic: String,
    id: String,
    partition: u32,
    start_offset: i64,
    end_offset: i64,
    local_start_offset: i64,
    high_watermark: i64,
    backlog_bytes: u64,
    waiting_ms: u64,
    objects: u64,
    object_bytes: u64,
    log_bytes: u64,
    ratio: Option<f64>,
    error: Option<String>,
}

pub(super) async fn run(args: ArchiveStatusArgs) -> Result<()> {
    let client = connect(&args.connection).await?;
    let status = client.admin().archive_status(filter(&args.topics)).await?;
    client.close().await;

    if let Some(error) = not_archived(&args.topics, &status.partitions) {
        note(&format!("{error}; {TURN_IT_ON}"));
    } else if status.partitions.is_empty() {
        note(&format!("no topic is archived; {TURN_IT_ON}"));
    }
    let (store, rows) = described(status);
    let mut out = Out::new(&args.output);
    if out.is_json() {
        out.json(&store)?;
        out.rows(&rows, table)?;
    } else {
        out.text(&text(&store, &rows))?;
    }
    out.flush()
}

fn described(status: ArchiveStatus) -> (Store, Vec<PartitionRow>) {
    let partitions = &status.partitions;
    let sum = |number: fn(&ArchivedPartition) -> u64| partitions.iter().map(number).sum();
    let topics: BTreeSet<&str> = partitions.iter().map(|row| row.topic.as_str()).collect();
    let (object_bytes, log_bytes) = (sum(|row| row.object_bytes), sum(|row| row.log_bytes));
    let store = Store {
        store: status.store,
        store_error: status.store_error,
        topics: topics.len() as u64,
        partitions: partitions.len() as u64,
        records: sum(|row| row.end.abs_diff(row.start)),
        backlog_bytes: sum(|row| row.backlog_bytes),
        waiting_ms: partitions.iter().map(|row| row.waiting_ms).max().unwrap_or(0),
        objects: sum(|row| row.objects),
        object_bytes,
        log_bytes,
        ratio: ratio(object_bytes, log_bytes),
    };
    (store, status.partitions.into_iter().map(partition_row).collect())
}

fn partition_row(status: ArchivedPartition) -> PartitionRow {
    PartitionRow {
        topic: status.topic,
        id: status.topic_id.to_string(),
        partition: status.partition,
        start_offset: status.start,
        end_offset: status.end,
        local_start_offset: status.local_start,
        high_watermark: status.high_watermark,
        backlog_bytes: status.backlog_bytes,
        waiting_ms: status.waiting_ms,
        objects: status.objects,
        object_bytes: status.object_bytes,
        log_bytes: status.log_bytes,
        ratio: ratio(status.object_bytes, status.log_bytes),
        error: status.error,
    }
}

fn ratio(object_bytes: u64, log_bytes: u64) -> Option<f64> {
    (log_bytes > 0).then(|| as_f64(object_bytes) / as_f64(log_bytes))
}

/// How much of the log's bytes the objects have.
fn percent(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{:.0} %", ratio * 100.0))
}

fn waiting(waiting_ms: u64) -> String {
    if waiting_ms == 0 { "-".to_owned() } else { human_duration(waiting_ms) }
}

fn text(store: &Store, rows: &[PartitionRow]) -> String {
    let mut text = format!("store {}\n", store.store);
    if let Some(error) = &store.store_error {
        text.push_str(&format!("store error: {error}\n"));
    }
    if rows.is_empty() {
        return text;
    }
    let longest = match store.waiting_ms {
        0 => String::new(),
        waiting_ms => format!(", for up to {}", human_duration(waiting_ms)),
    };
    text + &format!(
        "\n{}\n{} of {}: {} in {}, {} of Parquet for {} of log ({}); {} waiting{longest}\n",
        table(rows),
        counted(store.partitions, "partition"),
        counted(store.topics, "topic"),
        counted(store.records, "record"),
        counted(store.objects, "object"),
        human_bytes(store.object_bytes),
        human_bytes(store.log_bytes),
        percent(store.ratio),
        human_bytes(store.backlog_bytes),
    )
}

fn table(rows: &[PartitionRow]) -> Table {
    let mut columns = vec![
        ("topic", Align::Left),
        ("partition", Align::Right),
        ("archived", Align::Right),
        ("local start", Align::Right),
        ("high watermark", Align::Right),
        ("backlog", Align::Right),
        ("waiting", Align::Right),
        ("objects", Align::Right),
        ("parquet", Align::Right),
        ("log", Align::Right),
        ("ratio", Align::Right),
    ];
    if rows.iter().any(|row| row.error.is_some()) {
        columns.push(("last error", Align::Left));
    }
    let mut table = Table::new(&columns);
    for row in rows {
        table.row([
            row.topic.clone(),
            row.partition.to_string(),
            offsets(row.start_offset, row.end_offset),
            row.local_start_offset.to_string(),
            row.high_watermark.to_string(),
            human_bytes(row.backlog_bytes),
            waiting(row.waiting_ms),
            human_count(row.objects),
            human_bytes(row.object_bytes),
            human_bytes(row.log_bytes),
            percent(row.ratio),
            row.error.clone().unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::archived_partition;

    fn status() -> ArchiveStatus {
        let error = Some("503 Service Unavailable: slow down".to_owned());
        let failed = ArchivedPartition { error: error.clone(), ..archived_partition("orders", 1) };
        let fresh = ArchivedPartition {
            end: 0,
            local_start: 0,
            high_watermark: 0,
            backlog_bytes: 0,
            waiting_ms: 0,
            objects: 0,
            object_bytes: 0,
            log_bytes: 0,
            ..archived_partition("payments", 0)
        };
        ArchiveStatus {
            store: "s3://records/prod".to_owned(),
            store_error: error,
            partitions: vec![archived_partition("orders", 0), failed, fresh],
        }
    }

    #[test]
    fn every_partition_has_a_row_below_the_store() {
        let (store, rows) = described(status());
        insta::assert_snapshot!("archive-status", text(&store, &rows));
    }

    #[test]
    fn an_archive_without_errors_has_no_column_for_them() {
        let partitions = vec![archived_partition("orders", 0)];
        let status = ArchiveStatus { store_error: None, partitions, ..status() };
        let (store, rows) = described(status);
        insta::assert_snapshot!("archive-status-without-errors", text(&store, &rows));
    }

    #[test]
    fn names_in_json_stay() {
        let (store, rows) = described(status());
        let lines = [serde_json::to_string(&store), serde_json::to_string(&rows[1])];
        insta::assert_snapshot!("archive-status-json", lines.map(Result::unwrap).join("\n"));
    }
}
