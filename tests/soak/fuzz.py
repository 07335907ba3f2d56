"""The fuzz targets of the tests, for longer and from another seed each time."""

import os
import re
import subprocess
import time

from outcome import Outcome
from runner import ROOT

TITLE = "Fuzz targets"
SECONDS = 600
TARGETS = {
    "the guard": "worker::guard::tests::fuzz::whatever_the_guard_lets_through_is_clean",
    "tickets, handles and tokens": "flight::tests::fuzz::what_a_client_carries_opens_unchanged_for_its_owner_and_for_nobody_else",
}


def run(scale):
    outcome, lines = Outcome(), []
    seconds = max(1, int(SECONDS * scale))
    for name, test in TARGETS.items():
        # A seed for each input: so far apart that two days try different ones.
        seed = int(time.time()) * 10**6
        environment = {**os.environ, "POLYNYA_FUZZ_SECONDS": str(seconds), "POLYNYA_FUZZ_SEED": str(seed), "RUST_BACKTRACE": "0"}
        command = ["cargo", "test", "--locked", "--lib", "--", "--exact", test, "--nocapture"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
        said = done.stdout + done.stderr
        tried = re.search(r"^fuzzed (.+)$", said, re.M)
        deaths = re.findall(r"^DuckDB ended its process .+$", said, re.M)
        held = done.returncode == 0 and "1 passed" in said and tried
        finding = "; ".join(re.findall(r"^POLYNYA_FUZZ_SEED=.+(?:\n(?:in|of) .+)*", said, re.M)) or " ".join(said.split())[-600:]
        outcome.check(f"{name}: no finding in {seconds} s", tried.group(1) if held else finding.replace("|", "\\|").replace("\n", " "), held)
        lines += [f"- {name}: {death}" for death in deaths]
    outcome.text = "Statements by which DuckDB ended its process, which costs a worker and no more:\n\n" + "\n".join(lines) if lines else ""
    return outcome
