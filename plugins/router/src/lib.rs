//! Sends each record to the topic that a JSON field, a header or the key names.
//!
//! | option | |
//! |---|---|
//! | `field` | the path of a field of the JSON value, or ... |
//! | `header` | ... the name of a header, or ... |
//! | `key` | ... `true`: the record's key |
//! | `to.VALUE` | the topic for records with that value, one of the transform's outputs |
//! | `else` | the topic for all others, or `drop`, or `dead-letter`; by default the first output |
//!
//! A field may be a string or spelt so: `true`, `15`. A value that is not JSON becomes a dead
//! letter where a field is asked for.

use millstream_sdk::json::{self, Paths, Raw};
use millstream_sdk::{Config, Error, Manifest, Needs, Out, Record, Result, Transform, VerdictSet};

const TO: &str = "to.";

/// The plugin.
#[derive(Debug)]
pub struct Router {
    by: By,
    /// Values and the indexes of their topics.
    routes: Vec<(String, u8)>,
    others: Others,
}

#[derive(Debug)]
enum By {
    Field(Paths),
    Header(Vec<u8>),
    Key,
}

#[derive(Debug, Clone, Copy)]
enum Others {
    To(u8),
    Drop,
    DeadLetter,
}

#[derive(Debug, Clone, Copy)]
enum Found<'a> {
    Field(Raw<'a>),
    Bytes(&'a [u8]),
}

impl Transform for Router {
    const MANIFEST: Manifest = Manifest {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        needs: Needs::ALL,
        verdicts: VerdictSet::DROP.or(VerdictSet::ROUTE).or(VerdictSet::DEAD_LETTER),
    };

    fn configure(config: &Config<'_>) -> Result<Self> {
        let topic = |topic: &str| {
            let index = config.output(topic);
            index.ok_or_else(|| Error::new(format!("`{topic}` is none of the outputs")))
        };
        let mut routes = Vec::new();
        for (name, value) in config.options() {
            match name.strip_prefix(TO) {
                Some(of) => routes.push((of.to_owned(), topic(value)?)),
                None if ["field", "header", "key", "else"].contains(name) => {}
                None => return Err(Error::new(format!("there is no option `{name}`"))),
            }
        }
        if routes.is_empty() {
            return Err(Error::text("give a route: an option `to.VALUE` that names a topic"));
        }
        let by = match (config.get("field"), config.get("header"), config.get("key")) {
            (Some(path), None, None) => By::Field(Paths::new([path])?),
            (None, Some(name), None) => By::Header(name.as_bytes().to_vec()),
            (None, None, Some("true")) => By::Key,
            _ => return Err(Error::text("give one of `field`, `header` and `key = true`")),
        };
        let others = match config.get("else") {
            None => Others::To(0),
            Some("drop") => Others::Drop,
            Some("dead-letter") => Others::DeadLetter,
            Some(name) => Others::To(topic(name)?),
        };
        Ok(Router { by, routes, others })
    }

    fn record(&self, record: &Record<'_>, out: &mut Out<'_, '_>) -> Result {
        let found = match &self.by {
            By::Key => record.key.map(Found::Bytes),
            By::Header(name) => record.headers.last(name).flatten().map(Found::Bytes),
            By::Field(path) => match record.value {
                Some(value) => json::get(value, path)?.map(Found::Field),
                None => None,
            },
        };
        let route = found.and_then(|found| {
            self.routes.iter().find(|(value, _)| found.reads_as(value)).map(|(_, topic)| *topic)
        });
        match (route, self.others) {
            (Some(topic), _) | (None, Others::To(topic)) => out.route(topic),
            (None, Others::Drop) => out.drop(),
            (None, Others::DeadLetter) => out.dead_letter("no route for the record"),
        }
    }
}

impl Found<'_> {
    fn reads_as(self, text: &str) -> bool {
        match self {
            Found::Field(raw) => raw.is_str(text) || raw.bytes() == text.as_bytes(),
            Found::Bytes(value) => value == text.as_bytes(),
        }
    }
}

millstream_sdk::transform!(struct Router);

#[cfg(test)]
mod tests {
    use millstream_sdk::testing::{Sample, Tester, Verdict};

    use super::*;

    const OUTPUTS: [&str; 3] = ["rest", "west", "east"];

    fn run(options: &[(&str, &str)], samples: &[Sample]) -> Vec<Verdict> {
        Tester::<Router>::with_outputs(options, &OUTPUTS).unwrap().run(samples).unwrap()
    }

    #[test]
    fn records_go_where_their_field_says() {
        let samples = [
            Sample::value(r#"{"at":{"code":"SFO"}}"#),
            Sample::value(r#"{"at":{"code":"JFK"}}"#),
            Sample::value(r#"{"at":"SFO"}"#),
            Sample::tombstone("k"),
            Sample::value("{"),
        ];
        let options = [("field", "at.code"), ("to.SFO", "west"), ("to.JFK", "east")];
        let verdicts = run(&options, &samples);
        assert_eq!(verdicts[..2], [Verdict::Keep(1), Verdict::Keep(2)]);
        assert_eq!(verdicts[2..4], [Verdict::KEEP, Verdict::KEEP]);
        assert!(matches!(verdicts[4], Verdict::DeadLetter(_)));
    }

    #[test]
    fn headers_and_keys_route_without_a_look_at_the_value() {
        let sample = Sample::new("SFO", "{").header("code", "JFK");
        let routes = [("to.SFO", "west"), ("to.JFK", "east")];
        let by = |name, value| [(name, value), routes[0], routes[1]];
        assert_eq!(run(&by("key", "true"), std::slice::from_ref(&sample)), [Verdict::Keep(1)]);
        assert_eq!(run(&by("header", "code"), &[sample]), [Verdict::Keep(2)]);
    }

    #[test]
    fn others_go_where_the_option_says() {
        let sample = [Sample::new("other", "")];
        let with = |rest| [("key", "true"), ("to.SFO", "west"), ("else", rest)];
        assert_eq!(run(&with("east"), &sample), [Verdict::Keep(2)]);
        assert_eq!(run(&with("drop"), &sample), [Verdict::Drop]);
        assert!(matches!(run(&with("dead-letter"), &sample)[0], Verdict::DeadLetter(_)));
    }

    #[test]
    fn routes_lead_to_outputs() {
        for options in [
            &[("key", "true")][..],
            &[("key", "true"), ("to.a", "nowhere")],
            &[("key", "false"), ("to.a", "west")],
            &[("key", "true"), ("field", "a"), ("to.a", "west")],
            &[("key", "true"), ("to.a", "west"), ("else", "nowhere")],
        ] {
            assert!(Tester::<Router>::with_outputs(options, &OUTPUTS).is_err(), "{options:?}");
        }
    }
}
