//! What is written reads back the same, and no bytes make a reader panic or take more than it was
//! given.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use millstream_plugin_abi::{
    Flags, Header, Headers, Hot, HotKey, HotWriter, Input, InputWriter, Keys, KeysWriter, Lengths,
    NewHeaders, NewRecord, OutRecord, Output, OutputWriter, Part, RecordHead, Rules, Verdict,
    VerdictSet, WriteError, check_assigned, resolved_bytes,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const ALL: VerdictSet = VerdictSet::AFTER_COMMIT.or(VerdictSet::ON_PRODUCE);
const BYTES_MAX: usize = 1 << 20;

type Bytes = Vec<u8>;
type OwnedHeader = (Bytes, Option<Bytes>);

#[derive(Debug, Clone)]
struct OwnedRecord {
    offset: i64,
    timestamp: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<OwnedHeader>,
}

#[derive(Debug, Clone)]
struct OwnedOut {
    output: u8,
    timestamp: Option<i64>,
    /// `None` is the input's.
    key: Option<Option<Bytes>>,
    value: Option<Option<Bytes>>,
    headers: Option<Vec<OwnedHeader>>,
}

#[derive(Debug, Clone)]
enum OwnedVerdict {
    Keep(u8),
    Drop,
    Value(u8, Option<Bytes>),
    Record(OwnedOut),
    Emit(Vec<OwnedOut>),
    Dead(String),
    Reject(String),
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40)
}

fn headers() -> impl Strategy<Value = Vec<OwnedHeader>> {
    vec((bytes(), option::of(bytes())), 0..4)
}

fn record() -> impl Strategy<Value = OwnedRecord> {
    (any::<i64>(), any::<i64>(), option::of(bytes()), option::of(bytes()), headers()).prop_map(
        |(offset, timestamp, key, value, headers)| OwnedRecord {
            offset,
            timestamp,
            key,
            value,
            headers,
        },
    )
}

fn out() -> impl Strategy<Value = OwnedOut> {
    let part = || option::of(option::of(bytes()));
    (0..4_u8, option::of(0..i64::MAX / 1000), part(), part(), option::of(headers())).prop_map(
        |(output, timestamp, key, value, headers)| OwnedOut {
            output,
            timestamp,
            key,
            value,
            headers,
        },
    )
}

fn verdict() -> impl Strategy<Value = OwnedVerdict> {
    prop_oneof![
        (0..4_u8).prop_map(OwnedVerdict::Keep),
        Just(OwnedVerdict::Drop),
        (0..4_u8, option::of(bytes()))
            .prop_map(|(output, value)| OwnedVerdict::Value(output, value)),
        out().prop_map(OwnedVerdict::Record),
        vec(out(), 0..5).prop_map(OwnedVerdict::Emit),
        ".{0,20}".prop_map(OwnedVerdict::Dead),
        ".{0,20}".prop_map(OwnedVerdict::Reject),
    ]
}

fn borrowed(headers: &[OwnedHeader]) -> Vec<Header<'_>> {
    headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect()
}

fn pack(records: &[OwnedRecord], flags: Flags) -> Bytes {
    let mut buffer = vec![1, 2, 3];
    let mut writer = InputWriter::new(&mut buffer, flags, 3, BYTES_MAX);
    for record in records {
        let head = RecordHead {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
        };
        writer.record(head).unwrap();
        for header in borrowed(&record.headers) {
            writer.header(header).unwrap();
        }
    }
    let _written: &[u8] = writer.finish();
    buffer
}

fn part(part: &Option<Option<Bytes>>) -> Part<'_> {
    part.as_ref().map_or(Part::Same, |part| Part::Is(part.as_deref()))
}

fn new_record<'a>(out: &'a OwnedOut, headers: &'a [Header<'a>]) -> NewRecord<'a> {
    NewRecord {
        output: out.output,
        timestamp: out.timestamp,
        key: part(&out.key),
        value: part(&out.value),
        headers: if out.headers.is_some() { NewHeaders::These(headers) } else { NewHeaders::Same },
    }
}

