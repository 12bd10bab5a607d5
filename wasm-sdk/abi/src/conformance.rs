//! The conformance suite: what a transform in any language must answer that implements the
//! conformance behaviour, as data for whoever runs one.
//!
//! The guest is called `conformance`, is stateless, needs values and headers, and declares every
//! verdict. Its option `mode` says what it does with each record:
//!
//! | mode | verdict |
//! |---|---|
//! | `keep` | keep |
//! | `drop-every` | drop if the offset is a multiple of the option `n`, keep otherwise |
//! | `upper` | replace the value by itself with `a` to `z` as `A` to `Z`; keep if it is null |
//! | `null` | replace the value by null |
//! | `swap` | replace the record: the value as its key, the key as its value, the rest the same |
//! | `header` | replace the record: one more header behind its own, `conformance` = `1` |
//! | `stamp` | replace the record: the offset as its timestamp |
//! | `twice` | emit the record, unchanged, to the first and then to the last output |
//! | `none` | emit nothing |
//! | `route` | keep, to the output of index offset modulo the number of outputs |
//! | `dead` | dead-letter, with the reason `offset N`, in decimal |
//! | `reject` | reject, with the same reason |
//! | `fail` | none: `apply` returns the error `asked to fail` |
//!
//! Any other mode, or none, is refused by `configure` with the error `unknown mode`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::WriteError;
use crate::limits::INPUT_BYTES_MAX;
use crate::{
    Flags, Header, InputWriter, NewHeaders, NewRecord, Output, OutputWriter, Part, RecordHead,
    Rules, VerdictSet,
};

/// One configuration of the guest, over [`SAMPLES`].
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What `configure` gets.
    pub options: &'static [(&'static str, &'static str)],
    /// What `configure` gets.
    pub outputs: &'static [&'static str],
    /// Whether the batch is as if produced.
    pub produce: bool,
    /// What comes of it.
    pub answer: Answer,
}

/// What comes of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `configure` returns this error.
    Unconfigured(&'static str),
    /// `apply` returns this error.
    Failed(&'static str),
    /// `apply` returns verdicts, which [`Case::check`] knows.
    Verdicts,
}

/// A record of the suite's batch.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// All but its headers.
    pub head: RecordHead<'static>,
    /// Its headers.
    pub headers: &'static [Header<'static>],
}

const fn sample(
    offset: i64,
    key: Option<&'static [u8]>,
    value: Option<&'static [u8]>,
    headers: &'static [Header<'static>],
) -> Sample {
    Sample {
        head: RecordHead { offset, timestamp: 1_700_000_000_000 + offset, key, value },
        headers,
    }
}

/// The suite's batch: nulls, empty parts, bytes that are no text, a gap, a value of 5,000 bytes.
pub const SAMPLES: &[Sample] = &[
    sample(0, Some(b"a"), Some(b"hello, world"), &[]),
    sample(1, None, Some(b"Mixed 123 case"), &[Header { name: b"h", value: Some(b"v") }]),
    sample(2, Some(b"tombstone"), None, &[Header { name: b"null", value: None }]),
    sample(3, None, None, &[]),
    sample(7, Some(b""), Some(b""), &[Header { name: b"", value: Some(b"") }]),
    sample(8, Some(b"\xff\x00\xfe"), Some(b"\x00z\xffa{`@"), &[]),
    sample(
        9,
        Some(b"long"),
        Some(&[b'x'; 5000]),
        &[
            Header { name: b"h", value: Some(b"1") },
            Header { name: b"h", value: Some(b"2") },
            Header { name: b"conformance", value: Some(b"0") },
        ],
    ),
    sample(4_294_967_301, Some(b"past 32 bits"), Some(b"e"), &[]),
];

const ONE: &[&str] = &["out"];
const THREE: &[&str] = &["first", "second", "third"];

const fn judged(options: &'static [(&'static str, &'static str)]) -> Case {
    Case { options, outputs: THREE, produce: false, answer: Answer::Verdicts }
}

const fn refused(options: &'static [(&'static str, &'static str)]) -> Case {
    Case { answer: Answer::Unconfigured("unknown mode"), ..judged(options) }
}

/// Every case.
pub const CASES: &[Case] = &[
    judged(&[("mode", "keep")]),
    judged(&[("mode", "drop-every"), ("n", "2")]),
    judged(&[("n", "3"), ("other", "option"), ("mode", "drop-every")]),
    judged(&[("mode", "upper")]),
    judged(&[("mode", "null")]),
    judged(&[("mode", "swap")]),
    judged(&[("mode", "header")]),
    judged(&[("mode", "stamp")]),
    judged(&[("mode", "twice")]),
    Case { outputs: ONE, ..judged(&[("mode", "twice")]) },
    judged(&[("mode", "none")]),
    judged(&[("mode", "route")]),
    Case { outputs: ONE, ..judged(&[("mode", "route")]) },
    judged(&[("mode", "dead")]),
    Case { produce: true, outputs: ONE, ..judged(&[("mode", "reject")]) },
    Case { produce: true, outputs: ONE, ..judged(&[("mode", "upper")]) },
    Case { answer: Answer::Failed("asked to fail"), ..judged(&[("mode", "fail")]) },
    refused(&[]),
    refused(&[("mode", "")]),
    refused(&[("mode", "keeps")]),
];

