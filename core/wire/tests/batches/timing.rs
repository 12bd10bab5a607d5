//! How long decoding takes: run by hand, in release, with
//! `cargo test --release -p millstream-wire --test batches -- --ignored --nocapture timing`.

#![expect(clippy::disallowed_methods, reason = "a stopwatch needs the clock")]

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use millstream_types::TimestampMs;
use millstream_wire::{Batch, BatchBuilder, Codec, IncomingBatch, crc32c};

use crate::sample::STAMP;

fn built(value_bytes: usize, records: usize) -> Bytes {
    let value = vec![b'v'; value_bytes];
    let mut builder = BatchBuilder::new(Codec::None, records * (value_bytes + 32));
    for place in 0..records {
        let key = format!("key-{:06}", place % 977);
        let timestamp = TimestampMs(1_700_000_000_000 + i64::try_from(place).unwrap() / 8);
        builder.append(timestamp, Some(key.as_bytes()), Some(&value), &[]).unwrap();
    }
    builder.build(STAMP).unwrap()
}

/// The best of several runs of `work`, in nanoseconds for each of `units`.
fn best_ns(units: usize, mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..200 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e9 / f64::from(u32::try_from(units).unwrap())
}

#[test]
#[ignore = "prints timings; its numbers mean something in a release build only"]
fn timing_of_a_record() {
    for (value_bytes, count) in [(100, 2000), (1024, 500)] {
        let bytes = built(value_bytes, count);
        let batch = Batch::validate(bytes.clone()).unwrap();
        let value = vec![b'v'; value_bytes];
        let borrowed = best_ns(count, || {
            let mut records = batch.records().unwrap();
            while let Some(record) = records.next_ref() {
                black_box(record.unwrap().value);
            }
        });
        let shared = best_ns(count, || {
            for record in batch.records().unwrap() {
                black_box(record.unwrap());
            }
        });
        let build = best_ns(count, || {
            let mut builder = BatchBuilder::new(Codec::None, bytes.len());
            for _ in 0..count {
                builder.append(TimestampMs(1), Some(b"key-000000"), Some(&value), &[]).unwrap();
            }
            black_box(builder.build(STAMP).unwrap());
        });
        let validate = best_ns(count, || {
            black_box(Batch::validate(bytes.clone()).unwrap());
        });
        let mut taken = IncomingBatch::validate(BytesMut::from(&bytes[..]), bytes.len()).unwrap();
        let check = best_ns(count, || taken.check_records().unwrap());
        println!(
            "{value_bytes} B records: next_ref {borrowed:.1} ns, next {shared:.1} ns, \
             check {check:.1} ns, validate {validate:.1} ns, build {build:.1} ns"
        );
    }
}

#[test]
#[ignore = "prints timings; its numbers mean something in a release build only"]
fn timing_of_the_crc() {
    for size in [128, 1024, 16 * 1024, 1024 * 1024] {
        let bytes = vec![0xa5; size];
        let ns = best_ns(size, || {
            for _ in 0..16 {
                black_box(crc32c(black_box(&bytes)));
            }
        }) / 16.0;
        println!("CRC-32C of {size} bytes: {:.1} GB/s", 1.0 / ns);
    }
}
