//! What encoding, decoding and the writer below them cost, range by range, one after another on
//! the same bytes, so that what else the machine does touches all alike.

use std::time::Duration;

use anyhow::{Context as _, Result};
use arrow_array::RecordBatch;
use bytes::{Bytes, BytesMut};
use millstream_tiered::bench_support::{self, ROW_GROUP_BYTES, Rows};
use millstream_tiered::{EncodedObject, Encoder, Identity, ObjectReader, RangeEnd};
use millstream_types::limits::BATCH_HEADER_BYTES;
use millstream_types::{ClusterId, Offset, PartitionIndex, TopicId};
use millstream_wire::{Batch, Codec};
use parquet::file::properties::WriterProperties;
use rustix::time::{ClockId, clock_gettime};

/// Times that everything is done with each range; the least processor time counts, as others that
/// run on the machine can only add to it.
const RUNS: usize = 3;
/// What is done each time.
const STEPS: usize = 5;

/// Sums over the ranges of a dataset.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Bytes of batches.
    pub(crate) log_bytes: u64,
    pub(crate) records: u64,
    /// Bytes of the objects.
    pub(crate) object_bytes: u64,
    /// Bytes of the same batches with their records compressed as Kafka's clients do by default
    /// when told zstd: level 3, batch by batch.
    pub(crate) kafka_zstd_bytes: u64,
    /// Bytes with Parquet's defaults, in row groups of their size.
    pub(crate) default_bytes: u64,
    /// Processor seconds from batches to an object.
    pub(crate) encode: f64,
    /// Of Arrow's writer alone, given the same columns and properties.
    pub(crate) writer: f64,
    /// From batches to a file with Parquet's defaults, in row groups of their size.
    pub(crate) default: f64,
    /// The same in row groups of the archive's size.
    pub(crate) default_small: f64,
    /// From an object to batches.
    pub(crate) replay: f64,
}

pub(crate) fn identity() -> Identity {
    Identity {
        cluster: ClusterId::from_bytes([1; 16]),
        topic: "bench".to_owned(),
        topic_id: TopicId::from_bytes([2; 16]),
        partition: PartitionIndex(0),
    }
}

/// Processor seconds of this thread, which does all that is measured.
fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = Duration::from_secs(spent.tv_sec.unsigned_abs());
    (seconds + Duration::from_nanos(spent.tv_nsec.unsigned_abs())).as_secs_f64()
}

/// Runs `work` and keeps the least processor time that it has taken.
fn timed<T>(least: &mut f64, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = cpu_seconds();
    let done = work();
    *least = least.min(cpu_seconds() - began);
    done
}

impl Totals {
    /// Measures everything on one range: its batches, one after another.
    pub(crate) fn add(&mut self, range: &Bytes) -> Result<()> {
        let columns = columns(range)?;
        let base = split(range)?.0.header().base_offset;
        let mut object = encode(range, base)?;
        let (mut encoding, mut writing) = (f64::MAX, f64::MAX);
        let (mut defaults, mut defaults_small, mut replaying) = (f64::MAX, f64::MAX, f64::MAX);
        let mut default_bytes = 0;
        for run in 0..RUNS {
            // Whoever comes later finds more in the processor's cache: they take turns.
            for step in 0..STEPS {
                match (run + step) % STEPS {
                    0 => object = timed(&mut encoding, || encode(range, base))?,
                    1 => drop(timed(&mut writing, || write(&columns))?),
                    2 => drop(timed(&mut defaults_small, || with_defaults(range, true))?),
                    3 => {
                        let file = timed(&mut defaults, || with_defaults(range, false))?;
                        default_bytes = file.len();
                    }
                    _ => drop(timed(&mut replaying, || replay(&object))?),
                }
            }
        }
        check(range, &replay(&object)?)?;
        self.encode += encoding;
        self.writer += writing;
        self.default += defaults;
        self.default_small += defaults_small;
        self.replay += replaying;
        self.log_bytes += range.len() as u64;
        self.records += object.summary.records;
        self.object_bytes += object.bytes.len() as u64;
        self.default_bytes += default_bytes as u64;
        self.kafka_zstd_bytes += kafka_zstd_bytes(range)?;
        Ok(())
    }
}

