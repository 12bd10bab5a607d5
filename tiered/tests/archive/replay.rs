//! A range goes into an object and comes out again: the same batches but for their compression.

use crate::sample::{self, Plan, any_plans, batch, batches, identity};
use bytes::Bytes;
use millstream_tiered::{EncodeError, EncodedObject, Encoder, FormatError, ObjectReader, RangeEnd};
use millstream_types::{LeaderEpoch, Offset, TimestampMs};
use millstream_wire::{
    Attributes, Batch, BatchBuilder, BatchFrame, BuildError, Codec, RecordFields,
};
use proptest::prelude::*;

pub(crate) fn encode(batches: &[Batch], end: &RangeEnd) -> EncodedObject {
    let base = batches[0].header().base_offset;
    let mut encoder = Encoder::new(identity(), base).unwrap();
    for batch in batches {
        encoder.push(batch).unwrap();
    }
    encoder.finish(end).unwrap()
}

pub(crate) fn open(object: &EncodedObject) -> ObjectReader {
    let start = usize::try_from(object.summary.footer_start).unwrap();
    ObjectReader::open(&object.bytes[start..]).unwrap()
}

fn part(object: &EncodedObject, reader: &ObjectReader, part: usize) -> Bytes {
    let span = reader.span(part);
    let span = usize::try_from(span.start).unwrap()..usize::try_from(span.end).unwrap();
    object.bytes.slice(span)
}

pub(crate) fn replay(object: &EncodedObject) -> Vec<Batch> {
    let reader = open(object);
    let parts = 0..reader.parts();
    let read = parts.flat_map(|at| reader.replay(at, part(object, &reader, at)).unwrap());
    read.map(|bytes| Batch::validate(bytes).unwrap()).collect()
}

/// All that a consumer or a restored broker can see of a batch.
pub(crate) fn assert_same(replayed: &Batch, original: &Batch) {
    let (new, old) = (replayed.header(), original.header());
    let flags = |attributes: Attributes| attributes.with_codec(Codec::None);
    assert_eq!(flags(new.attributes), flags(old.attributes));
    let same = millstream_wire::BatchHeader {
        batch_length: new.batch_length,
        crc: new.crc,
        attributes: new.attributes,
        ..*old
    };
    assert_eq!(*new, same);
    let records =
        |batch: &Batch| -> Vec<_> { batch.records().unwrap().map(Result::unwrap).collect() };
    assert_eq!(records(replayed), records(original));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_range_comes_back(base in 0..1_000_000_000_i64, plans in any_plans()) {
        let batches = batches(base, &plans);
        let object = encode(&batches, &RangeEnd::default());
        let (first, last) = (batches[0].header(), batches[batches.len() - 1].header());
        prop_assert_eq!(object.summary.base, first.base_offset);
        prop_assert_eq!(object.summary.end, last.next_offset());
        let replayed = replay(&object);
        prop_assert_eq!(replayed.len(), batches.len());
        for (replayed, original) in replayed.iter().zip(&batches) {
            assert_same(replayed, original);
        }
    }

    /// Whatever byte changes, either nobody notices since nobody reads it, or an error says so.
    #[test]
    fn a_changed_byte_is_no_changed_record(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let batches = batches(7, &[Plan::plain(50), Plan::plain(3)]);
        let object = encode(&batches, &RangeEnd::default());
        let mut bytes = object.bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let start = usize::try_from(object.summary.footer_start).unwrap();
        let changed = EncodedObject { bytes: bytes.into(), ..object };
        // What opens the footer checks its CRC first.
        prop_assume!(at < start);
        let reader = open(&changed);
        let group = part(&changed, &reader, 0);
        match reader.replay(0, group) {
            Ok(read) => prop_assert_eq!(read.len(), batches.len()),
            Err(error) => prop_assert!(matches!(error, FormatError::Crc { .. }), "{}", error),
        }
    }
}

#[test]
fn row_groups_begin_and_end_between_batches() {
    // 40 batches of about 400 KiB: row groups of 4 MiB take some ten each.
    let batches = batches(0, &vec![Plan { value_bytes: 64 * 1024, ..Plan::plain(8) }; 40]);
    let object = encode(&batches, &RangeEnd::default());
    let reader = open(&object);
    assert!((3..=6).contains(&reader.parts()), "{} parts", reader.parts());
    let mut expected = 0;
    for at in 0..reader.parts() {
        let first = Offset::new(i64::try_from(expected * 8).unwrap()).unwrap();
        assert_eq!(reader.part_of(first), at);
        let read = reader.replay(at, part(&object, &reader, at)).unwrap();
        let first = Batch::validate(read[0].clone()).unwrap();
        assert_same(&first, &batches[expected]);
        expected += read.len();
    }
    assert_eq!(expected, batches.len());
}

#[test]
fn a_range_without_rows_lives_in_the_footer() {
    let plans = [Plan::control(), Plan::empty(3), Plan::control()];
    let batches = batches(100, &plans);
    let object = encode(&batches, &RangeEnd::default());
    let reader = open(&object);
    assert_eq!((reader.parts(), reader.span(0), reader.records()), (1, 0..0, 0));
    let replayed = replay(&object);
    assert_eq!(replayed.len(), 3);
    for (replayed, original) in replayed.iter().zip(&batches) {
        assert_eq!(replayed.bytes(), original.bytes(), "kept byte for byte");
    }
}

/// What is compressed may be larger than any batch once it is not.
#[test]
fn a_batch_that_fits_only_compressed_is_compressed_again() {
    let plan = Plan { codec: Codec::Zstd, value_bytes: 1 << 20, ..Plan::plain(50) };
    let batches = batches(0, &[plan]);
    let replayed = replay(&encode(&batches, &RangeEnd::default()));
    assert_eq!(replayed[0].header().attributes.codec(), Codec::Zstd);
    assert_same(&replayed[0], &batches[0]);
}

