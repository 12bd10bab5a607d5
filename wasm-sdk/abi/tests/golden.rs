//! The bytes of layout version 1: each example of `docs/plugin-abi.md` is a golden file, what this
//! build writes is that file, and what it reads there is what was written.
//!
//! `cargo test -p millstream-plugin-abi --test golden -- --ignored --nocapture` prints the examples
//! as the specification shows them, and makes golden files that are missing. It writes over none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use millstream_plugin_abi::{
    ABI, Flags, Header, Hot, HotKey, HotWriter, Input, InputWriter, Keys, KeysWriter, NewHeaders,
    NewRecord, Output, OutputWriter, Part, RecordHead, Rules, Verdict, VerdictSet,
};

const TIME: i64 = 1_700_000_000_000;
const HEADER: Header<'static> = Header { name: b"h", value: Some(b"v") };
const ALL: VerdictSet = VerdictSet::AFTER_COMMIT.or(VerdictSet::ON_PRODUCE);

const RECORDS: [RecordHead<'static>; 4] = [
    RecordHead { offset: 42, timestamp: TIME, key: Some(b"k1"), value: Some(b"hello") },
    RecordHead { offset: 43, timestamp: TIME + 1, key: None, value: None },
    RecordHead { offset: 45, timestamp: -1, key: Some(b""), value: Some(b"bye") },
    RecordHead { offset: 46, timestamp: TIME + 2, key: None, value: Some(b"?") },
];

fn batch() -> Vec<u8> {
    let mut buffer = Vec::new();
    let flags = Flags { values: true, headers: true, produce: false };
    let mut writer = InputWriter::new(&mut buffer, flags, 7, 1 << 20);
    for (index, record) in RECORDS.into_iter().enumerate() {
        writer.record(record).unwrap();
        if index == 0 {
            writer.header(HEADER).unwrap();
        }
    }
    let _written: &[u8] = writer.finish();
    buffer
}

fn verdicts() -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut writer = OutputWriter::new(&mut buffer, 4);
    writer.replace_value(0, Some(b"HELLO")).unwrap();
    writer.drop_record().unwrap();
    let mut emit = writer.emit();
    emit.record(NewRecord { output: 1, ..NewRecord::SAME }).unwrap();
    emit.record(NewRecord {
        output: 0,
        timestamp: Some(TIME),
        key: Part::Is(Some(b"k2")),
        value: Part::Is(None),
        headers: NewHeaders::These(&[Header { name: b"a", value: None }]),
    })
    .unwrap();
    emit.finish().unwrap();
    writer.dead_letter("no key").unwrap();
    let _written: &[u8] = writer.finish();
    buffer
}

fn keys() -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut writer = KeysWriter::new(&mut buffer, true, 12, 3);
    writer.key(1000, Some(b"k1")).unwrap();
    writer.header(HEADER).unwrap();
    writer.key(1001, None).unwrap();
    let _written: &[u8] = writer.finish();
    buffer
}

fn hot() -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut writer = HotWriter::new(&mut buffer, 3);
    writer.key(HotKey { share_ppm: 250_000, key: b"k1" }).unwrap();
    writer.key(HotKey { share_ppm: 20_000, key: b"SFO" }).unwrap();
    let _written: &[u8] = writer.finish();
    buffer
}

