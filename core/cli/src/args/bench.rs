//! The flags of `millstream bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{BatchingArgs, ConfigAssignment, ConnectionArgs};
use crate::output::OutputArgs;
use crate::values::ByteSize;

/// When a batch counts as stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Acks {
    /// Once it is below the high watermark: durable as the topic's `durability` asks.
    All,
    /// Once the leader has written it, though not yet synced.
    Leader,
}

/// What a benchmark's topic promises about an acknowledged record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Durability {
    /// It is on disk, synced.
    Fsync,
    /// It is in the memory of the in-sync replicas; a power cut of all of them loses it.
    Replicated,
}

impl Durability {
    /// The value of the topic setting `durability`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Replicated => "replicated",
        }
    }
}

/// Which half of the path is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BenchMode {
    /// Producers only; what they wrote is read back and verified after the clock has stopped.
    Produce,
    /// Consumers only; what they read is written before the clock starts.
    Consume,
    /// Both at once; measures from the moment a record was to be sent until it is consumed.
    Both,
}

/// What records are filled with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum PayloadKind {
    /// Bytes that do not compress.
    Random,
    /// Text that compresses about as JSON does.
    Text,
}

/// Measure and verify a broker
///
/// Starts a broker of its own in a temporary directory, unless --bootstrap names one, loads it from
/// this process over QUIC, and verifies every record it consumes: none missing, none twice, in
/// order within each partition, each byte as it was sent. Exits with 1 on the first that is not.
///
/// Without --rate the load is as much as the broker takes. With --rate it is open loop: records are
/// due at fixed times whether the broker keeps up or not, and latency counts from when a record was
/// due, so that a stall is not hidden (coordinated omission). Above 10,000 records a second and
/// producer they come due in bursts, every 100 microseconds.
#[derive(Args, Clone, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  millstream bench
  millstream bench --mode produce --record-size 100 --partitions 8 --durability replicated
  millstream bench --rate 100000 --duration 30s -o json
  millstream bench --bootstrap broker-1:9092 --producers 4 --consumers 4 --partitions 16

Surviving kill -9, with another broker's address:
  millstream bench --bootstrap localhost:9092 --topic soak --ack-log acks.jsonl --duration 5m &
  (kill -9 the broker and start it again, as often as you like; then, when the load has ended)
  millstream bench verify --bootstrap localhost:9092 --ack-log acks.jsonl"
)]
pub struct BenchArgs {
    /// Something else than to measure.
    #[command(subcommand)]
    pub action: Option<BenchAction>,
    /// The load, where no action is named.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// What `bench` does beside measuring. Its arguments describe it, in help as well.
#[derive(Subcommand, Clone, Debug)]
#[expect(missing_docs, reason = "a text here would hide that of the arguments from help")]
pub enum BenchAction {
    Verify(BenchVerifyArgs),
}

/// The load and how it is measured.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// What is measured
    #[arg(short, long, value_enum, default_value_t = BenchMode::Both)]
    pub mode: BenchMode,
    /// The topic; made for the run and deleted after it, unless --ack-log [default: bench-PID]
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,
    /// Producers, each with a connection of its own
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    pub producers: u32,
    /// Consumers, each with a connection of its own; they share out the partitions
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    pub consumers: u32,
    /// Partitions of the topic; every producer writes to all of them
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub partitions: u32,
    /// The size of a record's value, 32 bytes at least
    #[arg(short = 's', long, value_name = "SIZE", default_value = "1KiB")]
    pub record_size: ByteSize,
    /// What records are filled with
    #[arg(long, value_enum, default_value_t = PayloadKind::Random)]
    pub payload: PayloadKind,
    /// What the topic promises about an acknowledged record
    #[arg(long, value_enum, default_value_t = Durability::Fsync)]
    pub durability: Durability,
    /// Set one more of the topic's configs; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    pub config: Vec<ConfigAssignment>,
    /// Records a second over all producers, open loop [default: as many as the broker takes]
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// How long to send; in consume mode, how long to fill [default: 5s, unless --records]
    #[arg(
        short,
        long,
        value_name = "DURATION",
        value_parser = humantime::parse_duration,
        conflicts_with = "records"
    )]
    pub duration: Option<Duration>,
    /// How many records to send over all producers, instead of for how long
    #[arg(
        short = 'n',
        long,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub records: Option<u64>,
    /// Leave the records of this first while out of the measurement
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = humantime::parse_duration
    )]
    pub warmup: Duration,
    /// Where the own broker keeps its data [default: a temporary directory, removed afterwards]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Pin the own broker to the first list of processors and the load to the second, by taskset
    #[arg(long, value_name = "BROKER:LOAD", value_parser = parse_cpus)]
    pub cpus: Option<(String, String)>,
    /// Measure the processor time and memory of this process as the broker's, with --bootstrap
    #[arg(long, value_name = "PID", requires = "bootstrap")]
    pub broker_pid: Option<u32>,
    /// Write every acknowledgement to this file, for `bench verify`; retry through broker restarts
    #[arg(
        long,
        value_name = "FILE",
        requires = "bootstrap",
        conflicts_with_all = ["mode", "warmup"]
    )]
    pub ack_log: Option<PathBuf>,
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

/// Splits `0:1` or `0-3:4-7` into the broker's and the load's processors.
fn parse_cpus(text: &str) -> Result<(String, String), String> {
    let is_list = |list: &str| {
        !list.is_empty() && list.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '-')
    };
    match text.split_once(':') {
        Some((broker, load)) if is_list(broker) && is_list(load) => {
            Ok((broker.to_owned(), load.to_owned()))
        }
        _ => Err(format!("`{text}` is not BROKER:LOAD, such as 0:1 or 0-3:4-7")),
    }
}

/// Check a topic against an acknowledgement log
///
/// Reads the whole topic that `bench --ack-log` wrote to and checks that every acknowledged record
/// is there exactly once, at the offset that was acknowledged, in order, unchanged; and that no
/// record, acknowledged or not, is there twice. Exits with 1 if anything differs.
#[derive(Args, Clone, Debug)]
pub struct BenchVerifyArgs {
    /// The file that `bench --ack-log` wrote
    #[arg(long, value_name = "FILE")]
    pub ack_log: PathBuf,
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
    fn processors_are_two_lists() {
        assert_eq!(parse_cpus("0:1"), Ok(("0".to_owned(), "1".to_owned())));
        assert_eq!(parse_cpus("0-3:4,6"), Ok(("0-3".to_owned(), "4,6".to_owned())));
        for text in ["", "0", ":1", "0:", "a:b", "0;rm:1"] {
            assert!(parse_cpus(text).is_err(), "{text:?}");
        }
    }
}