/// Words of three bytes: gzip finds them, and zstd at its usual level none.
#[test]
fn a_batch_that_cannot_be_made_again_is_kept_whole() {
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()
    };
    let words: Vec<[u8; 3]> = (0..1000).map(|_| [noise()[0], noise()[0], noise()[0]]).collect();
    let mut word = || words[usize::from(u16::from_be_bytes([noise()[0], noise()[1]])) % 1000];
    let values: Vec<Vec<u8>> =
        (0..40).map(|_| (0..170 * 1024).flat_map(|_| word()).collect()).collect();
    let frame = BatchFrame {
        base_offset: Offset::ZERO.plus(5),
        leader_epoch: LeaderEpoch(1),
        attributes: Attributes::new(Codec::Gzip),
        last_offset_delta: 39,
        base_timestamp: TimestampMs(sample::TIME),
        max_timestamp: TimestampMs(sample::TIME),
        producer: Plan::plain(1).stamp,
    };
    let build = |codec| {
        let mut builder = BatchBuilder::new(codec, 0);
        for (value, at) in values.iter().zip(0..) {
            let (offset, timestamp) = (frame.base_offset.plus(at), frame.base_timestamp);
            let record = RecordFields { offset, timestamp, key: None, value: Some(value) };
            builder.append_framed(&frame, record, [].into_iter())?;
        }
        builder.build_framed(&frame)
    };
    for codec in [Codec::None, Codec::Zstd] {
        assert!(matches!(build(codec), Err(BuildError::TooLarge { .. })), "{codec}");
    }
    let large = Batch::validate(build(Codec::Gzip).unwrap()).unwrap();
    let mut batches = batches(0, &[Plan::plain(5)]);
    batches.push(large);
    batches.push(batch(45, &Plan::plain(3)));
    let object = encode(&batches, &RangeEnd::default());
    let replayed = replay(&object);
    assert_eq!(replayed.len(), 3);
    assert_eq!(replayed[1].bytes(), batches[1].bytes(), "byte for byte");
    for (replayed, original) in replayed.iter().zip(&batches) {
        assert_same(replayed, original);
    }
}

#[test]
fn what_the_partition_knew_comes_back() {
    let end = RangeEnd {
        epochs: vec![(LeaderEpoch(1), Offset::ZERO), (LeaderEpoch(4), Offset::ZERO.plus(12))],
        producers: Bytes::from_static(b"\x00producers"),
        ..RangeEnd::default()
    };
    let object = encode(&batches(0, &[Plan::plain(20)]), &end);
    let reader = open(&object);
    assert_eq!(reader.range_end().unwrap(), end);
    assert_eq!(*reader.identity(), identity());
    assert_eq!((reader.base(), reader.end()), (Offset::ZERO, Offset::ZERO.plus(20)));
}

#[test]
fn a_batch_that_does_not_follow_is_refused() {
    let mut encoder = Encoder::new(identity(), Offset::ZERO).unwrap();
    encoder.push(&batch(0, &Plan::plain(5))).unwrap();
    let refused = encoder.push(&batch(6, &Plan::plain(1)));
    assert!(matches!(refused, Err(EncodeError::OutOfOrder { .. })), "{refused:?}");
    let empty = Encoder::new(identity(), Offset::ZERO).unwrap();
    assert!(matches!(empty.finish(&RangeEnd::default()), Err(EncodeError::Empty)));
}

#[test]
fn a_footer_of_something_else_is_told_apart() {
    for bytes in [&b""[..], b"PAR1", b"\x00\x00\x00\x00PAR1", b"\xff\xff\xff\xffPAR1"] {
        assert!(ObjectReader::open(bytes).is_err(), "{bytes:?}");
    }
    let object = encode(&batches(0, &[Plan::plain(1)]), &RangeEnd::default());
    let start = usize::try_from(object.summary.footer_start).unwrap();
    let newer = String::from_utf8_lossy(&object.bytes[start..]).contains("\"version\":1");
    assert!(newer, "the version stands in the footer as text");
    let mut bytes = object.bytes[start..].to_vec();
    let at = bytes.windows(11).position(|window| window == b"\"version\":1").unwrap();
    bytes[at + 10] = b'9';
    let refused = ObjectReader::open(&bytes);
    assert!(matches!(refused, Err(FormatError::Version { version: 9 })), "{refused:?}");
}

/// Format 1 as it was written first: whatever comes later must read it.
#[test]
fn the_golden_object_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/range-v1.parquet");
    let plans = sample::golden();
    let batches = batches(5, &plans);
    if std::env::var_os("MILLSTREAM_GOLDEN").is_some() {
        let object = encode(&batches, &sample::golden_end());
        std::fs::write(path, &object.bytes).unwrap();
    }
    let bytes = Bytes::from(std::fs::read(path).unwrap());
    let trailer = bytes.len() - 8;
    let length = u32::from_le_bytes(bytes[trailer..trailer + 4].try_into().unwrap());
    let footer = trailer - usize::try_from(length).unwrap();
    let reader = ObjectReader::open(&bytes[footer..]).unwrap();
    assert_eq!(reader.range_end().unwrap(), sample::golden_end());
    let span = reader.span(0);
    let span = usize::try_from(span.start).unwrap()..usize::try_from(span.end).unwrap();
    let read = reader.replay(0, bytes.slice(span)).unwrap();
    assert_eq!(read.len(), batches.len());
    for (read, original) in read.into_iter().zip(&batches) {
        assert_same(&Batch::validate(read).unwrap(), original);
    }
    assert!(batches.iter().any(|batch| batch.header().max_timestamp > TimestampMs(0)));
}
