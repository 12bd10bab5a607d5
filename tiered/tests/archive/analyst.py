"""What DuckDB, pyarrow and polars read out of an archive, as JSON on standard output.

Usage: analyst.py GLOB
"""

import glob
import json
import sys

import duckdb
import polars
import pyarrow.dataset

pattern = sys.argv[1]
sql = f"""
    select "partition", count(*), min("offset"), max("offset"),
           sum(coalesce(octet_length("value"), 0)), count("key"), count("timestamp"),
           epoch_ms(max("timestamp")), sum(len(headers))
    from '{pattern}' group by 1 order by 1
"""
rows = duckdb.sql(sql).fetchall()
columns = ["partition", "count", "min", "max", "value_bytes", "keys", "timestamps", "newest_ms",
           "headers"]
found = {"duckdb": [dict(zip(columns, map(int, row))) for row in rows]}

table = pyarrow.dataset.dataset(sorted(glob.glob(pattern)), format="parquet").to_table()
by_partition = table.group_by("partition").aggregate(
    [("offset", "count"), ("offset", "min"), ("offset", "max")]
).sort_by("partition")
found["pyarrow"] = [
    {"partition": row["partition"], "count": row["offset_count"], "min": row["offset_min"],
     "max": row["offset_max"]}
    for row in by_partition.to_pylist()
]
field_ids = {
    field.name: int(field.metadata[b"PARQUET:field_id"]) for field in table.schema
}
found["field_ids"] = field_ids

frame = polars.scan_parquet(pattern).group_by("partition").agg(
    polars.len().alias("count"),
    polars.col("offset").min().alias("min"),
    polars.col("offset").max().alias("max"),
).sort("partition").collect()
found["polars"] = frame.to_dicts()
print(json.dumps(found))
