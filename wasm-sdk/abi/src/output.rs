//! `MSV1` as the host reads it: a verdict for each record of the input, and bodies.
//!
//! The bytes come from code that nobody trusts. [`Output::read`] looks at every one of them before
//! it returns, so that a host acts on all of an output or on none of it.

use core::iter::FusedIterator;

use crate::ABI;
use crate::bytes::{Cursor, NULL, SAME};
use crate::error::{OutputError, VerdictError};
use crate::headers::Headers;
use crate::limits::{EMIT_RECORDS_MAX, REASON_BYTES_MAX, TIMESTAMP_MS_MAX};
use crate::verdict::{Op, VerdictSet};

pub(crate) const MAGIC: [u8; 4] = *b"MSV1";
pub(crate) const HEADER_BYTES: usize = 16;
pub(crate) const VERDICT_BYTES: usize = 8;
pub(crate) const RECORD_HEAD_BYTES: usize = 24;
/// The timestamp, in output, that is the input record's.
pub(crate) const SAME_TIMESTAMP: i64 = -1;
/// `n` of a replaced value that is null.
pub(crate) const NULL_VALUE: u16 = 1;

/// What one call's output may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Records of the call's input.
    pub records: u32,
    /// Outputs of the configuration, at least 1.
    pub outputs: u8,
    /// Verdicts that the manifest declares and the binding allows.
    pub verdicts: VerdictSet,
    /// See [`crate::limits::output_bytes_max`].
    pub bytes_max: usize,
}

/// An output that has been checked as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    verdicts: Cursor<'a>,
    bodies: Cursor<'a>,
}

/// What becomes of one input record.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'a> {
    /// It goes to an output as it is.
    Keep {
        /// Index of the output.
        output: u8,
    },
    /// Nothing comes of it.
    Drop,
    /// It goes to an output with another value.
    ReplaceValue {
        /// Index of the output.
        output: u8,
        /// The value.
        value: Option<&'a [u8]>,
    },
    /// Another record goes to an output.
    ReplaceRecord(OutRecord<'a>),
    /// Any number of records, none included, go to outputs.
    Emit(Emitted<'a>),
    /// It goes to the dead-letter topic as it was.
    DeadLetter {
        /// Should be UTF-8, which nobody has checked.
        reason: &'a [u8],
    },
    /// The batch is refused because of it.
    Reject {
        /// Should be UTF-8, which nobody has checked.
        reason: &'a [u8],
    },
}

/// A key or a value of a record that a transform wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// The input record's.
    Same,
    /// These bytes, or null.
    Is(Option<&'a [u8]>),
}

/// A record that a transform wrote.
#[derive(Debug, Clone, Copy)]
pub struct OutRecord<'a> {
    /// Index of the output it goes to.
    pub output: u8,
    /// In ms since 1970; `None` for the input record's.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Part<'a>,
    /// Its value.
    pub value: Part<'a>,
    /// Its headers; `None` for the input record's.
    pub headers: Option<Headers<'a>>,
}

/// Lengths of an input record's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lengths {
    /// Bytes of the key, 0 for null.
    pub key: u32,
    /// Bytes of the value, 0 for null.
    pub value: u32,
    /// Bytes of the headers, as packed in a buffer.
    pub headers: u32,
}

