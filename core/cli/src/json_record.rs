//! Records as JSON lines: what `consume -o json` prints is what `produce --json` reads.

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::base64;
use crate::consume::RecordView;
use crate::values::parse_timestamp_ms;

/// A header's name, and its value, which may be null.
pub(crate) type InputHeader = (String, Option<Vec<u8>>);

/// One record as it is sent: what the user gave, and nothing that the broker decides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct InputRecord {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<InputHeader>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) partition: Option<u32>,
}

impl Serialize for RecordView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", self.topic)?;
        map.serialize_entry("partition", &self.partition)?;
        map.serialize_entry("offset", &self.offset)?;
        map.serialize_entry("timestamp", &self.timestamp_ms)?;
        bytes_entry(&mut map, ["key", "key_base64"], self.key)?;
        bytes_entry(&mut map, ["value", "value_base64"], self.value)?;
        if !self.headers.is_empty() {
            let headers: Vec<(&str, Value)> =
                self.headers.iter().map(|(name, value)| (&**name, header_value(*value))).collect();
            map.serialize_entry("headers", &headers)?;
        }
        map.end()
    }
}

/// Text under its own name, other bytes as base64 under a second one.
fn bytes_entry<M: serde::ser::SerializeMap>(
    map: &mut M,
    [text_name, base64_name]: [&'static str; 2],
    bytes: Option<&[u8]>,
) -> Result<(), M::Error> {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        Some((Err(_), bytes)) => map.serialize_entry(base64_name, &base64::encode(bytes)),
        Some((Ok(text), _)) => map.serialize_entry(text_name, text),
        None => map.serialize_entry(text_name, &Value::Null),
    }
}

fn header_value(bytes: Option<&[u8]>) -> Value {
    let Some(bytes) = bytes else { return Value::Null };
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => serde_json::json!({ "base64": base64::encode(bytes) }),
    }
}

/// The fields of a JSON line; `topic` and `offset` are there so that output can be input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    key: Value,
    key_base64: Option<String>,
    #[serde(default)]
    value: Value,
    value_base64: Option<String>,
    #[serde(default)]
    headers: Value,
    #[serde(default)]
    timestamp: Value,
    partition: Option<u32>,
    #[serde(default, rename = "topic")]
    _topic: Option<String>,
    #[serde(default, rename = "offset")]
    _offset: Option<i64>,
}

/// Reads one JSON line.
///
/// # Errors
/// Says which field is wrong and what it may be.
pub(crate) fn parse_line(line: &[u8]) -> Result<InputRecord, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        // The column stays; the line is the input's, which the caller knows.
        error.to_string().replace(" at line 1 column ", " at column ")
    })?;
    Ok(InputRecord {
        key: field_bytes("key", line.key, line.key_base64)?,
        value: field_bytes("value", line.value, line.value_base64)?,
        headers: headers(line.headers)?,
        timestamp_ms: timestamp(&line.timestamp)?,
        partition: line.partition,
    })
}

fn field_bytes(
    name: &str,
    value: Value,
    base64: Option<String>,
) -> Result<Option<Vec<u8>>, String> {
    match (value, base64) {
        (Value::Null, None) => Ok(None),
        (Value::Null, Some(text)) => {
            base64::decode(&text).map(Some).ok_or_else(|| format!("`{name}_base64` is not base64"))
        }
        (_, Some(_)) => Err(format!("both `{name}` and `{name}_base64` are given")),
        (Value::String(text), None) => Ok(Some(text.into_bytes())),
        (other, None) => Ok(Some(other.to_string().into_bytes())),
    }
}

fn headers(value: Value) -> Result<Vec<InputHeader>, String> {
    let wrong = || "`headers` is a list of [name, value] pairs, or an object".to_owned();
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Object(map) => {
            map.into_iter().map(|(name, value)| Ok((name, header_bytes(value)?))).collect()
        }
        Value::Array(list) => list
            .into_iter()
            .map(|pair| {
                let (name, value): (String, Value) =
                    serde_json::from_value(pair).map_err(|_| wrong())?;
                Ok((name, header_bytes(value)?))
            })
            .collect(),
        _ => Err(wrong()),
    }
}

