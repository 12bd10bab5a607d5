//! A record's value as a JSON object, taken apart no deeper than its top level and without a copy.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// The text of an object, known to be one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a>(&'a str);

impl<'a> Object<'a> {
    /// `None` unless the bytes are one JSON object and nothing else.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim_matches(is_space);
        if !text.starts_with('{') {
            return None;
        }
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        Some(Self(text))
    }

    /// Its keys and values as they are written, in order: keys with quotes and escapes.
    pub(crate) fn fields(self) -> Fields<'a> {
        Fields(self.0.get(1..).unwrap_or_default())
    }
}

/// Goes through what [`Object::parse`] found to be sound, which is why it looks at so little.
#[derive(Debug)]
pub(crate) struct Fields<'a>(&'a str);

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.token()?;
        Some((key, self.token()?))
    }
}

impl<'a> Fields<'a> {
    /// The next key or value.
    fn token(&mut self) -> Option<&'a str> {
        let between = |c: char| is_space(c) || c == ',' || c == ':';
        let text = self.0.trim_start_matches(between);
        let (token, rest) = text.split_at_checked(length(text.as_bytes()))?;
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }
}

/// How long the key or value is that the text begins with; 0 at the object's end.
fn length(text: &[u8]) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        let mut closes = false;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => {
                quoted = !quoted;
                closes = !quoted;
            }
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                closes = true;
            }
            b'}' | b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => {}
        }
        if closes && depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// What a string that is written as `raw`, quotes included, says. `None` for one that is no text:
/// half of a surrogate pair.
pub(crate) fn unquote(raw: &str) -> Option<Cow<'_, str>> {
    if raw.contains('\\') {
        return serde_json::from_str(raw).ok().map(Cow::Owned);
    }
    raw.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed)
}

/// JSON's white space, which is less than Unicode's.
const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    fn fields(text: &str) -> Option<Vec<(&str, &str)>> {
        Object::parse(text.as_bytes()).map(|object| object.fields().collect())
    }

    #[test]
    fn an_object_is_taken_apart_at_its_top() {
        let text = " {\"a\" : 1 ,\"b\\\"}\":\"x,\\\\\",\n\"c\":{\"d\":[\"]\",{}]} , \"e\":[] } ";
        let expected = vec![
            ("\"a\"", "1"),
            ("\"b\\\"}\"", "\"x,\\\\\""),
            ("\"c\"", "{\"d\":[\"]\",{}]}"),
            ("\"e\"", "[]"),
        ];
        assert_eq!(fields(text), Some(expected));
        assert_eq!(fields("{}"), Some(vec![]));
        assert_eq!(fields("{ }"), Some(vec![]));
        assert_eq!(fields("{\"\":null}"), Some(vec![("\"\"", "null")]));
    }

    #[test]
    fn what_is_no_object_has_no_fields() {
        for text in ["", "1", "[]", "null", "{", "{}{}", "{\"a\":}", "{a:1}", "\"{}\"", "\u{a0}{}"]
        {
            assert_eq!(fields(text), None, "{text}");
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_none());
    }

    #[test]
    fn half_a_surrogate_pair_is_no_text() {
        assert_eq!(unquote(r#""\ud800""#), None);
        assert_eq!(unquote(r#""\u00e9\n""#).as_deref(), Some("é\n"));
        assert!(matches!(unquote("\"é\""), Some(Cow::Borrowed("é"))));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(Value::from(-1.5e300)),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn fields_are_those_that_a_parser_finds(
            map in prop::collection::btree_map(any::<String>(), any_value(), 0..6),
            pretty in any::<bool>(),
        ) {
            let map: Map<String, Value> = map.into_iter().collect();
            let text = if pretty { serde_json::to_string_pretty(&map) } else {
                serde_json::to_string(&map)
            };
            let text = text.unwrap();
            let found: Map<String, Value> = Object::parse(text.as_bytes())
                .unwrap()
                .fields()
                .map(|(key, raw)| {
                    (unquote(key).unwrap().into_owned(), serde_json::from_str(raw).unwrap())
                })
                .collect();
            prop_assert_eq!(found, map);
        }
    }
}
