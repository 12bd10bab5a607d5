//! `millstream archive restore`: topics that the store holds and the cluster does not.

use std::collections::BTreeSet;

use anyhow::{Error, Result};
use millstream_client::{
    Admin, AdminError, ArchivedTopic, ErrorCode, RestoredPartition, RestoredTopic, TopicId,
};
use serde::Serialize;

use super::offsets;
use crate::args::ArchiveRestoreArgs;
use crate::connect::connect;
use crate::failure::{advised, explain, misused};
use crate::output::{Align, Out, Table, note};
use crate::values::counted;

const NOTHING: &str = "the store holds no topic that the cluster does not have";

/// One topic that could be restored.
#[derive(Serialize, Debug)]
struct Restorable {
    topic: String,
    id: String,
    partitions: u32,
}

/// What became of one topic.
#[derive(Serialize, Debug)]
struct Outcome {
    topic: String,
    id: Option<String>,
    /// `restored`, `exists already` or `failed`.
    result: &'static str,
    /// Offsets that the archive holds.
    records: u64,
    /// The lowest of all partitions.
    start_offset: Option<i64>,
    /// The highest of all partitions.
    end_offset: Option<i64>,
    partitions: Vec<OutcomePartition>,
    error: Option<String>,
}

#[derive(Serialize, Debug)]
struct OutcomePartition {
    partition: u32,
    start_offset: i64,
    end_offset: i64,
    records: u64,
    /// Why it is not open yet; null when it is.
    error: Option<String>,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Choice {
    /// To be restored; without an id the broker says what is wrong.
    Restore(Option<TopicId>),
    /// The cluster has it.
    Exists(TopicId),
    /// The store holds these of that name.
    Ambiguous(Vec<TopicId>),
}

pub(super) async fn run(args: ArchiveRestoreArgs) -> Result<()> {
    if args.id.is_some() && args.topics.len() != 1 {
        return Err(misused("--id is for one topic", "name one topic, and restore others apart"));
    }
    let client = connect(&args.connection).await?;
    let admin = client.admin();
    let stored = admin.archived_topics().await?;
    let mut out = Out::new(&args.output);
    if args.topics.is_empty() && !args.all {
        list(&stored, &mut out)?;
        out.flush()?;
        client.close().await;
        return Err(misused(
            "no topic is named",
            "name those to restore: `millstream archive restore TOPIC...`, or give --all",
        ));
    }
    let names = if args.all { restorable_names(&stored) } else { args.topics };
    if names.is_empty() {
        note(NOTHING);
    }
    let mut failures = Vec::new();
    for name in &names {
        let restored = restore(&admin, name, choose(&stored, name, args.id)).await;
        let failure = match restored {
            Ok(outcome) => {
                out.object(&outcome, outcome_text)?;
                not_open(&outcome)
            }
            Err(error) => {
                if out.is_json() {
                    out.json(&failed(name, &error))?;
                }
                Some(error)
            }
        };
        // Each may take long: whoever waits sees it when it is done.
        out.flush()?;
        let Some(failure) = failure else { continue };
        if names.len() > 1 {
            note(&explain(&failure));
        }
        failures.push(failure);
    }
    client.close().await;
    verdict(failures, names.len())
}

/// The only failure itself, or how many there were where each was told.
fn verdict(mut failures: Vec<Error>, topics: usize) -> Result<()> {
    let failed = failures.len();
    match failures.pop() {
        None => Ok(()),
        Some(failure) if topics == 1 => Err(failure),
        Some(_) => Err(advised(
            format!("{failed} of {topics} topics could not be restored, or not in full"),
            "see above what is wrong with each, then run the same command again: it leaves those \
             that are restored as they are",
        )),
    }
}

fn list(stored: &[ArchivedTopic], out: &mut Out) -> Result<()> {
    let rows: Vec<Restorable> = stored
        .iter()
        .filter(|topic| !topic.exists)
        .map(|topic| Restorable {
            topic: topic.name.clone(),
            id: topic.id.to_string(),
            partitions: topic.partitions,
        })
        .collect();
    if rows.is_empty() && !out.is_json() {
        note(NOTHING);
        return Ok(());
    }
    out.rows(&rows, restorable_table)
}

fn restorable_table(rows: &[Restorable]) -> Table {
    let columns = [("topic", Align::Left), ("partitions", Align::Right), ("id", Align::Left)];
    let mut table = Table::new(&columns);
    for row in rows {
        table.row([row.topic.clone(), row.partitions.to_string(), row.id.clone()]);
    }
    table
}

/// The names of what the cluster does not have, each once.
fn restorable_names(stored: &[ArchivedTopic]) -> Vec<String> {
    let names: BTreeSet<&str> =
        stored.iter().filter(|topic| !topic.exists).map(|topic| topic.name.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}

fn choose(stored: &[ArchivedTopic], name: &str, id: Option<TopicId>) -> Choice {
    let is_meant =
        |topic: &&ArchivedTopic| topic.name == name && id.is_none_or(|id| topic.id == id);
    let (present, missing): (Vec<&ArchivedTopic>, Vec<&ArchivedTopic>) =
        stored.iter().filter(is_meant).partition(|topic| topic.exists);
    match (missing.as_slice(), present.first()) {
        ([], Some(topic)) => Choice::Exists(topic.id),
        ([], None) => Choice::Restore(id),
        ([topic], _) => Choice::Restore(Some(topic.id)),
        (several, _) => Choice::Ambiguous(several.iter().map(|topic| topic.id).collect()),
    }
}

async fn restore(admin: &Admin, name: &str, choice: Choice) -> Result<Outcome> {
    match choice {
        Choice::Restore(id) => match admin.restore_topic(name, id).await {
            Ok(topic) => Ok(restored(name, &topic)),
            Err(error) => Err(refused(name, error)),
        },
        Choice::Exists(id) => {
            Ok(Outcome { id: Some(id.to_string()), ..outcome(name, "exists already") })
        }
        Choice::Ambiguous(ids) => Err(ambiguous(name, &ids)),
    }
}

fn ambiguous(name: &str, ids: &[TopicId]) -> Error {
    let count = ids.len();
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    advised(
        format!("the store holds {count} topics named {name}: {}", ids.join(", ")),
        format!("choose one: `millstream archive restore {name} --id ID`"),
    )
}

/// The broker's refusal, with what to do about it here.
fn refused(name: &str, error: AdminError) -> Error {
    let advice = match error.code() {
        Some(ErrorCode::UnknownTopic) => {
            "`millstream archive restore` lists the topics in the store that can be restored"
                .to_owned()
        }
        Some(ErrorCode::TopicExists) => format!(
            "`millstream topic describe {name}` shows the topic that is in the way; the archived \
             one can be restored once that is deleted"
        ),
        Some(ErrorCode::Unavailable) => {
            "`millstream archive status` says whether the store can be used; then run it again"
                .to_owned()
        }
        _ => return Error::from(error).context(format!("topic {name} was not restored")),
    };
    advised(format!("topic {name} was not restored: {error}"), advice)
}

/// A topic that was restored, but of which some partitions do not serve yet, as an error.
fn not_open(outcome: &Outcome) -> Option<Error> {
    let closed: Vec<&OutcomePartition> =
        outcome.partitions.iter().filter(|partition| partition.error.is_some()).collect();
    let first = closed.first()?;
    Some(advised(
        format!(
            "topic {} is restored, but {} not open yet: partition {}: {}",
            outcome.topic,
            if closed.len() == 1 {
                "1 partition is".to_owned()
            } else {
                format!("{} partitions are", closed.len())
            },
            first.partition,
            first.error.as_deref().unwrap_or_default(),
        ),
        format!(
            "the broker goes on trying; `millstream topic describe {}` shows which are open, \
             `millstream archive status` whether the store can be used",
            outcome.topic
        ),
    ))
}

fn outcome(name: &str, result: &'static str) -> Outcome {
    Outcome {
        topic: name.to_owned(),
        id: None,
        result,
        records: 0,
        start_offset: None,
        end_offset: None,
        partitions: Vec::new(),
        error: None,
    }
}

fn failed(name: &str, error: &Error) -> Outcome {
    Outcome { error: Some(format!("{error:#}")), ..outcome(name, "failed") }
}

fn restored(name: &str, topic: &RestoredTopic) -> Outcome {
    let partition = |partition: &RestoredPartition| OutcomePartition {
        partition: partition.partition,
        start_offset: partition.start,
        end_offset: partition.end,
        records: partition.end.abs_diff(partition.start),
        error: partition.error.map(|code| code.to_string()),
    };
    let partitions: Vec<OutcomePartition> = topic.partitions.iter().map(partition).collect();
    Outcome {
        id: Some(topic.id.to_string()),
        records: partitions.iter().map(|partition| partition.records).sum(),
        start_offset: partitions.iter().map(|partition| partition.start_offset).min(),
        end_offset: partitions.iter().map(|partition| partition.end_offset).max(),
        partitions,
        ..outcome(name, "restored")
    }
}

fn outcome_text(outcome: &Outcome) -> String {
    let Outcome { topic, result, .. } = outcome;
    let (Some(start), Some(end)) = (outcome.start_offset, outcome.end_offset) else {
        return format!("topic {topic} {result}");
    };
    format!(
        "topic {topic} {result}: {}, {}, offsets {}",
        counted(outcome.partitions.len() as u64, "partition"),
        counted(outcome.records, "record"),
        offsets(start, end),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TopicId = TopicId::from_bytes([1; 16]);
    const TWO: TopicId = TopicId::from_bytes([2; 16]);
    const THREE: TopicId = TopicId::from_bytes([3; 16]);

    fn stored() -> Vec<ArchivedTopic> {
        let topic = |name: &str, id, exists| ArchivedTopic {
            name: name.to_owned(),
            id,
            partitions: 3,
            exists,
        };
        vec![
            topic("clicks", ONE, true),
            topic("orders", TWO, false),
            topic("orders", THREE, false),
            topic("payments", ONE, false),
        ]
    }

    #[test]
    fn a_name_stands_for_the_one_topic_that_is_missing() {
        let choice = |name, id| choose(&stored(), name, id);
        assert_eq!(choice("payments", None), Choice::Restore(Some(ONE)));
        assert_eq!(choice("clicks", None), Choice::Exists(ONE));
        assert_eq!(choice("orders", None), Choice::Ambiguous(vec![TWO, THREE]));
        assert_eq!(choice("orders", Some(THREE)), Choice::Restore(Some(THREE)));
        // The broker looks for itself, and says what is wrong.
        assert_eq!(choice("orders", Some(ONE)), Choice::Restore(Some(ONE)));
        assert_eq!(choice("logs", None), Choice::Restore(None));
        assert_eq!(restorable_names(&stored()), ["orders", "payments"]);
    }

    #[test]
    fn refusals_say_what_to_do_next() {
        let error = |code| AdminError::Service { code, message: "in words".to_owned() };
        let exists = explain(&refused("orders", error(ErrorCode::TopicExists)));
        let unknown = explain(&refused("orders", error(ErrorCode::UnknownTopic)));
        let several = explain(&ambiguous("orders", &[TWO, THREE]));
        insta::assert_snapshot!("archive-restore-refused", [exists, unknown, several].join("\n"));
    }

    fn topic(errors: [Option<ErrorCode>; 2]) -> RestoredTopic {
        let partition = |partition, end| RestoredPartition {
            partition,
            error: errors[partition as usize],
            start: 100,
            end,
        };
        RestoredTopic { id: TWO, partitions: vec![partition(0, 5100), partition(1, 12_400)] }
    }

    #[test]
    fn a_restored_topic_is_summed_up() {
        let whole = restored("orders", &topic([None, None]));
        assert!(not_open(&whole).is_none());
        let text = outcome_text(&whole);
        assert_eq!(text, "topic orders restored: 2 partitions, 17,300 records, offsets 100-12400");
        let exists = outcome("clicks", "exists already");
        assert_eq!(outcome_text(&exists), "topic clicks exists already");
        insta::assert_snapshot!("archive-restore-json", serde_json::to_string(&whole).unwrap());
    }

    #[test]
    fn a_partition_that_is_not_open_is_a_failure() {
        let half = restored("orders", &topic([None, Some(ErrorCode::Unavailable)]));
        let failure = not_open(&half).unwrap();
        let expected = "topic orders is restored, but 1 partition is not open yet: partition 1: \
                        unavailable";
        assert_eq!(failure.to_string(), expected);
        let failures = || vec![not_open(&half).unwrap()];
        assert_eq!(verdict(failures(), 1).unwrap_err().to_string(), expected);
        let of_several = verdict(failures(), 3).unwrap_err().to_string();
        assert_eq!(of_several, "1 of 3 topics could not be restored, or not in full");
        assert!(verdict(Vec::new(), 3).is_ok());
    }
}