fn judge(verdicts: &[OwnedVerdict]) -> Bytes {
    let mut buffer = vec![1, 2, 3];
    let mut writer = OutputWriter::new(&mut buffer, u32::try_from(verdicts.len()).unwrap());
    for verdict in verdicts {
        match verdict {
            OwnedVerdict::Keep(output) => writer.keep(*output),
            OwnedVerdict::Drop => writer.drop_record(),
            OwnedVerdict::Value(output, value) => writer.replace_value(*output, value.as_deref()),
            OwnedVerdict::Record(out) => {
                let headers = borrowed(out.headers.as_deref().unwrap_or_default());
                writer.replace_record(new_record(out, &headers))
            }
            OwnedVerdict::Emit(outs) => {
                let mut emit = writer.emit();
                for out in outs {
                    let headers = borrowed(out.headers.as_deref().unwrap_or_default());
                    emit.record(new_record(out, &headers)).unwrap();
                }
                emit.finish()
            }
            OwnedVerdict::Dead(reason) => writer.dead_letter(reason),
            OwnedVerdict::Reject(reason) => writer.reject(reason),
        }
        .unwrap();
    }
    assert_eq!(writer.keep(0), Err(WriteError::NoRecord));
    let _written: &[u8] = writer.finish();
    buffer
}

fn rules(records: usize) -> Rules {
    let records = u32::try_from(records).unwrap();
    Rules { records, outputs: 4, verdicts: ALL, bytes_max: BYTES_MAX }
}

fn owned(headers: Headers<'_>) -> Vec<OwnedHeader> {
    headers.iter().map(|header| (header.name.to_vec(), header.value.map(<[u8]>::to_vec))).collect()
}

fn same_record(read: OutRecord<'_>, written: &OwnedOut) {
    assert_eq!((read.output, read.timestamp), (written.output, written.timestamp));
    assert_eq!((read.key, read.value), (part(&written.key), part(&written.value)));
    assert_eq!(read.headers.map(owned), written.headers);
}

fn same_verdict(read: Verdict<'_>, written: &OwnedVerdict) {
    match (read, written) {
        (Verdict::Keep { output }, OwnedVerdict::Keep(kept)) => assert_eq!(output, *kept),
        (Verdict::Drop, OwnedVerdict::Drop) => {}
        (Verdict::ReplaceValue { output, value }, OwnedVerdict::Value(to, with)) => {
            assert_eq!((output, value), (*to, with.as_deref()));
        }
        (Verdict::ReplaceRecord(record), OwnedVerdict::Record(out)) => same_record(record, out),
        (Verdict::Emit(records), OwnedVerdict::Emit(outs)) => {
            assert_eq!(records.len(), outs.len());
            for (record, out) in records.zip(outs) {
                same_record(record, out);
            }
        }
        (Verdict::DeadLetter { reason }, OwnedVerdict::Dead(text))
        | (Verdict::Reject { reason }, OwnedVerdict::Reject(text)) => {
            assert_eq!(reason, text.as_bytes());
        }
        other => panic!("{other:?}"),
    }
}

/// Everything that a reader can be asked of `bytes`, whatever they are.
fn read_all(bytes: &[u8], records: u32) {
    if let Ok(input) = Input::read(bytes) {
        let mut seen = 0;
        for record in input.records() {
            let headers = record.headers.iter().count();
            assert_eq!(headers, usize::try_from(record.headers.count()).unwrap());
            seen += 1;
        }
        assert_eq!(seen, input.count());
    }
    if let Ok(input) = Input::open(bytes) {
        assert!(input.records().count() <= bytes.len());
    }
    if let Ok(keys) = Keys::read(bytes) {
        assert_eq!(keys.iter().count(), usize::try_from(keys.count()).unwrap());
    }
    if let Ok(hot) = Hot::read(bytes) {
        assert_eq!(hot.iter().count(), usize::try_from(hot.count()).unwrap());
    }
    let rules = Rules { records, outputs: 2, verdicts: ALL, bytes_max: BYTES_MAX };
    if let Ok(output) = Output::read(bytes, &rules) {
        let mut seen = 0;
        for verdict in output.verdicts() {
            if let Verdict::Emit(emitted) = verdict {
                let count = emitted.len();
                assert_eq!(emitted.map(|record| assert!(record.output < 2)).count(), count);
            }
            seen += 1;
        }
        assert_eq!(seen, records);
        let _bytes: u64 = resolved_bytes(&output, std::iter::repeat(Lengths::default()));
    }
}

