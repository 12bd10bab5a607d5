//! Typed columns beside the values change nothing of what comes back.

use bytes::Bytes;
use millstream_tiered::{
    EncodedObject, Encoder, NewColumns, ObjectReader, RangeEnd, ValueColumn, ValueColumns,
    ValueType,
};
use millstream_types::{LeaderEpoch, Offset, TimestampMs};
use millstream_wire::{
    Attributes, Batch, BatchBuilder, BatchFrame, Codec, ProducerStamp, RecordFields,
};
use proptest::prelude::*;

use crate::replay::{self, assert_same};
use crate::sample::{TIME, any_plans, batches, golden_end, identity};

/// A batch with these values.
fn batch(base: i64, values: &[Option<&[u8]>]) -> Batch {
    let frame = BatchFrame {
        base_offset: Offset::new(base).unwrap(),
        leader_epoch: LeaderEpoch(1),
        attributes: Attributes::from_bits(0).unwrap(),
        last_offset_delta: u32::try_from(values.len()).unwrap() - 1,
        base_timestamp: TimestampMs(TIME),
        max_timestamp: TimestampMs(TIME),
        producer: ProducerStamp::NONE,
    };
    let mut builder = BatchBuilder::new(Codec::None, 0);
    for (offset, value) in (base..).zip(values) {
        let offset = Offset::new(offset).unwrap();
        let record =
            RecordFields { offset, timestamp: TimestampMs(TIME), key: None, value: *value };
        builder.append_framed(&frame, record, std::iter::empty()).unwrap();
    }
    Batch::validate(builder.build_framed(&frame).unwrap()).unwrap()
}

/// Two ranges of flights; the second knows their price, which is a column more.
pub(crate) fn ranges() -> [Vec<Batch>; 2] {
    let first: [Option<&[u8]>; 4] = [
        Some(br#"{"id":1,"carrier":"MS","offset":"clashes"}"#),
        Some(br#"{"id":2,"carrier":"LH"}"#),
        Some(b"no JSON"),
        None,
    ];
    let second: [Option<&[u8]>; 4] = [
        Some(br#"{"id":4,"price":7.5}"#),
        Some(br#"{"id":8,"price":2.5,"carrier":1}"#),
        Some(br#"{"id":"nine"}"#),
        Some(b"\xff"),
    ];
    [vec![batch(0, &first)], vec![batch(4, &second[..2]), batch(6, &second[2..])]]
}

/// A range's object with typed columns.
pub(crate) fn encode(range: &[Batch], carried: ValueColumns) -> EncodedObject {
    let base = range[0].header().base_offset;
    let mut encoder =
        Encoder::with_values(identity(), base, carried, NewColumns::Inferred).unwrap();
    for batch in range {
        encoder.push(batch).unwrap();
    }
    encoder.finish(&golden_end()).unwrap()
}

fn columns(of: &[(&str, ValueType)]) -> ValueColumns {
    let column = |(key, value_type): &(&str, _)| ValueColumn {
        key: (*key).to_owned(),
        value_type: *value_type,
    };
    ValueColumns::new(of.iter().map(column).collect()).unwrap()
}

#[test]
fn columns_go_from_range_to_range_and_grow() {
    use ValueType::{Bigint, Double, Varchar};
    let [first, second] = ranges();
    let object = encode(&first, ValueColumns::default());
    let carried = replay::open(&object).range_end().unwrap().value_columns;
    let known = [("id", Bigint), ("carrier", Varchar), ("offset", Varchar)];
    assert_eq!(carried, columns(&known));
    assert_eq!(object.summary.unfit_values, 1);
    let object = encode(&second, carried);
    let grown = replay::open(&object).range_end().unwrap().value_columns;
    assert_eq!(grown, columns(&[known[0], known[1], known[2], ("price", Double)]));
    assert_eq!(object.summary.unfit_values, 2);

    // A range without typed columns hands on what it was given.
    let end = RangeEnd { value_columns: grown.clone(), ..RangeEnd::default() };
    let object = replay::encode(&first, &end);
    assert_eq!(replay::open(&object).range_end().unwrap().value_columns, grown);
    assert_eq!(object.summary.unfit_values, 0);
}

#[test]
fn without_typed_columns_nothing_is_said_of_them() {
    let [first, _] = ranges();
    let object = replay::encode(&first, &RangeEnd::default());
    let text = String::from_utf8_lossy(&object.bytes);
    assert!(!text.contains("value_columns") && !text.contains("unfit_values"));
}

#[test]
fn many_row_groups_with_typed_columns_replay_the_same() {
    let text = format!(r#"{{"id":1,"text":"{}","list":[1,2,3]}}"#, "x".repeat(300_000));
    let values = vec![Some(text.as_bytes()); 8];
    let range: Vec<_> = (0..5).map(|at| batch(at * 8, &values)).collect();
    let object = encode(&range, ValueColumns::default());
    assert!(replay::open(&object).parts() > 1);
    let plain = replay::encode(&range, &golden_end());
    assert_eq!(replay::replay(&object), replay::replay(&plain));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn what_is_no_json_replays_the_same(plans in any_plans()) {
        let range = batches(9, &plans);
        let object = encode(&range, columns(&[("id", ValueType::Bigint)]));
        for (read, original) in replay::replay(&object).iter().zip(&range) {
            assert_same(read, original);
        }
        prop_assert_eq!(replay::open(&object).records(), object.summary.records);
    }
}

/// Format 1 with typed columns as it was written first: whatever comes later must read it.
#[test]
fn the_golden_object_with_typed_columns_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/range-v1-typed.parquet");
    let [_, range] = ranges();
    let known = columns(&[("id", ValueType::Bigint), ("carrier", ValueType::Varchar)]);
    if std::env::var_os("MILLSTREAM_GOLDEN").is_some() {
        std::fs::write(path, &encode(&range, known).bytes).unwrap();
    }
    let bytes = Bytes::from(std::fs::read(path).unwrap());
    let length = bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap();
    let footer = bytes.len() - 8 - usize::try_from(u32::from_le_bytes(length)).unwrap();
    let reader = ObjectReader::open(&bytes[footer..]).unwrap();
    let expected = columns(&[
        ("id", ValueType::Bigint),
        ("carrier", ValueType::Varchar),
        ("price", ValueType::Double),
    ]);
    assert_eq!(reader.range_end().unwrap(), RangeEnd { value_columns: expected, ..golden_end() });
    let span = reader.span(0);
    let span = usize::try_from(span.start).unwrap()..usize::try_from(span.end).unwrap();
    let read = reader.replay(0, bytes.slice(span)).unwrap();
    assert_eq!(read.len(), range.len());
    for (read, original) in read.into_iter().zip(&range) {
        assert_same(&Batch::validate(read).unwrap(), original);
    }
}
