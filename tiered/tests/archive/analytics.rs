//! An analyst reads the archive with nothing of ours.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use millstream_tiered::{Encoder, Identity, PartitionArchive, RangeEnd, Store};
use millstream_types::{LeaderEpoch, Offset, PartitionIndex, TimestampMs};
use millstream_wire::Codec;
use serde_json::{Value, json};

use crate::python;
use crate::sample::{Plan, batches, identity};
use crate::values;

/// What was archived of one partition.
#[derive(Default)]
struct Sums {
    count: u64,
    value_bytes: usize,
    keys: u64,
    timestamps: u64,
    newest_ms: i64,
    headers: usize,
    end: i64,
}

/// Archives three ranges of a partition.
async fn archive(store: &Store, partition: u32) -> Sums {
    let identity = Identity { partition: PartitionIndex(partition), ..identity() };
    let mut archive = PartitionArchive::open(store.clone(), identity.clone(), None).await.unwrap();
    let mut sums = Sums { newest_ms: i64::MIN, ..Sums::default() };
    for round in 0..3_u32 {
        let seed = u64::from(partition * 10 + round);
        let plans = [
            Plan { seed, ..Plan::plain(300 + partition) },
            Plan { codec: Codec::Zstd, seed: seed + 1, ..Plan::plain(40) },
            Plan::control(),
        ];
        let mut encoder = Encoder::new(identity.clone(), Offset::new(sums.end).unwrap()).unwrap();
        for batch in batches(sums.end, &plans) {
            encoder.push(&batch).unwrap();
            sums.end = batch.header().next_offset().value();
            if batch.header().attributes.is_control() {
                continue;
            }
            for record in batch.records().unwrap().map(Result::unwrap) {
                sums.count += 1;
                sums.value_bytes += record.value.as_ref().map_or(0, Bytes::len);
                sums.keys += u64::from(record.key.is_some());
                sums.timestamps += u64::from(record.timestamp != TimestampMs::NONE);
                sums.newest_ms = sums.newest_ms.max(record.timestamp.0);
                sums.headers += record.headers.len();
            }
        }
        let object = encoder.finish(&RangeEnd::default()).unwrap();
        archive.append(LeaderEpoch(1), &object, u128::from(round)).await.unwrap();
    }
    sums
}

/// What the script says of an archive in `dir`.
fn analyse(python: &Path, dir: &Path, more: &[&str]) -> Value {
    let glob = format!("{}/topics/flights.*/*/*.parquet", dir.display());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/archive/analyst.py");
    let output = Command::new(python).arg(script).arg(glob).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn duckdb_pyarrow_and_polars_agree_with_what_was_archived() {
    let packages = ["duckdb==1.5.5", "pyarrow", "polars"];
    let Some(python) = python::with("analytics", &packages) else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(dir.path()).unwrap();
    let mut expected = Vec::new();
    for partition in 0..3 {
        let sums = archive(&store, partition).await;
        expected.push(json!({
            "partition": partition, "count": sums.count, "min": 0,
            // The last offset of each range is a control batch's, which is no row.
            "max": sums.end - 2,
            "value_bytes": sums.value_bytes, "keys": sums.keys, "timestamps": sums.timestamps,
            "newest_ms": sums.newest_ms, "headers": sums.headers,
        }));
    }
    let found = analyse(&python, dir.path(), &[]);
    assert_eq!(found["duckdb"], json!(expected));
    let few: Vec<Value> = expected
        .iter()
        .map(|row| {
            let get = |name: &str| row[name].clone();
            json!({ "partition": get("partition"), "count": get("count"), "min": get("min"),
                "max": get("max") })
        })
        .collect();
    assert_eq!(found["pyarrow"], json!(few));
    assert_eq!(found["polars"], json!(few));
    let ids = [("partition", 1), ("offset", 2), ("headers", 6), ("batch_max_timestamp_ms", 19)];
    for (name, id) in ids {
        assert_eq!(found["field_ids"][name], json!(id), "{name}");
    }
}

#[tokio::test]
async fn typed_columns_are_read_where_later_objects_have_more() {
    let packages = ["duckdb==1.5.5", "pyarrow", "polars"];
    let Some(python) = python::with("analytics", &packages) else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(dir.path()).unwrap();
    let mut archive = PartitionArchive::open(store, identity(), None).await.unwrap();
    for (attempt, range) in values::ranges().iter().enumerate() {
        let carried = archive.range_end().await.unwrap().unwrap_or_default().value_columns;
        let object = values::encode(range, carried);
        archive.append(LeaderEpoch(1), &object, attempt as u128).await.unwrap();
    }
    let found = analyse(&python, dir.path(), &["typed"]);
    assert_eq!(
        found["duckdb"],
        json!({
            "count": 8, "ids": 15, "prices": 2, "price": 10.0, "carriers": 3, "offsets": 1,
            "id_type": "BIGINT", "price_type": "DOUBLE",
        })
    );
    let few = json!({ "count": 8, "ids": 15, "prices": 2, "price": 10.0 });
    assert_eq!(found["pyarrow"], few);
    assert_eq!(found["polars"], few);
    let ids = [("id", 1000), ("carrier", 1001), ("json_offset", 1002), ("price", 1003)];
    for (name, id) in ids {
        assert_eq!(found["field_ids"][name], json!(id), "{name}");
    }
}
