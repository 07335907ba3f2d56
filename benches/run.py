"""`make bench`: speed and memory of the release binary, side by side with DuckDB itself in the same run.

Streams lineitem of TPC-H through the gateway (ADBC) and through DuckDB's own Python client on the same files, alternating, and
reports medians, ratios, and the memory of gateway and workers above idle. Memory is watched in runs of its own: watching slows."""

import argparse
import statistics
import sys
import time
from pathlib import Path

import adbc_driver_flightsql.dbapi as adbc
import pyarrow.flight as flight

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from runner import Gateway, Peak, demo_lake, duckdb_on, page  # noqa: E402

# Given by the project's goals: see the table that is written.
MEMORY_LIMIT = 400e6
FIRST_BATCH_LIMIT = 0.150


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


def by_adbc(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        cursor.fetchall()


def by_two_calls(client, sql):
    """GetFlightInfo and DoGet, and nothing else; the command is a CommandStatementQuery, written by hand."""
    text = sql.encode()
    query = b"\x0a" + bytes([len(text)]) + text
    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    command = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(query)]) + query
    info = client.get_flight_info(flight.FlightDescriptor.for_command(command))
    client.do_get(info.endpoints[0].ticket).read_all()


def latency(call, count=500, warm_up=100):
    """Milliseconds of each of `count` calls, sorted."""
    times = []
    for _ in range(warm_up + count):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return sorted(times[warm_up:])


def in_words(times):
    return f"{statistics.median(times):.2f} ms | {times[int(len(times) * 0.99)]:.2f} ms"


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def measure(gateway, connection, own, runs):
    """The streams of both sides in turns, the memory when idle, and at the most while streaming."""
    ours_sql, own_sql = "SELECT * FROM lake.bronze.lineitem", "SELECT * FROM lineitem"
    by_adbc(connection, "SELECT 1")
    time.sleep(1)
    idle = gateway.memory()
    through_gateway(connection, ours_sql)
    by_duckdb(own, own_sql)
    ours, theirs, peaks = [], [], []
    for run in range(runs):
        ours.append(through_gateway(connection, ours_sql))
        theirs.append(by_duckdb(own, own_sql))
        with Peak(gateway) as peak:
            through_gateway(connection, ours_sql)
        peaks.append(peak.bytes)
        print(f"run {run + 1}: gateway {ours[-1]['total']:.2f} s, DuckDB {theirs[-1]['total']:.2f} s, peak {peaks[-1] / 1e6:.0f} MB", flush=True)
    return ours, theirs, idle, max(peaks)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="1", help="TPC-H scale factor")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side")
    options = parser.parse_args()
    lake = demo_lake(options.scale)
    own = duckdb_on(lake)
    with Gateway(lake, "telemetry.level=warn") as gateway, adbc.connect(gateway.uri, autocommit=True) as connection:
        ours, theirs, idle, peak = measure(gateway, connection, own, options.runs)
        client = flight.connect(gateway.uri.replace("grpc://", "grpc+tcp://"))
        calls = {
            "`SELECT 1`, GetFlightInfo and DoGet": lambda: by_two_calls(client, "SELECT 1"),
            "`SELECT 1`, stock ADBC driver (prepare, GetFlightInfo, DoGet, close)": lambda: by_adbc(connection, "SELECT 1"),
            "all 25 rows of nation, GetFlightInfo and DoGet": lambda: by_two_calls(client, "SELECT * FROM lake.bronze.nation"),
        }
        small = "\n".join(f"| {name} | {in_words(latency(call))} |" for name, call in calls.items())

    above = peak - idle
    difference = median(ours, "first") - median(theirs, "first")
    size = ours[0]["bytes"] / 1e6
    verdict = lambda held: "held" if held else "**missed**"  # noqa: E731
    page(
        "bench",
        "Streaming a large table",
        f"""
`SELECT * FROM bronze.lineitem` at TPC-H scale {options.scale}: {ours[0]['rows']:,} rows, {size:,.0f} MB of Arrow. Medians of {options.runs} alternating runs after one warm-up of each; both sides read the same Parquet files of the same Iceberg table. The gateway's side includes gRPC to the stock ADBC driver in Python, on the same cores; DuckDB's side runs inside the measuring process.

| | gateway over ADBC | DuckDB in process | ratio or difference |
|---|---|---|---|
| whole stream | {median(ours, 'total'):.2f} s ({size / median(ours, 'total'):.0f} MB/s) | {median(theirs, 'total'):.2f} s ({size / median(theirs, 'total'):.0f} MB/s) | {median(ours, 'total') / median(theirs, 'total'):.2f} |
| first batch | {median(ours, 'first') * 1000:.0f} ms | {median(theirs, 'first') * 1000:.0f} ms | {difference * 1000:+.0f} ms |

| goal | measured | |
|---|---|---|
| gateway and workers together under {MEMORY_LIMIT / 1e6:.0f} MB above idle | {above / 1e6:.0f} MB above {idle / 1e6:.0f} MB | {verdict(above < MEMORY_LIMIT)} |
| first batch within {FIRST_BATCH_LIMIT * 1000:.0f} ms of DuckDB's own | {difference * 1000:+.0f} ms | {verdict(difference < FIRST_BATCH_LIMIT)} |

Memory is the proportional set size of gateway and workers, every 20 ms in {options.runs} further runs; the highest counts.

Small statements, one client, one after the other:

| | median | 99th percentile |
|---|---|---|
{small}
""",
    )
    if above >= MEMORY_LIMIT or difference >= FIRST_BATCH_LIMIT:
        raise SystemExit("a goal was missed: see the page")


main()
