//! Both ways against the `kafka-protocol` crate. It keeps a record's headers in a map, so that a
//! repeated key keeps its last value only: what it reads of ours is compared with that loss, and
//! what it writes never repeats a key.

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record as TheirRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use millstream_types::limits::TIMESTAMP_MS_MAX;
use millstream_wire::{Batch, Codec};
use proptest::prelude::*;

use crate::sample::{Input, STAMP, any_codec, any_inputs, build, records};

fn theirs(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}

fn to_theirs(place: usize, input: &Input) -> TheirRecord {
    let place = i32::try_from(place).unwrap();
    let headers: IndexMap<_, _> = input
        .headers
        .iter()
        .map(|(key, value)| {
            let key = StrBytes::from_utf8(Bytes::from(key.clone())).unwrap();
            (key, value.clone().map(Bytes::from))
        })
        .collect();
    TheirRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: STAMP.id.0,
        producer_epoch: STAMP.epoch.0,
        timestamp_type: TimestampType::Creation,
        offset: i64::from(place),
        sequence: STAMP.base_sequence + place,
        timestamp: input.timestamp.0,
        key: input.key.clone().map(Bytes::from),
        value: input.value.clone().map(Bytes::from),
        headers,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn they_read_what_we_write(codec in any_codec(), inputs in any_inputs()) {
        let mut ours = build(codec, STAMP, &inputs);

        let found = RecordBatchDecoder::decode(&mut ours).unwrap();

        let expected: Vec<_> =
            inputs.iter().enumerate().map(|(place, input)| to_theirs(place, input)).collect();
        prop_assert_eq!(found.records, expected);
    }

    #[test]
    fn we_read_what_they_write(codec in any_codec(), mut inputs in any_inputs()) {
        for input in &mut inputs {
            // Their encoder keeps the least timestamp as the base and no key twice.
            input.timestamp.0 = input.timestamp.0.clamp(0, TIMESTAMP_MS_MAX);
            let mut seen = Vec::new();
            input.headers.retain(|(key, _)| {
                let new = !seen.contains(key);
                seen.push(key.clone());
                new
            });
        }
        let sent: Vec<_> =
            inputs.iter().enumerate().map(|(place, input)| to_theirs(place, input)).collect();
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: theirs(codec) };
        RecordBatchEncoder::encode(&mut bytes, &sent, &options).unwrap();

        let max = bytes.len();
        let mut taken = millstream_wire::IncomingBatch::validate(bytes.clone(), max).unwrap();
        taken.check_records().unwrap();

        let found = records(&Batch::validate(bytes.freeze()).unwrap());
        prop_assert_eq!(found.len(), inputs.len());
        for (input, record) in inputs.iter().zip(&found) {
            prop_assert!(input.matches(record), "{:?} became {:?}", input, record);
        }
        prop_assert_eq!(taken.header().base_sequence, STAMP.base_sequence);
        prop_assert_eq!(taken.header().producer_id, STAMP.id);
    }
}
