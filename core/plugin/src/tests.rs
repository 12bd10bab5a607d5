//! The host against real guests: those that keep to the contract, in three languages, and one that
//! breaks it in every way there is.

use std::collections::BTreeSet;
use std::time::Duration;

use millstream_plugin_abi::conformance::{Answer, CASES, Case};
use millstream_plugin_abi::{HotKey, HotWriter, Lengths, RecordHead, Verdict};

use crate::error::{Fault, LoadError};
use crate::guest::Config;
use crate::instance::Bound;
use crate::limits::Limits;
use crate::partitioner::Partitioner;
use crate::plugin::{Binding, Host, Kind, Plugin};
use crate::transform::{Outcome, Place, Transform};

const BOUND: Bound = Bound::Deadline(Duration::from_secs(5));

fn built(name: &str) -> Vec<u8> {
    let path = format!("{}/../../plugins/built/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

fn host() -> Host {
    // Fuel for a record that does something, so that tests of loops are short.
    Host::new(Limits { suspect_fuel: 20_000_000, ..Limits::default() }).unwrap()
}

fn plugin(name: &str) -> Plugin {
    host().load(&built(name)).unwrap()
}

fn binding(options: &[(&str, &str)], outputs: &[&str]) -> Binding {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Binding {
        options: options.iter().map(owned).collect(),
        input: "in".to_owned(),
        outputs: outputs.iter().map(|output| (*output).to_owned()).collect(),
    }
}

#[test]
fn guests_in_three_languages_answer_alike() {
    for name in ["conformance", "conformance-c", "conformance-as"] {
        let plugin = plugin(name);
        for (number, case) in CASES.iter().enumerate() {
            check(&plugin, case).unwrap_or_else(|error| panic!("{name}, case {number}: {error}"));
        }
    }
}

fn check(plugin: &Plugin, case: &Case) -> Result<(), String> {
    let Binding { options, input, outputs } = binding(case.options, case.outputs);
    let config = Config { abi: plugin.manifest().layout, options, input, outputs };
    let instance = match (plugin.instance(&config, BOUND), case.answer) {
        (Err(LoadError::Configuration(said)), Answer::Unconfigured(expected)) => {
            return if said == expected { Ok(()) } else { Err(said) };
        }
        (instance, Answer::Unconfigured(_)) => return Err(format!("{:?}", instance.err())),
        (instance, _) => instance,
    };
    let mut instance = instance.map_err(|error| error.to_string())?;
    let batch = case.batch().map_err(|error| error.to_string())?;
    // Twice: an instance is used again and again.
    for _ in 0..2 {
        let answer = instance.apply(plugin.host().engines(), BOUND, &batch, 1 << 20);
        match (answer, case.answer) {
            (Ok(answer), Answer::Verdicts) => case.check(&answer)?,
            (Err(Fault::Said(said)), Answer::Failed(expected)) if said == expected => {}
            (answer, _) => return Err(format!("{answer:?}")),
        }
    }
    Ok(())
}

/// Runs values through the hostile guest; each is told as kept (`k`), failed (`f`) or else (`?`).
fn harm(transform: &mut Transform, values: &[&str], failures_max: u32) -> (String, Option<Fault>) {
    let lengths: Vec<Lengths> = values
        .iter()
        .map(|value| Lengths { value: u32::try_from(value.len()).unwrap(), ..Lengths::default() })
        .collect();
    let mut writer = transform.begin(0);
    for (offset, value) in (0..).zip(values) {
        let head = RecordHead { offset, timestamp: 1, key: None, value: Some(value.as_bytes()) };
        writer.record(head).unwrap();
    }
    let _packed = writer.finish();
    let judged = transform.apply(&lengths, failures_max);
    let outcomes = judged.outcomes().map(|outcome| match outcome {
        Outcome::Verdict(Verdict::Keep { output: 0 }) => 'k',
        Outcome::Failed(_) => 'f',
        Outcome::Verdict(_) => '?',
    });
    let outcomes: String = outcomes.collect();
    assert_eq!(outcomes.len(), judged.count() as usize);
    (outcomes, judged.stopped().cloned())
}

fn hostile(plugin: &Plugin, mode: &str) -> Transform {
    let options = [("mode", mode), ("on", "x")];
    let bound = Transform::new(plugin, &binding(&options, &["a", "b"]), Place::AfterCommit);
    bound.unwrap()
}

#[test]
fn harm_costs_only_the_records_it_is_done_on() {
    let plugin = plugin("hostile");
    for mode in [
        "trap",
        "loop",
        "recurse",
        "allocate",
        "garbage",
        "flood",
        "outside",
        "outside-length",
        "op",
        "output",
        "part",
        "timestamp",
        "headers",
        "body",
        "undeclared",
        "utf8",
    ] {
        let mut transform = hostile(&plugin, mode);
        let told = harm(&mut transform, &["a", "x1", "b", "c", "x2", "d", "e"], 10);
        assert_eq!(told, ("kfkkfkk".to_owned(), None), "{mode}");
        let told = harm(&mut transform, &["a", "b"], 10);
        assert_eq!(told, ("kk".to_owned(), None), "{mode}, afterwards");
        let told = harm(&mut transform, &["x"], 10);
        assert_eq!(told, ("f".to_owned(), None), "{mode}, alone");
    }
}

#[test]
fn a_few_bytes_cannot_stand_for_many() {
    let mut transform = hostile(&plugin("hostile"), "amplify");
    let large = "x".repeat(64 * 1024);
    assert_eq!(harm(&mut transform, &["a", &large, "b"], 10), ("kfk".to_owned(), None));
}

#[test]
fn one_verdict_too_few_is_found_wherever_it_is() {
    // It forgets the last record of each call, whichever that is.
    let (told, stopped) = harm(&mut hostile(&plugin("hostile"), "few"), &["a", "b", "c"], 10);
    assert_eq!(stopped, None);
    assert_eq!(told.len(), 3);
    assert!(!told.contains('?'), "{told}");
}

#[test]
fn a_flood_of_lines_is_cut_and_counted() {
    let mut transform = hostile(&plugin("hostile"), "log");
    assert_eq!(harm(&mut transform, &["x"], 10).0.len(), 1);
    let told = transform.take_told();
    assert!(told.lines.len() <= crate::limits::LOG_LINES_MAX);
    assert!(told.lines_dropped > 0);
    assert!(told.counters.len() <= millstream_plugin_abi::limits::COUNTERS_MAX);
}

#[test]
fn a_batch_of_nothing_but_harm_stops_early_and_keeps_what_was_judged() {
    let mut transform = hostile(&plugin("hostile"), "trap");
    let (told, stopped) = harm(&mut transform, &["a", "x", "x", "x", "x", "b"], 2);
    assert_eq!(told, "kff");
    assert!(matches!(stopped, Some(Fault::Trap(_))), "{stopped:?}");
}

#[test]
fn the_same_records_get_the_same_verdicts_in_any_company() {
    let plugin = plugin("hostile");
    let values = ["x", "a", "b", "x", "c"];
    let together = harm(&mut hostile(&plugin, "loop"), &values, 10).0;
    let mut transform = hostile(&plugin, "loop");
    let alone: String = values.iter().map(|value| harm(&mut transform, &[value], 10).0).collect();
    assert_eq!(together, alone);
}

#[test]
fn much_harm_is_left_for_another_call() {
    let mut transform = hostile(&plugin("hostile"), "trap");
    let values = ["x"; 100];
    let (told, stopped) = harm(&mut transform, &values, 1_000);
    assert_eq!((told.as_str(), stopped), ("f".repeat(64).as_str(), Some(Fault::Unfinished)));
    let (told, stopped) = harm(&mut transform, &values[64..], 1_000);
    assert_eq!((told.as_str(), stopped), ("f".repeat(36).as_str(), None));
}

/// Neighbours lend a record none of their bytes: it may come to as much as alone, and no more.
#[test]
fn company_makes_no_room_for_a_large_answer() {
    let plugin = plugin("hostile");
    let emits = "x".repeat(8_000);
    let neighbour = "n".repeat(4_000_000);
    let alone = harm(&mut hostile(&plugin, "amplify"), &[&emits], 10).0;
    let beside = harm(&mut hostile(&plugin, "amplify"), &[&neighbour, &emits], 10).0;
    assert_eq!((alone.as_str(), beside.as_str()), ("f", "kf"));
}

#[test]
fn what_is_no_plugin_is_refused_with_a_reason() {
    let host = host();
    let error = |bytes: &[u8]| host.load(bytes).map(|_| ()).unwrap_err();
    assert!(matches!(error(b""), LoadError::Invalid(_)));
    assert!(matches!(error(b"garbage"), LoadError::Invalid(_)));
    assert!(matches!(error(b"\0asm\x01\0\0\0"), LoadError::CoreModule));
    // An empty component.
    assert!(matches!(error(b"\0asm\x0d\0\x01\0"), LoadError::World(_)));
    let large = vec![0; millstream_plugin_abi::limits::MODULE_BYTES_MAX + 1];
    assert!(matches!(error(&large), LoadError::TooLarge { .. }));
    let cut = built("filter");
    assert!(matches!(error(&cut[..cut.len() / 2]), LoadError::Invalid(_)));
}

#[test]
fn bindings_that_no_plugin_can_have_are_refused() {
    let transform = plugin("hostile");
    let refused =
        |binding: &Binding, place| Transform::new(&transform, binding, place).unwrap_err();
    let fine = binding(&[("mode", "trap")], &["a"]);
    let on_produce = refused(&fine, Place::OnProduce);
    assert!(matches!(on_produce, LoadError::Manifest(_)), "it emits: {on_produce}");
    let no_output = binding(&[("mode", "trap")], &[]);
    assert!(matches!(refused(&no_output, Place::AfterCommit), LoadError::Configuration(_)));
    let twice = binding(&[("mode", "trap"), ("mode", "loop")], &["a"]);
    assert!(matches!(refused(&twice, Place::AfterCommit), LoadError::Configuration(_)));
    let unknown = binding(&[("mode", "kind")], &["a"]);
    let said = refused(&unknown, Place::AfterCommit);
    assert!(matches!(&said, LoadError::Configuration(said) if said == "unknown mode"), "{said}");
    let partitioner = plugin("hot-key-splitter");
    assert_eq!(partitioner.manifest().kind, Kind::Partitioner);
    assert!(Transform::new(&partitioner, &fine, Place::AfterCommit).is_err());
    assert!(Partitioner::new(&transform, &binding(&[], &[])).is_err());
}

#[test]
fn hot_keys_are_spread_as_their_list_says_and_placed_again_alike() {
    let plugin = plugin("hot-key-splitter");
    let mut partitioner = Partitioner::new(&plugin, &binding(&[], &[])).unwrap();
    let place = |partitioner: &mut Partitioner| -> Vec<Option<u32>> {
        let mut keys = partitioner.begin(12);
        for sequence in 0..100 {
            keys.key(sequence, Some(b"hot")).unwrap();
            keys.key(sequence, Some(b"cold")).unwrap();
        }
        let _packed = keys.finish();
        partitioner.assign().unwrap().collect()
    };
    let before = place(&mut partitioner);
    assert!(before.iter().all(Option::is_none), "nothing is hot yet");
    let mut list = Vec::new();
    let mut writer = HotWriter::new(&mut list, 7);
    writer.key(HotKey { share_ppm: 500_000, key: b"hot" }).unwrap();
    let _packed = writer.finish();
    partitioner.set_hot(&list).unwrap();
    assert_eq!(partitioner.hot_epoch(), 7);
    let spread = place(&mut partitioner);
    assert!(spread.iter().skip(1).step_by(2).all(Option::is_none), "cold keys stay");
    let hot: BTreeSet<_> = spread.iter().step_by(2).copied().collect();
    assert!(hot.len() > 1 && !hot.contains(&None), "{hot:?}");
    assert_eq!(place(&mut partitioner), spread, "a retry is placed alike");
    let mut other = Partitioner::new(&plugin, &binding(&[], &[])).unwrap();
    other.set_hot(&list).unwrap();
    assert_eq!(place(&mut other), spread, "by whomever");
    assert!(partitioner.set_hot(b"no list").is_err());
    assert_eq!(place(&mut partitioner), spread, "a bad list changes nothing");
}