impl<'a> Output<'a> {
    /// Checks all of `buffer`.
    ///
    /// # Errors
    /// It is not an output of this version, or breaks the rules.
    pub fn read(buffer: &'a [u8], rules: &Rules) -> Result<Output<'a>, OutputError> {
        if buffer.len() > rules.bytes_max {
            return Err(OutputError::TooLong { bytes: buffer.len(), bytes_max: rules.bytes_max });
        }
        let output = Output::frame(buffer, rules.records)?;
        let mut verdicts = output.verdicts;
        let mut bodies = output.bodies;
        let mut index = 0;
        while let Some(head) = verdicts.array::<VERDICT_BYTES>() {
            if head != [0; VERDICT_BYTES] {
                let verdict = verdict(head, &mut bodies, rules)
                    .map_err(|error| OutputError::Verdict { index, error })?;
                if let Verdict::Emit(emitted) = verdict {
                    emitted.check(rules).map_err(|error| OutputError::Verdict { index, error })?;
                }
            }
            index += 1;
        }
        if !bodies.is_empty() {
            let used = output.bodies.rest().len() - bodies.rest().len();
            let said = u32::try_from(used).unwrap_or(u32::MAX);
            return Err(OutputError::Length { said, bytes: output.bodies.rest().len() });
        }
        Ok(output)
    }

    /// Opens a buffer that [`Output::read`] has accepted before, without checking it again. Of any
    /// other, the verdicts end where they make no sense.
    #[must_use]
    pub fn reopen(buffer: &'a [u8], records: u32) -> Option<Output<'a>> {
        Output::frame(buffer, records).ok()
    }

    /// The header, and where verdicts and bodies are.
    fn frame(buffer: &'a [u8], records: u32) -> Result<Output<'a>, OutputError> {
        let none = OutputError::NoHeader { bytes: buffer.len() };
        let mut cursor = Cursor::new(buffer);
        let magic = cursor.array::<4>().ok_or(none)?;
        if magic != MAGIC {
            return Err(OutputError::Magic(magic));
        }
        let version = cursor.u16().ok_or(none)?;
        if version != ABI {
            return Err(OutputError::Version(version));
        }
        let flags = cursor.u16().ok_or(none)?;
        if flags != 0 {
            return Err(OutputError::Flags(flags));
        }
        let verdicts = cursor.u32().ok_or(none)?;
        if verdicts != records {
            return Err(OutputError::Count { records, verdicts });
        }
        let said = cursor.u32().ok_or(none)?;
        let verdict_bytes = usize::try_from(records)
            .ok()
            .and_then(|records| records.checked_mul(VERDICT_BYTES))
            .ok_or(none)?;
        let verdicts = cursor.bytes(verdict_bytes).ok_or(none)?;
        let bytes = cursor.rest().len();
        if usize::try_from(said) != Ok(bytes) {
            return Err(OutputError::Length { said, bytes });
        }
        Ok(Output { verdicts: Cursor::new(verdicts), bodies: cursor })
    }

    /// A verdict for each input record, in order.
    #[must_use]
    pub fn verdicts(&self) -> Verdicts<'a> {
        Verdicts { verdicts: self.verdicts, bodies: self.bodies }
    }
}

/// Walks the verdicts of an output.
#[derive(Debug, Clone)]
pub struct Verdicts<'a> {
    verdicts: Cursor<'a>,
    bodies: Cursor<'a>,
}

impl<'a> Iterator for Verdicts<'a> {
    type Item = Verdict<'a>;

