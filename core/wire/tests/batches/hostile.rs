//! Bytes that were cut, flipped, or made to hurt.

use bytes::{Buf, Bytes, BytesMut};
use millstream_types::limits::{
    BATCH_BYTES_MAX, BATCH_DECOMPRESSED_BYTES_MAX, BATCH_HEADER_BYTES, BATCH_RECORDS_MAX,
    RECORD_HEADERS_MAX, TIMESTAMP_MS_MAX,
};
use millstream_types::{ErrorCode, TimestampMs};
use millstream_wire::batch::peek_total_bytes;
use millstream_wire::{
    Batch, BatchBuilder, BatchError, BatchHeader, Codec, CompressionError, IncomingBatch,
    ProducerStamp, RecordError,
};
use proptest::prelude::*;

use crate::sample::{ANY_SIZE, STAMP, build, fix_up, three};

/// Reads all records, of which no header can claim more than there are bytes for.
fn read(bytes: &[u8]) -> Result<usize, RecordError> {
    let batch = Batch::validate(Bytes::copy_from_slice(bytes)).unwrap();
    let mut records = 0;
    let mut iterator = batch.records()?;
    for record in iterator.by_ref() {
        record?;
        records += 1;
    }
    assert!(iterator.next().is_none(), "there is nothing after the end");
    Ok(records)
}

/// A batch of hand-made record bytes, with a header that counts `count` of them.
fn with_payload(codec: Codec, count: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = build(codec, STAMP, &three())[..BATCH_HEADER_BYTES].to_vec();
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(payload);
    fix_up(&mut bytes);
    bytes
}

fn check(bytes: &[u8]) -> Result<(), RecordError> {
    IncomingBatch::validate(BytesMut::from(bytes), ANY_SIZE).unwrap().check_records()
}

#[test]
fn a_batch_cut_anywhere_is_truncated() {
    for codec in Codec::ALL {
        let whole = build(codec, STAMP, &three());
        for cut in 0..whole.len() {
            let part = whole.slice(..cut);
            let needed = if cut < BATCH_HEADER_BYTES { BATCH_HEADER_BYTES } else { whole.len() };
            let expected = BatchError::Truncated { needed, have: cut };
            assert_eq!(Batch::validate(part.clone()).unwrap_err(), expected);
            assert_eq!(Batch::split_first(&part).unwrap_err(), expected);
            let taken = IncomingBatch::validate(BytesMut::from(&part[..]), ANY_SIZE);
            assert_eq!(taken.unwrap_err(), expected);
            assert_eq!(BatchHeader::parse(&part).is_ok(), cut >= BATCH_HEADER_BYTES);
        }
    }
}

#[test]
fn a_byte_too_many_is_refused() {
    let mut bytes = build(Codec::None, STAMP, &three()).to_vec();
    bytes.push(0);
    let expected = BatchError::TrailingBytes { extra: 1 };
    assert_eq!(Batch::validate(Bytes::from(bytes)).unwrap_err(), expected);
}

/// Base offset and leader epoch are the broker's and outside the CRC; every other bit counts.
#[test]
fn a_flipped_bit_is_found() {
    for codec in Codec::ALL {
        let whole = build(codec, STAMP, &three());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let outcome = Batch::validate(Bytes::from(bytes));
            let outside_crc = matches!(bit / 8, 0..8 | 12..16);
            let sign_of_offset = bit == 7;
            assert_eq!(outcome.is_ok(), outside_crc && !sign_of_offset, "{codec}, bit {bit}");
        }
    }
}

#[test]
fn records_cut_anywhere_are_errors() {
    for codec in Codec::ALL {
        let whole = build(codec, STAMP, &three());
        for cut in BATCH_HEADER_BYTES..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            fix_up(&mut bytes);
            let read = read(&bytes);
            // An LZ4 frame may lack its end mark: all the records are there.
            let only_end_mark = codec == Codec::Lz4 && cut >= whole.len() - 4;
            assert_eq!(read.is_err(), !only_end_mark, "{codec} cut at {cut}: {read:?}");
            assert_eq!(check(&bytes).is_err(), read.is_err());
        }
    }
}

