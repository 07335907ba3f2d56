"""The part of `make bench` about a catalog and a store behind a network: the same queries by the gateway and by DuckDB that attaches the
catalog itself, the first time and again. A real MinIO on loopback; each call to the catalog takes 16 ms longer. Owns no page."""

import contextlib
import json
import statistics
import time

from probe import Probe, extensions
from runner import Gateway, cpu_seconds
from store import Minio, vending

DELAY_MS = 16
OURS, DIRECT = "gateway", "DuckDB attached"
TABLES, LARGE = ["nation", "region", "customer", "orders"], "lineitem"
# The same tables many times, the large one twice: what is had for the one says nothing of the other.
SCHEMAS = ["silver", "gold", "gold2", "gold3", "gold4", "gold5"]
COLUMNS = "orderkey partkey suppkey linenumber quantity extendedprice discount tax returnflag linestatus shipdate commitdate receiptdate shipinstruct shipmode comment"
SMALL, GROUPED, JOIN, SCAN = "one small table", "one small table, grouped", "a join of four tables", "all columns of lineitem"
QUERIES = {
    SMALL: "SELECT * FROM {s}.nation",
    # Unlike the one above it is bound for its description.
    GROUPED: "SELECT n_regionkey, count(*) AS nations FROM {s}.nation WHERE n_nationkey > 3 GROUP BY ALL ORDER BY ALL",
    JOIN: """SELECT r_name, n_name, count(*), sum(o_totalprice)::DOUBLE FROM {s}.region JOIN {s}.nation ON n_regionkey = r_regionkey
        JOIN {s}.customer ON c_nationkey = n_nationkey JOIN {s}.orders ON o_custkey = c_custkey WHERE r_name = 'EUROPE' GROUP BY ALL ORDER BY ALL""",
    SCAN: "SELECT " + ", ".join(f"max(l_{column})" for column in COLUMNS.split()) + " FROM {s}.lineitem",
}
# Repetitions of the warm query in one run; their median counts.
AGAIN = 7
# What is timed: the first query of all, the same again, and the first ones of other tables when the catalog is known (medians).
FIRST, WARM, OTHER = "first", "again", "other tables"


def attach(polaris):
    """What a notebook runs before its first query."""
    uri = polaris.told["uri"]
    options = [
        "TYPE iceberg",
        f"ENDPOINT '{uri}'",
        f"OAUTH2_SERVER_URI '{uri}/v1/oauth/tokens'",
        "CLIENT_ID 'engineer-client-id'",
        "CLIENT_SECRET 'engineer-secret'",
        "OAUTH2_SCOPE 'PRINCIPAL_ROLE:ALL'",
    ]
    return f"ATTACH 'lakehouse' AS rest ({', '.join(options)})"


class Side:
    """One way to read, ready: processes run, extensions are loaded, nothing is known of the catalog."""

    def __init__(self, stack, way, place):
        self.way, self.polaris = way, place.polaris
        if way == OURS:
            self.gateway = stack.enter_context(place.gateway())
            self.probe = stack.enter_context(Probe(place.program, "read", "--uri", self.gateway.uri))
            until = time.monotonic() + 20
            while len(self.gateway.processes()) < 2 and time.monotonic() < until:
                time.sleep(0.05)
        else:
            self.probe = stack.enter_context(Probe(place.program, "scan", "--setup", extensions()))
            self.ask("SELECT 1")
        time.sleep(0.5)

    def begin(self, sql):
        """Attaches, where that is the client's to do, and asks for the first time; seconds."""
        attached = self.ask(attach(self.polaris)) if self.way == DIRECT else 0
        return attached + self.ask(sql)

    def ask(self, sql):
        return self.probe.ask(json.dumps([sql]))["total"]

    def cpu(self):
        """CPU seconds of the gateway's own process, the door with it, so far."""
        return cpu_seconds(self.gateway.process.pid) if self.way == OURS else 0


class Place:
    """A store with tables, and a far catalog that vends keys for it."""

    def __init__(self, stack, programs, lake):
        self.program, self.lake = programs["probe"], lake
        self.store = stack.enter_context(Minio())
        self.polaris = stack.enter_context(vending(self.store, SCHEMAS, program=programs["polaris-stand-in"]))
        with self.gateway() as gateway, Probe(self.program, "read", "--uri", gateway.uri) as writer:
            for schema in SCHEMAS:
                for table in TABLES + [LARGE] * (schema in SCHEMAS[:2]):
                    writer.ask(json.dumps([f"CREATE TABLE rest.{schema}.{table} AS FROM lake.bronze.{table}"]))
        self.polaris.tell("fail", fault={"delay-ms": DELAY_MS})

    def gateway(self):
        return Gateway(self.lake, "telemetry.level=warn", *self.polaris.settings("engineer"))

    def run(self, ways, text):
        """Seconds of each way and kind, in processes of their own."""
        found = {}
        first, *others = (text.format(s=f"rest.{schema}") for schema in (SCHEMAS[:2] if LARGE in text else SCHEMAS))
        with contextlib.ExitStack() as stack:
            sides = [Side(stack, way, self) for way in ways]
            for side in sides:
                found[side.way] = {FIRST: side.begin(first)}
            for side in sides:
                found[side.way][WARM] = statistics.median([side.ask(first) for _ in range(AGAIN + 1)][1:])
            before = {side.way: side.cpu() for side in sides}
            times = [[side.ask(other) for side in sides] for other in others]
            for side, each in zip(sides, zip(*times)):
                found[side.way][OTHER] = statistics.median(each)
                found[side.way]["door"] = side.cpu() - before[side.way]
        return found


def measure(programs, lake, runs):
    """Seconds by query, of each run by turns."""
    found = {}
    with contextlib.ExitStack() as stack:
        place = Place(stack, programs, lake)
        for name, text in QUERIES.items():
            found[name] = []
            for run in range(runs):
                ways = [OURS, DIRECT] if run % 2 == 0 else [DIRECT, OURS]
                found[name].append(place.run(ways, text))
                seen = (f"{way} " + ", ".join(f"{kind} {value * 1000:.0f} ms" for kind, value in times.items()) for way, times in found[name][-1].items())
                print(f"{name}, run {run}: " + "; ".join(seen), flush=True)
    return found
