"""Runs one query over ADBC and compares its rows with a JSON file, so that a test in any language can state them.

The file holds `{"columns": ["a", …], "types": ["int32", …], "rows": [[…], …]}`; `types` (Arrow's names, as pyarrow prints
them) may be absent. Values that JSON lacks are written as objects with one key: `{"decimal": "1.10"}`,
`{"date": "2024-02-29"}`, `{"time": "12:34:56.789"}`, `{"timestamp": "2024-02-29T12:30:15.123456"}` (with an offset for
TIMESTAMPTZ), `{"hex": "00ff"}` for bytes, `{"float": "nan"}`, `{"uuid": "…"}` (arrives as text), and
`{"struct": {…}}`, `{"map": [[key, value], …]}` for nested values. Everything else is compared as it stands.
"""
import argparse
import datetime
import decimal
import json
import pathlib

from harness import connect, equal, run, same_rows

SCALARS = {
    "decimal": decimal.Decimal,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timestamp": datetime.datetime.fromisoformat,
    "hex": bytes.fromhex,
    "float": float,
    "uuid": str,
}


def value(written):
    """The Python value that a written one stands for."""
    if isinstance(written, list):
        return [value(item) for item in written]
    if not isinstance(written, dict):
        return written
    if len(written) != 1:
        raise ValueError(f"not one of the written forms: {written}")
    kind, content = next(iter(written.items()))
    if kind == "struct":
        return {name: value(item) for name, item in content.items()}
    if kind == "map":
        return [(value(key), value(item)) for key, item in content]
    return SCALARS[kind](content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--query", required=True)
    parser.add_argument("--expect", required=True, type=pathlib.Path, help="the JSON file")
    parser.add_argument("--unordered", action="store_true", help="compare as multisets")
    arguments = parser.parse_args()
    expected = json.loads(arguments.expect.read_text())
    connection = connect()
    cursor = connection.cursor()
    cursor.execute(arguments.query)
    table = cursor.fetch_arrow_table()

    def compare_rows() -> None:
        # Column by column: duplicate names and nested values survive, unlike with to_pylist.
        got = list(zip(*(column.to_pylist() for column in table.columns)))
        same_rows(got, [tuple(map(value, row)) for row in expected["rows"]], not arguments.unordered)

    cases = {"columns": lambda: equal(table.column_names, expected["columns"], "column names")}
    if "types" in expected:
        cases["types"] = lambda: equal([str(kind) for kind in table.schema.types], expected["types"], "column types")
    run(cases | {"rows": compare_rows})


if __name__ == "__main__":
    main()
