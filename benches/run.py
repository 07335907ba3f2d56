"""`make bench`: what worker process and gateway cost, side by side in one run.

Streams by turns through the gateway, through a plain Flight server with DuckDB in the same process, from memory over gRPC, and by
DuckDB alone; small statements by many clients at once; memory. Writes docs/results/<date>-bench.md with the goals and what was
measured. `--against` adds another polynya binary, for a before and after."""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import adbc_driver_flightsql.dbapi as adbc

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "support")]
import listings  # noqa: E402
import probe as probes  # noqa: E402
import remote  # noqa: E402
import runner  # noqa: E402
import snapshots  # noqa: E402
from probe import Probe  # noqa: E402
from report import ALONE, ATTACHED, BEFORE, FROM_MEMORY, ONE_PROCESS, OURS, middle, remote_section, report  # noqa: E402
from runner import Gateway, Peak, ReferenceRest, demo_lake, page  # noqa: E402

LINEITEM_ROWS = 6_000_000
NARROW = "SELECT l_orderkey FROM lineitem"
WIDE = "SELECT * FROM lineitem"
COMPUTED = "SELECT i, i + 1, i + 2, i + 3, i + 4, i + 5, i + 6, i + 7 FROM range(16000000) t(i)"
CLIENTS = (1, 16, 64)


