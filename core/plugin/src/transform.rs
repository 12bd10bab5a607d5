//! A transform at work: batches in, a verdict for each record out, whatever the guest does.
//!
//! A call that fails in any way costs its instance. The batch is then run again by halves, each on
//! a fresh instance, until the record that is to blame stands alone; that one is run once more
//! under a count of instructions, and only this decides. So the verdicts do not depend on how fast
//! a machine was, nor on which records shared a call.

use std::collections::BTreeMap;
use std::ops::Range;

use millstream_plugin_abi::{
    Flags, Input, InputWriter, Lengths, Output, Rules, Verdict, VerdictSet, limits as abi,
    resolved_bytes,
};

use crate::error::{Fault, LoadError};
use crate::guest::{Config, Level, Said};
use crate::instance::{Bound, Instance};
use crate::limits::{ALONE_MAX, ANSWERS_BYTES_MAX, LOG_LINES_MAX};
use crate::plugin::{Binding, Kind, Plugin, as_fault, cut};

/// A part of a batch has its part of the deadline, but no less than this part of the whole: a call
/// costs something by itself.
const DEADLINE_PART_MIN: u32 = 8;

/// Where a transform stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It reads committed records of a topic and writes to others.
    AfterCommit,
    /// It sees what is produced before anything is stored.
    OnProduce,
}

impl Place {
    fn allowed(self) -> VerdictSet {
        match self {
            Self::AfterCommit => VerdictSet::AFTER_COMMIT,
            Self::OnProduce => VerdictSet::ON_PRODUCE,
        }
    }
}

/// A plugin bound to topics. Not to be shared: each partition has its own.
pub struct Transform {
    plugin: Plugin,
    config: Config,
    place: Place,
    instance: Option<Instance>,
    /// The batch that is being judged.
    input: Vec<u8>,
    /// A part of it.
    part: Vec<u8>,
    told: Told,
}

impl std::fmt::Debug for Transform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transform").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

/// What the guest told the operator since this was last taken.
#[derive(Debug, Default)]
pub struct Told {
    /// Log lines, each with its level: the first few.
    pub lines: Vec<(&'static str, String)>,
    /// Lines that were too many.
    pub lines_dropped: u64,
    /// What was added to each counter.
    pub counters: BTreeMap<String, u64>,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Judged<'t> {
    input: &'t [u8],
    pieces: Vec<Piece>,
    records: u32,
    stopped: Option<Fault>,
}

#[derive(Debug)]
struct Piece {
    records: u32,
    outcome: Result<Vec<u8>, Fault>,
}

/// What became of one record.
#[derive(Debug)]
pub enum Outcome<'j> {
    /// The guest's verdict.
    Verdict(Verdict<'j>),
    /// The guest failed on it, alone and within fixed bounds: it belongs into the dead-letter
    /// topic.
    Failed(&'j Fault),
}

impl Transform {
    /// Binds a plugin and makes its first instance.
    ///
    /// # Errors
    /// It is no transform, may not stand in this place, or does not take its configuration.
    pub fn new(plugin: &Plugin, binding: &Binding, place: Place) -> Result<Self, LoadError> {
        let manifest = plugin.manifest();
        if manifest.kind != Kind::Transform {
            return Err(LoadError::World(format!("`{}` is no transform", manifest.name)));
        }
        if !place.allowed().contains(manifest.verdicts) {
            let message = match place {
                Place::OnProduce => "it emits or routes, which cannot be done on produce",
                Place::AfterCommit => "it rejects, which can only be done on produce",
            };
            return Err(LoadError::Manifest(message.to_owned()));
        }
        let config = plugin.config(binding)?;
        let deadline = Bound::Deadline(plugin.host().limits().transform_deadline);
        let instance = plugin.instance(&config, deadline)?;
        Ok(Self {
            plugin: plugin.clone(),
            config,
            place,
            instance: Some(instance),
            input: Vec::new(),
            part: Vec::new(),
            told: Told::default(),
        })
    }

    /// Begins a batch: the caller packs records of `partition` into it until it has enough or the
    /// writer is full, and then calls [`Transform::apply`].
    pub fn begin(&mut self, partition: u32) -> InputWriter<'_> {
        let manifest = self.plugin.manifest();
        let flags = Flags {
            values: manifest.needs_values,
            headers: manifest.needs_headers,
            produce: self.place == Place::OnProduce,
        };
        InputWriter::new(&mut self.input, flags, partition, abi::INPUT_BYTES_MAX)
    }

    /// Judges the batch that was begun. `lengths` has each record's, packed or not. Stops early
    /// when more than `failures_max` records fail: what comes before is judged, and the rest may
    /// be tried again.
    pub fn apply(&mut self, lengths: &[Lengths], failures_max: u32) -> Judged<'_> {
        let records = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
        let mut run = Run { failures_max, ..Run::default() };
        // Parts that wait for their turn, the first at the end.
        let mut parts = Vec::new();
        if records > 0 {
            parts.push(0..records);
        }
        while let Some(part) = parts.pop() {
            let several = part.len() > 1;
            let outcome = match self.timed_first(&part, lengths, records) {
                Err(Failure::Call) if several => {
                    let middle = part.start + (part.end - part.start) / 2;
                    parts.push(middle..part.end);
                    parts.push(part.start..middle);
                    continue;
                }
                Err(Failure::Call) if run.alone == ALONE_MAX => Err(Fault::Unfinished),
                Err(Failure::Call) => {
                    run.alone += 1;
                    self.counted(part.clone(), lengths)
                }
                Err(Failure::Instance(fault)) => Err(fault),
                Ok(answer) => Ok(answer),
            };
            if !run.take(part.end - part.start, outcome) {
                break;
            }
        }
        Judged { input: &self.input, pieces: run.pieces, records, stopped: run.stopped }
    }