#[test]
fn flipped_bits_under_a_matching_crc_do_no_harm() {
    for codec in Codec::ALL {
        let whole = build(codec, STAMP, &three());
        for bit in BATCH_HEADER_BYTES * 8..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fix_up(&mut bytes);
            if let Ok(records) = read(&bytes) {
                assert_eq!(records, 3, "{codec}, bit {bit}");
            }
        }
    }
}

#[test]
fn impossible_headers_are_named() {
    let whole = build(Codec::None, STAMP, &three());
    let cases: [(usize, &[u8], BatchError); 11] = [
        (0, &[0xff; 8], BatchError::Offsets { base_offset: -1, last_offset_delta: 2 }),
        (
            0,
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfd],
            BatchError::Offsets { base_offset: i64::MAX - 2, last_offset_delta: 2 },
        ),
        (8, &[0xff; 4], BatchError::Length { length: -1 }),
        (8, &[0, 0, 0, 48], BatchError::Length { length: 48 }),
        (
            8,
            &[0x7f, 0xff, 0xff, 0xff],
            BatchError::TooLarge { bytes: 0x7fff_ffff + 12, max: BATCH_BYTES_MAX },
        ),
        (16, &[1], BatchError::Magic { magic: 1 }),
        (22, &[5], BatchError::Codec { id: 5 }),
        (23, &[0xff; 4], BatchError::Offsets { base_offset: 0, last_offset_delta: -1 }),
        (57, &[0xff; 4], BatchError::RecordCount { record_count: -1, last_offset_delta: 2 }),
        (57, &[0, 0, 0, 4], BatchError::RecordCount { record_count: 4, last_offset_delta: 2 }),
        (23, &[0x7f, 0xff, 0xff, 0xff], BatchError::Crc { stored: 0, computed: 0 }),
    ];
    for (at, field, expected) in cases {
        let mut bytes = whole.to_vec();
        bytes[at..at + field.len()].copy_from_slice(field);
        let found = Batch::validate(Bytes::from(bytes)).unwrap_err();
        if matches!(expected, BatchError::Crc { .. }) {
            assert!(matches!(found, BatchError::Crc { .. }), "{found:?}");
        } else {
            assert_eq!(found, expected);
        }
    }
    assert_eq!(peek_total_bytes(&[0xff; 12]), None);
    assert_eq!(peek_total_bytes(&[0; 12]), None);
}