fn check(range: &Bytes, replayed: &[Bytes]) -> Result<()> {
    let mut rest = range.clone();
    for batch in replayed {
        anyhow::ensure!(rest.starts_with(batch), "a batch was not replayed as it was");
        drop(rest.split_to(batch.len()));
    }
    anyhow::ensure!(rest.is_empty(), "not every batch was replayed");
    Ok(())
}

fn split(rest: &Bytes) -> Result<(Batch, Bytes)> {
    Batch::split_first(rest).context("the generator's batch")
}

/// The whole way: each batch's CRC, its records, columns, the writer, the footer.
fn encode(range: &Bytes, base: Offset) -> Result<EncodedObject> {
    let mut encoder = Encoder::new(identity(), base)?;
    let mut rest = range.clone();
    while !rest.is_empty() {
        let (batch, behind) = split(&rest)?;
        encoder.push(&batch)?;
        rest = behind;
    }
    Ok(encoder.finish(&RangeEnd::default())?)
}

/// The same rows as an object's row groups have.
fn columns(range: &Bytes) -> Result<Vec<RecordBatch>> {
    let mut columns = Vec::new();
    gathered(range, |rows| {
        columns.push(rows);
        Ok(())
    })?;
    Ok(columns)
}

/// Hands the rows of a range to `take`, a row group's at a time.
fn gathered(range: &Bytes, mut take: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
    let mut rows = Rows::new();
    let mut rest = range.clone();
    while !rest.is_empty() {
        let (batch, behind) = split(&rest)?;
        rows.push(&batch)?;
        rest = behind;
        if rows.bytes() >= ROW_GROUP_BYTES || rest.is_empty() {
            take(rows.take()?)?;
        }
    }
    Ok(())
}

/// Arrow's writer and nothing else.
fn write(columns: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut writer = bench_support::writer(bench_support::properties()?)?;
    for rows in columns {
        writer.write(rows)?;
        writer.flush()?;
    }
    Ok(writer.into_inner()?)
}

/// The same way without a choice but that of the codec: every column with a dictionary and
/// statistics, pages of 1 MiB. Row groups of a million rows, which is the default and more than a
/// range has, or of the archive's size.
fn with_defaults(range: &Bytes, is_small: bool) -> Result<Vec<u8>> {
    let codec = bench_support::properties()?.compression(&"value".into());
    let defaults = WriterProperties::builder().set_compression(codec).build();
    let mut writer = bench_support::writer(defaults)?;
    gathered(range, |rows| {
        writer.write(&rows)?;
        if is_small {
            writer.flush()?;
        }
        Ok(())
    })?;
    Ok(writer.into_inner()?)
}

/// Everything that an object holds.
fn replay(object: &EncodedObject) -> Result<Vec<Bytes>> {
    let footer = usize::try_from(object.summary.footer_start)?;
    let reader = ObjectReader::open(object.bytes.get(footer..).context("no footer")?)?;
    let mut batches = Vec::new();
    for part in 0..reader.parts() {
        let span = reader.span(part);
        let span = usize::try_from(span.start)?..usize::try_from(span.end)?;
        batches.extend(reader.replay(part, object.bytes.slice(span))?);
    }
    Ok(batches)
}

fn kafka_zstd_bytes(range: &Bytes) -> Result<u64> {
    let (mut bytes, mut rest, mut records) = (0, range.clone(), BytesMut::new());
    while !rest.is_empty() {
        let (batch, behind) = split(&rest)?;
        rest = behind;
        records.clear();
        Codec::Zstd.compress(&batch.bytes()[BATCH_HEADER_BYTES..], &mut records)?;
        bytes += (BATCH_HEADER_BYTES + records.len()) as u64;
    }
    Ok(bytes)
}