    /// What the guest told since this was last called.
    pub fn take_told(&mut self) -> Told {
        std::mem::take(&mut self.told)
    }

    /// Runs a part of the batch, if it has not failed already: of a batch that has, a record that
    /// is alone now is not run against the clock again.
    fn timed_first(
        &mut self,
        part: &Range<u32>,
        lengths: &[Lengths],
        records: u32,
    ) -> Result<Vec<u8>, Failure> {
        if part.len() == 1 && records > 1 {
            return Err(Failure::Call);
        }
        self.timed(part.clone(), lengths)
    }

    /// Runs a part of the batch on the instance at hand, against the clock.
    fn timed(&mut self, part: Range<u32>, lengths: &[Lengths]) -> Result<Vec<u8>, Failure> {
        let whole = self.plugin.host().limits().transform_deadline;
        let records = u32::try_from(lengths.len()).unwrap_or(u32::MAX).max(1);
        let share = whole.mul_f64(f64::from(part.end - part.start) / f64::from(records));
        let bound = Bound::Deadline(share.max(whole / DEADLINE_PART_MIN));
        let instance = match self.instance.take() {
            Some(instance) => Ok(instance),
            None => self.plugin.instance(&self.config, bound),
        };
        let mut instance = instance.map_err(|error| Failure::Instance(as_fault(&error)))?;
        let answer = self.call(&mut instance, part, lengths, bound);
        if answer.is_ok() {
            self.instance = Some(instance);
        }
        answer.map_err(|_| Failure::Call)
    }

    /// Runs one record on an instance of its own, by its instructions.
    fn counted(&mut self, part: Range<u32>, lengths: &[Lengths]) -> Result<Vec<u8>, Fault> {
        let bound = Bound::Fuel(self.plugin.host().limits().suspect_fuel);
        let instance = self.plugin.instance(&self.config, bound);
        let mut instance = instance.map_err(|error| as_fault(&error))?;
        self.call(&mut instance, part, lengths, bound)
    }

    fn call(
        &mut self,
        instance: &mut Instance,
        part: Range<u32>,
        lengths: &[Lengths],
        bound: Bound,
    ) -> Result<Vec<u8>, Fault> {
        let host = self.plugin.host();
        let all = part.len() == lengths.len();
        let batch = if all {
            self.input.as_slice()
        } else {
            let input = Input::open(&self.input);
            let input = input.map_err(|error| Fault::Instance(error.to_string()))?;
            input.cut(part.clone(), &mut self.part)
        };
        let bytes_max = abi::output_bytes_max(batch.len());
        let answer = instance.apply(host.engines(), bound, batch, bytes_max);
        self.told.add(instance.take_said());
        let answer = answer.map_err(|fault| match fault {
            Fault::Said(said) => Fault::Said(cut(&said)),
            other => other,
        })?;
        let outputs = u8::try_from(self.config.outputs.len()).unwrap_or(abi::OUTPUTS_MAX);
        let rules = Rules {
            records: part.end - part.start,
            outputs,
            verdicts: self.plugin.manifest().verdicts,
            bytes_max,
        };
        let output = Output::read(&answer, &rules);
        let output = output.map_err(|error| Fault::Answer(error.to_string()))?;
        let of_part = part.start as usize..part.end as usize;
        let lengths = lengths.get(of_part).unwrap_or_default();
        check_sizes(&output, lengths, batch.len())?;
        Ok(answer)
    }
}

