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


def start(name, seconds):
    """One target in a process of its own, from a seed that is another one each time."""
    # A seed for each input: so far apart that two days try different ones.
    seed = int(time.time()) * 10**6
    environment = {**os.environ, "POLYNYA_FUZZ_SECONDS": str(seconds), "POLYNYA_FUZZ_SEED": str(seed), "RUST_BACKTRACE": "0"}
    command = ["cargo", "test", "--locked", "--lib", "--", "--exact", TARGETS[name], "--nocapture"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")


def run(scale):
    outcome, lines = Outcome(), []
    seconds = max(1, int(SECONDS * scale))
    # Built first, so that both targets have the whole time, beside each other.
    subprocess.run(["cargo", "test", "--locked", "--lib", "--no-run"], cwd=ROOT, check=True)
    for name, process in {name: start(name, seconds) for name in TARGETS}.items():
        said = process.communicate()[0]
        tried = re.search(r"^fuzzed (.+)$", said, re.M)
        deaths = re.findall(r"^DuckDB ended its process .+$", said, re.M)
        held = process.returncode == 0 and "1 passed" in said and tried
        finding = "; ".join(re.findall(r"^POLYNYA_FUZZ_SEED=.+(?:\n(?:in|of) .+)*", said, re.M)) or " ".join(said.split())[-600:]
        outcome.check(f"{name}: no finding in {seconds} s", tried.group(1) if held else finding.replace("|", "\\|").replace("\n", " "), held)
        lines += [f"- {name}: {death}" for death in deaths]
    outcome.text = "Statements by which DuckDB ended its process, which costs a worker and no more:\n\n" + "\n".join(lines) if lines else ""
    return outcome
