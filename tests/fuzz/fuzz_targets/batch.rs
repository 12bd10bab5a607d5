//! Whole batches, alone and in a row, as they come off the network and the disk.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use millstream_types::{LeaderEpoch, Offset};
use millstream_wire::batch::peek_total_bytes;
use millstream_wire::{Batch, BatchHeader, IncomingBatch, crc32c};

fuzz_target!(|data: &[u8]| {
    exercise(data);
    // The same with length and CRC made to fit, for what lies behind them.
    if data.len() >= 61 {
        let mut fixed = data.to_vec();
        let length = u32::try_from(data.len() - 12).expect("an input is small");
        fixed[8..12].copy_from_slice(&length.to_be_bytes());
        fixed[16] = 2;
        let crc = crc32c(&fixed[21..]);
        fixed[17..21].copy_from_slice(&crc.to_be_bytes());
        exercise(&fixed);
    }
});

fn exercise(data: &[u8]) {
    if let Ok(header) = BatchHeader::parse(data) {
        assert_eq!(peek_total_bytes(data), Some(header.total_bytes()));
        assert!(header.last_offset() < header.next_offset());
        assert!(header.last_sequence() >= -1);
    }
    let mut rest = Bytes::copy_from_slice(data);
    while let Ok((batch, after)) = Batch::split_first(&rest) {
        let again = Batch::validate(batch.bytes().clone()).expect("it was valid a moment ago");
        assert_eq!(again, batch);
        read(&batch);
        rest = after;
    }
    if let Ok(mut incoming) = IncomingBatch::validate(BytesMut::from(data), data.len()) {
        let sound = incoming.check_records().is_ok();
        let batch = incoming.assign(Offset::ZERO, LeaderEpoch(1));
        Batch::validate(batch.bytes().clone()).expect("placing a batch keeps it valid");
        assert!(!sound || read(&batch), "checked records can be read");
    }
}

/// Whether every record could be read.
fn read(batch: &Batch) -> bool {
    let Ok(mut records) = batch.records() else { return false };
    let mut count = 0;
    for record in records.by_ref() {
        let Ok(record) = record else { return false };
        assert!(record.offset <= batch.header().last_offset());
        count += 1;
    }
    assert!(records.next().is_none());
    assert_eq!(count, batch.header().record_count);
    true
}
