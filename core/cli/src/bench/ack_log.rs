//! A record of every acknowledgement, for checking a topic after crashes: JSON lines, the first
//! `{"format":"millstream-ack-log","version":1,...}`, each other a run of acknowledgements with
//! consecutive offsets and sequences.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::failure::advised;

const FORMAT: &str = "millstream-ack-log";
const VERSION: u32 = 1;
/// A run is written when it has so many acknowledgements, so that a crash of the load loses few.
const RUN_MAX: u64 = 4096;

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    format: String,
    version: u32,
    pub(super) topic: String,
    pub(super) producers: u32,
    pub(super) partitions: u32,
}

impl Header {
    pub(super) fn new(topic: &str, producers: u32, partitions: u32) -> Self {
        let format = FORMAT.to_owned();
        Self { format, version: VERSION, topic: topic.to_owned(), producers, partitions }
    }
}

/// Consecutive acknowledgements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    pub(super) partition: u32,
    pub(super) producer: u32,
    /// The first one's offset.
    pub(super) offset: i64,
    /// The first one's sequence within the producer and partition.
    pub(super) sequence: u64,
    pub(super) count: u64,
}

impl Run {
    /// The offset after the last one.
    pub(super) const fn end(&self) -> i64 {
        self.offset.saturating_add_unsigned(self.count)
    }
}

/// Writes acknowledgements as they come, in the order of each producer and partition.
#[derive(Debug)]
pub(super) struct Writer<W: std::io::Write> {
    out: W,
    /// One for each producer and partition.
    open: BTreeMap<(u32, u32), Run>,
    acknowledged: u64,
}

/// A writer to a file, which must not exist.
pub(super) fn create(path: &Path, header: &Header) -> Result<Writer<BufWriter<std::fs::File>>> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    Writer::new(BufWriter::new(file), header)
}

impl<W: std::io::Write> Writer<W> {
    fn new(mut out: W, header: &Header) -> Result<Self> {
        write_line(&mut out, header)?;
        Ok(Self { out, open: BTreeMap::new(), acknowledged: 0 })
    }

    /// Adds one acknowledgement.
    pub(super) fn add(
        &mut self,
        producer: u32,
        partition: u32,
        offset: i64,
        sequence: u64,
    ) -> Result<()> {
        self.acknowledged += 1;
        let fresh = Run { partition, producer, offset, sequence, count: 1 };
        let run = self.open.entry((producer, partition)).or_insert(Run { count: 0, ..fresh });
        let extends = run.end() == offset && run.sequence + run.count == sequence;
        if extends && run.count < RUN_MAX {
            run.count += 1;
            return Ok(());
        }
        let full = std::mem::replace(run, fresh);
        write_line(&mut self.out, &full)
    }

    /// Writes what is open; returns how many acknowledgements there were.
    pub(super) fn finish(mut self) -> Result<u64> {
        for run in self.open.values() {
            write_line(&mut self.out, run)?;
        }
        self.out.flush().context("cannot write the acknowledgement log")?;
        Ok(self.acknowledged)
    }
}

fn write_line(out: &mut impl std::io::Write, value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line).context("cannot write the acknowledgement log")
}

/// Reads a log: its header, and the runs of each partition by offset.
pub(super) fn read(path: &Path) -> Result<(Header, Vec<Vec<Run>>)> {
    let opened = OpenOptions::new().read(true).open(path).map_err(anyhow::Error::from);
    opened.and_then(|file| parse(BufReader::new(file))).map_err(|error| {
        advised(
            format!("cannot read {}: {error:#}", path.display()),
            "name a file that `millstream bench --ack-log FILE` wrote",
        )
    })
}

fn parse(reader: impl std::io::BufRead) -> Result<(Header, Vec<Vec<Run>>)> {
    let mut lines = reader.lines();
    let first = lines.next().context("the file is empty")??;
    let header: Header = serde_json::from_str(&first).context("the first line")?;
    if header.format != FORMAT || header.version != VERSION {
        bail!("not an acknowledgement log of version {VERSION}");
    }
    let mut partitions = vec![Vec::new(); header.partitions as usize];
    for (number, line) in lines.enumerate() {
        let place = || format!("line {}", number + 2);
        let run: Run = serde_json::from_str(&line?).with_context(place)?;
        let runs = partitions.get_mut(run.partition as usize).with_context(place)?;
        if run.offset < 0 || run.producer >= header.producers {
            bail!("{}: a run out of range", place());
        }
        runs.push(run);
    }
    for runs in &mut partitions {
        runs.sort_by_key(|run| run.offset);
    }
    Ok((header, partitions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_gather_into_runs_and_read_back() {
        let header = Header::new("soak", 2, 2);
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, &header).unwrap();
        // Producer 1's records stand between producer 0's in partition 0.
        let acks =
            [(0, 0, 0, 0), (0, 0, 1, 1), (1, 0, 2, 0), (0, 0, 3, 2), (0, 1, 0, 0), (0, 1, 1, 1)];
        for (producer, partition, offset, sequence) in acks {
            writer.add(producer, partition, offset, sequence).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 6);

        let (read_header, runs) = parse(out.as_slice()).unwrap();
        assert_eq!(read_header, header);
        let run = |partition, producer, offset, sequence, count| Run {
            partition,
            producer,
            offset,
            sequence,
            count,
        };
        let first = vec![run(0, 0, 0, 0, 2), run(0, 1, 2, 0, 1), run(0, 0, 3, 2, 1)];
        assert_eq!(runs, [first, vec![run(1, 0, 0, 0, 2)]]);
    }

    #[test]
    fn the_format_is_as_documented() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, &Header::new("t", 1, 1)).unwrap();
        writer.add(0, 0, 7, 3).unwrap();
        writer.finish().unwrap();
        let expected = concat!(
            r#"{"format":"millstream-ack-log","version":1,"#,
            r#""topic":"t","producers":1,"partitions":1}"#,
            "\n",
            r#"{"partition":0,"producer":0,"offset":7,"sequence":3,"count":1}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn other_files_are_refused() {
        let header = serde_json::to_string(&Header::new("t", 1, 1)).unwrap();
        let run = r#"{"partition":1,"producer":0,"offset":7,"sequence":3,"count":1}"#;
        let later = header.replace("\"version\":1", "\"version\":2");
        for text in [String::new(), "{}".to_owned(), later, format!("{header}\n{run}\n")] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
