//! Bytes that must be read, and written, the same for as long as there are data directories.

use bytes::{Bytes, BytesMut};
use millstream_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use millstream_wire::batch::peek_total_bytes;
use millstream_wire::{
    Attributes, Batch, BatchHeader, Codec, IncomingBatch, ProducerStamp, TimestampType, restamp,
};

use crate::sample::{HEADER_BYTES, STAMP, build, incoming, records, three};

const NONE: &str = include_str!("../testdata/batch-v2-none.hex");

const COMPRESSED: [(Codec, &str); 6] = [
    (Codec::None, NONE),
    (Codec::Gzip, include_str!("../testdata/batch-v2-gzip.hex")),
    (Codec::Snappy, include_str!("../testdata/batch-v2-snappy-java.hex")),
    (Codec::Snappy, include_str!("../testdata/batch-v2-snappy-raw.hex")),
    (Codec::Lz4, include_str!("../testdata/batch-v2-lz4.hex")),
    (Codec::Zstd, include_str!("../testdata/batch-v2-zstd.hex")),
];

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn every_field_is_read() {
    let bytes = unhex(NONE);

    let batch = Batch::validate(bytes.clone()).unwrap();

    let expected = BatchHeader {
        base_offset: Offset::new(1000).unwrap(),
        batch_length: u32::try_from(bytes.len()).unwrap() - 12,
        leader_epoch: LeaderEpoch(7),
        crc: u32::from_be_bytes(bytes[17..21].try_into().unwrap()),
        attributes: Attributes::new(Codec::None),
        last_offset_delta: 2,
        base_timestamp: TimestampMs(1_700_000_000_000),
        max_timestamp: TimestampMs(1_700_000_000_005),
        producer_id: ProducerId(4000),
        producer_epoch: ProducerEpoch(3),
        base_sequence: 41,
        record_count: 3,
    };
    assert_eq!(*batch.header(), expected);
    assert_eq!(expected.total_bytes(), bytes.len());
    assert_eq!(expected.last_offset(), Offset::new(1002).unwrap());
    assert_eq!(expected.next_offset(), Offset::new(1003).unwrap());
    assert_eq!(expected.last_sequence(), 43);
    assert_eq!(peek_total_bytes(&bytes[..12]), Some(bytes.len()));
    assert_eq!(peek_total_bytes(&bytes[..11]), None);
}

#[test]
fn every_codec_is_read() {
    for (codec, text) in COMPRESSED {
        let batch = Batch::validate(unhex(text)).unwrap();

        let found = records(&batch);

        assert_eq!(batch.header().attributes.codec(), codec);
        assert_eq!(found.len(), 3, "{codec}");
        for (place, (input, record)) in three().iter().zip(&found).enumerate() {
            assert!(input.matches(record), "{codec}: {input:?} became {record:?}");
            assert_eq!(record.offset.value(), 1000 + i64::try_from(place).unwrap());
        }
        incoming(batch.bytes()).check_records().unwrap();
    }
}

#[test]
fn an_uncompressed_batch_is_written_to_the_byte() {
    let built = build(Codec::None, STAMP, &three());

    let placed = incoming(&built).assign(Offset::new(1000).unwrap(), LeaderEpoch(7));

    assert_eq!(*placed.bytes(), unhex(NONE));
    assert_eq!(built[..8], [0; 8]);
    assert_eq!(built[12..16], [0xff; 4]);
}

#[test]
fn a_compressed_batch_has_the_header_of_an_uncompressed_one() {
    let plain = build(Codec::None, STAMP, &three());
    for codec in Codec::ALL {
        let built = build(codec, STAMP, &three());
        assert_eq!(built[22], codec.id());
        assert_eq!(built[23..HEADER_BYTES], plain[23..HEADER_BYTES], "{codec}");
    }
}