#[test]
fn a_hostile_record_count_is_bounded() {
    let mut bytes = build(Codec::None, STAMP, &three()).to_vec();
    let count = BATCH_RECORDS_MAX + 1;
    bytes[23..27].copy_from_slice(&count.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    fix_up(&mut bytes);
    assert!(matches!(
        Batch::validate(Bytes::from(bytes)).unwrap_err(),
        BatchError::RecordCount { .. }
    ));
    let most = with_payload(Codec::None, BATCH_RECORDS_MAX, b"");
    assert_eq!(read(&most), Err(RecordError::Truncated { index: 0 }));
}

#[test]
fn a_new_batch_has_rules_that_a_stored_one_has_not() {
    let incoming = |at: usize, field: &[u8]| {
        let mut bytes = build(Codec::None, STAMP, &three()).to_vec();
        bytes[at..at + field.len()].copy_from_slice(field);
        fix_up(&mut bytes);
        Batch::validate(Bytes::from(bytes.clone())).unwrap();
        IncomingBatch::validate(BytesMut::from(&bytes[..]), ANY_SIZE).unwrap_err()
    };
    let gap = BatchError::RecordCount { record_count: 2, last_offset_delta: 2 };
    assert_eq!(incoming(57, &2u32.to_be_bytes()), gap);
    let producer = |id, epoch, sequence| BatchError::Producer { id, epoch, sequence };
    assert_eq!(incoming(43, &(-2i64).to_be_bytes()), producer(-2, 3, 41));
    assert_eq!(incoming(51, &(-1i16).to_be_bytes()), producer(4000, -1, 41));
    assert_eq!(incoming(53, &(-1i32).to_be_bytes()), producer(4000, 3, -1));
    let late = TIMESTAMP_MS_MAX + 1;
    for at in [27, 35] {
        let found = incoming(at, &late.to_be_bytes());
        assert_eq!(found, BatchError::Timestamp { timestamp_ms: late });
        assert_eq!(found.code(), ErrorCode::InvalidTimestamp);
    }
}

#[test]
fn the_topics_limit_is_kept() {
    let bytes = build(Codec::None, STAMP, &three());
    let max = bytes.len() - 1;
    let found = IncomingBatch::validate(BytesMut::from(&bytes[..]), max).unwrap_err();
    assert_eq!(found, BatchError::TooLarge { bytes: bytes.len(), max });
    assert_eq!(found.code(), ErrorCode::BatchTooLarge);
}

#[test]
fn impossible_records_are_named() {
    const HUGE: &[u8] = &[0xff; 12];
    let malformed = RecordError::Malformed { index: 0 };
    let truncated = RecordError::Truncated { index: 0 };
    // length, attributes, timestamp delta, offset delta, key, value, header count
    let cases: [(&str, &[u8], RecordError); 16] = [
        ("nothing", b"", truncated),
        ("endless length", HUGE, truncated),
        ("negative length", &[1, 0, 0, 0], malformed),
        ("length beyond the bytes", &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0], truncated),
        ("no body", &[0], malformed),
        ("attributes alone", &[2, 0], malformed),
        (
            "endless timestamp",
            &[0x1a, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2, 0, 1],
            malformed,
        ),
        ("endless offset", &[0x0e, 0, 0, 255, 255, 255, 255, 16], malformed),
        ("key of length -2", &[12, 0, 0, 0, 3, 1, 0], malformed),
        ("key beyond the record", &[12, 0, 0, 0, 100, 1, 0], malformed),
        ("value beyond the record", &[12, 0, 0, 0, 1, 2, 0], malformed),
        ("negative header count", &[12, 0, 0, 0, 1, 1, 1], malformed),
        ("headers that are not there", &[12, 0, 0, 0, 1, 1, 2], malformed),
        ("null header key", &[16, 0, 0, 0, 1, 1, 2, 1, 1], malformed),
        ("a byte after the headers", &[14, 0, 0, 0, 1, 1, 0, 9], malformed),
        (
            "offset delta 1 of 1",
            &[12, 0, 0, 2, 1, 1, 0],
            RecordError::OffsetDelta { index: 0, delta: 1 },
        ),
    ];
    for (what, payload, expected) in cases {
        let bytes = with_payload(Codec::None, 1, payload);
        assert_eq!(read(&bytes), Err(expected), "{what}");
        assert_eq!(check(&bytes), Err(expected), "{what}");
    }
    let good = &[12, 0, 0, 0, 1, 1, 0];
    assert_eq!(read(&with_payload(Codec::None, 1, good)), Ok(1));
    let trailing = [&good[..], &[0]].concat();
    let extra = RecordError::TrailingBytes { extra: 1 };
    assert_eq!(read(&with_payload(Codec::None, 1, &trailing)), Err(extra));
    let twice = with_payload(Codec::None, 2, &good.repeat(2));
    assert_eq!(read(&twice), Err(RecordError::OffsetDelta { index: 1, delta: 0 }));
}

#[test]
fn too_many_headers_are_named() {
    let count = RECORD_HEADERS_MAX + 1;
    // 1025 as a zigzag varint.
    let mut body = vec![0, 0, 0, 1, 1, 0x82, 0x10];
    body.extend([0, 1].repeat(count));
    let mut payload = vec![0x92, 0x20];
    assert_eq!(body.len(), 0x1012 / 2);
    payload.append(&mut body);
    let found = read(&with_payload(Codec::None, 1, &payload));
    assert_eq!(found, Err(RecordError::HeaderCount { index: 0, count }));
}

#[test]
fn a_timestamp_beyond_64_bits_is_named() {
    let body = [0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 1, 1, 0];
    let payload = [&[30][..], &body].concat();
    let bytes = with_payload(Codec::None, 1, &payload);
    let expected = RecordError::Timestamp { index: 0, delta: i64::MAX };
    assert_eq!(read(&bytes), Err(expected));
}

