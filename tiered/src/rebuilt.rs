//! Whether a batch can be made again of its rows.

use millstream_wire::{
    Batch, BatchBuilder, BatchFrame, BatchHeader, Codec, ProducerStamp, RecordError, RecordFields,
};

/// How batches are made again: not compressed, and where that is too large for a batch, as is
/// usual. A producer's own codec may have done better than either.
pub(crate) const WAYS: [Codec; 2] = [Codec::None, Codec::Zstd];

/// Whether a batch fits once it is made again. One that cannot be for any other reason does not.
///
/// # Errors
/// Of a record that cannot be read.
pub(crate) fn fits(batch: &Batch) -> Result<bool, RecordError> {
    for codec in WAYS {
        if fits_as(batch, codec)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn fits_as(batch: &Batch, codec: Codec) -> Result<bool, RecordError> {
    let frame = frame_of(batch.header());
    let mut builder = BatchBuilder::new(codec, 0);
    let mut records = batch.records()?;
    while let Some(record) = records.next_ref() {
        let record = record?;
        let (offset, timestamp) = (record.offset, record.timestamp);
        let fields = RecordFields { offset, timestamp, key: record.key, value: record.value };
        if builder.append_framed(&frame, fields, record.headers).is_err() {
            return Ok(false);
        }
    }
    Ok(builder.build_framed(&frame).is_ok())
}

const fn frame_of(header: &BatchHeader) -> BatchFrame {
    BatchFrame {
        base_offset: header.base_offset,
        leader_epoch: header.leader_epoch,
        attributes: header.attributes,
        last_offset_delta: header.last_offset_delta,
        base_timestamp: header.base_timestamp,
        max_timestamp: header.max_timestamp,
        producer: ProducerStamp {
            id: header.producer_id,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
        },
    }
}
