"""What DuckDB, pyarrow and polars read out of an archive, as JSON on standard output.

Usage: analyst.py GLOB [typed]
"""

import glob
import json
import sys

import duckdb
import polars
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet

pattern = sys.argv[1]


def typed():
    """Typed columns over objects of which the later ones have more."""
    sql = f"""
        select count(*), sum(id)::bigint, count(price), sum(price), count(carrier),
               count(json_offset), typeof(any_value(id)), typeof(any_value(price))
        from read_parquet('{pattern}', union_by_name=true)
    """
    names = ["count", "ids", "prices", "price", "carriers", "offsets", "id_type", "price_type"]
    found = {"duckdb": dict(zip(names, duckdb.sql(sql).fetchone()))}
    files = sorted(glob.glob(pattern))
    schema = pyarrow.unify_schemas([pyarrow.parquet.read_schema(file) for file in files])
    table = pyarrow.dataset.dataset(files, schema=schema, format="parquet").to_table()
    found["pyarrow"] = {
        "count": table.num_rows,
        "ids": pyarrow.compute.sum(table["id"]).as_py(),
        "prices": pyarrow.compute.count(table["price"]).as_py(),
        "price": pyarrow.compute.sum(table["price"]).as_py(),
    }
    found["field_ids"] = {
        field.name: int(field.metadata[b"PARQUET:field_id"]) for field in schema
    }
    frame = polars.concat([polars.scan_parquet(file) for file in files], how="diagonal").select(
        polars.len().alias("count"),
        polars.col("id").sum().alias("ids"),
        polars.col("price").count().alias("prices"),
        polars.col("price").sum().alias("price"),
    ).collect()
    found["polars"] = frame.to_dicts()[0]
    return found


if len(sys.argv) > 2:
    print(json.dumps(typed()))
    sys.exit()
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
