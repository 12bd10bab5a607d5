//! The flags of `millstream demo`.

use std::path::PathBuf;

use clap::Args;

use crate::output::OutputArgs;

/// See the whole path at work on real data
///
/// Starts a broker of its own in a temporary directory, sends it 200,000 flights (US Bureau of
/// Transportation Statistics, January 2001) as JSON keyed by the airport they left from, over QUIC,
/// to a topic of 6 partitions, reads them all back, and compares count, order per key and a
/// checksum over every record with what was sent. Then it waits until all of it is archived as
/// Parquet, lets the broker drop its local copies and reads all of it again, from the archive; and
/// has a second broker that has nothing but the archive bring the topic back. Both are compared,
/// too. Exits with 1 if anything differs.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  millstream demo                       a few seconds, leaves nothing behind
  millstream demo --keep                leave the broker running, and print what to try next
  millstream demo --dir ./demo-data     keep the data; serve it with `millstream serve --dir`")]
pub struct DemoArgs {
    /// Keep the data here instead of in a temporary directory; must be empty or not exist
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the broker running, and print commands to try on it
    #[arg(long)]
    pub keep: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}
