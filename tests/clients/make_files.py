"""Makes the files that the load tests bring in: every type of the type map as Parquet, CSV and JSON, the rows that must come back,
the casts that CSV and JSON need, and files with types that Iceberg lacks. Uses DuckDB itself, so the files are what users have."""

import datetime
import decimal
import json
import sys
import uuid
from pathlib import Path

import duckdb

# Name, SQL type, three values as SQL. The type map's scalars first, then nested ones.
COLUMNS = [
    ("id", "INTEGER", ["1", "2", "3"]),
    ("flag", "BOOLEAN", ["true", "NULL", "false"]),
    ("big", "BIGINT", ["9223372036854775807", "NULL", "-9223372036854775808"]),
    ("real", "FLOAT", ["1.5", "NULL", "-0.25"]),
    ("double", "DOUBLE", ["3.141592653589793", "NULL", "-1e300"]),
    ("price", "DECIMAL(12,2)", ["1234567890.12", "NULL", "-0.01"]),
    ("huge", "DECIMAL(38,10)", ["1234567890123456789012345678.0123456789", "NULL", "-1"]),
    ("name", "VARCHAR", ["'plain'", "NULL", "'ümlaut, \"quoted\" ''text'''"]),
    ("day", "DATE", ["DATE '2024-02-29'", "NULL", "DATE '1969-12-31'"]),
    ("clock", "TIME", ["TIME '23:59:59.999999'", "NULL", "TIME '00:00:00'"]),
    ("at", "TIMESTAMP", ["TIMESTAMP '2024-02-29 12:34:56.789012'", "NULL", "TIMESTAMP '1969-12-31 23:59:59'"]),
    ("at_utc", "TIMESTAMPTZ", ["TIMESTAMPTZ '2024-02-29 12:34:56.789012+00'", "NULL", "TIMESTAMPTZ '2024-07-01 00:00:00+02'"]),
    ("uid", "UUID", ["UUID '6b1e2c4e-0f5f-4d0b-9c39-5d9a5f6b7c8d'", "NULL", "UUID '00000000-0000-0000-0000-000000000000'"]),
    ("bytes", "BLOB", ["'\\x00\\xFF'::BLOB", "NULL", "''::BLOB"]),
    ("list", "INTEGER[]", ["[1, NULL, 3]", "NULL", "[]"]),
    ("pair", "STRUCT(a INTEGER, b VARCHAR)", ["{'a': 1, 'b': 'x'}", "NULL", "{'a': NULL, 'b': ''}"]),
    ("map", "MAP(VARCHAR, INTEGER)", ["MAP {'k': 1}", "NULL", "MAP {'a': NULL, 'b': 2}"]),
]

# What a CSV file has no notation for that DuckDB reads back as the same value.
NOT_IN_CSV = {"bytes", "map"}
# To DuckDB's JSON reader a number is a double, so one of 38 digits does not survive.
NOT_IN_JSON = {"bytes", "huge"}


def written(value):
    """A value as `adbc_types.py` reads it back."""
    if isinstance(value, uuid.UUID):
        return {"uuid": str(value)}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if isinstance(value, datetime.datetime):
        return {"timestamp": value.isoformat()}
    if isinstance(value, (datetime.date, datetime.time)):
        return {"date" if isinstance(value, datetime.date) else "time": value.isoformat()}
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list):
        return [written(item) for item in value]
    return value


def row_written(columns, row):
    """A row; structs and maps are both dicts in Python, so the column's type says which it is."""
    values = []
    for (_, kind), value in zip(columns, row):
        if isinstance(value, dict) and kind.startswith("MAP"):
            value = {"map": [[written(key), written(item)] for key, item in value.items()]}
        elif isinstance(value, dict):
            value = {"struct": {name: written(item) for name, item in value.items()}}
        else:
            value = written(value)
        values.append(value)
    return values


def main(folder):
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    definitions = ", ".join(f'"{name}" {kind}' for name, kind, _ in COLUMNS)
    con.execute(f"CREATE TABLE rows ({definitions})")
    for row in range(3):
        con.execute(f"INSERT INTO rows VALUES ({', '.join(values[row] for _, _, values in COLUMNS)})")
    for kind, without, options in (
        ("parquet", set(), "FORMAT parquet"),
        ("csv", NOT_IN_CSV, "FORMAT csv, HEADER"),
        ("json", NOT_IN_JSON, "FORMAT json"),
    ):
        columns = [(name, sql) for name, sql, _ in COLUMNS if name not in without]
        names = ", ".join(f'"{name}"' for name, _ in columns)
        con.execute(f"COPY (SELECT {names} FROM rows) TO '{folder / f'all.{kind}'}' ({options})")
        rows = con.execute(f"SELECT {names} FROM rows ORDER BY id").fetchall()
        (folder / f"{kind}.expect.json").write_text(json.dumps({"columns": [name for name, _ in columns], "rows": [row_written(columns, row) for row in rows]}))
        if kind != "parquet":
            (folder / f"{kind}.casts").write_text("".join(f"{name}:{sql}\n" for name, sql in columns))
    con.execute(f"COPY (SELECT 1::UBIGINT AS big) TO '{folder / 'ubigint.parquet'}' (FORMAT parquet)")
    con.execute(f"COPY (SELECT INTERVAL 1 DAY AS took) TO '{folder / 'interval.parquet'}' (FORMAT parquet)")


main(Path(sys.argv[1]))