#[test]
fn snappy_is_written_in_javas_framing() {
    let built = build(Codec::Snappy, STAMP, &three());
    assert_eq!(built[HEADER_BYTES..HEADER_BYTES + 16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
}

#[test]
fn placing_a_batch_changes_twelve_bytes_where_they_stand() {
    let bytes = unhex(NONE);
    let input = BytesMut::from(&bytes[..]);
    let memory = input.as_ptr();
    let taken = IncomingBatch::validate(input, bytes.len()).unwrap();

    let placed = taken.assign(Offset::new(i64::MAX - 5).unwrap(), LeaderEpoch(9));

    assert_eq!(placed.bytes().as_ptr(), memory);
    assert_eq!(placed.bytes()[8..12], bytes[8..12]);
    assert_eq!(placed.bytes()[16..], bytes[16..]);
    assert_eq!(Batch::validate(placed.bytes().clone()).unwrap(), placed);
    assert_eq!(placed.header().base_offset.value(), i64::MAX - 5);
    assert_eq!(placed.header().leader_epoch, LeaderEpoch(9));
}

#[test]
fn uncompressed_records_share_the_batchs_memory() {
    let bytes = unhex(NONE);
    let range = bytes.as_ptr_range();
    let batch = Batch::validate(bytes).unwrap();
    for record in records(&batch) {
        for part in [record.key, record.value].into_iter().flatten() {
            assert!(part.is_empty() || range.contains(&part.as_ptr()));
        }
    }
}

#[test]
fn log_append_time_replaces_every_timestamp() {
    for (codec, text) in COMPRESSED {
        let mut taken = incoming(&unhex(text));
        let now = TimestampMs(1_800_000_000_000);

        taken.set_log_append_time(now);
        let placed = taken.assign(Offset::ZERO, LeaderEpoch(1));

        let read_back = Batch::validate(placed.bytes().clone()).unwrap();
        assert_eq!(read_back, placed, "{codec}");
        assert_eq!(read_back.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(read_back.header().attributes.codec(), codec);
        assert!(records(&read_back).iter().all(|record| record.timestamp == now));
    }
}

#[test]
fn a_batch_can_be_stamped_anew() {
    let built = build(Codec::Zstd, ProducerStamp::NONE, &three());
    assert_eq!(built[43..57], [0xff; 14]);

    let shared = built.clone();
    let stamped = restamp(built, STAMP).unwrap();

    assert_eq!(shared[43..57], [0xff; 14], "a shared batch is not written to");
    assert_eq!(stamped, build(Codec::Zstd, STAMP, &three()));
    let alone = stamped.as_ptr();
    let again = restamp(stamped, ProducerStamp::NONE).unwrap();
    assert_eq!(again, shared);
    assert_eq!(again.as_ptr(), alone);
    assert!(restamp(again.slice(..again.len() - 1), STAMP).is_err());
}

#[test]
fn batches_in_a_row_are_taken_one_by_one() {
    let texts = [COMPRESSED[0].1, COMPRESSED[4].1, COMPRESSED[5].1];
    let mut rest = Bytes::from(texts.map(unhex).concat());
    let memory = rest.as_ptr();
    let mut taken = Vec::new();
    while !rest.is_empty() {
        let (batch, after) = Batch::split_first(&rest).unwrap();
        taken.push(batch.into_bytes());
        rest = after;
    }
    assert_eq!(taken, texts.map(unhex));
    assert_eq!(taken[0].as_ptr(), memory);
}

#[test]
fn sequences_wrap_to_zero() {
    let cases = [(i32::MAX, 0, i32::MAX), (i32::MAX, 1, 0), (i32::MAX - 1, 3, 1), (-1, 5, -1)];
    let mut header = BatchHeader::parse(&unhex(NONE)).unwrap();
    for (base, delta, last) in cases {
        header.base_sequence = base;
        header.last_offset_delta = delta;
        assert_eq!(header.last_sequence(), last, "{base} + {delta}");
    }
}

#[test]
fn flags_are_read() {
    assert!(Attributes::from_bits(1 << 4).unwrap().is_transactional());
    assert!(Attributes::from_bits(1 << 5).unwrap().is_control());
    assert_eq!(Attributes::from_bits(5), None);
    let plain = Attributes::new(Codec::Lz4);
    assert!(!plain.is_control() && !plain.is_transactional());
    assert_eq!(plain.timestamp_type(), TimestampType::CreateTime);
}

#[test]
fn codecs_have_kafkas_names() {
    for codec in Codec::ALL {
        assert_eq!(codec.to_string().parse(), Ok(codec));
        assert_eq!(Codec::from_id(codec.id()), Some(codec));
    }
    assert!("brotli".parse::<Codec>().is_err());
    assert_eq!(Codec::from_id(5), None);
}
