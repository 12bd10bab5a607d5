//! `--format`: what to print for a record.

use std::borrow::Cow;
use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A parsed `--format`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Template {
    /// One JSON object a line.
    Json,
    /// Text and fields, one after the other.
    Pieces(Vec<Piece>),
}

/// A piece of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Bytes to print as they are.
    Text(Vec<u8>),
    /// `%k`
    Key,
    /// `%v`
    Value,
    /// `%o`
    Offset,
    /// `%p`
    Partition,
    /// `%t`
    TimestampMs,
    /// `%T`
    TimestampRfc3339,
    /// `%h`
    Headers,
    /// `%n`
    Topic,
    /// `%s`
    ValueSize,
}

/// What a template needs to know of a record; borrowed from wherever it came.
#[derive(Debug)]
pub(crate) struct RecordView<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: u32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Vec<(Cow<'a, str>, Option<&'a [u8]>)>,
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "json" {
            return Ok(Self::Json);
        }
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => plain.push(escape(&mut chars)?),
                '%' => match field(chars.next())? {
                    Piece::Text(text) => plain.extend(text),
                    piece => {
                        if !plain.is_empty() {
                            pieces.push(Piece::Text(std::mem::take(&mut plain)));
                        }
                        pieces.push(piece);
                    }
                },
                c => plain.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self::Pieces(pieces))
    }
}

fn field(letter: Option<char>) -> Result<Piece, String> {
    Ok(match letter {
        Some('k') => Piece::Key,
        Some('v') => Piece::Value,
        Some('o') => Piece::Offset,
        Some('p') => Piece::Partition,
        Some('t') => Piece::TimestampMs,
        Some('T') => Piece::TimestampRfc3339,
        Some('h') => Piece::Headers,
        Some('n') => Piece::Topic,
        Some('s') => Piece::ValueSize,
        Some('%') => Piece::Text(b"%".to_vec()),
        Some(other) => return Err(format!("unknown field `%{other}`; see the end of --help")),
        None => return Err("`%` at the end: write %% for a percent sign".to_owned()),
    })
}

fn escape(chars: &mut std::str::Chars<'_>) -> Result<u8, String> {
    Ok(match chars.next() {
        Some('n') => b'\n',
        Some('t') => b'\t',
        Some('r') => b'\r',
        Some('0') => 0,
        Some('\\') => b'\\',
        Some('x') => {
            let digits: String = chars.take(2).collect();
            let well_formed = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let parsed = u8::from_str_radix(&digits, 16).ok().filter(|_| well_formed);
            parsed.ok_or("`\\x` needs two hexadecimal digits")?
        }
        Some(other) => return Err(format!("unknown escape `\\{other}`")),
        None => return Err("`\\` at the end: write \\\\ for a backslash".to_owned()),
    })
}

/// Appends what `pieces` make of `record`.
pub(crate) fn render(pieces: &[Piece], record: &RecordView<'_>, into: &mut Vec<u8>) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => into.extend_from_slice(text),
            Piece::Key => into.extend_from_slice(record.key.unwrap_or_default()),
            Piece::Value => into.extend_from_slice(record.value.unwrap_or_default()),
            Piece::Offset => push_text(into, &record.offset),
            Piece::Partition => push_text(into, &record.partition),
            Piece::TimestampMs => push_text(into, &record.timestamp_ms),
            Piece::TimestampRfc3339 => push_text(into, &rfc_3339(record.timestamp_ms)),
            Piece::Topic => into.extend_from_slice(record.topic.as_bytes()),
            Piece::ValueSize => push_text(into, &record.value.unwrap_or_default().len()),
            Piece::Headers => {
                for (place, (name, value)) in record.headers.iter().enumerate() {
                    if place > 0 {
                        into.push(b',');
                    }
                    into.extend_from_slice(name.as_bytes());
                    into.push(b'=');
                    into.extend_from_slice(value.unwrap_or_default());
                }
            }
        }
    }
}

fn push_text(into: &mut Vec<u8>, value: &impl ToString) {
    into.extend_from_slice(value.to_string().as_bytes());
}

/// RFC 3339 in UTC; empty for a record without a timestamp, or one past the year 9999.
fn rfc_3339(ms: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    match moment {
        Ok(moment) if ms >= 0 => moment.format(&Rfc3339).unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RecordView<'static> {
        RecordView {
            topic: "orders",
            partition: 3,
            offset: 41,
            timestamp_ms: 1_700_000_000_123,
            key: Some(b"alice"),
            value: Some(b"\xff\x00"),
            headers: vec![("a".into(), Some(b"1")), ("a".into(), None)],
        }
    }

    fn rendered(template: &str) -> Vec<u8> {
        let Template::Pieces(pieces) = template.parse().unwrap() else {
            panic!("{template} parsed as json")
        };
        let mut out = Vec::new();
        render(&pieces, &record(), &mut out);
        out
    }

    #[test]
    fn every_field_prints() {
        assert_eq!(rendered("%n/%p@%o %k"), b"orders/3@41 alice");
        assert_eq!(rendered("%t %T"), b"1700000000123 2023-11-14T22:13:20.123Z");
        assert_eq!(rendered("%h %s"), b"a=1,a= 2");
    }

    #[test]
    fn values_are_not_touched() {
        assert_eq!(rendered("%v"), b"\xff\x00");
    }

    #[test]
    fn escapes_are_bytes() {
        assert_eq!(rendered("\\n\\t\\0\\x41\\\\%%"), b"\n\t\0A\\%");
    }

    #[test]
    fn malformed_templates_are_refused() {
        for text in ["%", "%z", "\\", "\\q", "\\x4", "\\x+1", "\\xgg"] {
            assert!(text.parse::<Template>().is_err(), "{text:?}");
        }
        assert_eq!("json".parse(), Ok(Template::Json));
    }
}
