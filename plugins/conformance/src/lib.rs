//! Answers as the conformance suite asks a guest to: see `conformance` of `millstream-plugin-abi`,
//! which has the modes. The guests in C and AssemblyScript beside this one do the same.

use millstream_sdk::{
    Config, Error, Header, Manifest, Needs, NewHeaders, NewRecord, Out, Part, Record, Result,
    Transform, VerdictSet,
};

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct Conformance {
    mode: Mode,
    /// Index of the last output.
    last: u8,
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Keep,
    DropEvery(i64),
    Upper,
    Null,
    Swap,
    Header,
    Stamp,
    Twice,
    Nothing,
    Route,
    Dead,
    Reject,
    Fail,
}

impl Transform for Conformance {
    const MANIFEST: Manifest = Manifest {
        name: "conformance",
        version: env!("CARGO_PKG_VERSION"),
        needs: Needs::ALL,
        verdicts: VerdictSet::AFTER_COMMIT.or(VerdictSet::REJECT),
    };

    fn configure(config: &Config<'_>) -> Result<Self> {
        let mode = match config.get("mode") {
            Some("keep") => Mode::Keep,
            Some("drop-every") => Mode::DropEvery(config.require("n")?.parse()?),
            Some("upper") => Mode::Upper,
            Some("null") => Mode::Null,
            Some("swap") => Mode::Swap,
            Some("header") => Mode::Header,
            Some("stamp") => Mode::Stamp,
            Some("twice") => Mode::Twice,
            Some("none") => Mode::Nothing,
            Some("route") => Mode::Route,
            Some("dead") => Mode::Dead,
            Some("reject") => Mode::Reject,
            Some("fail") => Mode::Fail,
            _ => return Err(Error::text("unknown mode")),
        };
        let last = config.outputs.len().saturating_sub(1);
        Ok(Conformance { mode, last: u8::try_from(last)? })
    }

    fn record(&self, record: &Record<'_>, out: &mut Out<'_, '_>) -> Result {
        let same = NewRecord::SAME;
        let reason = || format!("offset {}", record.offset);
        match (self.mode, record.value) {
            (Mode::DropEvery(n), _) if record.offset % n == 0 => out.drop(),
            (Mode::Keep | Mode::DropEvery(_), _) | (Mode::Upper, None) => out.keep(),
            (Mode::Upper, Some(value)) => {
                let upper = out.arena().bytes(value.len());
                upper.copy_from_slice(value);
                upper.make_ascii_uppercase();
                out.replace_value(Some(upper))
            }
            (Mode::Null, _) => out.replace_value(None),
            (Mode::Swap, value) => {
                out.replace(NewRecord { key: Part::Is(value), value: Part::Is(record.key), ..same })
            }
            (Mode::Header, _) => {
                let more = [Header { name: b"conformance", value: Some(b"1") }];
                out.replace(NewRecord { headers: NewHeaders::With(record.headers, &more), ..same })
            }
            (Mode::Stamp, _) => out.replace(NewRecord { timestamp: Some(record.offset), ..same }),
            (Mode::Twice, _) => {
                let mut emit = out.emit()?;
                emit.record(same)?;
                emit.record(NewRecord { output: self.last, ..same })?;
                emit.finish()
            }
            (Mode::Nothing, _) => out.emit()?.finish(),
            (Mode::Route, _) => {
                out.route(u8::try_from(record.offset % (i64::from(self.last) + 1))?)
            }
            (Mode::Dead, _) => out.dead_letter(&reason()),
            (Mode::Reject, _) => out.reject(&reason()),
            (Mode::Fail, _) => Err(Error::text("asked to fail").of_the_call()),
        }
    }
}

millstream_sdk::transform!(struct Conformance);

#[cfg(test)]
mod tests {
    use millstream_plugin_abi::conformance::{Answer, CASES};
    use millstream_sdk::testing::Tester;

    use super::*;

    #[test]
    fn every_case_is_answered() {
        for case in CASES {
            let tester = Tester::<Conformance>::with_outputs(case.options, case.outputs);
            let mut output = Vec::new();
            let batch = case.batch().unwrap();
            let applied = tester.and_then(|tester| tester.apply(&batch, &mut output));
            match case.answer {
                Answer::Verdicts => {
                    applied.unwrap();
                    case.check(&output).unwrap();
                }
                Answer::Unconfigured(reason) | Answer::Failed(reason) => {
                    assert_eq!(applied.unwrap_err().reason(), reason, "{case:?}");
                }
            }
        }
    }
}
