"""Many queries on a table in an object store, by keys that the catalog vends: nothing may gather, and the last are as fast as the first."""

import os
import re
import subprocess

from outcome import Outcome
from runner import ROOT

TITLE = "Vended keys"
QUERIES = 10_000
SLOWER = 1.3


def run(scale):
    outcome = Outcome()
    queries = max(300, int(QUERIES * scale))
    environment = {**os.environ, "POLYNYA_STORE_QUERIES": str(queries)}
    command = ["cargo", "test", "--locked", "--test", "it", "--", "--exact", "storage::nothing_accumulates_over_many_queries", "--nocapture"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
    said = done.stdout + done.stderr
    found = re.search(r"^keys (\d+), memory (\d+) MB then (\d+) MB, median (\d+) us then (\d+) us$", said, re.M)
    held = done.returncode == 0 and "1 passed" in said and found is not None
    outcome.check(f"{queries:,} queries: keys and memory stay as they are", found.group(0) if found else " ".join(said.split())[-600:], held)
    if found:
        first, last = int(found.group(4)), int(found.group(5))
        outcome.check(f"the last tenth takes less than {SLOWER} of the first", f"{last / first:.2f}", last < SLOWER * first)
    return outcome
