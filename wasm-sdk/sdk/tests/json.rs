//! The editor agrees with a parser that builds a tree, on texts of every shape and spelling.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use millstream_sdk::json::{self, DEPTH_MAX, Edit, Paths};
use proptest::prelude::*;
use serde_json::{Map, Value};

fn edited(edit: &Edit, text: &str) -> Option<String> {
    let mut out = Vec::new();
    let changed = edit.apply(text.as_bytes(), |run| out.extend_from_slice(run)).unwrap();
    changed.then(|| String::from_utf8(out).unwrap())
}

fn drop(paths: &str) -> Edit {
    Edit::Drop(Paths::listed(paths).unwrap())
}

fn keep(paths: &str) -> Edit {
    Edit::Keep(Paths::listed(paths).unwrap())
}

#[test]
fn members_go_with_their_commas() {
    let text = r#"{"a":1, "b" : {"c":[1,2],"d":null} ,"e":"x"}"#;
    for (paths, expected) in [
        ("a", Some(r#"{"b" : {"c":[1,2],"d":null} ,"e":"x"}"#)),
        ("b", Some(r#"{"a":1 ,"e":"x"}"#)),
        ("e", Some(r#"{"a":1, "b" : {"c":[1,2],"d":null}}"#)),
        ("a,b", Some(r#"{"e":"x"}"#)),
        ("a,b,e", Some("{}")),
        ("b.c", Some(r#"{"a":1, "b" : {"d":null} ,"e":"x"}"#)),
        ("b.c,b.d,a", Some(r#"{"b" : {} ,"e":"x"}"#)),
        ("x,a.b,b.c.d", None),
    ] {
        assert_eq!(edited(&drop(paths), text).as_deref(), expected, "{paths}");
    }
    assert_eq!(edited(&keep("a"), text).unwrap(), r#"{"a":1}"#);
    assert_eq!(edited(&keep("b.d,e"), text).unwrap(), r#"{"b" : {"d":null} ,"e":"x"}"#);
    assert_eq!(edited(&keep("a.x"), text).unwrap(), "{}");
    assert_eq!(edited(&keep("a,b,e"), text), None);
    let mask = Edit::Mask(Paths::listed("b,e").unwrap(), json::mask("*\"*"));
    assert_eq!(edited(&mask, text).unwrap(), r#"{"a":1, "b" : "*\"*" ,"e":"*\"*"}"#);
}

#[test]
fn paths_go_through_arrays() {
    let text = r#"[{"a":[{"b":1,"c":2},3,[{"b":4}]]},5]"#;
    assert_eq!(edited(&drop("a.b"), text).unwrap(), r#"[{"a":[{"c":2},3,[{}]]},5]"#);
    assert_eq!(edited(&keep("a.b"), text).unwrap(), r#"[{"a":[{"b":1},[{"b":4}]]}]"#);
    let found = json::get(text.as_bytes(), &Paths::listed("a.c").unwrap()).unwrap();
    assert_eq!(found.unwrap().integer(), Some(2));
}

#[test]
fn names_are_compared_as_they_read() {
    let text = r#"{"\u0061":1,"a":2,"\\u0061":3,"\ud83d\ude00":4,"\"":5}"#;
    assert_eq!(edited(&drop("a"), text).unwrap(), r#"{"\\u0061":3,"\ud83d\ude00":4,"\"":5}"#);
    assert_eq!(edited(&keep("\u{1f600}"), text).unwrap(), r#"{"\ud83d\ude00":4}"#);
    assert_eq!(edited(&keep("\""), text).unwrap(), r#"{"\"":5}"#);
    let value = json::get(br#"{"a":"\ud83d\ude00\n"}"#, &Paths::listed("a").unwrap()).unwrap();
    assert_eq!(value.unwrap().str().unwrap(), "\u{1f600}\n");
    assert!(value.unwrap().is_str("\u{1f600}\n") && !value.unwrap().is_str("\u{1f600}"));
}

#[test]
fn what_is_not_json_is_an_error() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[1,]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{,}",
        "01",
        "1.",
        ".5",
        "-",
        "+1",
        "1e",
        "t",
        "nul",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\n\"",
        "\"a",
        "1 2",
        "[\"a\":1]",
        "{\"a\":1]",
        "[1}",
        "NaN",
        "'a'",
        "{\"a\":01}",
        "\"\\u00g0\"",
        "[[[",
    ] {
        for edit in [drop("a.b"), keep("a.b")] {
            assert!(edit.apply(text.as_bytes(), |_| ()).is_err(), "{text}");
        }
        let path = Paths::listed("a.b").unwrap();
        assert!(json::get(text.as_bytes(), &path).is_err(), "{text}");
    }
    for bytes in [b"\"\xff\"".as_slice(), b"\"abcdefgh\xc3\"", b"{\"\xc0\xaf\":1}"] {
        assert!(drop("a").apply(bytes, |_| ()).is_err(), "{bytes:?}");
    }
}

#[test]
fn nesting_is_bounded_everywhere() {
    let nested = |depth: usize, open: &str, close: &str| {
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"b\":", "}")] {
        for edit in [drop("a.a.a.x"), keep("a.a.a.x")] {
            let fits = nested(DEPTH_MAX, open, close);
            edit.apply(fits.as_bytes(), |_| ()).unwrap();
            let deep = nested(DEPTH_MAX + 1, open, close);
            assert!(edit.apply(deep.as_bytes(), |_| ()).is_err());
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Such that a parser without all digits of precision gives them back.
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        "\\PC{0,20}".prop_map(Value::from),
        "[\"\\\\\n\u{0}-\u{ff}]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The definition, on a tree. `None` is what does not stay.
fn by_tree(value: &Value, paths: &[Vec<&str>], keeps: bool) -> Option<Value> {
    match value {
        Value::Object(members) => {
            let mut stay = Map::new();
            for (name, value) in members {
                let below: Vec<Vec<&str>> = paths
                    .iter()
                    .filter(|path| path[0] == name)
                    .map(|path| path[1..].to_vec())
                    .collect();
                let kept = if below.iter().any(Vec::is_empty) {
                    keeps.then(|| value.clone())
                } else if below.is_empty() {
                    (!keeps).then(|| value.clone())
                } else {
                    by_tree(value, &below, keeps)
                };
                stay.extend(kept.map(|value| (name.clone(), value)));
            }
            Some(Value::Object(stay))
        }
        Value::Array(items) => {
            Some(items.iter().filter_map(|item| by_tree(item, paths, keeps)).collect())
        }
        scalar => (!keeps).then(|| scalar.clone()),
    }
}

proptest! {
    #[test]
    fn edits_agree_with_a_tree(
        value in value(),
        paths in prop::collection::vec(prop::collection::vec("[a-d]", 1..3), 1..4),
        keeps in any::<bool>(),
        pretty in any::<bool>(),
    ) {
        let text = if pretty {
            serde_json::to_string_pretty(&value).unwrap()
        } else {
            value.to_string()
        };
        let split: Vec<Vec<&str>> =
            paths.iter().map(|path| path.iter().map(String::as_str).collect()).collect();
        let joined: Vec<String> = paths.iter().map(|path| path.join(".")).collect();
        let edit = if keeps { keep(&joined.join(",")) } else { drop(&joined.join(",")) };
        let edited = edited(&edit, &text);
        let expected = by_tree(&value, &split, keeps).unwrap_or_else(|| value.clone());
        let read: Value = serde_json::from_str(edited.as_ref().unwrap_or(&text)).unwrap();
        prop_assert_eq!(&read, &expected, "{}", text);
        prop_assert_eq!(edited.is_some(), expected != value);
    }

    #[test]
    fn what_a_parser_takes_is_taken(
        text in prop_oneof![
            "[\\[\\]{}:,\"a1.e+\\-\\\\ u0n]{0,12}",
            value().prop_map(|value| value.to_string()),
        ],
        at in any::<prop::sample::Index>(),
        with in "[\\[\\]{}:,\"a1\\\\ \u{0}]",
    ) {
        let mut damaged: Vec<char> = text.chars().collect();
        if !damaged.is_empty() {
            let at = at.index(damaged.len());
            damaged.splice(at..at + 1, with.chars());
        }
        for text in [text, damaged.into_iter().collect()] {
            let taken = drop("a.b").apply(text.as_bytes(), |_| ()).is_ok();
            // A parser of trees refuses what it cannot represent, too.
            let parsed = serde_json::from_str::<serde::de::IgnoredAny>(&text);
            prop_assert_eq!(taken, parsed.is_ok(), "{:?}: {:?}", text, parsed);
        }
    }
}
