//! The flags of `millstream topic`.

use std::str::FromStr;

use clap::{ArgGroup, Args, Subcommand};
use millstream_types::limits::TOPIC_PARTITIONS_MAX;

use super::ConnectionArgs;
use crate::output::OutputArgs;

/// Manage topics
///
/// A topic is a named stream of records in partitions. Order is kept within a partition; records
/// of one key go to one partition.
#[derive(Args, Clone, Debug)]
pub struct TopicArgs {
    /// What to do with topics.
    #[command(subcommand)]
    pub action: TopicAction,
}

/// What can be done with topics. Each action's own arguments describe it, in help as well.
#[derive(Subcommand, Clone, Debug)]
#[expect(missing_docs, reason = "a text here would hide that of the arguments from help")]
pub enum TopicAction {
    Create(TopicCreateArgs),
    List(TopicListArgs),
    Describe(TopicDescribeArgs),
    Alter(TopicAlterArgs),
    Delete(TopicDeleteArgs),
    Configs(TopicConfigsArgs),
}

/// One topic setting, as `name=value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigAssignment {
    /// The setting's name, as `millstream topic configs` lists it.
    pub name: String,
    /// Its value, checked by the broker.
    pub value: String,
}

impl FromStr for ConfigAssignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) =
            text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
        if name.is_empty() {
            return Err(format!("`{text}` names no setting"));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

/// Make a topic
///
/// Making one that exists with the same settings succeeds, so that scripts can be run again; with
/// other settings it fails.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  millstream topic create orders
  millstream topic create orders --partitions 12 --config retention.ms=604800000
  millstream topic create metrics --config durability=replicated")]
pub struct TopicCreateArgs {
    /// Its name: letters, digits, dot, dash and underscore
    pub topic: String,
    /// How many partitions; records of one key stay in order within one
    #[arg(
        short,
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(TOPIC_PARTITIONS_MAX))
    )]
    pub partitions: u32,
    /// A setting, see `millstream topic configs`; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub config: Vec<ConfigAssignment>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// List topics
#[derive(Args, Clone, Debug)]
pub struct TopicListArgs {
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// Show topics in full: partitions with their leader, offsets and size, and settings
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  millstream topic describe orders
  millstream topic describe orders -o json | jq '.partitions[].end_offset'")]
pub struct TopicDescribeArgs {
    /// The topics to show
    #[arg(required = true)]
    pub topics: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// Change a topic's settings
///
/// Settings that are not named keep their value. New partitions start empty; keys move to them, so
/// the order of a key's records across the change is not kept.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
#[command(after_help = "\
Examples:
  millstream topic alter orders --config retention.ms=86400000
  millstream topic alter orders --reset retention.ms
  millstream topic alter orders --partitions 24")]
pub struct TopicAlterArgs {
    /// The topic to change
    pub topic: String,
    /// A setting to change; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE", group = "change")]
    pub config: Vec<ConfigAssignment>,
    /// A setting to put back to its default; may be given several times
    #[arg(long, value_name = "NAME", group = "change")]
    pub reset: Vec<String>,
    /// Grow to this many partitions; never fewer than there are
    #[arg(
        short,
        long,
        value_name = "COUNT",
        group = "change",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(TOPIC_PARTITIONS_MAX))
    )]
    pub partitions: Option<u32>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// Delete topics with all their records
#[derive(Args, Clone, Debug)]
pub struct TopicDeleteArgs {
    /// The topics to delete
    #[arg(required = true)]
    pub topics: Vec<String>,
    /// Do not fail for a topic that does not exist
    #[arg(long)]
    pub if_exists: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// List the settings that a topic can have, with their defaults
#[derive(Args, Clone, Debug)]
pub struct TopicConfigsArgs {
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_splits_at_its_first_equals_sign() {
        let parsed: ConfigAssignment = "cleanup.policy=a=b".parse().unwrap();
        assert_eq!(parsed.name, "cleanup.policy");
        assert_eq!(parsed.value, "a=b");
        assert!("retention.ms".parse::<ConfigAssignment>().is_err());
        assert!("=7".parse::<ConfigAssignment>().is_err());
    }
}