fn examples() -> [(&'static str, Vec<u8>); 4] {
    [("batch", batch()), ("verdicts", verdicts()), ("keys", keys()), ("hot", hot())]
}

fn golden(version: u16, name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    dir.join(format!("v{version}/{name}.golden"))
}

/// Eight bytes a line, as in the specification.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, line) in bytes.chunks(8).enumerate() {
        write!(text, "{:04x} ", index * 8).unwrap();
        for byte in line {
            write!(text, " {byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn what_is_written_is_golden() {
    for (name, bytes) in examples() {
        let golden = fs::read(golden(ABI, name)).unwrap();
        assert_eq!(hex(&bytes), hex(&golden), "{name}");
    }
}

#[test]
fn the_specification_shows_the_golden_files() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/plugin-abi.md");
    let page = fs::read_to_string(page).unwrap();
    for (name, bytes) in examples() {
        for line in hex(&bytes).lines() {
            assert!(page.contains(line), "{name}: docs/plugin-abi.md has no line {line}");
        }
    }
}

#[test]
fn the_golden_batch_reads_as_it_was_written() {
    let bytes = fs::read(golden(1, "batch")).unwrap();
    let input = Input::read(&bytes).unwrap();
    assert_eq!(input.flags(), Flags { values: true, headers: true, produce: false });
    assert_eq!((input.count(), input.partition()), (4, 7));
    for (record, written) in input.records().zip(RECORDS) {
        assert_eq!(record.offset, written.offset);
        assert_eq!(record.timestamp, written.timestamp);
        assert_eq!(record.key, written.key);
        assert_eq!(record.value, written.value);
        let headers: Vec<Header<'_>> = record.headers.iter().collect();
        assert_eq!(headers, if record.index == 0 { vec![HEADER] } else { Vec::new() });
    }
    assert_eq!(input.records().count(), RECORDS.len());
}

#[test]
fn the_golden_verdicts_read_as_they_were_written() {
    let bytes = fs::read(golden(1, "verdicts")).unwrap();
    let rules = Rules { records: 4, outputs: 2, verdicts: ALL, bytes_max: bytes.len() };
    let output = Output::read(&bytes, &rules).unwrap();
    let verdicts: Vec<Verdict<'_>> = output.verdicts().collect();
    let [replaced, dropped, Verdict::Emit(emitted), dead] = verdicts[..] else {
        panic!("{verdicts:?}");
    };
    assert!(matches!(replaced, Verdict::ReplaceValue { output: 0, value: Some(b"HELLO") }));
    assert!(matches!(dropped, Verdict::Drop));
    assert!(matches!(dead, Verdict::DeadLetter { reason: b"no key" }));
    let records: Vec<_> = emitted.collect();
    assert_eq!((records[0].output, records[0].timestamp), (1, None));
    assert_eq!((records[0].key, records[0].value), (Part::Same, Part::Same));
    assert!(records[0].headers.is_none());
    assert_eq!((records[1].output, records[1].timestamp), (0, Some(TIME)));
    assert_eq!((records[1].key, records[1].value), (Part::Is(Some(b"k2")), Part::Is(None)));
    let headers: Vec<Header<'_>> = records[1].headers.unwrap().iter().collect();
    assert_eq!(headers, [Header { name: b"a", value: None }]);
    assert_eq!(records.len(), 2);
}

#[test]
fn the_golden_keys_read_as_they_were_written() {
    let bytes = fs::read(golden(1, "keys")).unwrap();
    let keys = Keys::read(&bytes).unwrap();
    assert_eq!((keys.count(), keys.partitions(), keys.hot_epoch()), (2, 12, 3));
    let read: Vec<_> = keys.iter().map(|key| (key.sequence, key.key)).collect();
    assert_eq!(read, [(1000, Some(b"k1".as_slice())), (1001, None)]);
    let headers: Vec<Header<'_>> = keys.iter().flat_map(|key| key.headers).collect();
    assert_eq!(headers, [HEADER]);

    let bytes = fs::read(golden(1, "hot")).unwrap();
    let hot = Hot::read(&bytes).unwrap();
    assert_eq!((hot.epoch(), hot.count()), (3, 2));
    let read: Vec<_> = hot.iter().map(|key| (key.share_ppm, key.key)).collect();
    assert_eq!(read, [(250_000, b"k1".as_slice()), (20_000, b"SFO")]);
}

#[test]
#[ignore = "makes golden files; run by hand after a change of layout"]
fn make_golden_files() {
    for (name, bytes) in examples() {
        println!("{name}\n{}", hex(&bytes));
        let path = golden(ABI, name);
        if !path.exists() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
        }
    }
}
