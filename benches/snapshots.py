"""The part of `make bench` about what the table cache saves: a table with 2,000 snapshots against one with one, and sixteen queries over
four tables of a catalog that is 200 ms away against one of them. Also by itself: `python benches/snapshots.py`. Owns no page."""

import concurrent.futures
import json
import statistics
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import adbc_driver_flightsql.dbapi as adbc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from runner import Gateway, StandIn  # noqa: E402

SNAPSHOTS = 2000
AWAY_MS = 200
CLIENTS = 16
AGAIN = 60
# By how much more than one snapshot many may cost, and by how much more than one query sixteen.
GOAL_SNAPSHOTS, GOAL_CLIENTS = 1.5, 2.0


def timed(connection, sql):
    """Milliseconds from the text to the last row."""
    began = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute(sql)
        cursor.fetchall()
    return (time.perf_counter() - began) * 1000


def bound(connection, sql):
    """Milliseconds until a query is judged, bound and described. A text that was never described before needs a worker for it."""
    began = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.adbc_prepare(sql)
    return (time.perf_counter() - began) * 1000


def asked(uri, token=None, body=None):
    """One call to the catalog, with the parsed answer."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    if body is not None and token:
        body, headers["content-type"] = json.dumps(body).encode(), "application/json"
    elif body is not None:
        body = urllib.parse.urlencode(body).encode()
    with urllib.request.urlopen(urllib.request.Request(uri, body, headers)) as answer:
        return json.load(answer)


def lengthen(polaris, table):
    """Gives a table with one snapshot a long history of snapshots like it."""
    base = f"{polaris.told['uri']}/v1"
    form = {"grant_type": "client_credentials", "client_id": "engineer-client-id", "client_secret": "engineer-secret", "scope": "PRINCIPAL_ROLE:ALL"}
    token = asked(f"{base}/oauth/tokens", body=form)["access_token"]
    uri = f"{base}/lakehouse/namespaces/gold/tables/{table}"
    first = asked(uri, token)["metadata"]["snapshots"][0]
    updates = []
    for number in range(1, SNAPSHOTS):
        ids = {"snapshot-id": number, "sequence-number": number + 1, "timestamp-ms": first["timestamp-ms"] + number}
        parent = {"parent-snapshot-id": number - 1 if number > 1 else first["snapshot-id"]}
        updates.append({"action": "add-snapshot", "snapshot": first | ids | parent})
    updates.append({"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": SNAPSHOTS - 1})
    asked(uri, token, {"requirements": [], "updates": updates})


def of_history(gateway_on, runs):
    """Milliseconds by table: bound and read when it is known, and read for the first time."""
    found = {table: {"bind": [], "read": [], "first": []} for table in ("short", "long")}
    for run in range(runs):
        for table in sorted(found, reverse=run % 2 == 0):
            with gateway_on("relay.max_staleness=1h") as gateway, adbc.connect(gateway.uri, autocommit=True) as connection:
                # The worker is up, and knows the catalog.
                timed(connection, "SELECT count(*) FROM rest.gold.other")
                found[table]["first"].append(timed(connection, f"SELECT count(*) FROM rest.gold.{table}"))
                reads = [timed(connection, f"SELECT count(*) FROM rest.gold.{table}") for _ in range(AGAIN)]
                binds = [bound(connection, f"SELECT count(*) + {run * AGAIN + number} FROM rest.gold.{table}") for number in range(AGAIN)]
                found[table]["read"].append(statistics.median(reads))
                found[table]["bind"].append(statistics.median(binds))
    return {table: {kind: statistics.median(times) for kind, times in of_table.items()} for table, of_table in found.items()}


def at_once(gateway_on, polaris, runs):
    """Milliseconds of one query over four tables that nobody has asked for yet, of sixteen at once, and the catalog's calls for them."""
    def query(prefix):
        joins = " ".join(f"JOIN rest.gold.{prefix}{number} USING (i)" for number in range(1, 4))
        return f"SELECT count(*) FROM rest.gold.{prefix}0 {joins}"

    found = {"one": [], "sixteen": [], "calls": []}
    polaris.tell("fail", fault={"delay-ms": AWAY_MS})
    for _ in range(runs):
        with gateway_on("relay.max_staleness=1h") as gateway, concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
            connections = [adbc.connect(gateway.uri, autocommit=True) for _ in range(CLIENTS)]
            list(threads.map(lambda one: timed(one, query("seen")), connections))
            found["one"].append(timed(connections[0], query("alone")))
            polaris.tell("clear-log")
            began = time.perf_counter()
            list(threads.map(lambda one: timed(one, query("shared")), connections))
            found["sixteen"].append((time.perf_counter() - began) * 1000)
            found["calls"].append(len(polaris.tell("log")))
            for connection in connections:
                connection.close()
    polaris.tell("clear-faults")
    return {name: statistics.median(values) for name, values in found.items()}


