//! `millstream topic`.

use std::collections::BTreeMap;

use anyhow::Result;
use millstream_client::{
    AdminError, AlterTopic, ErrorCode, NewTopic, PartitionDescription, TopicConfig,
    TopicDescription,
};
use millstream_meta::{CONFIG_TABLE, ConfigDefinition, ConfigKind, ConfigUnit};
use serde::Serialize;

use crate::args::{
    TopicAction, TopicAlterArgs, TopicArgs, TopicConfigsArgs, TopicCreateArgs, TopicDeleteArgs,
    TopicDescribeArgs, TopicListArgs,
};
use crate::connect::connect;
use crate::output::{Align, Out, Table, note};
use crate::values::{human_bytes, human_count};

/// The setting that decides what an acknowledged record has survived.
const DURABILITY: &str = "durability";

pub(crate) async fn run(args: TopicArgs) -> Result<()> {
    match args.action {
        TopicAction::Create(args) => create(args).await,
        TopicAction::List(args) => list(args).await,
        TopicAction::Describe(args) => describe(args).await,
        TopicAction::Alter(args) => alter(args).await,
        TopicAction::Delete(args) => delete(args).await,
        TopicAction::Configs(args) => configs(&args),
    }
}

/// What a command that changes a topic prints.
#[derive(Serialize)]
struct Changed<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    result: &'static str,
}

impl Changed<'_> {
    fn print(&self, out: &mut Out) -> Result<()> {
        out.object(self, |changed| format!("topic {} {}", changed.topic, changed.result))
    }
}

/// Says what `durability=replicated` gives up, wherever it is chosen.
fn warn_of_risk(name: &str, value: Option<&str>) {
    if name == DURABILITY && value == Some("replicated") {
        note(
            "warning: durability=replicated acknowledges records before they are synced to disk; \
             a power cut of all in-sync replicas, or of the only broker, loses the last of them",
        );
    }
}

async fn create(args: TopicCreateArgs) -> Result<()> {
    let client = connect(&args.connection).await?;
    let mut topic = NewTopic::new(&args.topic).partitions(args.partitions);
    for config in args.config {
        warn_of_risk(&config.name, Some(&config.value));
        topic = topic.config(config.name, config.value);
    }
    let made = client.admin().create_topic(topic).await?;
    let result = if made.created { "created" } else { "exists already, with the same settings" };
    let mut out = Out::new(&args.output);
    Changed { topic: &args.topic, id: Some(made.id.to_string()), result }.print(&mut out)?;
    client.close().await;
    out.flush()
}

#[derive(Serialize)]
struct ListedTopic {
    topic: String,
    id: String,
    partitions: u32,
}

async fn list(args: TopicListArgs) -> Result<()> {
    let client = connect(&args.connection).await?;
    let topics = client.admin().list_topics().await?;
    let rows: Vec<ListedTopic> = topics
        .into_iter()
        .map(|topic| ListedTopic {
            topic: topic.name,
            id: topic.id.to_string(),
            partitions: topic.partitions,
        })
        .collect();
    let mut out = Out::new(&args.output);
    if rows.is_empty() && !out.is_json() {
        note("no topics; make one with `millstream topic create NAME`");
    }
    out.rows(&rows, |rows| {
        let columns = [("topic", Align::Left), ("partitions", Align::Right), ("id", Align::Left)];
        let mut table = Table::new(&columns);
        for row in rows {
            table.row([row.topic.clone(), row.partitions.to_string(), row.id.clone()]);
        }
        table
    })?;
    client.close().await;
    out.flush()
}

#[derive(Serialize)]
struct DescribedTopic {
    topic: String,
    id: String,
    replication_factor: u16,
    configs: Vec<DescribedConfig>,
    partitions: Vec<DescribedPartition>,
}

#[derive(Serialize)]
struct DescribedConfig {
    name: String,
    value: String,
    is_default: bool,
}

#[derive(Serialize)]
struct DescribedPartition {
    partition: u32,
    leader: Option<u32>,
    leader_epoch: i32,
    replicas: Vec<u32>,
    in_sync: Vec<u32>,
    /// What the leader's log holds; null while it cannot be asked.
    log: Option<DescribedLog>,
}

#[derive(Serialize)]
struct DescribedLog {
    start_offset: i64,
    end_offset: i64,
    records: u64,
    size_bytes: u64,
    segments: u32,
}

async fn describe(args: TopicDescribeArgs) -> Result<()> {
    let client = connect(&args.connection).await?;
    let mut out = Out::new(&args.output);
    for (place, topic) in client.admin().describe_topics(args.topics).await?.into_iter().enumerate()
    {
        if place > 0 && !out.is_json() {
            out.text("\n")?;
        }
        out.object(&described(topic), describe_text)?;
    }
    client.close().await;
    out.flush()
}

fn described(topic: TopicDescription) -> DescribedTopic {
    let partition = |partition: PartitionDescription| DescribedPartition {
        partition: partition.partition,
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        replicas: partition.replicas,
        in_sync: partition.in_sync,
        log: partition.error.is_none().then_some(DescribedLog {
            start_offset: partition.log_start,
            end_offset: partition.high_watermark,
            records: partition.high_watermark.abs_diff(partition.log_start),
            size_bytes: partition.size_bytes,
            segments: partition.segments,
        }),
    };
    let config = |config: TopicConfig| DescribedConfig {
        name: config.name,
        value: config.value,
        is_default: config.is_default,
    };
    DescribedTopic {
        topic: topic.name,
        id: topic.id.to_string(),
        replication_factor: topic.replication_factor,
        configs: topic.configs.into_iter().map(config).collect(),
        partitions: topic.partitions.into_iter().map(partition).collect(),
    }
}

