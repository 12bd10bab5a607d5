//! Each way that a transform can answer, through the native harness.

use millstream_sdk::testing::{Sample, Tester, Verdict};
use millstream_sdk::{
    Config, Error, Header, Manifest, Needs, NewHeaders, NewRecord, Out, Part, Record, Result,
    Transform, VerdictSet,
};

/// Does what a record's value says.
struct Obedient;

impl Transform for Obedient {
    const MANIFEST: Manifest = Manifest {
        name: "obedient",
        version: "1",
        needs: Needs::ALL,
        verdicts: VerdictSet::AFTER_COMMIT.or(VerdictSet::REJECT),
    };

    fn configure(config: &Config<'_>) -> Result<Self> {
        config.only(&["mood"])?;
        match config.require("mood")? {
            "good" => Ok(Obedient),
            mood => Err(Error::new(format!("cannot work in a {mood} mood"))),
        }
    }

    fn record(&self, record: &Record<'_>, out: &mut Out<'_, '_>) -> Result {
        let same = NewRecord::SAME;
        match record.value.unwrap_or_default() {
            b"nothing" => Ok(()),
            b"route" => out.route(1),
            b"drop" => out.drop(),
            b"null" => out.replace_value(None),
            b"pieces" => {
                let mut value = out.value()?;
                value.extend(b"pie");
                value.extend(b"ces!");
                value.finish(1)
            }
            b"swap" => out.replace(NewRecord {
                key: Part::Is(record.value),
                value: Part::Is(record.key),
                headers: NewHeaders::With(
                    record.headers,
                    &[Header { name: b"swapped", value: Some(b"yes") }],
                ),
                ..same
            }),
            b"twice" => {
                let mut emit = out.emit()?;
                emit.record(same)?;
                emit.record(NewRecord { output: 1, value: Part::Is(Some(b"again")), ..same })?;
                emit.finish()
            }
            b"dead" => out.dead_letter("asked to"),
            b"reject" => out.reject("asked to"),
            b"error" => Err(Error::text("went wrong")),
            b"late error" => {
                out.replace_value(Some(b"half done"))?;
                Err(Error::text("went wrong late"))
            }
            b"two" => {
                out.drop()?;
                out.keep()
            }
            value => out.replace_value(Some(out.arena().copy(value))),
        }
    }
}

fn run(value: &str) -> Result<Vec<Verdict>> {
    let tester = Tester::<Obedient>::with_outputs(&[("mood", "good")], &["a", "b"])?;
    tester.run(&[Sample::new("k", "before"), Sample::new("k", value).header("h", "v")])
}

#[test]
fn every_verdict_comes_back() -> Result {
    let sample = |key: &str, value: &str| Sample::new(key, value).header("h", "v");
    for (value, expected) in [
        ("nothing", Verdict::KEEP),
        ("route", Verdict::Keep(1)),
        ("drop", Verdict::Drop),
        ("null", Verdict::Value(0, None)),
        ("pieces", Verdict::Value(1, Some(b"pieces!".to_vec()))),
        ("swap", Verdict::Records(vec![(0, sample("swap", "k").header("swapped", "yes"))])),
        ("twice", Verdict::Records(vec![(0, sample("k", "twice")), (1, sample("k", "again"))])),
        ("dead", Verdict::DeadLetter("asked to".to_owned())),
        ("error", Verdict::DeadLetter("went wrong".to_owned())),
        ("late error", Verdict::DeadLetter("went wrong late".to_owned())),
        ("other", Verdict::value("other")),
    ] {
        assert_eq!(run(value)?, [Verdict::value("before"), expected], "{value}");
    }
    let two = run("two")?;
    assert!(matches!(&two[1], Verdict::DeadLetter(reason) if reason.contains("two verdicts")));
    Ok(())
}

#[test]
fn what_a_binding_does_not_allow_is_an_error() -> Result {
    let error = run("reject").unwrap_err();
    assert!(error.reason().contains("reject"), "{error}");
    let tester = Tester::<Obedient>::new(&[("mood", "good")])?.on_produce();
    let verdicts = tester.run(&[Sample::value("reject")])?;
    assert_eq!(verdicts, [Verdict::Reject("asked to".to_owned())]);
    assert!(tester.run(&[Sample::value("route")]).is_err());
    assert!(tester.run(&[Sample::value("twice")]).is_err());
    Ok(())
}

#[test]
fn options_are_refused_by_name() {
    let refused = |options: &[(&str, &str)]| {
        Tester::<Obedient>::new(options).map(|_| ()).unwrap_err().reason().to_owned()
    };
    assert!(refused(&[]).contains("`mood` is missing"));
    assert!(refused(&[("mood", "bad")]).contains("bad mood"));
    assert!(refused(&[("mod", "good")]).contains("no option `mod`"));
}

/// A function alone, with what it needs and gives.
mod keyless {
    use super::{Needs, Out, Record, Result, VerdictSet};

    fn drop_keyless(record: &Record<'_>, out: &mut Out<'_, '_>) -> Result {
        assert!(record.value.is_none(), "values were not asked for");
        if record.key.is_none() { out.drop() } else { out.keep() }
    }

    millstream_sdk::transform!(drop_keyless, Needs::KEYS, VerdictSet::DROP);
}

#[test]
fn a_function_is_a_plugin() -> Result {
    assert_eq!(keyless::Plugin::MANIFEST.name, "millstream-sdk", "the package's");
    let tester = Tester::<keyless::Plugin>::new(&[])?;
    let verdicts = tester.run(&[Sample::new("k", "v"), Sample::value("v")])?;
    assert_eq!(verdicts, [Verdict::KEEP, Verdict::Drop]);
    Ok(())
}
