//! `millstream archive verify`: every range of archived partitions, one after another.

use anyhow::{Context as _, Error, Result};
use millstream_client::{Admin, AdminError, ArchivedPartition, ErrorCode, VerifiedRange};
use serde::Serialize;

use super::{TURN_IT_ON, filter, not_archived, offsets};
use crate::args::ArchiveVerifyArgs;
use crate::connect::connect;
use crate::failure::advised;
use crate::output::{Align, Out, Progress, Table, note};
use crate::values::{counted, human_bytes, human_count};

const PUT_IT_BACK: &str = "put each of these objects back under its name, from a copy of the store \
                           or an older version in the bucket, and verify again; until then reads \
                           of its offsets fail, unless the broker's own disk has them: it keeps \
                           what it has with `millstream topic alter TOPIC --config \
                           local.retention.ms=-1`";
const CHECK_AGAIN: &str = "`millstream archive status` says whether the store can be used; then \
                           verify again, with a longer --timeout if it is slow";

/// What was found in one partition.
#[derive(Serialize, Debug)]
struct Verified {
    topic: String,
    id: String,
    partition: u32,
    start_offset: i64,
    end_offset: i64,
    ranges: u64,
    records: u64,
    object_bytes: u64,
    /// Of them, those that the broker's log still had and that were compared with it.
    compared_records: u64,
    faults: Vec<Fault>,
    /// Why the rest of the partition could not be checked.
    error: Option<String>,
}

/// One object that is not as it was made.
#[derive(Serialize, Debug)]
struct Fault {
    /// Null where what names the objects is at fault.
    object: Option<String>,
    fault: String,
}

impl Verified {
    fn new(status: &ArchivedPartition) -> Self {
        Self {
            topic: status.topic.clone(),
            id: status.topic_id.to_string(),
            partition: status.partition,
            start_offset: status.start,
            end_offset: status.end,
            ranges: 0,
            records: 0,
            object_bytes: 0,
            compared_records: 0,
            faults: Vec::new(),
            error: None,
        }
    }

    /// Counts a range; returns where the next one begins, if there is one before the end.
    fn add(&mut self, range: VerifiedRange) -> Option<i64> {
        self.ranges += u64::from(range.object.is_some());
        self.records += range.records;
        self.object_bytes += range.object_bytes;
        self.compared_records += range.compared;
        let object = range.object;
        self.faults.extend(range.fault.map(|fault| Fault { object, fault }));
        range.next.filter(|next| *next < self.end_offset)
    }
}

pub(super) async fn run(args: ArchiveVerifyArgs) -> Result<()> {
    let client = connect(&args.connection).await?;
    let admin = client.admin();
    let status = admin.archive_status(filter(&args.topics)).await?;
    if let Some(error) = status.store_error {
        return Err(advised(
            format!("the archive's store {} cannot be used: {error}", status.store),
            "see that it is there and that the broker may read and write it; the broker's log \
             says more",
        ));
    }
    if let Some(error) = not_archived(&args.topics, &status.partitions) {
        return Err(error);
    }
    let mut rows = Vec::with_capacity(status.partitions.len());
    let ended = verify_all(&admin, &status.partitions, &mut rows).await;
    client.close().await;

    let mut out = Out::new(&args.output);
    if rows.is_empty() && ended.is_ok() {
        note(&format!("no topic is archived; {TURN_IT_ON}"));
    }
    if out.is_json() {
        out.rows(&rows, table)?;
    } else if !rows.is_empty() {
        out.text(&text(&rows))?;
    }
    out.flush()?;
    ended?;
    verdict(&rows).map_or(Ok(()), Err)
}

/// Checks partition after partition, until nothing more can be: then the rows tell of those before.
async fn verify_all(
    admin: &Admin,
    partitions: &[ArchivedPartition],
    rows: &mut Vec<Verified>,
) -> Result<()> {
    let total = partitions.iter().map(|status| status.end.abs_diff(status.start)).sum();
    let progress = Progress::new(Some(total), "verifying");
    let mut done = 0;
    for status in partitions {
        let mut row = Verified::new(status);
        let mut next = Some(status.start).filter(|start| *start < status.end);
        while let Some(from) = next {
            progress.set(done + from.abs_diff(status.start));
            next = match admin.verify_archive(&status.topic, status.partition, from).await {
                Ok(range) => row.add(range),
                Err(error) if concerns_one_partition(&error) => {
                    row.error = Some(error.to_string());
                    None
                }
                Err(error) => {
                    let (topic, partition) = (&status.topic, status.partition);
                    return Err(error).with_context(|| {
                        format!("cannot go on at topic {topic}, partition {partition}, {from}")
                    });
                }
            };
        }
        done += status.end.abs_diff(status.start);
        rows.push(row);
    }
    Ok(())
}

/// Whether the next partition may fare better.
fn concerns_one_partition(error: &AdminError) -> bool {
    match error {
        AdminError::Service { code, .. } => *code != ErrorCode::Unavailable,
        AdminError::TimedOut => true,
        AdminError::Unreachable { .. } | AdminError::Protocol { .. } => false,
    }
}