/// Checks what an answer comes to. In company a record may have no more than it could have alone,
/// so that it gets the same verdict in both.
fn check_sizes(output: &Output<'_>, lengths: &[Lengths], batch_bytes: usize) -> Result<(), Fault> {
    let refuse = |bytes: u64, max: usize| {
        let message = format!("its records come to {bytes} bytes, more than the {max} allowed");
        Err(Fault::Answer(message))
    };
    let fits = |bytes: u64, max: usize| usize::try_from(bytes).is_ok_and(|bytes| bytes <= max);
    let (bytes, max) =
        (resolved_bytes(output, lengths.iter().copied()), abi::resolved_bytes_max(batch_bytes));
    if !fits(bytes, max) {
        return refuse(bytes, max);
    }
    if lengths.len() > 1 {
        for (verdict, of) in output.verdicts().zip(lengths) {
            let bytes = verdict.resolved_bytes(*of);
            let packed = of.key as usize + of.value as usize + of.headers as usize;
            let max = abi::output_bytes_max(packed);
            if !fits(bytes, max) {
                return refuse(bytes, max);
            }
        }
    }
    Ok(())
}

/// How a part of a batch failed.
enum Failure {
    /// The guest did, on one of the records: how, counts only when that is run alone.
    Call,
    /// There was no instance to run it on, which says nothing of the records.
    Instance(Fault),
}

/// What came of a batch so far.
#[derive(Default)]
struct Run {
    pieces: Vec<Piece>,
    answer_bytes: usize,
    failures: u32,
    failures_max: u32,
    /// Records that were run alone.
    alone: u32,
    stopped: Option<Fault>,
}

impl Run {
    /// Takes what came of the next records; says whether to go on.
    fn take(&mut self, records: u32, outcome: Result<Vec<u8>, Fault>) -> bool {
        match outcome {
            // Which says nothing of the record.
            Err(fault @ (Fault::Slow | Fault::Instance(_) | Fault::Unfinished)) => {
                self.stopped = Some(fault);
                return false;
            }
            Err(fault) if self.failures == self.failures_max => {
                self.stopped = Some(fault);
                return false;
            }
            outcome => {
                self.failures += u32::from(outcome.is_err());
                self.answer_bytes += outcome.as_ref().map_or(0, Vec::len);
                self.pieces.push(Piece { records, outcome });
            }
        }
        if self.answer_bytes > ANSWERS_BYTES_MAX {
            self.stopped = Some(Fault::Unfinished);
        }
        self.stopped.is_none()
    }
}

impl Told {
    fn add(&mut self, said: Said) {
        let Said { lines, lines_dropped, counters } = said;
        let room = LOG_LINES_MAX.saturating_sub(self.lines.len());
        let over = lines.len().saturating_sub(room) as u64;
        self.lines_dropped = self.lines_dropped.saturating_add(lines_dropped).saturating_add(over);
        self.lines.extend(lines.into_iter().take(room).map(|(level, line)| (name(level), line)));
        for (name, add) in counters {
            if let Some(value) = self.counters.get_mut(&name) {
                *value = value.saturating_add(add);
            } else if self.counters.len() < abi::COUNTERS_MAX {
                self.counters.insert(name, add);
            }
        }
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

impl Judged<'_> {
    /// How many records from the first on were judged.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.pieces.iter().map(|piece| piece.records).sum()
    }

    /// Why not all of them were, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<&Fault> {
        self.stopped.as_ref()
    }

    /// Records of the batch.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// The batch as the guest saw it.
    #[must_use]
    pub fn input(&self) -> &[u8] {
        self.input
    }

    /// What became of each record that was judged, in order.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome<'_>> {
        self.pieces.iter().flat_map(|piece| {
            let answer = piece.outcome.as_ref().ok();
            let read = answer.and_then(|answer| Output::reopen(answer, piece.records));
            let failed = piece.outcome.as_ref().err().map(Outcome::Failed);
            let verdicts = read.into_iter().flat_map(|output| output.verdicts());
            verdicts.map(Outcome::Verdict).chain(failed)
        })
    }
}
