//! The flags of `millstream consume`.

use std::str::FromStr;

use clap::Args;

use super::ConnectionArgs;
use crate::consume::Template;
use crate::output::OutputArgs;
use crate::values::parse_timestamp_ms;

/// Where reading starts in each partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartAt {
    /// At the first record that is still kept.
    Earliest,
    /// After the last record there is now.
    Latest,
    /// At this offset.
    Offset(i64),
    /// At the first record whose timestamp, in milliseconds since 1970, is this or later.
    TimestampMs(i64),
}

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(moment) = text.strip_prefix('@') {
            return parse_timestamp_ms(moment).map(Self::TimestampMs);
        }
        match text.parse() {
            Ok(offset) if offset >= 0 => Ok(Self::Offset(offset)),
            _ => Err("expected earliest, latest, an offset, or @ and a point in time".to_owned()),
        }
    }
}

/// Read records from a topic
///
/// Prints each record's value on a line of its own and ends at the last record that was there when
/// it started; --follow waits for more. Order is kept within a partition. Output is binary-safe:
/// values are written as they are.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Templates:
  %k key   %v value   %o offset   %p partition   %t timestamp in ms   %T timestamp as RFC 3339
  %h headers as k=v, with commas   %n topic   %s size of the value in bytes   %% a percent sign
  \\n \\t \\r \\0 \\\\ and \\xHH stand for what they do elsewhere. A missing key or value is empty.

Examples:
  millstream consume orders
  millstream consume orders --follow --from latest -o json
  millstream consume orders --from @2026-01-31T12:00:00Z -n 10 --format '%t %k: %v\\n'
  millstream consume orders --partition 3 --from 12000 -n 1 --format %v > value.bin")]
pub struct ConsumeArgs {
    /// The topic to read
    pub topic: String,
    /// Where to start: earliest, latest, an offset, or @TIMESTAMP (ms since 1970 or RFC 3339)
    #[arg(long, value_name = "START", default_value = "earliest")]
    pub from: StartAt,
    /// Read only this partition; may be given several times [default: all]
    #[arg(short, long, value_name = "INDEX", value_delimiter = ',')]
    pub partition: Vec<u32>,
    /// Wait for more records instead of ending at the last one
    #[arg(short, long)]
    pub follow: bool,
    /// End after this many records were printed
    #[arg(
        short = 'n',
        long,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub count: Option<u64>,
    /// Print only records with this key
    #[arg(short, long)]
    pub key: Option<String>,
    /// What to print for a record, see below; `json` is the same as --output json
    #[arg(long, value_name = "TEMPLATE", default_value = "%v\\n")]
    pub format: Template,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_an_offset_or_a_moment() {
        assert_eq!("earliest".parse(), Ok(StartAt::Earliest));
        assert_eq!("latest".parse(), Ok(StartAt::Latest));
        assert_eq!("42".parse(), Ok(StartAt::Offset(42)));
        assert_eq!("@42".parse(), Ok(StartAt::TimestampMs(42)));
        assert_eq!("@1970-01-01T00:00:01Z".parse(), Ok(StartAt::TimestampMs(1000)));
        for text in ["", "-1", "@", "@soon", "first"] {
            assert!(text.parse::<StartAt>().is_err(), "{text:?}");
        }
    }
}
