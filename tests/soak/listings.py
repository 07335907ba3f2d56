"""Half of 32 clients read tables, half list them. DuckDB alone dies of this within seconds; here nothing may fail."""

import collections
import tempfile
import threading

from clients import SUM, connect, make_table, run as rows_of, together
from outcome import Outcome
from runner import Gateway

TITLE = "Reads beside listings"
SECONDS = 60
CLIENTS = 32
TABLES = 10


def run(scale):
    outcome, lock = Outcome(), threading.Lock()
    done, failures = collections.Counter(), []
    with tempfile.TemporaryDirectory() as directory, Gateway(f"{directory}/lake", f"pool.run_dir={directory}") as gateway:
        make_table(gateway.uri)
        client = connect(gateway.uri)
        for number in range(TABLES):
            rows_of(client, f"CREATE TABLE lake.gold.t{number} (a INTEGER)")
        workers = set(gateway.processes())

        def work(number, running):
            own = connect(gateway.uri)
            while running():
                lists = number % 2
                try:
                    if lists:
                        seen, expected = rows_of(own, "SELECT * FROM information_schema.tables").num_rows, TABLES + 1
                    else:
                        seen, expected = rows_of(own, "SELECT sum(v)::BIGINT FROM lake.gold.t").column(0)[0].as_py(), SUM
                    if seen != expected:
                        raise AssertionError(f"{seen} instead of {expected}")
                except Exception as error:  # every failure is a fault
                    with lock:
                        failures.append(f"{'listing' if lists else 'read'}: {error}")
                else:
                    with lock:
                        done["listings" if lists else "reads"] += 1
            own.close()

        for thread in together(CLIENTS, SECONDS * scale, work):
            thread.join()
        lost = gateway.log_text().count("worker lost")
        up = gateway.process.poll() is None
    outcome.check("no failure", f"{len(failures)} of {sum(done.values()) + len(failures):,}", not failures)
    outcome.check("no worker lost", f"{lost} of {len(workers) - 1}", up and not lost)
    outcome.check("both get through", f"{done['reads']:,} reads, {done['listings']:,} listings", min(done["reads"], done["listings"]) > 20 * scale)
    outcome.text = f"{CLIENTS} clients for {SECONDS * scale:.0f} s.\n\n" + "\n".join(f"- {text}" for text in failures[:10])
    return outcome
