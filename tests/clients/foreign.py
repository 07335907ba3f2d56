"""A foreign writer: PyIceberg, which knows nothing of the gateway, commits to a catalog over REST.

Reads one JSON command a line, and answers each with one JSON line: `{"ok": …}` or `{"error": …}`. Commands:

  {"do": "create", "table": "gold.t", "columns": [["n", "long"], ["s", "string"]]}   answers the table's UUID
  {"do": "append", "table": "gold.t", "rows": {"n": [1, 2]}}                         answers the snapshot's id
  {"do": "add-column", "table": "gold.t", "column": "x", "type": "long"}
  {"do": "drop", "table": "gold.t"}
  {"do": "loop", "table": "gold.t", "seconds": 8, "commits": 5}   appends commits for so long, and so many at least; answers how many
  {"do": "clock", "seconds": -5}                      its own clock is off by that much from here on
"""
import json
import os
import sys
import time

REAL_TIME, REAL_TIME_NS = time.time, time.time_ns
offset_s = 0
# Before the first import that could keep the real ones.
time.time = lambda: REAL_TIME() + offset_s
time.time_ns = lambda: REAL_TIME_NS() + offset_s * 1_000_000_000

import pyarrow as pa  # noqa: E402
from pyiceberg.catalog.rest import RestCatalog  # noqa: E402
from pyiceberg.schema import Schema  # noqa: E402
from pyiceberg.types import IntegerType, LongType, NestedField, StringType  # noqa: E402

TYPES = {"long": LongType(), "int": IntegerType(), "string": StringType()}

catalog = RestCatalog("foreign", **json.loads(os.environ["FOREIGN_CATALOG"]))


def rows_for(table, rows):
    """Rows by column name as the table's Arrow table; what is left out is null."""
    schema = table.schema().as_arrow()
    count = len(next(iter(rows.values())))
    return pa.table({field.name: pa.array(rows.get(field.name, [None] * count), field.type) for field in schema}, schema=schema)


def create(command):
    fields = [NestedField(number + 1, name, TYPES[kind], required=False)
              for number, (name, kind) in enumerate(command["columns"])]
    catalog.create_namespace_if_not_exists(command["table"].rpartition(".")[0])
    return str(catalog.create_table(command["table"], Schema(*fields)).metadata.table_uuid)


def append(command):
    table = catalog.load_table(command["table"])
    table.append(rows_for(table, command["rows"]))
    return table.metadata.current_snapshot_id


def add_column(command):
    table = catalog.load_table(command["table"])
    with table.update_schema() as update:
        update.add_column(command["column"], TYPES[command["type"]])


def loop(command):
    """Commit number k appends k rows of n = k: with c commits there are c * (c + 1) / 2 rows, and any other number is a mixture."""
    table = catalog.load_table(command["table"])
    until, number = REAL_TIME() + command["seconds"], 0
    while REAL_TIME() < until or number < command["commits"]:
        number += 1
        table.append(rows_for(table, {"n": [number] * number}))
        print(json.dumps({"committed": number}), flush=True)
    return number


def clock(command):
    global offset_s
    offset_s = command["seconds"]


def drop(command):
    catalog.drop_table(command["table"])


COMMANDS = {"create": create, "append": append, "add-column": add_column, "loop": loop, "clock": clock,
            "drop": drop}

print(json.dumps({"ok": "ready"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"ok": COMMANDS[request["do"]](request)}
    except Exception as error:  # noqa: BLE001  the test decides what it means
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
