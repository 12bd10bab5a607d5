//! Keeps the records whose JSON field or header meets a condition, and drops the others.
//!
//! | option | |
//! |---|---|
//! | `field` | the path of a field of the JSON value, or ... |
//! | `header` | ... the name of a header: the last of that name counts |
//! | `equals`, `not-equals` | a text; a field may be a string or spelt so: `true`, `15` |
//! | `above`, `below` | a number, which the field or header must be, too |
//! | `exists` | `true` or `false` |
//! | `drop-fields` | paths of fields that kept records lose, with commas between |
//!
//! One of the first two, and one condition at least: all of them must be met. What is not there
//! meets `not-equals` and `exists = false` alone. A null value has no fields. A value that is not
//! JSON becomes a dead letter where a field is asked for or dropped.

use std::borrow::Cow;

use millstream_sdk::json::{self, Edit, Paths, Raw};
use millstream_sdk::{Config, Error, Manifest, Needs, Out, Record, Result, Transform, VerdictSet};

/// The plugin.
#[derive(Debug)]
pub struct Filter {
    of: Of,
    conditions: Vec<Condition>,
    drop_fields: Option<Edit>,
}

#[derive(Debug)]
enum Of {
    Field(Paths),
    Header(Vec<u8>),
}

#[derive(Debug)]
enum Condition {
    Equals(String),
    NotEquals(String),
    Above(f64),
    Below(f64),
    Exists(bool),
}

/// What a condition is asked of.
#[derive(Debug, Clone, Copy)]
enum Found<'a> {
    Field(Raw<'a>),
    Header(&'a [u8]),
}

impl Transform for Filter {
    const MANIFEST: Manifest = Manifest {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        needs: Needs::ALL,
        verdicts: VerdictSet::DROP.or(VerdictSet::REPLACE_VALUE).or(VerdictSet::DEAD_LETTER),
    };

    fn configure(config: &Config<'_>) -> Result<Self> {
        let mut conditions = Vec::new();
        for (name, value) in config.options() {
            conditions.push(match *name {
                "equals" => Condition::Equals((*value).to_owned()),
                "not-equals" => Condition::NotEquals((*value).to_owned()),
                "above" => Condition::Above(number(name, value)?),
                "below" => Condition::Below(number(name, value)?),
                "exists" => Condition::Exists(value.parse()?),
                "field" | "header" | "drop-fields" => continue,
                other => return Err(Error::new(format!("there is no option `{other}`"))),
            });
        }
        if conditions.is_empty() {
            return Err(Error::text(
                "give a condition: `equals`, `not-equals`, `above`, `below` or `exists`",
            ));
        }
        let of = match (config.get("field"), config.get("header")) {
            (Some(path), None) => Of::Field(Paths::new([path])?),
            (None, Some(name)) => Of::Header(name.as_bytes().to_vec()),
            _ => return Err(Error::text("give one of the options `field` and `header`")),
        };
        let drop_fields = config.get("drop-fields").map(Paths::listed).transpose()?;
        Ok(Filter { of, conditions, drop_fields: drop_fields.map(Edit::Drop) })
    }

    fn record(&self, record: &Record<'_>, out: &mut Out<'_, '_>) -> Result {
        let found = match &self.of {
            Of::Header(name) => record.headers.last(name).flatten().map(Found::Header),
            Of::Field(path) => match record.value {
                Some(value) => json::get(value, path)?.map(Found::Field),
                None => None,
            },
        };
        if !self.conditions.iter().all(|condition| condition.is_met(found)) {
            return out.drop();
        }
        let (Some(edit), Some(value)) = (&self.drop_fields, record.value) else {
            return out.keep();
        };
        let mut edited = out.value()?;
        if edit.apply(value, |run| edited.extend(run))? {
            return edited.finish(0);
        }
        drop(edited);
        out.keep()
    }
}

impl Condition {
    fn is_met(&self, found: Option<Found<'_>>) -> bool {
        let Some(found) = found else {
            return matches!(self, Condition::NotEquals(_) | Condition::Exists(false));
        };
        match self {
            Condition::Equals(text) => found.reads_as(text),
            Condition::NotEquals(text) => !found.reads_as(text),
            Condition::Above(bound) => found.number().is_some_and(|number| number > *bound),
            Condition::Below(bound) => found.number().is_some_and(|number| number < *bound),
            Condition::Exists(exists) => *exists,
        }
    }
}

impl Found<'_> {
    fn reads_as(self, text: &str) -> bool {
        match self {
            Found::Field(raw) => raw.is_str(text) || raw.bytes() == text.as_bytes(),
            Found::Header(value) => value == text.as_bytes(),
        }
    }

    fn number(self) -> Option<f64> {
        match self {
            Found::Field(raw) => raw.number(),
            Found::Header(value) => {
                let text = String::from_utf8_lossy(value);
                let Cow::Borrowed(text) = text else { return None };
                text.parse().ok()
            }
        }
    }
}