    #[inline]
    fn next(&mut self) -> Option<Verdict<'a>> {
        let head = self.verdicts.array::<VERDICT_BYTES>()?;
        if head == [0; VERDICT_BYTES] {
            return Some(Verdict::Keep { output: 0 });
        }
        verdict(head, &mut self.bodies, &ANYTHING).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.verdicts.rest().len() / VERDICT_BYTES;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Verdicts<'_> {}
impl FusedIterator for Verdicts<'_> {}

/// The rules for what has been checked already.
const ANYTHING: Rules = Rules {
    records: u32::MAX,
    outputs: u8::MAX,
    verdicts: VerdictSet::AFTER_COMMIT.or(VerdictSet::ON_PRODUCE),
    bytes_max: usize::MAX,
};

/// Reads one verdict and takes its body. Records that it emits are not looked at.
#[inline]
fn verdict<'a>(
    head: [u8; VERDICT_BYTES],
    bodies: &mut Cursor<'a>,
    rules: &Rules,
) -> Result<Verdict<'a>, VerdictError> {
    let [op, output, n0, n1, b0, b1, b2, b3] = head;
    let n = u16::from_le_bytes([n0, n1]);
    let op = Op::from_byte(op).ok_or(VerdictError::Op(op))?;
    if !rules.verdicts.allows(op) {
        return Err(VerdictError::NotAllowed(op));
    }
    match op {
        Op::Keep | Op::ReplaceValue | Op::ReplaceRecord => check_output(output, rules)?,
        Op::Drop | Op::Emit | Op::DeadLetter | Op::Reject if output == 0 => {}
        Op::Drop | Op::Emit | Op::DeadLetter | Op::Reject => {
            return Err(VerdictError::Output(output));
        }
    }
    let n_max = match op {
        Op::ReplaceValue => NULL_VALUE,
        Op::Emit => EMIT_RECORDS_MAX,
        _ => 0,
    };
    if n > n_max {
        return Err(VerdictError::Number(n));
    }
    let bytes = u32::from_le_bytes([b0, b1, b2, b3]);
    let body = bodies.counted(bytes).ok_or(VerdictError::Body)?;
    let empty = |verdict| if body.is_empty() { Ok(verdict) } else { Err(VerdictError::Body) };
    match op {
        Op::Keep => empty(Verdict::Keep { output }),
        Op::Drop => empty(Verdict::Drop),
        Op::ReplaceValue if n == NULL_VALUE => empty(Verdict::ReplaceValue { output, value: None }),
        Op::ReplaceValue => Ok(Verdict::ReplaceValue { output, value: Some(body) }),
        Op::ReplaceRecord => replaced(body, output).map(Verdict::ReplaceRecord),
        Op::Emit => Ok(Verdict::Emit(Emitted { records: Cursor::new(body), left: n })),
        Op::DeadLetter => Ok(Verdict::DeadLetter { reason: reason(body)? }),
        Op::Reject => Ok(Verdict::Reject { reason: reason(body)? }),
    }
}

fn check_output(output: u8, rules: &Rules) -> Result<(), VerdictError> {
    if output == 0 {
        return Ok(());
    }
    if !rules.verdicts.contains(VerdictSet::ROUTE) {
        return Err(VerdictError::RouteNotAllowed);
    }
    if output >= rules.outputs { Err(VerdictError::Output(output)) } else { Ok(()) }
}

fn reason(body: &[u8]) -> Result<&[u8], VerdictError> {
    if body.len() > REASON_BYTES_MAX { Err(VerdictError::Reason(body.len())) } else { Ok(body) }
}

/// The only record of a body. Its output stands in the verdict.
fn replaced(body: &[u8], output: u8) -> Result<OutRecord<'_>, VerdictError> {
    let mut cursor = Cursor::new(body);
    let record = record(&mut cursor)?;
    if record.output != 0 {
        return Err(VerdictError::Output(record.output));
    }
    if cursor.is_empty() { Ok(OutRecord { output, ..record }) } else { Err(VerdictError::Body) }
}

fn record<'a>(cursor: &mut Cursor<'a>) -> Result<OutRecord<'a>, VerdictError> {
    let none = VerdictError::Body;
    let timestamp = cursor.i64().ok_or(none)?;
    let key_bytes = cursor.i32().ok_or(none)?;
    let value_bytes = cursor.i32().ok_or(none)?;
    let headers_bytes = cursor.i32().ok_or(none)?;
    let header_count = cursor.u16().ok_or(none)?;
    let output = cursor.u8().ok_or(none)?;
    let reserved = cursor.u8().ok_or(none)?;
    if reserved != 0 {
        return Err(VerdictError::Reserved(reserved));
    }
    let timestamp = match timestamp {
        SAME_TIMESTAMP => None,
        0..=TIMESTAMP_MS_MAX => Some(timestamp),
        _ => return Err(VerdictError::Timestamp(timestamp)),
    };
    let key = part(cursor, key_bytes)?;
    let value = part(cursor, value_bytes)?;
    let headers = match headers_bytes {
        SAME if header_count == 0 => None,
        SAME => return Err(VerdictError::Headers),
        bytes => {
            let bytes = u32::try_from(bytes).map_err(|_| VerdictError::Part(bytes))?;
            let packed = cursor.counted(bytes).ok_or(none)?;
            let headers = Headers::read(packed, u32::from(header_count));
            Some(headers.ok_or(VerdictError::Headers)?)
        }
    };
    Ok(OutRecord { output, timestamp, key, value, headers })
}