#[test]
fn a_timestamp_beyond_microseconds_is_refused_when_new() {
    let mut builder = BatchBuilder::new(Codec::None, 0);
    builder.append(TimestampMs(TIMESTAMP_MS_MAX), None, None, &[]).unwrap();
    builder.append(TimestampMs(TIMESTAMP_MS_MAX), None, None, &[]).unwrap();
    let mut bytes = builder.build(ProducerStamp::NONE).unwrap().to_vec();
    check(&bytes).unwrap();
    // The timestamp delta of the second record: 1 instead of 0.
    bytes[BATCH_HEADER_BYTES + 7 + 2] = 2;
    fix_up(&mut bytes);
    assert_eq!(read(&bytes), Ok(2));
    assert_eq!(check(&bytes), Err(RecordError::Timestamp { index: 1, delta: 1 }));
}

#[test]
fn output_stops_at_the_limit() {
    const MAX: usize = 1 << 20;
    for codec in Codec::ALL {
        for (extra, fits) in [(0, true), (1, false), (MAX, false)] {
            let mut compressed = BytesMut::new();
            codec.compress(&vec![b'x'; MAX + extra], &mut compressed).unwrap();
            let outcome = codec.decompress(&compressed, MAX);
            if fits {
                assert_eq!(outcome.unwrap(), vec![b'x'; MAX]);
            } else {
                let expected = CompressionError::TooLarge { codec, max_bytes: MAX };
                assert_eq!(outcome.unwrap_err(), expected);
            }
        }
    }
}

#[test]
fn a_bomb_is_refused_by_a_batchs_readers() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let zeros = vec![0; BATCH_DECOMPRESSED_BYTES_MAX + 1];
        let mut payload = BytesMut::new();
        codec.compress(&zeros, &mut payload).unwrap();
        let bytes = with_payload(codec, 1, &payload);
        let expected = RecordError::Compression(CompressionError::TooLarge {
            codec,
            max_bytes: BATCH_DECOMPRESSED_BYTES_MAX,
        });
        assert_eq!(read(&bytes), Err(expected));
        assert_eq!(check(&bytes), Err(expected));
        assert_eq!(expected.code(), ErrorCode::BatchTooLarge);
    }
}

#[test]
fn a_claimed_size_allocates_nothing() {
    // Raw Snappy that claims 4 GiB - 1, and 60 MiB, of which it has not one byte.
    for claim in [&b"\xff\xff\xff\xff\x0f"[..], b"\x80\x80\x80\x1e"] {
        let outcome = Codec::Snappy.decompress(claim, BATCH_DECOMPRESSED_BYTES_MAX);
        assert_eq!(outcome, Err(CompressionError::Malformed { codec: Codec::Snappy }));
    }
    // A Snappy block in Java's framing that is longer than what follows.
    let framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\x7f\xff\xff\xff\x00";
    let outcome = Codec::Snappy.decompress(framed, BATCH_DECOMPRESSED_BYTES_MAX);
    assert_eq!(outcome, Err(CompressionError::Malformed { codec: Codec::Snappy }));
    // A zstd frame whose header asks for a window of 2 GiB.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    let outcome = Codec::Zstd.decompress(&window, BATCH_DECOMPRESSED_BYTES_MAX);
    assert_eq!(outcome, Err(CompressionError::Malformed { codec: Codec::Zstd }));
}

#[test]
fn bytes_after_a_compressed_stream_are_refused() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut compressed = BytesMut::new();
        codec.compress(b"records", &mut compressed).unwrap();
        compressed.extend_from_slice(b"\x01garbage");
        let outcome = codec.decompress(&compressed, 1024);
        assert_eq!(outcome, Err(CompressionError::Malformed { codec }), "{codec}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300), id in 0..5u8) {
        let _outcome = Batch::validate(Bytes::from(bytes.clone()));
        let codec = Codec::from_id(id).unwrap();
        let outcome = codec.decompress(&bytes, 4096);
        prop_assert!(outcome.is_err() || outcome.unwrap().remaining() <= 4096);
        let count = u32::from(id) + 1;
        if let Ok(records) = read(&with_payload(codec, count, &bytes)) {
            prop_assert_eq!(records, count as usize);
        }
    }
}