def measure(runs, binary=None):
    """What was measured: `history` by table, and `at_once`."""
    with StandIn([]) as polaris, tempfile.TemporaryDirectory() as directory:
        def gateway_on(*more):
            return Gateway(f"{directory}/lake", "telemetry.level=warn", *polaris.settings("engineer"), *more, binary=binary)

        with gateway_on() as maker, adbc.connect(maker.uri, autocommit=True) as connection:
            for table in ["short", "long", "other"] + [f"{prefix}{number}" for prefix in ("seen", "alone", "shared") for number in range(4)]:
                timed(connection, f"CREATE TABLE rest.gold.{table} AS SELECT i, i AS {table} FROM range(1000) r(i)")
        lengthen(polaris, "long")
        found = {"history": of_history(gateway_on, runs), "at_once": at_once(gateway_on, polaris, runs)}
    print("\n".join(section(found)), flush=True)
    return found


def section(found):
    """Lines for a page, with the goals."""
    short, long, crowd = found["history"]["short"], found["history"]["long"], found["at_once"]
    lines = [f"| a table with | 1 snapshot | {SNAPSHOTS} snapshots | ratio | goal |", "|---|---|---|---|---|"]
    for kind, what in (("bind", "bound, known"), ("read", "read, known"), ("first", "read for the first time")):
        goal = f"{GOAL_SNAPSHOTS}" if kind == "bind" else ""
        lines.append(f"| {what} | {short[kind]:.1f} ms | {long[kind]:.1f} ms | {long[kind] / short[kind]:.2f} | {goal} |")
    ratio = crowd["sixteen"] / crowd["one"]
    lines += ["", f"Over four tables {AWAY_MS} ms away: one query {crowd['one']:.0f} ms, sixteen at once {crowd['sixteen']:.0f} ms with {crowd['calls']:.0f} calls "
              f"to the catalog, {ratio:.2f} of one (goal: less than {GOAL_CLIENTS:g})."]
    return lines


def missed(found):
    """The goals that were missed, in words."""
    short, long, crowd = found["history"]["short"], found["history"]["long"], found["at_once"]
    goals = {
        f"a table with {SNAPSHOTS} snapshots is bound within {GOAL_SNAPSHOTS} of one with one": long["bind"] <= GOAL_SNAPSHOTS * short["bind"],
        f"sixteen queries far away take less than {GOAL_CLIENTS:g} of one": crowd["sixteen"] < GOAL_CLIENTS * crowd["one"],
    }
    return [goal for goal, met in goals.items() if not met]


def add_to(body, missed_before, runs):
    """Measures, and adds to a page and its goals."""
    found = measure(runs)
    return body + "\n\n## What the table cache saves\n\n" + "\n".join(section(found)), missed_before + missed(found)


if __name__ == "__main__":
    measured = measure(3, Path(sys.argv[1]).resolve() if sys.argv[1:] else None)
    print("goals missed: " + ("; ".join(missed(measured)) or "none"))
