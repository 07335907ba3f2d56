"""Many queries on one channel, streams that are opened and abandoned, clients that come and go: what the gateway and its workers hold is
then back where it was."""

import tempfile
import time

from clients import batches, connect, make_table, run as rows_of
from outcome import Outcome
from runner import Gateway, handles, pss, threads

TITLE = "Nothing is left over"
QUERIES = 1000
STREAMS = 200
CONNECTS = 500
# Of sessions there are fewer places than clients that come: one that stayed would take the place of a later one.
SESSIONS = 50
SLACK = {"file handles": 8, "threads": 8, "memory, MB": 48}


def at_rest(gateway):
    """What is held when only the spare worker is left."""
    end = time.monotonic() + 40
    while len(gateway.processes()) > 2 and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(1)
    own, *workers = gateway.processes()
    return {"workers": len(workers), "file handles": handles(own), "threads": threads(own), "memory, MB": round(pss(own) / 1e6)}


def queries(uri, number):
    client = connect(uri)
    for n in range(number):
        assert rows_of(client, f"SELECT {n}::BIGINT").column(0).to_pylist() == [n]
    client.close()


def abandoned(uri, number):
    client = connect(uri)
    for _ in range(number):
        stream = batches(client, "SELECT * FROM range(100000000000)")
        assert next(stream).num_rows > 0
        stream.close()
    client.close()


def connects(uri, number):
    for n in range(number):
        client = connect(uri)
        assert rows_of(client, "SELECT 1").num_rows == 1
        client.close()


def run(scale):
    outcome, lines = Outcome(), []
    settings = ["pool.idle_timeout=1s", f"session.max_sessions={SESSIONS}", "telemetry.level=warn"]
    with tempfile.TemporaryDirectory() as directory, Gateway(f"{directory}/lake", f"pool.run_dir={directory}", *settings) as gateway:
        make_table(gateway.uri)
        for name, work, times in (("queries on one channel", queries, QUERIES), ("streams abandoned", abandoned, STREAMS), ("connects", connects, CONNECTS)):
            work(gateway.uri, 20)
            before = at_rest(gateway)
            began, number = time.monotonic(), max(1, int(times * scale))
            work(gateway.uri, number)
            seconds = time.monotonic() - began
            after = at_rest(gateway)
            for what, slack in {"workers": 0, **SLACK}.items():
                outcome.check(f"{what} after {number:,} {name}", f"{after[what]}, before {before[what]}", after[what] <= before[what] + slack)
            lines.append(f"- {number:,} {name}: {seconds:.1f} s")
        lost = gateway.log_text().count("worker lost")
    outcome.check("no worker lost", lost, not lost)
    outcome.text = "What the gateway itself holds, at rest before and after. " + f"It has {SESSIONS} places for sessions.\n\n" + "\n".join(lines)
    return outcome