fn header_bytes(value: Value) -> Result<Option<Vec<u8>>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.into_bytes())),
        Value::Object(map) => match map.get("base64").and_then(Value::as_str).map(base64::decode) {
            Some(Some(bytes)) if map.len() == 1 => Ok(Some(bytes)),
            _ => Err("a header's value is text, null or {\"base64\": \"...\"}".to_owned()),
        },
        other => Ok(Some(other.to_string().into_bytes())),
    }
}

fn timestamp(value: &Value) -> Result<Option<i64>, String> {
    match value {
        Value::Null => Ok(None),
        // A record that was written without a timestamp reads as -1.
        Value::Number(number) if number.as_i64() == Some(-1) => Ok(None),
        Value::Number(number) => match number.as_i64() {
            Some(ms) if ms >= 0 => Ok(Some(ms)),
            _ => Err("`timestamp` is milliseconds since 1970".to_owned()),
        },
        Value::String(text) => parse_timestamp_ms(text).map(Some),
        _ => Err("`timestamp` is milliseconds since 1970, or text in RFC 3339".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        let view = RecordView {
            topic: "orders",
            partition: 2,
            offset: 9,
            timestamp_ms: 1_700_000_000_000,
            key: Some(b"\xffk"),
            value: Some("gr\u{fc}n \"quoted\"".as_bytes()),
            headers: vec![
                ("a".into(), Some(b"1")),
                ("a".into(), None),
                ("b".into(), Some(b"\xfe")),
            ],
        };
        let line = serde_json::to_vec(&view).unwrap();
        let read = parse_line(&line).unwrap();
        let expected = InputRecord {
            key: Some(b"\xffk".to_vec()),
            value: Some("gr\u{fc}n \"quoted\"".as_bytes().to_vec()),
            headers: vec![
                ("a".to_owned(), Some(b"1".to_vec())),
                ("a".to_owned(), None),
                ("b".to_owned(), Some(vec![0xfe])),
            ],
            timestamp_ms: Some(1_700_000_000_000),
            partition: Some(2),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn a_record_of_nothing_is_read_back() {
        let view = RecordView {
            topic: "t",
            partition: 0,
            offset: 0,
            timestamp_ms: -1,
            key: None,
            value: None,
            headers: Vec::new(),
        };
        let read = parse_line(&serde_json::to_vec(&view).unwrap()).unwrap();
        assert_eq!(read, InputRecord { partition: Some(0), ..InputRecord::default() });
    }

    #[test]
    fn values_may_be_any_json() {
        let record = parse_line(br#"{"key":7,"value":{"b":[1,2],"a":null}}"#).unwrap();
        assert_eq!(record.key.as_deref(), Some(b"7".as_slice()));
        let value: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        assert_eq!(value, serde_json::json!({"b":[1,2],"a":null}));
    }

    #[test]
    fn headers_may_be_an_object() {
        let record = parse_line(br#"{"headers":{"trace":"7"}}"#).unwrap();
        assert_eq!(record.headers, [("trace".to_owned(), Some(b"7".to_vec()))]);
    }

    #[test]
    fn malformed_lines_are_refused() {
        let lines: [&[u8]; 9] = [
            b"",
            b"[]",
            b"{\"kee\":1}",
            b"{\"value\":\"a\",\"value_base64\":\"YQ==\"}",
            b"{\"value_base64\":\"?\"}",
            b"{\"timestamp\":-7}",
            b"{\"timestamp\":\"noon\"}",
            b"{\"headers\":[[\"a\"]]}",
            b"{\"partition\":-1}",
        ];
        for line in lines {
            assert!(parse_line(line).is_err(), "{}", String::from_utf8_lossy(line));
        }
    }
}
