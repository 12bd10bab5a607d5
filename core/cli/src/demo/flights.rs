//! The flights that the demo sends: 200,000 of them, in time order, with this executable. See
//! `data/README.md` for their source.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Serialize;

use crate::values::parse_timestamp_ms;

static FLIGHTS: &[u8] = include_bytes!("../../data/flights-200k.csv.zst");
const HEADER: &str = "date,delay,distance,origin,destination";

/// One flight, as it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Flight {
    /// The airport it left from: the record's key.
    pub(super) origin: Bytes,
    /// All of it, as JSON: the record's value.
    pub(super) json: Bytes,
    /// When it was due to leave, the airport's clock read as UTC.
    pub(super) timestamp_ms: i64,
}

#[derive(Serialize)]
struct Json<'a> {
    date: &'a str,
    delay: i32,
    distance: u32,
    origin: &'a str,
    destination: &'a str,
}

/// All flights, in order of time.
pub(super) fn load() -> Result<Vec<Flight>> {
    let mut text = String::new();
    let mut decoder = zstd::Decoder::new(FLIGHTS).context("the flights do not decompress")?;
    decoder.read_to_string(&mut text).context("the flights do not decompress")?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Flight>> {
    let mut lines = text.lines();
    anyhow::ensure!(lines.next() == Some(HEADER), "the flights do not start with {HEADER}");
    let mut flights = Vec::new();
    // One allocation for many flights: they share it.
    let mut json = BytesMut::new();
    for (number, line) in lines.enumerate() {
        let flight = parse_line(line, &mut json);
        flights.push(flight.with_context(|| format!("flight {}: `{line}`", number + 1))?);
    }
    Ok(flights)
}

fn parse_line(line: &str, json: &mut BytesMut) -> Result<Flight> {
    let mut fields = line.split(',');
    let mut field = || fields.next().context("a field is missing");
    let flight = Json {
        date: field()?,
        delay: field()?.parse().context("delay")?,
        distance: field()?.parse().context("distance")?,
        origin: field()?,
        destination: field()?,
    };
    anyhow::ensure!(fields.next().is_none(), "a field too many");
    let timestamp = parse_timestamp_ms(&format!("{}:00Z", flight.date));
    let timestamp_ms = timestamp.map_err(anyhow::Error::msg).context("date")?;
    serde_json::to_writer((&mut *json).writer(), &flight)?;
    Ok(Flight {
        origin: Bytes::copy_from_slice(flight.origin.as_bytes()),
        json: json.split().freeze(),
        timestamp_ms,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn all_flights_are_there_in_order() {
        let flights = load().unwrap();
        assert_eq!(flights.len(), 200_000);
        assert!(flights.is_sorted_by_key(|flight| flight.timestamp_ms));
        let mut origins = BTreeMap::<&[u8], u64>::new();
        for flight in &flights {
            *origins.entry(&flight.origin).or_default() += 1;
        }
        assert_eq!(origins.len(), 223);
        let busiest = origins.iter().max_by_key(|(_, count)| **count).unwrap();
        assert_eq!(*busiest.0, b"ORD");
    }

    #[test]
    fn a_flight_is_json_keyed_by_its_origin() {
        let flights = parse(&format!("{HEADER}\n2001-01-01T00:01,-13,2345,ANC,LAX\n")).unwrap();
        let json = concat!(
            r#"{"date":"2001-01-01T00:01","delay":-13,"distance":2345,"#,
            r#""origin":"ANC","destination":"LAX"}"#
        );
        let expected = Flight {
            origin: Bytes::from_static(b"ANC"),
            json: Bytes::from(json),
            timestamp_ms: 978_307_260_000,
        };
        assert_eq!(flights, [expected]);
    }

    #[test]
    fn malformed_flights_are_named() {
        for line in ["", "2001-01-01T00:01,-13,2345,ANC", "2001-01-01,1,1,A,B", "x,1,1,A,B,C"] {
            let error = parse(&format!("{HEADER}\n{line}\n")).unwrap_err();
            assert!(error.to_string().contains("flight 1"), "{error:#}");
        }
        assert!(parse("date\n").is_err());
    }
}
