"""Two sorts of 10 GB each in parallel spill and end, within the memory budget; a third client's small reads go on meanwhile.

`run.py` calls `run`; alone it is `python tests/soak/spill.py [--gigabytes N] [--binary PATH]`. The results are read to their end and
checked for order and completeness."""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import adbc_driver_flightsql.dbapi as adbc  # noqa: E402
import runner  # noqa: E402

SORTS = 2
# Of text in each row, beside two numbers of 8.
TEXT_BYTES = 84
ROW_BYTES = TEXT_BYTES + 16
# Below the sorts by so much that nearly all of them is spilt.
BUDGET_MIB = 6144
SLOWEST_SECONDS = 1.0
PAUSE_SECONDS = 0.02
# What a process takes beside what DuckDB counts: code, stacks, frames under way.
BESIDE_BYTES = 300e6


def sort(rows):
    """In the order of their hashes, which is none of the order they are made in."""
    return f"SELECT hash(i) AS h, i, lpad(i::VARCHAR, {TEXT_BYTES}, 'x') AS text FROM range({rows}) r(i) ORDER BY h"


def read_sorted(uri, rows, answer):
    """Reads one sorted result to its end; puts what is wrong with it, or None, and the seconds that it took."""
    import pyarrow.compute as compute

    began, seen, total, last, wrong = time.monotonic(), 0, 0, None, None
    try:
        with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(sort(rows))
            for batch in cursor.fetch_record_batch():
                hashes = batch.column("h")
                ordered = compute.all(compute.less_equal(hashes[:-1], hashes[1:])).as_py()
                if ordered is False or (last is not None and hashes[0].as_py() < last):
                    wrong = f"out of order near row {seen}"
                last = hashes[-1].as_py()
                seen += batch.num_rows
                total += compute.sum(batch.column("i")).as_py()
        if (seen, total) != (rows, rows * (rows - 1) // 2):
            wrong = f"{seen} rows with the sum {total} instead of {rows}"
    except Exception as error:  # told by the parent
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())}"
    answer.put((wrong, time.monotonic() - began))


def spilt_bytes(directory):
    """What lies in spill directories now."""
    sizes = 0
    for file in Path(directory).glob("polynya-*/*/spill/*"):
        try:
            sizes += file.stat().st_size
        except OSError:
            # Removed meanwhile.
            pass
    return sizes


def left_after(directory, seconds):
    """What is spilt still, once nothing is or so many seconds are over."""
    until = time.monotonic() + seconds
    while spilt_bytes(directory) and time.monotonic() < until:
        time.sleep(0.2)
    return spilt_bytes(directory)


def watch(gateway, directory, processes):
    """Small reads until the sorts have ended; their seconds, and the highest memory and spill that were seen."""
    seconds, memory, spill = [], 0, 0
    with adbc.connect(gateway.uri, autocommit=True) as connection:
        while any(process.is_alive() for process in processes):
            key = len(seconds) % 1500 + 1
            began = time.monotonic()
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT c_custkey, c_name FROM lake.bronze.customer WHERE c_custkey = {key}")
                assert cursor.fetchall() == [(key, f"Customer#{key:09}")]
            seconds.append(time.monotonic() - began)
            if len(seconds) % 10 == 1:
                memory = max(memory, sum(runner.pss(pid) for pid in gateway.processes()[1:]))
                spill = max(spill, spilt_bytes(directory))
            time.sleep(PAUSE_SECONDS)
    return seconds, memory, spill


def run(gigabytes=10, budget_mib=BUDGET_MIB):
    """Runs it; gives the page's text and a list of what is not as it must be."""
    rows = int(gigabytes * 1e9) // ROW_BYTES
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as directory:
        settings = [f"pool.run_dir={directory}", f"pool.memory_budget={budget_mib}MiB", "pool.spill_limit=100GiB"]
        settings += ["query.statement_timeout=4h", "telemetry.level=warn"]
        with runner.Gateway(runner.demo_lake("0.01"), *settings) as gateway:
            processes = [context.Process(target=read_sorted, args=(gateway.uri, rows, answers)) for _ in range(SORTS)]
            for process in processes:
                process.start()
            seconds, memory, spill = watch(gateway, directory, processes)
            sorts = [answers.get(timeout=10) for _ in processes]
            workers = len(gateway.processes()) - 1
            left = left_after(directory, 10)
            log = gateway.log_text()
    wrong = [f"a sort: {text}" for text, _ in sorts if text]
    wrong += [line for line in log.splitlines() if "worker lost" in line or " ERROR " in line or "panicked" in line][:10]
    if max(seconds) > SLOWEST_SECONDS:
        wrong.append(f"a small read took {max(seconds):.2f} s")
    if memory > budget_mib * 2**20 + workers * BESIDE_BYTES:
        wrong.append(f"the workers took {memory / 2**20:.0f} MiB")
    if spill < gigabytes * 1e9 / 2:
        wrong.append(f"only {spill / 1e9:.1f} GB were spilt")
    if left:
        wrong.append(f"{left / 1e6:.0f} MB of spilt rows are left")
    middle, near_end = sorted(seconds)[len(seconds) // 2], sorted(seconds)[len(seconds) * 99 // 100]
    outcome = "**not as it must be**" if wrong else "read to the end, in order and complete"
    body = f"""
{SORTS} sorts of {rows:,} rows ({gigabytes} GB each) at once within {budget_mib} MiB for all workers: ended after {", ".join(f"{time:.0f} s" for _, time in sorts)},
{outcome}. At most {spill / 1e9:.1f} GB were spilt and the workers took {memory / 2**20:.0f} MiB; {left / 1e6:.0f} MB of it were left.
Meanwhile {len(seconds):,} reads of one row by a third client: median {middle * 1000:.0f} ms, 99th percentile {near_end * 1000:.0f} ms, longest {max(seconds) * 1000:.0f} ms.
"""
    return body.strip(), wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10, help="size of each sort")
    parser.add_argument("--budget-mib", type=int, default=BUDGET_MIB, help="pool.memory_budget")
    parser.add_argument("--binary", type=Path, help="the gateway, instead of the release binary")
    options = parser.parse_args()
    if options.binary:
        runner.BINARY = options.binary.resolve()
    body, wrong = run(options.gigabytes, options.budget_mib)
    print(body)
    if wrong:
        raise SystemExit("\n".join(["not as it must be:", *wrong]))


if __name__ == "__main__":
    main()
