"""`make soak`: long runs under load and faults, part by part, and the page that tells what held. It ends with an error when anything did not.

Each part's outcome is kept under target/soak for its commit, so that parts run one by one come onto the same page."""

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
import runner  # noqa: E402
from outcome import Outcome  # noqa: E402

PARTS = ["kills", "listings", "leaks", "spill", "fuzz", "storage", "mixed", "tokens"]
# Of each of the two sorts, and of the memory that they share; less of it than this starts no workers.
SPILL_GIGABYTES, SPILL_BUDGET_MIB, LEAST_BUDGET_MIB = 10, 6144, 700


def run_spill(part, scale):
    """The sorts, which judge themselves: they also run alone."""
    text, wrong = part.run(SPILL_GIGABYTES * scale, max(LEAST_BUDGET_MIB, int(SPILL_BUDGET_MIB * scale)))
    outcome = Outcome(text=text)
    what = f"two sorts of {SPILL_GIGABYTES * scale:g} GB spill and end within the budget, small reads beside them take less than 1 s"
    outcome.check(what, "; ".join(wrong) or "see below", not wrong)
    return "Large sorts beside small reads", outcome


def run_part(name, scale):
    """One part's title and outcome; what breaks it off is a threshold that did not hold."""
    part = None
    try:
        part = importlib.import_module(name)
        if name == "spill":
            return run_spill(part, scale)
        return part.TITLE, part.run(scale)
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome()
        outcome.check("the part runs to its end", f"{type(error).__name__}: {error}", False)
        return getattr(part, "TITLE", name), outcome


def write_page(kept):
    """The page of all outcomes that this commit has."""
    sections, failed = [], 0
    for name in PARTS:
        file = kept / f"{name}.json"
        if file.exists():
            outcome = json.loads(file.read_text())
            failed += outcome["failed"]
            sections.append(f"## {outcome['title']}\n\n`make soak ARGS='{outcome['arguments']}'`, {outcome['seconds']:.0f} s.\n\n{outcome['markdown']}")
    summary = "Every threshold held." if not failed else f"**{failed} thresholds did not hold.**"
    runner.page("soak", "Long runs under load and faults", "\n\n".join([summary, *sections]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, with commas between: " + ", ".join(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="how long each part lasts, against its full length")
    parser.add_argument("--binary", type=Path, help="the polynya binary; without it the release build")
    options = parser.parse_args()
    if options.binary:
        runner.BINARY = options.binary.resolve()
    names = [name.strip() for name in options.only.split(",") if name.strip()]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    kept = runner.ROOT / "target" / "soak" / runner.revision()
    kept.mkdir(parents=True, exist_ok=True)
    failures = []
    for name in names:
        print(f"{name} …", flush=True)
        began = time.monotonic()
        title, outcome = run_part(name, options.scale)
        seconds = time.monotonic() - began
        arguments = f"--only {name}" + (f" --scale {options.scale:g}" if options.scale != 1 else "")
        # The figures of a debug build must not be taken for others.
        arguments += f" --binary {options.binary}" if options.binary else ""
        lines = outcome.failures()
        kept_part = {"title": title, "arguments": arguments, "seconds": seconds, "failed": len(lines), "markdown": outcome.markdown()}
        (kept / f"{name}.json").write_text(json.dumps(kept_part))
        failures += [f"{name}: {line}" for line in lines]
        print(f"{name}: {len(outcome.checks) - len(lines)} of {len(outcome.checks)} thresholds held, {seconds:.0f} s", flush=True)
    write_page(kept)
    if failures:
        raise SystemExit("\n".join(["not as it must be:", *failures]))


if __name__ == "__main__":
    main()