fn number(name: &str, text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(Error::new(format!("`{name}` is {text:?}, which is not a number"))),
    }
}

millstream_sdk::transform!(struct Filter);

#[cfg(test)]
mod tests {
    use millstream_sdk::testing::{Sample, Tester, Verdict};

    use super::*;

    fn kept(options: &[(&str, &str)], sample: Sample) -> bool {
        let tester = Tester::<Filter>::new(options).unwrap();
        match tester.run(&[sample]).unwrap().remove(0) {
            Verdict::Keep(0) => true,
            Verdict::Drop => false,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_meet_conditions() {
        let value = r#"{"delay":15,"origin":"S\u0046O","ok":true,"gone":null,"code":"15"}"#;
        for (options, expected) in [
            ([("field", "delay"), ("above", "14.5")], true),
            ([("field", "delay"), ("above", "15")], false),
            ([("field", "delay"), ("below", "1e2")], true),
            ([("field", "delay"), ("equals", "15")], true),
            ([("field", "origin"), ("equals", "SFO")], true),
            ([("field", "origin"), ("not-equals", "SFO")], false),
            ([("field", "origin"), ("above", "1")], false),
            ([("field", "code"), ("above", "1")], false),
            ([("field", "ok"), ("equals", "true")], true),
            ([("field", "gone"), ("exists", "true")], true),
            ([("field", "other"), ("exists", "true")], false),
            ([("field", "other"), ("exists", "false")], true),
            ([("field", "other"), ("not-equals", "x")], true),
            ([("field", "other"), ("equals", "x")], false),
        ] {
            assert_eq!(kept(&options, Sample::value(value)), expected, "{options:?}");
        }
        assert!(!kept(&[("field", "a"), ("exists", "true")], Sample::tombstone("k")));
        let between = [("field", "delay"), ("above", "10"), ("below", "20")];
        assert!(kept(&between, Sample::value(value)));
    }

    #[test]
    fn headers_meet_conditions() {
        let sample = || Sample::value("not JSON").header("h", "1").header("h", "20");
        assert!(kept(&[("header", "h"), ("equals", "20")], sample()));
        assert!(kept(&[("header", "h"), ("above", "19")], sample()));
        assert!(!kept(&[("header", "x"), ("above", "1")], sample()));
    }

    #[test]
    fn kept_records_may_lose_fields() {
        let options = [("field", "delay"), ("above", "0"), ("drop-fields", "distance")];
        let tester = Tester::<Filter>::new(&options).unwrap();
        let verdicts = tester.run(&[
            Sample::value(r#"{"delay":3,"distance":100}"#),
            Sample::value(r#"{"delay":-3,"distance":100}"#),
            Sample::value(r#"{"delay":4}"#),
            Sample::value(r#"{"delay":4"#),
        ]);
        let verdicts = verdicts.unwrap();
        assert_eq!(verdicts[..3], [Verdict::value(r#"{"delay":3}"#), Verdict::Drop, Verdict::KEEP]);
        assert!(matches!(verdicts[3], Verdict::DeadLetter(_)));
    }

    #[test]
    fn half_a_question_is_refused() {
        for options in [
            &[("field", "a")][..],
            &[("equals", "a")],
            &[("field", "a"), ("header", "b"), ("equals", "c")],
            &[("field", "a"), ("above", "b")],
            &[("field", "a"), ("exists", "yes")],
            &[("field", "a"), ("like", "b")],
        ] {
            assert!(Tester::<Filter>::new(options).is_err(), "{options:?}");
        }
    }
}
