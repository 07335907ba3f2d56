"""Many queries on tables in an object store, by keys that the catalog vends for seconds: nothing may gather, the last are as fast as the first,
and no worker ever has a key."""

import re
import statistics
import tempfile
import time
from pathlib import Path

from clients import connect, run as rows_of
from outcome import Outcome
from runner import Gateway, handles, pss
from store import SECRET, Minio, vending

TITLE = "Vended keys"
QUERIES = 10_000
TABLES = 4
ROWS = 1000
# So long the keys are said to live: they are renewed when a third of it is left.
LIFE = 6
# Every so many queries a table is made, read and dropped: files that no worker has, by keys that nobody had.
NEW_TABLE_EVERY = 20
SLOWER = 1.3
IN_WORKERS, IN_GATEWAY = "keys in workers' memory", "keys in the gateway's memory"
SLACK = {"gateway, MB": 40, "largest worker, MB": 40, "file handles": 16}
# Expired keys are looked for every 20 s.
SWEPT = 20


def keys_in(pid):
    """How often a vended key's secret stands in a process's memory."""
    found = 0
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            low, high, kind = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
            if kind.startswith("rw"):
                memory.seek(int(low, 16))
                try:
                    found += memory.read(int(high, 16) - int(low, 16)).count(SECRET.encode())
                except OSError:
                    continue  # a guard page, or gone since
    return found


def state(gateway):
    own, *workers = gateway.processes()
    return {
        "gateway, MB": round(pss(own) / 1e6),
        "largest worker, MB": round(max(pss(pid) for pid in workers) / 1e6),
        "file handles": handles(own),
        IN_GATEWAY: keys_in(own),
        IN_WORKERS: sum(keys_in(pid) for pid in workers),
    }


def read(client, table):
    """Seconds of one query, whose rows must be right."""
    began = time.perf_counter()
    rows = rows_of(client, f"SELECT count(*), sum(v)::BIGINT FROM rest.gold.{table}")
    took = time.perf_counter() - began
    assert [column[0].as_py() for column in rows.columns] == [ROWS, ROWS * (ROWS - 1) // 2]
    return took


def make(client, table):
    rows_of(client, f"CREATE TABLE rest.gold.{table} AS SELECT range AS v FROM range({ROWS})")


def work(gateway, queries):
    """Seconds of each query, and what is held when a third of them is done and at the end."""
    client, times, early = connect(gateway.uri), [], None
    for number in range(TABLES):
        make(client, f"t{number}")
    for query in range(queries):
        times.append(read(client, f"t{query % TABLES}"))
        if query % NEW_TABLE_EVERY == 0:
            make(client, f"new{query}")
            read(client, f"new{query}")
            rows_of(client, f"DROP TABLE rest.gold.new{query}")
        if query == queries // 3:
            early = state(gateway)
    client.close()
    return times, early, state(gateway)


def run(scale):
    outcome = Outcome()
    queries = max(300, int(QUERIES * scale))
    with Minio() as store, vending(store, ["gold"], LIFE) as polaris, tempfile.TemporaryDirectory() as directory:
        settings = ["telemetry.level=warn", "relay.max_staleness=200ms", *polaris.settings("engineer")]
        with Gateway(f"{directory}/lake", f"pool.run_dir={directory}", *settings) as gateway:
            began = time.monotonic()
            times, early, late = work(gateway, queries)
            lasted = time.monotonic() - began
            lost = gateway.log_text().count("worker lost")
        calls = [call for call in polaris.tell("log") if call["operation"] == "load-table"]
    in_workers = [held.pop(IN_WORKERS) for held in (early, late)]
    outcome.check(f"{IN_WORKERS}: none", f"{in_workers[0]}, then {in_workers[1]}", in_workers == [0, 0])
    for what, slack in SLACK.items():
        outcome.check(f"{what}, after a third of {queries:,} queries and at the end", f"{early[what]}, then {late[what]}", late[what] <= early[what] + slack)
    # A key stands there some times: as it came, for the table and for its place. Those of old tables would be many more.
    made = (LIFE + SWEPT) * len(times) / NEW_TABLE_EVERY / lasted
    outcome.check(f"{IN_GATEWAY}: no more than of the {made:.0f} tables made in {LIFE + SWEPT} s", late[IN_GATEWAY], late[IN_GATEWAY] < 4 * made + 60)
    first, last = (statistics.median(part) * 1000 for part in (times[queries // 20 : queries // 10], times[-queries // 20 :]))
    outcome.check(f"the last queries take less than {SLOWER} of the first", f"{first:.2f} ms, then {last:.2f} ms", last < SLOWER * first)
    outcome.check("no worker lost", lost, not lost)
    outcome.text = f"{lasted:.0f} s, {len(calls):,} loads of tables; keys were said to live for {LIFE} s."
    return outcome