impl Case {
    /// What a host gives to `apply`.
    ///
    /// # Errors
    /// Never: the batch is far below every bound.
    pub fn batch(&self) -> Result<Vec<u8>, WriteError> {
        let mut buffer = Vec::new();
        let flags = Flags { values: true, headers: true, produce: self.produce };
        let mut writer = InputWriter::new(&mut buffer, flags, 5, INPUT_BYTES_MAX);
        for sample in SAMPLES {
            writer.record(sample.head)?;
            for header in sample.headers {
                writer.header(*header)?;
            }
        }
        let _written: &[u8] = writer.finish();
        Ok(buffer)
    }

    /// The rules for the output: every verdict is allowed.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            records: u32::try_from(SAMPLES.len()).unwrap_or(u32::MAX),
            outputs: u8::try_from(self.outputs.len()).unwrap_or(u8::MAX),
            verdicts: VerdictSet::AFTER_COMMIT.or(VerdictSet::ON_PRODUCE),
            bytes_max: crate::limits::OUTPUT_BYTES_ALWAYS,
        }
    }

    /// Checks what `apply` returned. There is one way to write each answer but one: a part that
    /// stays may be named as the input's or repeated.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn check(&self, output: &[u8]) -> Result<(), String> {
        let rules = self.rules();
        let found = Output::read(output, &rules).map_err(|error| format!("{error}"))?;
        let expected = self.expected().map_err(|error| format!("{error}"))?;
        let expected = Output::read(&expected, &rules).map_err(|error| format!("{error}"))?;
        for ((found, expected), sample) in found.verdicts().zip(expected.verdicts()).zip(SAMPLES) {
            let (found, expected) = (resolved(found, sample), resolved(expected, sample));
            if found != expected {
                let offset = sample.head.offset;
                return Err(format!("offset {offset}: expected {expected:?}, found {found:?}"));
            }
        }
        Ok(())
    }

    /// The output that the behaviour asks for.
    fn expected(&self) -> Result<Vec<u8>, WriteError> {
        let mut buffer = Vec::new();
        let count = u32::try_from(SAMPLES.len()).unwrap_or(u32::MAX);
        let mut writer = OutputWriter::new(&mut buffer, count);
        for sample in SAMPLES {
            self.judge(sample, &mut writer)?;
        }
        let _written: &[u8] = writer.finish();
        Ok(buffer)
    }

    fn option(&self, name: &str) -> &'static str {
        self.options.iter().find(|(found, _)| *found == name).map_or("", |(_, value)| value)
    }

    fn judge(&self, sample: &Sample, out: &mut OutputWriter<'_>) -> Result<(), WriteError> {
        let RecordHead { offset, key, value, .. } = sample.head;
        let same = NewRecord::SAME;
        let last = u8::try_from(self.outputs.len()).unwrap_or(u8::MAX).saturating_sub(1);
        match (self.option("mode"), value) {
            ("drop-every", _) => {
                let n = self.option("n").parse::<i64>().unwrap_or(1);
                if offset % n == 0 { out.drop_record() } else { out.keep(0) }
            }
            ("upper", Some(value)) => out.replace_value(0, Some(&value.to_ascii_uppercase())),
            ("null", _) => out.replace_value(0, None),
            ("swap", _) => {
                out.replace_record(NewRecord { key: Part::Is(value), value: Part::Is(key), ..same })
            }
            ("header", _) => {
                let mut headers = sample.headers.to_vec();
                headers.push(Header { name: b"conformance", value: Some(b"1") });
                out.replace_record(NewRecord { headers: NewHeaders::These(&headers), ..same })
            }
            ("stamp", _) => out.replace_record(NewRecord { timestamp: Some(offset), ..same }),
            ("twice", _) => {
                let mut emit = out.emit();
                emit.record(same)?;
                emit.record(NewRecord { output: last, ..same })?;
                emit.finish()
            }
            ("none", _) => out.emit().finish(),
            ("route", _) => {
                let outputs = i64::from(last) + 1;
                out.keep(u8::try_from(offset % outputs).unwrap_or(u8::MAX))
            }
            ("dead", _) => out.dead_letter(&format!("offset {offset}")),
            ("reject", _) => out.reject(&format!("offset {offset}")),
            _ => out.keep(0),
        }
    }
}

/// A verdict with the parts that stay filled in.
#[derive(Debug, PartialEq, Eq)]
enum Resolved<'a> {
    Keep(u8),
    Drop,
    Value(u8, Option<&'a [u8]>),
    Record(Whole<'a>),
    Emit(Vec<Whole<'a>>),
    DeadLetter(&'a [u8]),
    Reject(&'a [u8]),
}

#[derive(Debug, PartialEq, Eq)]
struct Whole<'a> {
    output: u8,
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<Header<'a>>,
}

fn resolved<'a>(verdict: crate::Verdict<'a>, sample: &'static Sample) -> Resolved<'a> {
    let whole = |record: crate::OutRecord<'a>| Whole {
        output: record.output,
        timestamp: record.timestamp.unwrap_or(sample.head.timestamp),
        key: record.key.resolve(sample.head.key),
        value: record.value.resolve(sample.head.value),
        headers: match record.headers {
            None => sample.headers.to_vec(),
            Some(headers) => headers.iter().collect(),
        },
    };
    match verdict {
        crate::Verdict::Keep { output } => Resolved::Keep(output),
        crate::Verdict::Drop => Resolved::Drop,
        crate::Verdict::ReplaceValue { output, value } => Resolved::Value(output, value),
        crate::Verdict::ReplaceRecord(record) => Resolved::Record(whole(record)),
        crate::Verdict::Emit(records) => Resolved::Emit(records.map(whole).collect()),
        crate::Verdict::DeadLetter { reason } => Resolved::DeadLetter(reason),
        crate::Verdict::Reject { reason } => Resolved::Reject(reason),
    }
}
