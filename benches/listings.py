"""What listings of 10,000 tables cost: names and columns, the first time, again, and when all must be asked about anew; the catalog is the
stand-in for Polaris at 5 ms a call. Part of `make bench`; by itself it prints what it measured. Owns the goals of listings."""

import argparse
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.flight as flight

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "support"), str(HERE.parent / "tests" / "soak")]
from clients import connect, run, varint  # noqa: E402
from report import table  # noqa: E402
from runner import BINARY, ROOT, Gateway, Peak, StandIn  # noqa: E402

NAMESPACES, TABLES, COLUMNS = 100, 100, 20
DELAY_MS = 5
AT_ONCE = 32


def get_tables(client, with_schema):
    """GetTables of the catalog: seconds to the first batch and to the last, and rows."""
    fields = b"\x0a\x04rest" + (b"\x28\x01" if with_schema else b"")
    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandGetTables"
    command = b"\x0a" + varint(len(name)) + name + b"\x12" + varint(len(fields)) + fields
    began, first, rows = time.perf_counter(), None, 0
    info = client.get_flight_info(flight.FlightDescriptor.for_command(command))
    for chunk in client.do_get(info.endpoints[0].ticket):
        first = first or time.perf_counter() - began
        rows += chunk.data.num_rows
    assert rows == NAMESPACES * TABLES, rows
    return first, time.perf_counter() - began


def timed(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def many_tables(stand_in):
    """Adds a warehouse of generated tables for the engineer; gives the settings of a gateway on it."""
    generated = {"namespaces": NAMESPACES, "tables": TABLES, "columns": COLUMNS}
    everything = [{"privilege": "CATALOG_MANAGE_CONTENT"}]
    stand_in.tell("create-warehouse", create_warehouse={"name": "many", "generated": generated, "roles": {"all": everything}})
    stand_in.tell("use-catalog-role", role="engineers", warehouse="many", catalog_role="all")
    stand_in.tell("fail", fault={"delay-ms": DELAY_MS})
    return [setting.replace("lakehouse", "many") for setting in stand_in.settings("engineer")]


def at_once(calls):
    """How many of these calls were under way at once, at the most."""
    moments = sorted(moment for call in calls for moment in ((call["at_ms"], 1), (call["at_ms"] + call["took_ms"], -1)))
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def measure(binary=None, profile="release"):
    """Seconds, bytes and counts."""
    found = {}
    build = ["cargo", "build", "--quiet", "--locked", "--example", "polaris-stand-in", "--profile", {"debug": "dev"}.get(profile, profile)]
    subprocess.run(build, cwd=ROOT, check=True)
    with contextlib.ExitStack() as stack:
        stand_in = stack.enter_context(StandIn([], program=ROOT / "target" / profile / "examples" / "polaris-stand-in"))
        settings = many_tables(stand_in)
        lake = stack.enter_context(temporary())
        quiet = ["telemetry.level=warn", "relay.max_staleness=1s", "relay.listing_staleness=10m"]
        gateway = stack.enter_context(Gateway(lake, *quiet, *settings, binary=binary))
        client = connect(gateway.uri)
        run(client, "SELECT 1")
        idle = gateway.memory()
        with Peak(gateway) as peak:
            found["names, cold"] = get_tables(client, False)[1]
            found["names, warm"] = get_tables(client, False)[1]
            stand_in.tell("clear-log")
            found["first with columns, cold"], found["columns, cold"] = get_tables(client, True)
            loads = [call for call in stand_in.tell("log") if call["operation"] == "load-table"]
            found["loads"], found["at once"] = len(loads), at_once(loads)
            stand_in.tell("clear-log")
            found["columns, warm"] = min(get_tables(client, True)[1] for _ in range(3))
            found["loads, warm"] = sum(call["operation"] == "load-table" for call in stand_in.tell("log"))
        found["memory"] = peak.bytes - idle
        with Peak(gateway) as peak:
            columns = "SELECT count(*) FROM information_schema.columns WHERE table_catalog = 'rest'"
            rows = []
            found["information_schema.columns, warm"] = timed(lambda: rows.append(run(client, columns).column(0)[0].as_py()))
            assert rows == [NAMESPACES * TABLES * COLUMNS], rows
            found["SHOW ALL TABLES, warm"] = timed(lambda: run(client, "SHOW ALL TABLES"))
        found["memory, SQL"] = peak.bytes - idle
        strict = stack.enter_context(Gateway(f"{lake}2", "telemetry.level=warn", "relay.listing_staleness=0s", *settings, binary=binary))
        client = connect(strict.uri)
        get_tables(client, True)
        time.sleep(1.1)
        found["columns, all asked about"] = get_tables(client, True)[1]
    return found


@contextlib.contextmanager
def temporary():
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        yield f"{directory}/lake"


def goals(found):
    """(what is wanted, what was measured, whether it holds)."""
    seconds = [
        ("names under 1 s, cold", "names, cold", 1),
        ("with columns under 20 s, cold", "columns, cold", 20),
        ("… the first of them within 200 ms", "first with columns, cold", 0.2),
        ("with columns under 1 s, warm", "columns, warm", 1),
    ]
    held = [(goal, f"{found[key]:.2f} s", found[key] < limit) for goal, key, limit in seconds]
    held.append((f"at most {AT_ONCE} loads at once", str(found["at once"]), found["at once"] <= AT_ONCE))
    held.append(("no load of a table that is known", str(found["loads, warm"]), not found["loads, warm"]))
    held.append(("gateway and workers under 200 MB above idle", f"{found['memory'] / 1e6:.0f} MB", found["memory"] < 200e6))
    return held


def section(found):
    """The part of the page, and the goals that were missed."""
    held = goals(found)
    rows = [[goal, measured, "held" if holds else "**missed**"] for goal, measured, holds in held]
    others = ["names, warm", "information_schema.columns, warm", "SHOW ALL TABLES, warm", "columns, all asked about"]
    more = [[name, f"{found[name]:.2f} s"] for name in others]
    body = f"""## Listings

{NAMESPACES * TABLES:,} tables of {COLUMNS} columns in {NAMESPACES} schemas of a catalog that answers after {DELAY_MS} ms, listed by GetTables. All asked about: a conditional request for each table. What SQL reads goes through a worker: {found["memory, SQL"] / 1e6:.0f} MB above idle.

{table(["goal", "measured", ""], rows)}

{table(["", "measured"], more)}
"""
    return body, [goal for goal, _, holds in held if not holds]


def add_to(body, missed):
    """The page with this part, and the goals that were missed with those of listings."""
    own, own_missed = section(measure())
    return f"{body.rstrip()}\n\n{own}", [*missed, *own_missed]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=BINARY, help="the polynya binary to measure")
    parser.add_argument("--debug", action="store_true", help="a stand-in that is built without optimisation")
    options = parser.parse_args()
    print(section(measure(options.binary.resolve(), "debug" if options.debug else "release"))[0])
