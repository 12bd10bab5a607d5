//! What is built is read back, whatever it is.

use bytes::Bytes;
use millstream_types::limits::{BATCH_BYTES_MAX, RECORD_HEADERS_MAX, TIMESTAMP_MS_MAX};
use millstream_types::{LeaderEpoch, Offset, TimestampMs};
use millstream_wire::{Batch, BatchBuilder, BuildError, Codec, HeaderRef, ProducerStamp};
use proptest::prelude::*;

use crate::sample::{STAMP, any_codec, any_inputs, build, incoming, records, three};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn records_read_back(codec in any_codec(), inputs in any_inputs(), base in 0..i64::MAX / 2) {
        let built = build(codec, STAMP, &inputs);
        let mut taken = incoming(&built);
        taken.check_records().unwrap();
        let stamped = inputs.iter().map(|input| input.timestamp);
        let least = stamped.filter(|timestamp| *timestamp != TimestampMs::NONE).min();
        prop_assert_eq!(taken.min_timestamp(), least.unwrap_or(TimestampMs::NONE));

        let batch = taken.assign(Offset::new(base).unwrap(), LeaderEpoch(1));

        let found = records(&Batch::validate(batch.into_bytes()).unwrap());
        prop_assert_eq!(found.len(), inputs.len());
        for (place, (input, record)) in inputs.iter().zip(&found).enumerate() {
            prop_assert!(input.matches(record), "{:?} became {:?}", input, record);
            prop_assert_eq!(record.offset.value(), base + i64::try_from(place).unwrap());
        }
    }

    #[test]
    fn borrowed_records_build_the_same_batch(codec in any_codec(), inputs in any_inputs()) {
        let built = build(codec, STAMP, &inputs);
        let mut records = Batch::validate(built.clone()).unwrap().records().unwrap();
        let mut builder = BatchBuilder::new(codec, 1024);
        while let Some(record) = records.next_ref() {
            let record = record.unwrap();
            builder
                .append_iter(record.timestamp, record.key, record.value, record.headers)
                .unwrap();
        }
        prop_assert_eq!(builder.build(STAMP).unwrap(), built);
    }
}

#[test]
fn the_largest_timestamp_is_in_the_header() {
    for (times, largest) in [([-5, -7], -5), ([-7, -5], -5), ([9, 3], 9), ([3, 9], 9)] {
        let mut builder = BatchBuilder::new(Codec::None, 0);
        for time in times {
            builder.append(TimestampMs(time), None, None, &[]).unwrap();
        }
        let batch = Batch::validate(builder.build(ProducerStamp::NONE).unwrap()).unwrap();
        assert_eq!(batch.header().max_timestamp, TimestampMs(largest));
        assert_eq!(batch.header().base_timestamp, TimestampMs(times[0]));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_builder_as_it_was() {
    let header = HeaderRef { key: b"h", value: None };
    let too_many = vec![header; RECORD_HEADERS_MAX + 1];
    let too_large = vec![0; BATCH_BYTES_MAX];
    let late = TimestampMs(TIMESTAMP_MS_MAX + 1);
    let mut builder = BatchBuilder::new(Codec::None, 0);
    assert_eq!(
        BatchBuilder::new(Codec::None, 0).build(STAMP),
        Err(BuildError::Empty),
        "nothing to build"
    );
    builder.append(TimestampMs(1), Some(b"k"), Some(b"v"), &[]).unwrap();
    let before = builder.estimated_bytes();

    let refusals = [
        builder.append(TimestampMs(1), None, None, &too_many),
        builder.append(TimestampMs(1), None, Some(&too_large), &[]),
        builder.append(late, None, None, &[]),
    ];

    assert_eq!(refusals[0], Err(BuildError::TooManyHeaders { count: RECORD_HEADERS_MAX + 1 }));
    assert!(matches!(refusals[1], Err(BuildError::TooLarge { max: BATCH_BYTES_MAX, .. })));
    assert_eq!(refusals[2], Err(BuildError::Timestamp { timestamp_ms: late.0 }));
    assert_eq!((builder.estimated_bytes(), builder.record_count()), (before, 1));
    let batch = Batch::validate(builder.build(STAMP).unwrap()).unwrap();
    assert_eq!(records(&batch).len(), 1);
}

#[test]
fn a_batch_that_does_not_compress_enough_is_refused() {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(BATCH_BYTES_MAX)
    .collect();
    let mut builder = BatchBuilder::new(Codec::Lz4, 0);
    builder.append(TimestampMs(1), None, Some(&noise), &[]).unwrap();
    assert!(matches!(builder.build(STAMP), Err(BuildError::TooLarge { .. })));
}

#[test]
fn an_uncompressed_batch_is_built_where_its_records_were_written() {
    let mut builder = BatchBuilder::new(Codec::None, 4096);
    for _ in 0..3 {
        builder.append(TimestampMs(1), Some(b"key"), Some(&[7; 1000]), &[]).unwrap();
    }
    let expected = builder.estimated_bytes();
    let batch: Bytes = builder.build(STAMP).unwrap();
    assert_eq!(batch.len(), expected);
    // Freezing kept the buffer: there is room behind the batch for what was not used.
    assert!(batch.try_into_mut().unwrap().capacity() >= 4096);
}

#[test]
fn header_keys_that_are_not_text_are_kept() {
    let mut builder = BatchBuilder::new(Codec::None, 0);
    let header = HeaderRef { key: b"\xff\xfe", value: Some(b"x") };
    builder.append(TimestampMs(1), None, None, &[header]).unwrap();
    let batch = Batch::validate(builder.build(STAMP).unwrap()).unwrap();
    let found = records(&batch);
    assert_eq!(found[0].headers[0].as_ref(), header);
    assert_eq!(found[0].headers[0].key.to_text(), "\u{fffd}\u{fffd}");
}

#[test]
fn repeated_header_keys_keep_their_order() {
    let batch = Batch::validate(build(Codec::Gzip, STAMP, &three())).unwrap();
    let found = records(&batch);
    let keys: Vec<_> = found[0].headers.iter().map(|header| header.key.to_string()).collect();
    assert_eq!(keys, ["h", "h", ""]);
    assert_eq!(found[0].headers[1].value, None);
}