/// What is wrong, if anything is.
fn verdict(rows: &[Verified]) -> Option<Error> {
    let ranges: u64 = rows.iter().map(|row| row.ranges).sum();
    let faults: u64 = rows.iter().map(|row| row.faults.len() as u64).sum();
    let unchecked = rows.iter().filter(|row| row.error.is_some()).count() as u64;
    let unchecked = format!("{} could not be checked", counted(unchecked, "partition"));
    match (faults, rows.iter().any(|row| row.error.is_some())) {
        (0, false) => None,
        (0, true) => Some(advised(unchecked, CHECK_AGAIN)),
        (_, others) => {
            let mut message = format!("{} in {}", counted(faults, "fault"), archived(ranges));
            if others {
                message.push_str(&format!("; {unchecked}"));
            }
            Some(advised(message, PUT_IT_BACK))
        }
    }
}

fn archived(ranges: u64) -> String {
    counted(ranges, "archived range")
}

fn text(rows: &[Verified]) -> String {
    let mut text = table(rows).to_string();
    for row in rows {
        let place = format!("topic {}, partition {}", row.topic, row.partition);
        for Fault { object, fault } in &row.faults {
            match object {
                // Most faults name their object in full.
                Some(object) if !fault.contains(object) => {
                    text.push_str(&format!("\n{place}, {object}: {fault}"));
                }
                Some(_) | None => text.push_str(&format!("\n{place}: {fault}")),
            }
        }
        if let Some(error) = &row.error {
            text.push_str(&format!("\n{place} could not be checked: {error}"));
        }
    }
    if verdict(rows).is_none() {
        let sum = |number: fn(&Verified) -> u64| rows.iter().map(number).sum();
        text.push_str(&format!(
            "\nverified: {}, {}, {}; {} compared with the log",
            archived(sum(|row| row.ranges)),
            counted(sum(|row| row.records), "record"),
            human_bytes(sum(|row| row.object_bytes)),
            counted(sum(|row| row.compared_records), "record"),
        ));
    }
    text.push('\n');
    text
}

fn table(rows: &[Verified]) -> Table {
    let mut table = Table::new(&[
        ("topic", Align::Left),
        ("partition", Align::Right),
        ("archived", Align::Right),
        ("ranges", Align::Right),
        ("records", Align::Right),
        ("parquet", Align::Right),
        ("compared", Align::Right),
        ("faults", Align::Right),
    ]);
    for row in rows {
        table.row([
            row.topic.clone(),
            row.partition.to_string(),
            offsets(row.start_offset, row.end_offset),
            human_count(row.ranges),
            human_count(row.records),
            human_bytes(row.object_bytes),
            human_count(row.compared_records),
            if row.error.is_some() { "?".to_owned() } else { row.faults.len().to_string() },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::archived_partition;

    fn range(object: &str, next: Option<i64>, fault: Option<&str>) -> VerifiedRange {
        VerifiedRange {
            object: Some(object.to_owned()),
            records: 30_000,
            object_bytes: 10 << 20,
            compared: 500,
            fault: fault.map(str::to_owned),
            next,
        }
    }

    fn good() -> Verified {
        let mut row = Verified::new(&archived_partition("orders", 0));
        assert_eq!(row.add(range("0-30000.parquet", Some(30_000), None)), Some(30_000));
        // What came into the archive since is not waited for.
        assert_eq!(row.add(range("30000-120000.parquet", Some(120_000), None)), None);
        row
    }

    fn damaged() -> Verified {
        let mut row = Verified::new(&archived_partition("orders", 1));
        row.add(range("0-30000.parquet", None, Some("row group 2 fails its CRC-32C")));
        row
    }

    #[test]
    fn an_archive_without_faults_is_said_to_be_verified() {
        let rows = [good()];
        assert!(verdict(&rows).is_none());
        insta::assert_snapshot!("archive-verify", text(&rows));
    }

    #[test]
    fn faults_are_listed_with_their_objects() {
        let mut unchecked = Verified::new(&archived_partition("payments", 0));
        unchecked.error = Some("internal: the log cannot be read".to_owned());
        let rows = [good(), damaged(), unchecked];
        let verdict = verdict(&rows).map(|error| error.to_string());
        let expected = "1 fault in 3 archived ranges; 1 partition could not be checked";
        assert_eq!(verdict.as_deref(), Some(expected));
        insta::assert_snapshot!("archive-verify-faults", text(&rows));
    }

    #[test]
    fn names_in_json_stay() {
        let line = serde_json::to_string(&damaged()).unwrap();
        insta::assert_snapshot!("archive-verify-json", line);
    }

    #[test]
    fn a_store_that_is_away_ends_the_check() {
        let service = |code| AdminError::Service { code, message: String::new() };
        assert!(!concerns_one_partition(&service(ErrorCode::Unavailable)));
        assert!(concerns_one_partition(&service(ErrorCode::UnknownTopic)));
        assert!(concerns_one_partition(&AdminError::TimedOut));
    }
}