fn part<'a>(cursor: &mut Cursor<'a>, length: i32) -> Result<Part<'a>, VerdictError> {
    match length {
        SAME => Ok(Part::Same),
        NULL => Ok(Part::Is(None)),
        length => {
            let bytes = u32::try_from(length).map_err(|_| VerdictError::Part(length))?;
            let bytes = cursor.counted(bytes).ok_or(VerdictError::Body)?;
            Ok(Part::Is(Some(bytes)))
        }
    }
}

/// The records that one input record became, in order.
#[derive(Debug, Clone, Copy)]
pub struct Emitted<'a> {
    records: Cursor<'a>,
    left: u16,
}

impl<'a> Emitted<'a> {
    fn check(mut self, rules: &Rules) -> Result<(), VerdictError> {
        while self.left > 0 {
            check_output(record(&mut self.records)?.output, rules)?;
            self.left -= 1;
        }
        if self.records.is_empty() { Ok(()) } else { Err(VerdictError::Body) }
    }
}

impl<'a> Iterator for Emitted<'a> {
    type Item = OutRecord<'a>;

    fn next(&mut self) -> Option<OutRecord<'a>> {
        self.left = self.left.checked_sub(1)?;
        record(&mut self.records).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Emitted<'_> {}
impl FusedIterator for Emitted<'_> {}

/// What the records of an output come to, in bytes, with the parts that they take over from the
/// input, whose lengths are `inputs`, a record each. A record's own fields count as 24 bytes.
///
/// A host asks before it builds any of them: see [`crate::limits::resolved_bytes_max`].
#[must_use]
pub fn resolved_bytes(output: &Output<'_>, inputs: impl IntoIterator<Item = Lengths>) -> u64 {
    let mut bytes = 0_u64;
    for (verdict, input) in output.verdicts().zip(inputs) {
        bytes = bytes.saturating_add(verdict.resolved_bytes(input));
    }
    bytes
}

impl Verdict<'_> {
    /// What comes of one record, in bytes, with the parts that are taken over from `input`.
    #[must_use]
    pub fn resolved_bytes(&self, input: Lengths) -> u64 {
        match *self {
            Verdict::Keep { .. } => whole(input),
            Verdict::Drop | Verdict::DeadLetter { .. } | Verdict::Reject { .. } => 0,
            Verdict::ReplaceValue { value, .. } => {
                let value = value.map_or(0, |value| value.len() as u64);
                whole(Lengths { value: 0, ..input }) + value
            }
            Verdict::ReplaceRecord(record) => record.resolved_bytes(input),
            Verdict::Emit(records) => records.map(|record| record.resolved_bytes(input)).sum(),
        }
    }
}

fn whole(input: Lengths) -> u64 {
    RECORD_HEAD_BYTES as u64
        + u64::from(input.key)
        + u64::from(input.value)
        + u64::from(input.headers)
}

impl OutRecord<'_> {
    /// Bytes of the record with the parts that it takes over from `input`.
    #[must_use]
    pub fn resolved_bytes(&self, input: Lengths) -> u64 {
        let headers = match self.headers {
            None => u64::from(input.headers),
            Some(headers) => headers.packed().len() as u64,
        };
        let key = self.key.resolved_bytes(input.key);
        RECORD_HEAD_BYTES as u64 + key + self.value.resolved_bytes(input.value) + headers
    }
}

impl<'a> Part<'a> {
    /// The part itself, where `input` is the input record's.
    #[must_use]
    pub fn resolve(self, input: Option<&'a [u8]>) -> Option<&'a [u8]> {
        match self {
            Part::Same => input,
            Part::Is(part) => part,
        }
    }

    fn resolved_bytes(self, input: u32) -> u64 {
        match self {
            Part::Same => u64::from(input),
            Part::Is(part) => part.map_or(0, |part| part.len() as u64),
        }
    }
}