proptest! {
    #[test]
    fn batches_read_back(
        records in vec(record(), 0..20),
        values in any::<bool>(),
        headers in any::<bool>(),
        produce in any::<bool>(),
    ) {
        let flags = Flags { values, headers, produce };
        let buffer = pack(&records, flags);
        let input = Input::read(&buffer).unwrap();
        prop_assert_eq!((input.flags(), input.partition()), (flags, 3));
        prop_assert_eq!(input.records().count(), records.len());
        for (read, written) in input.records().zip(&records) {
            prop_assert_eq!(read.offset, written.offset);
            prop_assert_eq!(read.timestamp, written.timestamp);
            prop_assert_eq!(read.key, written.key.as_deref());
            prop_assert_eq!(read.value, written.value.as_deref().filter(|_| values));
            let bytes = |value: &Bytes| u32::try_from(value.len()).unwrap();
            prop_assert_eq!(read.value_bytes, written.value.as_ref().map(bytes));
            let expected = if headers { written.headers.clone() } else { Vec::new() };
            prop_assert_eq!(owned(read.headers), expected);
        }
    }

    #[test]
    fn a_record_that_does_not_fit_leaves_a_whole_batch(
        records in vec(record(), 1..20),
        bytes_max in 24..2000_usize,
    ) {
        let flags = Flags { values: true, headers: true, produce: false };
        let mut buffer = Vec::new();
        let mut writer = InputWriter::new(&mut buffer, flags, 3, bytes_max);
        let mut fit = 0;
        'records: for record in &records {
            let head = RecordHead { key: record.key.as_deref(), ..RecordHead::default() };
            if writer.record(head).is_err() {
                break;
            }
            for header in borrowed(&record.headers) {
                if writer.header(header).is_err() {
                    break 'records;
                }
            }
            fit += 1;
        }
        prop_assert_eq!(writer.count(), fit);
        let written = writer.finish();
        prop_assert!(written.len() <= bytes_max);
        let input = Input::read(written).unwrap();
        prop_assert_eq!(input.count(), fit);
    }

    #[test]
    fn verdicts_read_back(verdicts in vec(verdict(), 0..20)) {
        let buffer = judge(&verdicts);
        let output = Output::read(&buffer, &rules(verdicts.len())).unwrap();
        prop_assert_eq!(output.verdicts().len(), verdicts.len());
        for (read, written) in output.verdicts().zip(&verdicts) {
            same_verdict(read, written);
        }
    }

    #[test]
    fn what_is_not_allowed_is_refused(verdicts in vec(verdict(), 1..20), bits in 0..128_u8) {
        let buffer = judge(&verdicts);
        let allowed = VerdictSet::from_bits(bits).unwrap();
        let needed = verdicts.iter().fold(VerdictSet::NONE, |needed, verdict| {
            let route =
                |output: u8| if output > 0 { VerdictSet::ROUTE } else { VerdictSet::NONE };
            needed.or(match verdict {
                OwnedVerdict::Keep(output) => route(*output),
                OwnedVerdict::Drop => VerdictSet::DROP,
                OwnedVerdict::Value(output, _) => VerdictSet::REPLACE_VALUE.or(route(*output)),
                OwnedVerdict::Record(out) => VerdictSet::REPLACE_RECORD.or(route(out.output)),
                OwnedVerdict::Emit(outs) => outs
                    .iter()
                    .fold(VerdictSet::EMIT, |needed, out| needed.or(route(out.output))),
                OwnedVerdict::Dead(_) => VerdictSet::DEAD_LETTER,
                OwnedVerdict::Reject(_) => VerdictSet::REJECT,
            })
        });
        let rules = Rules { verdicts: allowed, ..rules(verdicts.len()) };
        prop_assert_eq!(Output::read(&buffer, &rules).is_ok(), allowed.contains(needed));
    }

    #[test]
    fn keys_read_back(
        keys in vec((any::<u32>(), option::of(bytes()), headers()), 0..20),
        with_headers in any::<bool>(),
    ) {
        let mut buffer = Vec::new();
        let mut writer = KeysWriter::new(&mut buffer, with_headers, 12, 5);
        for (sequence, key, headers) in &keys {
            writer.key(*sequence, key.as_deref()).unwrap();
            for header in borrowed(headers) {
                writer.header(header).unwrap();
            }
        }
        let read = Keys::read(writer.finish()).unwrap();
        prop_assert_eq!((read.partitions(), read.hot_epoch()), (12, 5));
        prop_assert_eq!(read.iter().count(), keys.len());
        for (read, (sequence, key, headers)) in read.iter().zip(&keys) {
            prop_assert_eq!((read.sequence, read.key), (*sequence, key.as_deref()));
            let expected = if with_headers { headers.clone() } else { Vec::new() };
            prop_assert_eq!(owned(read.headers), expected);
        }
    }

    #[test]
    fn hot_keys_read_back(keys in vec((any::<u32>(), bytes()), 0..20), epoch in any::<u64>()) {
        let mut buffer = Vec::new();
        let mut writer = HotWriter::new(&mut buffer, epoch);
        for (share_ppm, key) in &keys {
            writer.key(HotKey { share_ppm: *share_ppm, key }).unwrap();
        }
        let read = Hot::read(writer.finish()).unwrap();
        prop_assert_eq!(read.epoch(), epoch);
        let read: Vec<(u32, Bytes)> =
            read.iter().map(|hot| (hot.share_ppm, hot.key.to_vec())).collect();
        prop_assert_eq!(read, keys);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        bytes in vec(any::<u8>(), 0..200),
        magic in prop::sample::select(vec!["MSB1", "MSV1", "MSK1", "MSH1"]),
        records in 0..4_u32,
    ) {
        let mut framed = magic.as_bytes().to_vec();
        framed.extend_from_slice(&[1, 0, 0, 0]);
        framed.extend_from_slice(&records.to_le_bytes());
        framed.extend_from_slice(&bytes);
        read_all(&bytes, records);
        read_all(&framed, records);
    }

    #[test]
    fn no_damage_makes_a_reader_panic(
        records in vec(record(), 0..5),
        verdicts in vec(verdict(), 0..5),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let flags = Flags { values: true, headers: true, produce: false };
        for mut buffer in [pack(&records, flags), judge(&verdicts)] {
            let at = at.index(buffer.len());
            buffer[at] = with;
            read_all(&buffer, u32::try_from(verdicts.len()).unwrap());
            buffer.truncate(cut.index(buffer.len()));
            read_all(&buffer, u32::try_from(verdicts.len()).unwrap());
        }
    }
}

