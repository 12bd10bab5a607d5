//! Runs a plugin natively, over the same buffers and checks as in a broker.
//!
//! ```
//! use millstream_sdk::testing::{Sample, Tester, Verdict};
//! use millstream_sdk::{Out, Record, Result};
//!
//! fn no_tombstones(record: &Record<'_>, out: &mut Out<'_, '_>) -> Result {
//!     if record.value.is_none() { out.drop() } else { out.keep() }
//! }
//!
//! millstream_sdk::transform!(no_tombstones);
//!
//! # fn main() -> Result {
//! let tester = Tester::<Plugin>::new(&[])?;
//! let verdicts = tester.run(&[Sample::new("k", "v"), Sample::tombstone("k")])?;
//! assert_eq!(verdicts, [Verdict::KEEP, Verdict::Drop]);
//! # Ok(())
//! # }
//! ```

use millstream_plugin_abi::{
    self as abi, Flags, Header, HotKey, HotWriter, Input, InputWriter, KeysWriter, Lengths, Output,
    RecordHead, Rules, check_assigned, limits,
};

use crate::arena::Arena;
use crate::plugin::{Config, Error, Partitioner, Result, Transform};
use crate::run;

/// A record to try a plugin on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// In ms since 1970.
    pub timestamp: i64,
}

