//! Records and batches that the tests share.

use bytes::{Bytes, BytesMut};
use millstream_types::{ProducerEpoch, ProducerId, TimestampMs};
use millstream_wire::{
    Batch, BatchBuilder, Codec, Header, HeaderRef, IncomingBatch, ProducerStamp, Record, crc32c,
};
use proptest::prelude::*;

pub(crate) const HEADER_BYTES: usize = 61;
pub(crate) const ANY_SIZE: usize = usize::MAX;

pub(crate) const STAMP: ProducerStamp =
    ProducerStamp { id: ProducerId(4000), epoch: ProducerEpoch(3), base_sequence: 41 };

/// A record before it has an offset.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) timestamp: TimestampMs,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Input {
    pub(crate) fn new(timestamp: i64, key: Option<&str>, value: Option<&str>) -> Self {
        Self {
            timestamp: TimestampMs(timestamp),
            key: key.map(|text| text.as_bytes().to_vec()),
            value: value.map(|text| text.as_bytes().to_vec()),
            headers: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, key: &str, value: Option<&[u8]>) -> Self {
        self.headers.push((key.as_bytes().to_vec(), value.map(<[u8]>::to_vec)));
        self
    }

    pub(crate) fn matches(&self, record: &Record) -> bool {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(key, value)| Header {
                key: Bytes::from(key.clone()).into(),
                value: value.clone().map(Bytes::from),
            })
            .collect();
        self.timestamp == record.timestamp
            && self.key.as_deref() == record.key.as_deref()
            && self.value.as_deref() == record.value.as_deref()
            && headers == record.headers
    }
}

/// The three records of the golden batches.
pub(crate) fn three() -> Vec<Input> {
    const TIME: i64 = 1_700_000_000_000;
    vec![
        Input::new(TIME, Some("k1"), Some("hello"))
            .header("h", Some(b"1"))
            .header("h", None)
            .header("", Some(b"")),
        Input::new(TIME + 5, None, Some("hello hello hello hello hello hello")),
        Input::new(TIME - 3, Some(""), None).header("é", Some(b"\x00\xff")),
    ]
}

pub(crate) fn build(codec: Codec, stamp: ProducerStamp, inputs: &[Input]) -> Bytes {
    let mut builder = BatchBuilder::new(codec, 0);
    for input in inputs {
        let headers: Vec<_> = input
            .headers
            .iter()
            .map(|(key, value)| HeaderRef { key, value: value.as_deref() })
            .collect();
        let bound = BatchBuilder::record_bytes_bound(
            input.key.as_deref(),
            input.value.as_deref(),
            &headers,
        );
        let before = builder.estimated_bytes();
        builder
            .append(input.timestamp, input.key.as_deref(), input.value.as_deref(), &headers)
            .unwrap();
        let added = builder.estimated_bytes() - before;
        assert!(added <= bound && bound <= added + 20, "{added} bytes, bound {bound}");
    }
    builder.build(stamp).unwrap()
}

pub(crate) fn incoming(bytes: &[u8]) -> IncomingBatch {
    IncomingBatch::validate(BytesMut::from(bytes), ANY_SIZE).unwrap()
}

pub(crate) fn records(batch: &Batch) -> Vec<Record> {
    batch.records().unwrap().map(Result::unwrap).collect()
}

/// Makes length and CRC fit the bytes after something was done to them.
pub(crate) fn fix_up(batch: &mut [u8]) {
    let length = u32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

pub(crate) fn any_codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(Codec::ALL.to_vec())
}

fn any_part() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        (any::<u8>(), 0..70_000usize).prop_map(|(byte, count)| vec![byte; count]),
    ])
}

/// Header keys are text, from a small set so that some repeat within a record.
fn any_headers() -> impl Strategy<Value = Vec<(Vec<u8>, Option<Vec<u8>>)>> {
    let key = prop_oneof![Just("a"), Just("b"), Just(""), Just("trace-id"), Just("schlüssel")]
        .prop_map(|text| text.as_bytes().to_vec());
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
    prop::collection::vec((key, value), 0..5)
}

pub(crate) fn any_input() -> impl Strategy<Value = Input> {
    let timestamp = prop_oneof![
        -1..2_000_000_000_000i64,
        1_700_000_000_000..1_700_000_000_500i64,
        Just(i64::MAX / 1000),
        Just(-i64::MAX / 1000),
    ];
    (timestamp, any_part(), any_part(), any_headers()).prop_map(
        |(timestamp, key, value, headers)| Input {
            timestamp: TimestampMs(timestamp),
            key,
            value,
            headers,
        },
    )
}

pub(crate) fn any_inputs() -> impl Strategy<Value = Vec<Input>> {
    prop::collection::vec(any_input(), 1..12)
}
