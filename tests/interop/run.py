"""`make interop`: all 22 TPC-H queries over the stock ADBC driver, on both upstreams, against DuckDB itself.

The rows are compared with DuckDB on tables that it made itself in memory; the seconds with DuckDB on the gateway's own Parquet files,
in the same run."""

import argparse
import statistics
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "clients")]
import adbc_driver_flightsql.dbapi as adbc  # noqa: E402
from adbc_tpch import TABLES, UNORDERED, oracle  # noqa: E402
from harness import equal, same_rows  # noqa: E402
from runner import Gateway, ReferenceRest, demo_lake, duckdb_on, page  # noqa: E402

UPSTREAMS = {"lake": "embedded", "rest": "reference REST server"}


def by_gateway(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return [entry[0] for entry in cursor.description], cursor.fetchall()


def by_duckdb(connection, sql):
    result = connection.execute(sql)
    return [entry[0] for entry in result.description], result.fetchall()


def timed(run, connection, sql, runs):
    """The result of a query and the median of its seconds."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        result = run(connection, sql)
        seconds.append(time.perf_counter() - began)
    return result, statistics.median(seconds)


def fill(gateway, catalog):
    """Copies the tables of the embedded catalog through the gateway, one commit each."""
    with adbc.connect(gateway.uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {catalog}.bronze")
        for table in TABLES:
            cursor.execute(f"CREATE TABLE {catalog}.bronze.{table} AS SELECT * FROM lake.bronze.{table}")


def compare(connections, own, number, sql, expected, runs):
    """One query on all sides: a line of the table, and what was wrong."""
    cells, wrong = [], []
    for catalog, connection in connections.items():
        try:
            (columns, rows), seconds = timed(by_gateway, connection, sql, runs)
            equal(columns, expected[0], "column names")
            same_rows(rows, expected[1], ordered=number not in UNORDERED)
            cells += ["yes", f"{seconds:.3f}"]
        except (AssertionError, adbc.Error) as error:
            wrong.append(f"query {number} on {catalog}: {error}")
            cells += ["**no**", ""]
    _, seconds = timed(by_duckdb, own, sql, runs)
    return [str(number), str(len(expected[1])), *cells, f"{seconds:.3f}"], wrong


def session(gateway, catalog):
    connection = adbc.connect(gateway.uri, autocommit=True)
    connection.adbc_current_catalog = catalog
    connection.adbc_current_db_schema = "bronze"
    return connection


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="0.1", help="TPC-H scale factor")
    parser.add_argument("--runs", type=int, default=3, help="runs of each query on each side; medians are shown")
    options = parser.parse_args()
    lake = demo_lake(options.scale)
    reference, own = oracle(float(options.scale)), duckdb_on(lake)
    queries = reference.execute("SELECT query_nr, query FROM tpch_queries() ORDER BY query_nr").fetchall()
    lines, wrong = [], []
    with ReferenceRest() as rest, Gateway(lake, "telemetry.level=warn", *rest.settings()) as gateway:
        fill(gateway, "rest")
        connections = {catalog: session(gateway, catalog) for catalog in UPSTREAMS}
        for number, sql in queries:
            line, faults = compare(connections, own, number, sql, by_duckdb(reference, sql), options.runs)
            lines.append(line)
            wrong += faults
            print(" ".join(line), *faults, sep="\n", flush=True)
        for connection in connections.values():
            connection.close()

    held = sum(line[2] == line[4] == "yes" for line in lines)
    heads = ["query", "rows", *(head for name in UPSTREAMS.values() for head in (f"{name}: same rows", "s")), "DuckDB in process, s"]
    table = [heads, ["---"] * len(heads), *lines]
    total = [sum(float(line[at] or "nan") for line in lines) for at in (3, 5, 6)]
    page(
        "interop",
        "TPC-H over the stock ADBC driver on both upstreams",
        f"""
All 22 queries at scale {options.scale} by the stock ADBC driver in Python, on the embedded catalog and on Iceberg's reference REST server with OAuth2: {held} of {len(lines)} give the rows of DuckDB itself on both. The rows are compared with DuckDB on tables that it made itself; queries whose order leaves ties ({", ".join(map(str, sorted(UNORDERED)))}) as multisets, floats to a relative 1e-9. Seconds are medians of {options.runs} runs from sending the text to the last row, beside DuckDB in the measuring process on the embedded catalog's own Parquet files.

{chr(10).join("| " + " | ".join(line) + " |" for line in table)}

In all: {total[0]:.2f} s embedded, {total[1]:.2f} s reference REST server, {total[2]:.2f} s DuckDB in process.
{chr(10).join(["", "Not as expected:", "", *(f"- {fault}" for fault in wrong)]) if wrong else ""}
""",
    )
    if wrong or len(lines) != 22:
        raise SystemExit("not all queries gave the same rows: see the page")


main()