#[test]
fn what_is_taken_over_counts() {
    let input = Lengths { key: 2, value: 1000, headers: 10 };
    let mut buffer = Vec::new();
    let mut writer = OutputWriter::new(&mut buffer, 3);
    writer.keep(0).unwrap();
    writer.drop_record().unwrap();
    let mut emit = writer.emit();
    for _ in 0..1000 {
        emit.record(NewRecord::SAME).unwrap();
    }
    assert_eq!(emit.record(NewRecord::SAME), Err(WriteError::TooMany));
    emit.finish().unwrap();
    let written = writer.finish();
    let output = Output::read(written, &rules(3)).unwrap();
    assert_eq!(resolved_bytes(&output, [input; 3]), 1001 * (24 + 2 + 1000 + 10));
}

#[test]
fn pieces_that_are_not_finished_are_taken_back() {
    let mut buffer = Vec::new();
    let mut writer = OutputWriter::new(&mut buffer, 2);
    let mut value = writer.value();
    value.extend(b"half of a val");
    drop(value);
    let mut emit = writer.emit();
    emit.record(NewRecord::SAME).unwrap();
    drop(emit);
    writer.dead_letter(&"é".repeat(1000)).unwrap();
    writer.drop_record().unwrap();
    let written = writer.finish();
    assert_eq!(written.len(), 16 + 2 * 8 + 1024);
    Output::read(written, &rules(2)).unwrap();
}

#[test]
fn answers_of_partitioners_are_checked() {
    assert!(check_assigned([0, 11, u32::MAX].into_iter(), 3, 12).is_ok());
    assert!(check_assigned([0, 12].into_iter(), 2, 12).is_err());
    assert!(check_assigned([0].into_iter(), 2, 12).is_err());
}

proptest! {
    #[test]
    fn a_part_of_a_batch_holds_the_same_records(
        values in vec(vec(any::<u8>(), 0..20), 0..12),
        start in 0_u32..14,
        length in 0_u32..14,
    ) {
        let mut buffer = Vec::new();
        let flags = Flags { values: true, headers: true, produce: false };
        let mut writer = InputWriter::new(&mut buffer, flags, 3, usize::MAX);
        for (offset, value) in (0..).zip(&values) {
            let head = RecordHead { offset, timestamp: 1, key: None, value: Some(value) };
            writer.record(head).unwrap();
        }
        let packed = writer.finish().to_vec();
        let whole = Input::read(&packed).unwrap();
        let mut part = Vec::new();
        let part = Input::read(whole.cut(start..start + length, &mut part)).unwrap();
        let from = values.len().min(start as usize);
        let to = values.len().min((start + length) as usize);
        prop_assert_eq!(part.partition(), 3);
        let found: Vec<_> = part.records().map(|record| (record.offset, record.value)).collect();
        let expected: Vec<_> = (0..)
            .zip(&values)
            .skip(from)
            .take(to - from)
            .map(|(offset, value)| (offset, Some(value.as_slice())))
            .collect();
        prop_assert_eq!(found, expected);
    }
}
