//! Drops, keeps or masks fields of JSON values, in one pass over the bytes.
//!
//! | option | |
//! |---|---|
//! | `drop` | paths of fields that go, with commas between: `password, card.number` |
//! | `keep` | paths of fields that stay, all others go |
//! | `mask` | paths of fields whose values are replaced |
//! | `mask-with` | the text that replaces them, by default `***` |
//!
//! One of the first three. Paths are as in `millstream_sdk::json`. A null value stays; a value that
//! is not JSON, or that `keep` finds to be neither object nor array, becomes a dead letter: nothing
//! passes that could not be looked into.

use millstream_sdk::json::{self, Edit, Paths};
use millstream_sdk::{Config, Error, Manifest, Needs, Out, Record, Result, Transform, VerdictSet};

/// The plugin.
#[derive(Debug)]
pub struct JsonRedactor(Edit);

impl Transform for JsonRedactor {
    const MANIFEST: Manifest = Manifest {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        needs: Needs::VALUES,
        verdicts: VerdictSet::REPLACE_VALUE.or(VerdictSet::DEAD_LETTER),
    };

    fn configure(config: &Config<'_>) -> Result<Self> {
        config.only(&["drop", "keep", "mask", "mask-with"])?;
        let paths = |name| config.get(name).map(Paths::listed).transpose();
        let edit = match (paths("drop")?, paths("keep")?, paths("mask")?) {
            (Some(paths), None, None) => Edit::Drop(paths),
            (None, Some(paths), None) => Edit::Keep(paths),
            (None, None, Some(paths)) => {
                Edit::Mask(paths, json::mask(config.get("mask-with").unwrap_or("***")))
            }
            _ => return Err(Error::text("give one of the options `drop`, `keep` and `mask`")),
        };
        Ok(JsonRedactor(edit))
    }

    fn record(&self, record: &Record<'_>, out: &mut Out<'_, '_>) -> Result {
        let Some(value) = record.value else { return out.keep() };
        if matches!(self.0, Edit::Keep(_)) {
            let first = value.iter().find(|byte| !byte.is_ascii_whitespace());
            if !matches!(first, Some(b'{' | b'[')) {
                return Err(Error::text("the value is neither object nor array"));
            }
        }
        let mut edited = out.value()?;
        if self.0.apply(value, |run| edited.extend(run))? {
            return edited.finish(0);
        }
        drop(edited);
        out.keep()
    }
}

millstream_sdk::transform!(struct JsonRedactor);

#[cfg(test)]
mod tests {
    use millstream_sdk::testing::{Sample, Tester, Verdict};

    use super::*;

    fn run(options: &[(&str, &str)], value: &str) -> Verdict {
        let tester = Tester::<JsonRedactor>::new(options).unwrap();
        let mut verdicts = tester.run(&[Sample::new("k", value)]).unwrap();
        let produced = tester.on_produce().run(&[Sample::new("k", value)]).unwrap();
        assert_eq!(verdicts, produced, "on produce as after commit");
        verdicts.remove(0)
    }

    #[test]
    fn fields_are_dropped_kept_and_masked() {
        let value = r#"{"user":"a","card":{"number":"4111","name":"A"}}"#;
        let dropped = Verdict::value(r#"{"user":"a","card":{"name":"A"}}"#);
        assert_eq!(run(&[("drop", "card.number, password")], value), dropped);
        assert_eq!(run(&[("keep", "user")], value), Verdict::value(r#"{"user":"a"}"#));
        let masked = Verdict::value(r#"{"user":"a","card":"***"}"#);
        assert_eq!(run(&[("mask", "card")], value), masked);
        let masked = Verdict::value(r#"{"user":"-","card":{"number":"4111","name":"A"}}"#);
        assert_eq!(run(&[("mask", "user"), ("mask-with", "-")], value), masked);
    }

    #[test]
    fn what_has_nothing_to_hide_is_not_copied() {
        assert_eq!(run(&[("drop", "password")], r#"{"user":"a"}"#), Verdict::KEEP);
        let tester = Tester::<JsonRedactor>::new(&[("drop", "a")]).unwrap();
        assert_eq!(tester.run(&[Sample::tombstone("k")]).unwrap(), [Verdict::KEEP]);
    }

    #[test]
    fn what_cannot_be_looked_into_does_not_pass() {
        let dead =
            |options: &[(&str, &str)], value| matches!(run(options, value), Verdict::DeadLetter(_));
        assert!(dead(&[("drop", "password")], r#"{"password":"x""#));
        assert!(dead(&[("drop", "password")], ""));
        assert!(dead(&[("keep", "user")], r#" "a password""#));
    }

    #[test]
    fn spelling_does_not_hide_a_field() {
        let value = r#"{"pass\u0077ord":"x","password":"y"}"#;
        assert_eq!(run(&[("drop", "password")], value), Verdict::value("{}"));
    }

    #[test]
    fn one_edit_is_asked_for() {
        for options in
            [&[][..], &[("drop", "a"), ("keep", "b")], &[("drop", "a,")], &[("hide", "a")]]
        {
            assert!(Tester::<JsonRedactor>::new(options).is_err(), "{options:?}");
        }
    }
}
