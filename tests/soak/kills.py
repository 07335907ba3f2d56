"""Workers are killed, one at random every second, while 16 clients read. The gateway stays up, no row is wrong, and a read fails only when
rows had been sent or its second worker was killed too; then with UNAVAILABLE."""

import collections
import os
import random
import signal
import tempfile
import threading
import time

import pyarrow.compute as compute
import pyarrow.flight as flight
from clients import ROWS, SUM, batches, connect, make_table, run as rows_of, together
from outcome import Outcome
from runner import Gateway

TITLE = "A random worker killed every second"
SECONDS = 60
CLIENTS = 16
READS = {"whole": ("SELECT v FROM lake.gold.t", ROWS), "sum": ("SELECT sum(v)::BIGINT FROM lake.gold.t", 1)}


class Tally:
    """How reads have ended. One lock, held for additions only."""

    def __init__(self):
        self.lock = threading.Lock()
        self.ends = collections.Counter()
        self.wrong = []

    def ended(self, how, detail=None):
        with self.lock:
            self.ends[how] += 1
            if detail:
                self.wrong.append(detail)


def read(client, kind, tally):
    """One read, judged."""
    sql, expected = READS[kind]
    rows = total = 0
    try:
        for batch in batches(client, sql):
            rows += batch.num_rows
            total += compute.sum(batch.column(0)).as_py()
    except flight.FlightUnavailableError as error:
        # What came before must be right as far as it goes. All of it may have come, and the worker died before it could say so.
        if rows:
            tally.ended("cut after rows", None if rows <= expected and total <= SUM else f"{rows} rows with the sum {total} before the end")
        elif "run twice" in str(error) or "it ended while starting" in str(error):
            # The second is told when several workers in a row were killed before they could take the statement.
            tally.ended("lost twice")
        else:
            tally.ended("other", f"UNAVAILABLE before the first row, after one loss: {error}")
    except Exception as error:  # every other failure is a fault
        tally.ended("other", f"{type(error).__name__} after {rows} rows: {error}")
    else:
        right = (rows, total) == (expected, SUM)
        tally.ended("right" if right else "wrong", None if right else f"{rows} rows with the sum {total}, {expected} and {SUM} expected")


def run(scale):
    outcome, tally, killed = Outcome(), Tally(), 0
    with tempfile.TemporaryDirectory() as directory, Gateway(f"{directory}/lake", f"pool.run_dir={directory}") as gateway:
        make_table(gateway.uri)

        def work(number, running):
            client, kinds = connect(gateway.uri), ["whole", "sum"]
            while running():
                read(client, kinds[number % 2], tally)
                number += 1
            client.close()

        threads = together(CLIENTS, SECONDS * scale, work)
        while any(thread.is_alive() for thread in threads):
            time.sleep(1)
            # Children of the gateway that this part has started.
            workers = gateway.processes()[1:]
            if workers:
                try:
                    os.kill(random.choice(workers), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
        up = gateway.process.poll() is None and rows_of(connect(gateway.uri), "SELECT 42").column(0).to_pylist() == [42]
        again = gateway.log_text().count("asked once more")
    ends = tally.ends
    outcome.check("the gateway is up", "it answers" if up else "it does not answer", up)
    outcome.check("no wrong rows", f"{len(tally.wrong) - ends['other']} wrong reads", len(tally.wrong) == ends["other"])
    outcome.check("no failure but UNAVAILABLE after a row or a second kill", f"{ends['other']} others", ends["other"] == 0)
    outcome.check("reads go on", f"{ends['right']:,} right reads", ends["right"] >= killed)
    outcome.check("kills do meet reads", f"{again} statements asked once more, {ends['cut after rows']} cut", again + ends["cut after rows"] > 0)
    outcome.text = (
        f"{CLIENTS} clients for {SECONDS * scale:.0f} s, each reading {ROWS:,} rows and their sum in turn; {killed} workers killed. "
        f"{ends['cut after rows']} reads were cut after rows had been sent, {ends['lost twice']} lost two workers or more before the first row.\n\n"
        + "\n".join(f"- {detail}" for detail in tally.wrong[:10])
    )
    return outcome
