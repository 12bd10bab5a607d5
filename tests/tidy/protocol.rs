//! The tables of docs/protocol.md against what the code holds to: who writes a client reads there.

use std::collections::BTreeMap;

use millstream_types::{ErrorCode, limits};
use millstream_wire::frame::FrameKind;

use crate::tree::Tree;

const PAGE: &str = "docs/protocol.md";
/// Holds the error codes' meanings, as documentation.
const ERROR_CODES: &str = "core/types/src/error_code.rs";

/// The cells of each row of the first table from a line that begins so, heads and rule left out.
fn table<'t>(text: &'t str, start: &str) -> Vec<Vec<&'t str>> {
    let from = text.lines().skip_while(|line| !line.starts_with(start));
    let rows = from.skip_while(|line| !line.starts_with('|')).skip(2);
    let cells = |row: &'t str| row.trim_matches('|').split('|').map(str::trim).collect();
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// Every number in words for people: `16 MiB + 64 KiB` is two, `4,194,304` is one.
fn numbers(text: &str) -> Vec<u64> {
    let mut found: Vec<u64> = Vec::new();
    let mut words = text.split([' ', ';']).peekable();
    while let Some(word) = words.next() {
        let Ok(number) = word.replace(',', "").parse::<u64>() else { continue };
        let unit = match words.peek().copied() {
            Some("KiB") => 1 << 10,
            Some("MiB") => 1 << 20,
            _ => 1,
        };
        found.push(number * unit);
    }
    found
}

/// What is wrong with the table of limits.
pub(crate) fn limits(tree: &Tree) -> Vec<String> {
    let expected: &[(&str, &[u64])] = &[
        (
            "a record batch, as sent",
            &[limits::BATCH_BYTES_MAX as u64, limits::BATCH_BYTES_DEFAULT as u64],
        ),
        ("a batch's records, decompressed", &[limits::BATCH_DECOMPRESSED_BYTES_MAX as u64]),
        ("records in a batch", &[limits::BATCH_RECORDS_MAX as u64]),
        ("headers on a record", &[limits::RECORD_HEADERS_MAX as u64]),
        ("batches in flight on a produce stream", &[limits::PRODUCE_IN_FLIGHT_MAX as u64]),
        (
            "streams that a client has open on a connection",
            // The second is a config's default; the third and the next row's are the front's.
            &[limits::CONNECTION_STREAMS_MAX as u64, 2_048, 8],
        ),
        (
            "bytes that the broker has not read on a connection",
            &[64 * 1024 * 1024, 128 * 1024, 64 * 1024],
        ),
        ("a topic name", &[limits::TOPIC_NAME_BYTES_MAX as u64]),
        ("partitions of a topic", &[limits::TOPIC_PARTITIONS_MAX as u64]),
        ("a record's timestamp, either side of 1970", &[limits::TIMESTAMP_MS_MAX.unsigned_abs()]),
    ];
    let rows = table(tree.text(PAGE).unwrap_or_default(), "## Limits");
    let told: BTreeMap<&str, Vec<u64>> =
        rows.iter().filter_map(|row| Some((*row.first()?, numbers(row.get(1)?)))).collect();
    let mut problems = Vec::new();
    for (name, holds) in expected {
        let told = told.get(name).map_or(&[][..], Vec::as_slice);
        if told != *holds {
            problems.push(format!("{PAGE}, limits: `{name}` says {told:?}, it is {holds:?}"));
        }
    }
    if rows.len() != expected.len() {
        problems.push(format!(
            "{PAGE} has {} limits, this test knows {}: name the constant of each here",
            rows.len(),
            expected.len()
        ));
    }
    problems
}

/// What is wrong with the table of frames.
pub(crate) fn frames(tree: &Tree) -> Vec<String> {
    let rows = table(tree.text(PAGE).unwrap_or_default(), "| kind | name |");
    let told = rows.iter().filter_map(|row| {
        let [number, name, _, body] = row[..] else { return None };
        Some((number.to_owned(), name.to_owned(), numbers(body).iter().sum()))
    });
    let holds = FrameKind::ALL
        .iter()
        .map(|kind| (kind.code().to_string(), format!("{kind:?}"), kind.body_bytes_max() as u64));
    let (told, holds): (Vec<_>, Vec<_>) = (told.collect(), holds.collect());
    if told == holds { Vec::new() } else { vec![format!("{PAGE} has {told:?}, it is {holds:?}")] }
}

/// What is wrong with the table of error codes.
pub(crate) fn error_codes(tree: &Tree) -> Vec<String> {
    let rows = table(tree.text(PAGE).unwrap_or_default(), "### Error codes");
    let source = tree.text(ERROR_CODES).unwrap_or_default();
    let mut problems = Vec::new();
    for code in ErrorCode::ALL {
        let retry = if code.is_retriable() { "yes" } else { "no" };
        let declared = format!("    {code:?} = {},", code.code());
        let before = source.split_once(&declared).map_or("", |(before, _)| before);
        let meaning = before.trim_end().lines().last().unwrap_or_default();
        let meaning = meaning.trim().trim_start_matches("///").trim();
        let (number, name) = (code.code().to_string(), format!("`{code}`"));
        let holds = vec![number.as_str(), name.as_str(), retry, meaning];
        if !rows.contains(&holds) {
            problems.push(format!("{PAGE} lacks the error code | {} |", holds.join(" | ")));
        }
    }
    if rows.len() != ErrorCode::ALL.len() {
        problems.push(format!("{PAGE} has error codes that {ERROR_CODES} does not have"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;

    #[test]
    fn numbers_are_read_with_their_units() {
        assert_eq!(numbers("16 MiB; a topic takes 4 MiB unless"), [16 << 20, 4 << 20]);
        assert_eq!(numbers("16 MiB + 64 KiB"), [16 << 20, 64 << 10]);
        assert_eq!(numbers("4,194,304"), [4_194_304]);
        assert_eq!(numbers("249 bytes"), [249]);
    }

    #[test]
    fn a_table_that_says_otherwise_is_noticed() {
        let limits_of = |row: &str| {
            let page = format!("## Limits\n\n| | at most |\n|---|---|\n{row}\n\nmore\n");
            limits(&tree(&[(PAGE, &page)]))
        };
        let named = |problems: &[String]| problems.iter().any(|one| one.contains("`a topic name`"));
        assert!(named(&limits_of("| a topic name | 250 bytes |")));
        assert!(!named(&limits_of("| a topic name | 249 bytes |")));

        let codes_of = |row: &str| {
            let page = format!("### Error codes\n\n| code |\n|---|\n{row}\n");
            let source = "codes! {\n    /// Success.\n    None = 0, \"none\", false;\n}";
            error_codes(&tree(&[(PAGE, &page), (ERROR_CODES, source)])).len()
        };
        let right = codes_of("| 0 | `none` | no | Success. |");
        assert_eq!(codes_of("| 0 | `none` | yes | Success. |"), right + 1);
        assert_eq!(codes_of("| 0 | `none` | no | Well done. |"), right + 1);
    }
}
