//! The records of an uncompressed batch whose header is made to fit, so that every input reaches
//! the record decoder. What decodes is built again and must decode to the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_types::limits::BATCH_RECORDS_MAX;
use millstream_wire::{Batch, BatchBuilder, Codec, ProducerStamp, Record, TimestampType, crc32c};

fuzz_target!(|data: &[u8]| {
    if data.len() < 61 {
        return;
    }
    let Some(records) = decode(fix_up(data)) else { return };
    let mut builder = BatchBuilder::new(Codec::None, data.len());
    for record in &records {
        let headers: Vec<_> = record.headers.iter().map(|header| header.as_ref()).collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        if builder.append(record.timestamp, key, value, &headers).is_err() {
            return;
        }
    }
    let Ok(built) = builder.build(ProducerStamp::NONE) else { return };
    let again = decode(built).expect("what was built can be read");
    assert_eq!(again.len(), records.len());
    for (first, second) in records.iter().zip(&again) {
        assert_eq!(first.timestamp, second.timestamp);
        assert_eq!((&first.key, &first.value), (&second.key, &second.value));
        assert_eq!(first.headers, second.headers);
    }
});

/// Makes a header of the first 61 bytes: length, magic, CRC, no codec, few but plausible records.
fn fix_up(data: &[u8]) -> Bytes {
    let mut batch = data.to_vec();
    batch[0] &= 0x3f;
    let length = u32::try_from(data.len() - 12).expect("an input is small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[22] &= !7;
    batch[23] &= 0x7f;
    let delta = u32::from_be_bytes([batch[23], batch[24], batch[25], batch[26]]);
    let wanted = u32::from_be_bytes([batch[57], batch[58], batch[59], batch[60]]);
    let count = wanted.min(delta + 1).min(BATCH_RECORDS_MAX);
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(batch)
}

/// The records, if all can be read; both ways of reading must agree.
fn decode(bytes: Bytes) -> Option<Vec<Record>> {
    let batch = Batch::validate(bytes).expect("the header was made to fit");
    let mut borrowed = batch.records().expect("there is nothing to decompress");
    let mut found = Vec::new();
    for record in batch.records().expect("there is nothing to decompress") {
        let twin = borrowed.next_ref().expect("both readers see as many records");
        assert_eq!(record.is_ok(), twin.is_ok());
        let (record, twin) = (record.ok()?, twin.ok()?);
        assert_eq!((record.offset, record.timestamp), (twin.offset, twin.timestamp));
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (twin.key, twin.value));
        assert_eq!(record.headers.len(), twin.headers.len());
        assert!(record.headers.iter().zip(twin.headers).all(|(one, two)| one.as_ref() == two));
        if batch.header().attributes.timestamp_type() == TimestampType::LogAppendTime {
            assert_eq!(record.timestamp, batch.header().max_timestamp);
        }
        found.push(record);
    }
    assert!(borrowed.next_ref().is_none());
    Some(found)
}
