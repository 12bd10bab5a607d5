//! The flags of `millstream produce`, and the batching flags that `bench` shares.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use millstream_types::limits;
use millstream_wire::Codec;

use super::ConnectionArgs;
use super::bench::Acks;
use crate::failure::misused;
use crate::output::OutputArgs;
use crate::values::ByteSize;

/// How a producer gathers records into batches and sends them.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Batching")]
pub struct BatchingArgs {
    /// The codec of batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub compression: Codec,
    /// When a batch counts as stored: `all` once durable as the topic asks, `leader` once written
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub acks: Acks,
    /// The size at which a batch is sent without waiting longer
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub batch_bytes: ByteSize,
    /// How long every batch waits for more records [default: not at all when idle, 5ms under load]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub linger: Option<Duration>,
    /// The most bytes of records that are queued or on their way; beyond it, sending waits
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub buffer_bytes: ByteSize,
    /// How long a record may take to be stored, retries included, before it counts as failed
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2m",
        value_parser = humantime::parse_duration
    )]
    pub delivery_timeout: Duration,
    /// Batches on the way to one partition at a time
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub max_in_flight: usize,
}

impl BatchingArgs {
    /// What the flags cannot say of themselves, before a broker is looked for.
    pub(crate) fn check(&self) -> Result<()> {
        let least = ByteSize(limits::BATCH_HEADER_BYTES as u64 + 1);
        let most = ByteSize(limits::BATCH_BYTES_MAX as u64);
        let batch = self.batch_bytes;
        let in_flight_max = limits::PRODUCER_BATCHES_KEPT;
        let checks = [
            (
                (least..=most).contains(&batch),
                format!("--batch-bytes {batch} is no size of a batch"),
                format!("choose from {least} to {most}"),
            ),
            (
                self.buffer_bytes >= batch,
                format!("--buffer-bytes {} does not hold a batch", self.buffer_bytes),
                format!("choose {batch} or more, or less for --batch-bytes"),
            ),
            (
                (1..=in_flight_max).contains(&self.max_in_flight),
                format!("--max-in-flight {} is not possible", self.max_in_flight),
                format!("choose from 1 to {in_flight_max}: brokers recognise so many duplicates"),
            ),
            (
                !self.delivery_timeout.is_zero(),
                "--delivery-timeout 0 leaves no time to deliver".to_owned(),
                "choose a longer one, such as 30s".to_owned(),
            ),
        ];
        for (holds, message, advice) in checks {
            if !holds {
                return Err(misused(message, advice));
            }
        }
        Ok(())
    }
}

/// Append records to a topic
///
/// Reads standard input, or the files named with --file: one record a line, unless told otherwise.
/// Records of one key go to one partition and keep their order; records without a key are spread.
/// Returns once every record is acknowledged; on the first that cannot be read or stored it stops,
/// says where that stands and how many were stored, and exits with 1.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
JSON input, one object a line, blank lines aside; every field may be left out:
  {\"key\":\"alice\",\"value\":\"hi\",\"headers\":[[\"trace\",\"7\"]],\"timestamp\":1700000000000}
  `value` and `key` are text, or any JSON value, which is then stored as compact JSON; null is none.
  `value_base64` and `key_base64` hold bytes that are no text. `headers` may be an object, too.
  `timestamp` is milliseconds since 1970, or text in RFC 3339; left out, it is now.
  This is what `millstream consume -o json` prints.

Examples:
  echo hello | millstream produce greetings
  echo 'alice:hello' | millstream produce greetings --key-separator :
  millstream consume orders -o json | millstream produce copy --json --ignore-partition
  millstream produce images --file a.png --file b.png --key camera-1
  millstream produce logs --file app.log --lines --compression zstd")]
pub struct ProduceArgs {
    /// The topic to append to
    pub topic: String,
    /// Read JSON lines with key, value, headers, timestamp and partition
    #[arg(long, conflicts_with_all = ["key", "key_separator"])]
    pub json: bool,
    /// Read this file instead of standard input; one record a file, unless --lines or --json
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// With --file, one record a line
    #[arg(long, requires = "file")]
    pub lines: bool,
    /// The key of every record
    #[arg(short, long, conflicts_with = "key_separator")]
    pub key: Option<String>,
    /// Split each line at the first such text into key and value
    #[arg(
        long,
        value_name = "TEXT",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub key_separator: Option<String>,
    /// The partition of every record, instead of by key
    #[arg(short, long, value_name = "INDEX")]
    pub partition: Option<u32>,
    /// Choose partitions by key, as without --json, instead of taking each line's own
    #[arg(long, requires = "json", conflicts_with = "partition")]
    pub ignore_partition: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How records are gathered.
    #[command(flatten)]
    pub batching: BatchingArgs,
    /// The broker to talk to.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}
