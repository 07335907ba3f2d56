"""`make bench`: speed and memory of the release binary, side by side with DuckDB itself in the same run.

Streams lineitem of TPC-H through the gateway (ADBC) and through DuckDB's own Python client on the same files, alternating, and
reports medians, ratios, and the memory of gateway and workers above idle."""

import argparse
import statistics
import sys
import time
from pathlib import Path

import adbc_driver_flightsql.dbapi as adbc
import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from runner import Gateway, Peak, demo_lake, page  # noqa: E402

# Given by the project's goals: see the table that is written.
MEMORY_LIMIT = 400e6
FIRST_BATCH_LIMIT = 0.150


def newest_metadata(lake, table):
    """The current metadata file of a table of the embedded catalog."""
    import sqlite3

    for database in lake.rglob("*.db"):
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as con:
            row = con.execute("SELECT metadata_location FROM iceberg_tables WHERE table_name = ? AND table_namespace = 'bronze'", [table]).fetchone()
            if row:
                return row[0].removeprefix("file://")
    raise SystemExit(f"no table {table} in {lake}")


def through_gateway(connection, sql):
    """Seconds to the first batch and in all, rows and bytes of one stream."""
    began = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return drain(cursor.fetch_record_batch(), began)


def by_duckdb(connection, sql):
    """The same by DuckDB in this process."""
    began = time.perf_counter()
    return drain(connection.execute(sql).to_arrow_reader(2048), began)


def drain(reader, began):
    first, rows, size = None, 0, 0
    for batch in reader:
        first = first or time.perf_counter() - began
        rows += batch.num_rows
        size += batch.nbytes
    return {"first": first, "total": time.perf_counter() - began, "rows": rows, "bytes": size}


def latency(connection, sql, count):
    """Milliseconds of each of `count` small queries."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        with connection.cursor() as cursor:
            cursor.execute(sql)
            cursor.fetchall()
        times.append((time.perf_counter() - began) * 1000)
    return times


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="1", help="TPC-H scale factor")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side")
    options = parser.parse_args()
    lake = demo_lake(options.scale)
    table = newest_metadata(lake, "lineitem")

    own = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    import os

    for extension in ("avro", "httpfs", "iceberg"):
        own.execute(f"LOAD '{os.environ['POLYNYA_EXTENSION_DIR']}/{extension}.duckdb_extension'")
    direct_sql = f"SELECT * FROM iceberg_scan('{table}')"
    gateway_sql = "SELECT * FROM lake.bronze.lineitem"

    with Gateway(lake, "telemetry.level=warn") as gateway, adbc.connect(gateway.uri, autocommit=True) as connection:
        latency(connection, "SELECT 1", 50)
        small = latency(connection, "SELECT 1", 500)
        idle = gateway.memory()
        through_gateway(connection, gateway_sql)
        by_duckdb(own, direct_sql)
        ours, theirs, peaks = [], [], []
        for run in range(options.runs):
            with Peak(gateway) as peak:
                ours.append(through_gateway(connection, gateway_sql))
            peaks.append(peak.bytes)
            theirs.append(by_duckdb(own, direct_sql))
            print(f"run {run + 1}: gateway {ours[-1]['total']:.2f} s, DuckDB {theirs[-1]['total']:.2f} s, peak {peaks[-1] / 1e6:.0f} MB", flush=True)

    above = max(peaks) - idle
    difference = median(ours, "first") - median(theirs, "first")
    size = ours[0]["bytes"] / 1e6
    verdict = lambda held: "held" if held else "**missed**"  # noqa: E731
    page(
        "bench",
        "Streaming a large table",
        f"""
`SELECT * FROM bronze.lineitem` at TPC-H scale {options.scale}: {ours[0]['rows']:,} rows, {size:,.0f} MB of Arrow. Medians of {options.runs} alternating runs after one warm-up of each; both sides read the same Parquet files of the same Iceberg table. The gateway's side includes gRPC to the stock ADBC driver in Python; DuckDB's side runs inside the measuring process.

| | gateway over ADBC | DuckDB in process | ratio or difference |
|---|---|---|---|
| whole stream | {median(ours, 'total'):.2f} s ({size / median(ours, 'total'):.0f} MB/s) | {median(theirs, 'total'):.2f} s ({size / median(theirs, 'total'):.0f} MB/s) | {median(ours, 'total') / median(theirs, 'total'):.2f} |
| first batch | {median(ours, 'first') * 1000:.0f} ms | {median(theirs, 'first') * 1000:.0f} ms | {difference * 1000:+.0f} ms |

| goal | measured | |
|---|---|---|
| gateway and workers together under {MEMORY_LIMIT / 1e6:.0f} MB above idle | {above / 1e6:.0f} MB above {idle / 1e6:.0f} MB | {verdict(above < MEMORY_LIMIT)} |
| first batch within {FIRST_BATCH_LIMIT * 1000:.0f} ms of DuckDB's own | {difference * 1000:+.0f} ms | {verdict(difference < FIRST_BATCH_LIMIT)} |

`SELECT 1` by the stock ADBC driver, one client: median {statistics.median(small):.2f} ms, 99th percentile {sorted(small)[int(len(small) * 0.99)]:.2f} ms (prepare, GetFlightInfo, DoGet and close for each).
""",
    )
    if above >= MEMORY_LIMIT or difference >= FIRST_BATCH_LIMIT:
        raise SystemExit("a goal was missed: see the page")


main()