fn describe_text(topic: &DescribedTopic) -> String {
    let mut text = format!(
        "topic {}  id {}  partitions {}  replication factor {}\n",
        topic.topic,
        topic.id,
        topic.partitions.len(),
        topic.replication_factor,
    );
    let mut configs = Table::new(&["config", "value", "set"].map(|name| (name, Align::Left)));
    for config in &topic.configs {
        let set = if config.is_default { "" } else { "on the topic" };
        configs.row([config.name.clone(), config.value.clone(), set.to_owned()]);
    }
    text.push_str(&format!("\n{configs}\n"));
    let columns =
        ["partition", "leader", "epoch", "start", "end", "records", "size", "segments", "in sync"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Right)));
    for row in &topic.partitions {
        let leader = row.leader.map_or("none".to_owned(), |leader| leader.to_string());
        let log = match &row.log {
            Some(log) => [
                log.start_offset.to_string(),
                log.end_offset.to_string(),
                human_count(log.records),
                human_bytes(log.size_bytes),
                log.segments.to_string(),
            ],
            None => [const { "?" }; 5].map(str::to_owned),
        };
        let place = [row.partition.to_string(), leader, row.leader_epoch.to_string()];
        table.row(place.into_iter().chain(log).chain([join(&row.in_sync)]));
    }
    text + &table.to_string()
}

fn join(ids: &[u32]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

async fn alter(args: TopicAlterArgs) -> Result<()> {
    let client = connect(&args.connection).await?;
    let mut configs = BTreeMap::new();
    for config in args.config {
        warn_of_risk(&config.name, Some(&config.value));
        configs.insert(config.name, Some(config.value));
    }
    configs.extend(args.reset.into_iter().map(|name| (name, None)));
    let change = AlterTopic { configs, partitions: args.partitions };
    client.admin().alter_topic(&args.topic, change).await?;
    let mut out = Out::new(&args.output);
    Changed { topic: &args.topic, id: None, result: "altered" }.print(&mut out)?;
    client.close().await;
    out.flush()
}

async fn delete(args: TopicDeleteArgs) -> Result<()> {
    let client = connect(&args.connection).await?;
    let mut out = Out::new(&args.output);
    for topic in &args.topics {
        let existed = client.admin().delete_topic(topic).await?;
        if !existed && !args.if_exists {
            // What was done before is said first.
            out.flush()?;
            let message = format!("no topic `{topic}`");
            return Err(AdminError::Service { code: ErrorCode::UnknownTopic, message }.into());
        }
        let result = if existed { "deleted" } else { "did not exist" };
        Changed { topic, id: None, result }.print(&mut out)?;
    }
    client.close().await;
    out.flush()
}

#[derive(Serialize)]
struct ListedConfig {
    name: &'static str,
    default: &'static str,
    values: String,
    meaning: &'static str,
}

fn configs(args: &TopicConfigsArgs) -> Result<()> {
    let rows: Vec<ListedConfig> = CONFIG_TABLE
        .iter()
        .map(|config| ListedConfig {
            name: config.name,
            default: config.default,
            values: values(config),
            meaning: config.doc,
        })
        .collect();
    let mut out = Out::new(&args.output);
    if out.is_json() {
        for row in &rows {
            out.json(row)?;
        }
    } else {
        for row in &rows {
            let ListedConfig { name, default, values, meaning } = row;
            out.text(&format!("{name}  [default: {default}; {values}]\n    {meaning}"))?;
        }
    }
    out.flush()
}

/// What a setting takes, in words.
fn values(config: &ConfigDefinition) -> String {
    match config.kind {
        ConfigKind::Choice { accepted, .. } => accepted.join(" or "),
        ConfigKind::Columns => "KEY:TYPE, several with commas".to_owned(),
        ConfigKind::Integer { min, max, unit } => {
            let unit = match unit {
                ConfigUnit::Bytes => "bytes",
                ConfigUnit::Milliseconds => "milliseconds",
                ConfigUnit::Replicas => "replicas",
            };
            if max == i64::MAX {
                format!("{unit}, at least {min}")
            } else {
                format!("{unit}, {min} to {max}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_shows_every_partition() {
        let partition = |partition, log| DescribedPartition {
            partition,
            leader: Some(1),
            leader_epoch: 3,
            replicas: vec![1],
            in_sync: vec![1],
            log,
        };
        let log = DescribedLog {
            start_offset: 0,
            end_offset: 12_345,
            records: 12_345,
            size_bytes: 2 << 20,
            segments: 1,
        };
        let config = |name: &str, is_default| DescribedConfig {
            name: name.to_owned(),
            value: "1000".to_owned(),
            is_default,
        };
        let topic = DescribedTopic {
            topic: "orders".to_owned(),
            id: "0".repeat(32),
            replication_factor: 1,
            configs: vec![config("retention.ms", false), config("segment.ms", true)],
            partitions: vec![partition(0, Some(log)), partition(1, None)],
        };
        insta::assert_snapshot!("topic-describe", describe_text(&topic));
    }

    #[test]
    fn every_setting_says_what_it_takes() {
        for config in CONFIG_TABLE {
            assert!(!values(config).is_empty(), "{}", config.name);
        }
    }
}