impl Sample {
    /// With a key and a value.
    #[must_use]
    pub fn new(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Sample {
        let value = Some(value.as_ref().to_vec());
        Sample { key: Some(key.as_ref().to_vec()), value, ..Sample::default() }
    }

    /// With a value alone.
    #[must_use]
    pub fn value(value: impl AsRef<[u8]>) -> Sample {
        Sample { value: Some(value.as_ref().to_vec()), ..Sample::default() }
    }

    /// With a key and a null value.
    #[must_use]
    pub fn tombstone(key: impl AsRef<[u8]>) -> Sample {
        Sample { key: Some(key.as_ref().to_vec()), ..Sample::default() }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Sample {
        self.headers.push((name.to_owned(), Some(value.as_ref().to_vec())));
        self
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to this output as it is.
    Keep(u8),
    /// Nothing comes of it.
    Drop,
    /// It goes to this output with this value.
    Value(u8, Option<Vec<u8>>),
    /// These come of it, parts that it keeps filled in: a replaced record is one.
    Records(Vec<(u8, Sample)>),
    /// It goes to the dead-letter topic, for this reason.
    DeadLetter(String),
    /// It refuses its batch, for this reason.
    Reject(String),
}

impl Verdict {
    /// It goes to the first output as it is.
    pub const KEEP: Verdict = Verdict::Keep(0);

    /// It goes to the first output with this value.
    #[must_use]
    pub fn value(value: impl AsRef<[u8]>) -> Verdict {
        Verdict::Value(0, Some(value.as_ref().to_vec()))
    }
}

/// A configured plugin.
#[derive(Debug)]
pub struct Tester<P> {
    plugin: P,
    outputs: u8,
    on_produce: bool,
}

impl<P: Transform> Tester<P> {
    /// Configures a transform that has one output, `output`.
    ///
    /// # Errors
    /// The plugin refuses the options.
    pub fn new(options: &[(&str, &str)]) -> Result<Tester<P>> {
        Tester::with_outputs(options, &["output"])
    }

    /// Configures a transform.
    ///
    /// # Errors
    /// The plugin refuses the options.
    pub fn with_outputs(options: &[(&str, &str)], outputs: &[&str]) -> Result<Tester<P>> {
        let plugin = P::configure(&Config::new(options, "input", outputs))?;
        let outputs = u8::try_from(outputs.len()).unwrap_or(u8::MAX);
        Ok(Tester { plugin, outputs, on_produce: false })
    }

    /// As if bound to produce.
    #[must_use]
    pub fn on_produce(self) -> Tester<P> {
        Tester { on_produce: true, ..self }
    }

    /// Runs the plugin on one batch, at offsets from 0.
    ///
    /// # Errors
    /// What a broker would make of the call: the plugin gave a verdict that its manifest does not
    /// declare, say, or its output is over a bound.
    pub fn run(&self, samples: &[Sample]) -> Result<Vec<Verdict>> {
        let needs = P::MANIFEST.needs;
        let produce = self.on_produce;
        let flags = Flags { values: needs.values, headers: needs.headers, produce };
        let mut batch = Vec::new();
        let mut writer = InputWriter::new(&mut batch, flags, 0, limits::INPUT_BYTES_MAX);
        for (offset, sample) in (0..).zip(samples) {
            let key = sample.key.as_deref();
            let value = sample.value.as_deref();
            writer.record(RecordHead { offset, timestamp: sample.timestamp, key, value })?;
            for (name, value) in &sample.headers {
                writer.header(Header { name: name.as_bytes(), value: value.as_deref() })?;
            }
        }
        let _written: &[u8] = writer.finish();
        let mut output = Vec::new();
        self.apply(&batch, &mut output)?;
        self.judged(&batch, &output, samples)
    }

    /// Runs the plugin on a batch that is packed already, into `output`: what the export `apply`
    /// does.
    ///
    /// # Errors
    /// The call fails.
    pub fn apply(&self, batch: &[u8], output: &mut Vec<u8>) -> Result {
        run::apply(&self.plugin, batch, &Arena::new(), output)
    }

    /// What a broker reads in `output`.
    fn judged(&self, batch: &[u8], output: &[u8], samples: &[Sample]) -> Result<Vec<Verdict>> {
        let allowed = match self.on_produce {
            true => abi::VerdictSet::ON_PRODUCE,
            false => abi::VerdictSet::AFTER_COMMIT,
        };
        let rules = Rules {
            records: Input::read(batch)?.count(),
            outputs: self.outputs,
            verdicts: P::MANIFEST.verdicts.and(allowed),
            bytes_max: limits::output_bytes_max(batch.len()),
        };
        let output = Output::read(output, &rules)?;
        let bytes = abi::resolved_bytes(&output, samples.iter().map(lengths));
        if bytes > limits::resolved_bytes_max(batch.len()) as u64 {
            return Err(Error::new(format!("the output comes to {bytes} bytes")));
        }
        let verdicts = output.verdicts().zip(samples);
        Ok(verdicts.map(|(verdict, sample)| owned(verdict, sample)).collect())
    }
}

fn owned(verdict: abi::Verdict<'_>, sample: &Sample) -> Verdict {
    let text = |reason: &[u8]| String::from_utf8_lossy(reason).into_owned();
    match verdict {
        abi::Verdict::Keep { output } => Verdict::Keep(output),
        abi::Verdict::Drop => Verdict::Drop,
        abi::Verdict::ReplaceValue { output, value } => {
            Verdict::Value(output, value.map(<[u8]>::to_vec))
        }
        abi::Verdict::ReplaceRecord(record) => Verdict::Records(vec![resolved(record, sample)]),
        abi::Verdict::Emit(records) => {
            Verdict::Records(records.map(|record| resolved(record, sample)).collect())
        }
        abi::Verdict::DeadLetter { reason } => Verdict::DeadLetter(text(reason)),
        abi::Verdict::Reject { reason } => Verdict::Reject(text(reason)),
    }
}

fn resolved(record: abi::OutRecord<'_>, sample: &Sample) -> (u8, Sample) {
    let part = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
    let headers = record.headers.map(|headers| {
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        headers.iter().map(|header| (name(header.name), part(header.value))).collect()
    });
    let sample = Sample {
        key: part(record.key.resolve(sample.key.as_deref())),
        value: part(record.value.resolve(sample.value.as_deref())),
        headers: headers.unwrap_or_else(|| sample.headers.clone()),
        timestamp: record.timestamp.unwrap_or(sample.timestamp),
    };
    (record.output, sample)
}

fn lengths(sample: &Sample) -> Lengths {
    let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let part = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, |part| bytes(part.len()));
    let headers = sample
        .headers
        .iter()
        .map(|(name, value)| 8_u32.saturating_add(bytes(name.len())).saturating_add(part(value)));
    Lengths {
        key: part(&sample.key),
        value: part(&sample.value),
        headers: headers.fold(0, u32::saturating_add),
    }
}

/// A configured partitioner.
#[derive(Debug)]
pub struct PartitionerTester<P> {
    plugin: P,
}

impl<P: Partitioner> PartitionerTester<P> {
    /// Configures a partitioner.
    ///
    /// # Errors
    /// The plugin refuses the options.
    pub fn new(options: &[(&str, &str)]) -> Result<PartitionerTester<P>> {
        Ok(PartitionerTester { plugin: P::configure(&Config::new(options, "topic", &[]))? })
    }

    /// Gives the plugin hot keys with their shares in millionths.
    ///
    /// # Errors
    /// They are too many, or too long.
    pub fn hotlist(&mut self, keys: &[(&[u8], u32)]) -> Result {
        let mut list = Vec::new();
        let mut writer = HotWriter::new(&mut list, 1);
        for (key, share_ppm) in keys {
            writer.key(HotKey { share_ppm: *share_ppm, key })?;
        }
        let _written: &[u8] = writer.finish();
        run::hotlist(&mut self.plugin, &list)
    }

    /// Places records, each of a sequence number, a key and headers; `None` is where it would go
    /// without a plugin.
    ///
    /// # Errors
    /// What a host would make of the call.
    pub fn assign(&self, records: &[(u32, Sample)], partitions: u32) -> Result<Vec<Option<u32>>> {
        let mut keys = Vec::new();
        let mut writer = KeysWriter::new(&mut keys, P::MANIFEST.needs.headers, partitions, 1);
        for (sequence, sample) in records {
            writer.key(*sequence, sample.key.as_deref())?;
            for (name, value) in &sample.headers {
                writer.header(Header { name: name.as_bytes(), value: value.as_deref() })?;
            }
        }
        let count = writer.count();
        let _written: &[u8] = writer.finish();
        let mut placed = Vec::new();
        run::assign(&self.plugin, &keys, &mut placed)?;
        check_assigned(placed.iter().copied(), count, partitions)?;
        let chosen = |partition: u32| (partition != abi::DEFAULT_PARTITION).then_some(partition);
        Ok(placed.into_iter().map(chosen).collect())
    }
}