def eighths(scale):
    """The wide stream in eight parts, for eight connections."""
    orders = int(LINEITEM_ROWS * scale) + 1
    bounds = [part * orders // 8 for part in range(9)]
    return [f"{WIDE} WHERE l_orderkey >= {low} AND l_orderkey < {high}" for low, high in zip(bounds, bounds[1:])]


class Bench:
    """What is measured against each other: gateways, and DuckDB on the same files without them."""

    def __init__(self, stack, program, gateways, setup):
        self.program, self.gateways = program, gateways
        self.single = stack.enter_context(Probe(program, "single", "--setup", setup))
        self.alone = stack.enter_context(Probe(program, "scan", "--setup", setup))
        self.single_uri = self.single.address()
        self.readers = {name: stack.enter_context(self.reader(gateway.uri)) for name, gateway in gateways.items()}
        self.of_single = stack.enter_context(self.reader(self.single_uri, "--direct"))

    def reader(self, uri, *more):
        return Probe(self.program, "read", "--uri", uri, *more)

    def ways(self, stack, statements):
        """The ways by which these streams can come; each a function that drains them once."""
        plain, ours = json.dumps(statements), json.dumps([in_lake(sql) for sql in statements])
        ways = {who: lambda who=who: self.readers[who].ask(ours, self.gateways[who].cpu) for who in self.gateways}
        ways[ONE_PROCESS] = lambda: self.of_single.ask(plain, self.single.cpu)
        if len(statements) == 1:
            memory = stack.enter_context(Probe(self.program, "prebuilt", "--from", self.gateways[OURS].uri, "--sql", in_lake(statements[0])))
            reader = stack.enter_context(self.reader(memory.address(), "--direct"))
            ways[FROM_MEMORY] = lambda: reader.ask(plain, memory.cpu)
        ways[ALONE] = lambda: self.alone.ask(plain)
        return ways

    def streams(self, name, statements, runs):
        """`runs` counted answers of each way, by turns, after one that warms up."""
        with contextlib.ExitStack() as stack:
            ways = self.ways(stack, statements)
            found = {way: [] for way in ways}
            for run in range(runs + 1):
                for way, ask in ways.items():
                    answer = ask()
                    if run:
                        found[way].append(answer)
                print(f"{name}, run {run}: " + ", ".join(f"{way} {answers[-1]['total']:.2f} s" for way, answers in found.items() if answers), flush=True)
        return found

    def small(self, sql, clients, runs):
        """Latencies of one statement by so many clients, of each way by turns; medians of the runs."""
        with contextlib.ExitStack() as stack:
            count = ["--clients", str(clients), "--seconds", "2"]
            ways = {who: stack.enter_context(Probe(self.program, "latency", "--uri", gateway.uri, *count)) for who, gateway in self.gateways.items()}
            ways[ONE_PROCESS] = stack.enter_context(Probe(self.program, "latency", "--direct", "--uri", self.single_uri, *count))
            answers = {way: [] for way in ways}
            for _ in range(runs):
                for way, probe in ways.items():
                    answers[way].append(probe.ask(sql if way == ONE_PROCESS else in_lake(sql)))
        return {way: {key: middle(of_one, key) for key in ("info_p50", "p50", "p99", "per_second")} for way, of_one in answers.items()}


def in_lake(sql):
    return sql.replace("FROM lineitem", "FROM lake.bronze.lineitem").replace("FROM nation", "FROM lake.bronze.nation")


def on_rest(program, lake, runs):
    """The wide stream and a small table of an Iceberg REST catalog: by a gateway before it, and by DuckDB that attaches it itself."""
    with contextlib.ExitStack() as stack:
        rest = stack.enter_context(ReferenceRest())
        probes.register(rest.port, lake)
        settings = [setting for setting in rest.settings() if "allowed_locations" not in setting]
        settings.append(f"catalogs.rest.allowed_locations=['{rest.warehouse}', 'file://{lake}']")
        gateway = stack.enter_context(Gateway(lake, "telemetry.level=warn", *settings))
        reader = stack.enter_context(Probe(program, "read", "--uri", gateway.uri))
        attached = stack.enter_context(Probe(program, "scan", "--setup", probes.attached(rest.port)))
        found = {}
        for name, sql, times in (("lineitem", WIDE, runs), ("nation", "SELECT * FROM nation", 20 * runs)):
            order = json.dumps([sql.replace("FROM ", "FROM rest.bronze.")])
            ways = {OURS: lambda order=order: reader.ask(order, gateway.cpu), ATTACHED: lambda order=order: attached.ask(order)}
            found[name] = {way: [] for way in ways}
            for run in range(times + 1):
                for way, ask in ways.items():
                    answer = ask()
                    if run:
                        found[name][way].append(answer)
        return found


def memory(gateway, program, runs):
    """Bytes of gateway and workers when idle, and at the most while the wide stream goes through."""
    with Probe(program, "read", "--uri", gateway.uri) as reader:
        time.sleep(1)
        idle, peaks = gateway.memory(), []
        for _ in range(runs):
            with Peak(gateway) as peak:
                reader.ask(json.dumps([in_lake(WIDE)]))
            peaks.append(peak.bytes)
    return idle, max(peaks)


def by_driver(gateway, count=300):
    """Milliseconds of SELECT 1 by the stock ADBC driver for Python, sorted: four calls each."""
    times = []
    with adbc.connect(gateway.uri, autocommit=True) as connection:
        for _ in range(count):
            began = time.perf_counter()
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchall()
            times.append((time.perf_counter() - began) * 1000)
    return sorted(times[count // 5 :])


def small_only(bench, runs):
    """Prints the latencies of small statements."""
    found = {clients: bench.small("SELECT 1", clients, runs) for clients in CLIENTS}
    found["1, nation"] = bench.small("SELECT * FROM nation", 1, runs)
    for clients, ways in found.items():
        for way, figures in ways.items():
            print(f"{clients} | {way} | " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1, help="TPC-H scale factor")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each way")
    parser.add_argument("--against", type=Path, help="another polynya binary to measure beside this tree's")
    parser.add_argument("--small", action="store_true", help="small statements only, which are printed; no page is written")
    parser.add_argument("--remote", action="store_true", help="only the catalog and store behind a network, which are printed; no page is written")
    options = parser.parse_args()
    programs = probes.built()
    program, runner.BINARY = programs["probe"], Path(programs["polynya"])
    lake = demo_lake(f"{options.scale:g}")
    if options.remote:
        return print(remote_section(remote.measure(programs, lake, options.runs)))
    found = {"scale": options.scale, "runs": options.runs}
    with contextlib.ExitStack() as stack:
        gateways = {OURS: stack.enter_context(Gateway(lake, "telemetry.level=warn"))}
        if options.against:
            gateways[BEFORE] = stack.enter_context(Gateway(lake, "telemetry.level=warn", binary=options.against.resolve()))
        bench = Bench(stack, program, gateways, probes.same_files(lake))
        if options.small:
            return small_only(bench, options.runs)
        shapes = {"wide": [WIDE], "narrow": [NARROW], "computed": [COMPUTED], "eight": eighths(options.scale)}
        found["streams"] = {name: bench.streams(name, statements, options.runs) for name, statements in shapes.items()}
        found["small"] = {clients: bench.small("SELECT 1", clients, options.runs) for clients in CLIENTS}
        found["nation"] = bench.small("SELECT * FROM nation", 1, options.runs)
        found["driver"] = by_driver(gateways[OURS])
    with Gateway(lake, "telemetry.level=warn") as gateway:
        found["memory"] = memory(gateway, program, options.runs)
    found["rest"] = on_rest(program, lake, options.runs)
    found["remote"] = remote.measure(programs, lake, options.runs)
    title, body, missed = report(found)
    body, missed = listings.add_to(body, missed)
    body, missed = snapshots.add_to(body, missed, options.runs)
    page("bench", title, body)
    print("goals missed: " + ("; ".join(missed) or "none"))


main()
