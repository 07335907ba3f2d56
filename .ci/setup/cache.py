"""Owns the cache directory: where parts live, how they are checked, and how they get there in one piece.

Knows no registry and no part by name. A part is a file with a pinned SHA-256; it is made in a temporary directory
beside its place and renamed into it, so a killed set-up never leaves half a file. A stamp beside a set of files holds
their sizes and modification times, so that only the first use reads them whole.
"""
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

if sys.version_info < (3, 11):
    sys.exit(f"set-up: Python 3.11 or newer is needed (tomllib), this is {platform.python_version()}")
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
STAMP = ".verified.json"


class SetupError(Exception):
    """A part cannot be had; the text says which one, why, and what to do."""


def pins() -> dict:
    """The parsed `pins.toml`."""
    return tomllib.loads((HERE / "pins.toml").read_text())


def root() -> pathlib.Path:
    """The cache directory: `POLYNYA_CACHE`, or `~/.cache/polynya`."""
    return pathlib.Path(os.environ.get("POLYNYA_CACHE") or pathlib.Path.home() / ".cache" / "polynya").absolute()


def say(text: str) -> None:
    """A progress line; stdout stays free for what `--print-env` prints."""
    sys.stderr.write(f"set-up: {text}\n")  # one write: lines of parallel set-ups must not mix


def platform_name() -> str:
    """`linux-x64`, `linux-arm64`, or what the machine calls itself; the names of the tables in `pins.toml`."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower())
    return f"{sys.platform}-{machine or platform.machine()}"


def sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: pathlib.Path, expected: str) -> None:
    """Compares a file with its pin. A file that differs is removed, so that no later step can pick it up."""
    got = sha256(path)
    if got != expected:
        path.unlink()
        raise SetupError(f"{path.name} does not match its pinned SHA-256 and was removed\n  file      {path}\n"
                         f"  expected  {expected}\n  got       {got}")


def missing(directory: pathlib.Path, sums: dict[str, str]) -> list[str]:
    """The names in `sums` that `directory` lacks. Files that are there are checked, unless the stamp knows them."""
    stamp = _read_stamp(directory)
    absent = []
    for name, expected in sums.items():
        path = directory / name
        if not path.is_file():
            absent.append(name)
        elif stamp.get(name) != _seen(path, expected):
            try:
                check(path, expected)
            except SetupError as error:
                say(f"{error}\n  fetching it again")
                absent.append(name)
    return absent


def write_stamp(directory: pathlib.Path, sums: dict[str, str]) -> None:
    """Records that every file of `sums` in `directory` has just been checked."""
    seen = {name: _seen(directory / name, expected) for name, expected in sums.items()}
    if seen != _read_stamp(directory):
        temporary = directory / f"{STAMP}.{os.getpid()}"
        temporary.write_text(json.dumps(seen, indent=1))
        temporary.replace(directory / STAMP)


def _seen(path: pathlib.Path, expected: str) -> list:
    stat = path.stat()
    return [expected, stat.st_size, stat.st_mtime_ns]


def _read_stamp(directory: pathlib.Path) -> dict:
    try:
        return json.loads((directory / STAMP).read_text())
    except (OSError, ValueError):
        return {}


def install(source: pathlib.Path, target: pathlib.Path, expected: str) -> None:
    """Checks a fetched file and renames it into place; both must be on one file system (see `workspace`)."""
    check(source, expected)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


@contextlib.contextmanager
def workspace():
    """A temporary directory inside the cache, removed at the end, so that renames out of it are atomic."""
    root().mkdir(parents=True, exist_ok=True)
    path = pathlib.Path(tempfile.mkdtemp(prefix=".fetching-", dir=root()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(name: str):
    """Holds the cache's lock of that name: a second set-up waits and then finds everything there."""
    root().mkdir(parents=True, exist_ok=True)
    with open(root() / f".{name}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another set-up of {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(command: list, needs: str, cwd: pathlib.Path | None = None) -> str:
    """Runs a tool and returns its stdout. `needs` says what to install when the tool is absent."""
    command = [str(part) for part in command]
    if shutil.which(command[0]) is None:
        raise SetupError(f"`{command[0]}` was not found. {needs}")
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        tail = "\n  ".join((done.stderr.strip() + "\n" + done.stdout.strip()).strip().splitlines()[-15:])
        raise SetupError(f"`{' '.join(command[:6])} …` failed with exit code {done.returncode}:\n  {tail}")
    return done.stdout


def main(build, argv: list[str], doc: str) -> None:
    """The command line that every script here has: run `build` and, with `--print-env`, print its variables."""
    if set(argv) - {"--print-env"}:
        print(doc.strip() + "\n\noptions: --print-env   print `export` lines for a shell on stdout",
              file=sys.stdout if set(argv) & {"-h", "--help"} else sys.stderr)
        sys.exit(0 if set(argv) & {"-h", "--help"} else 2)
    started = time.monotonic()
    try:
        variables = build()
    except SetupError as error:
        sys.exit(f"set-up failed: {error}")
    except KeyboardInterrupt:
        sys.exit("set-up interrupted")
    say(f"ready after {time.monotonic() - started:.1f} s")
    if "--print-env" in argv:
        print_env(variables)


def print_env(variables: dict[str, str]) -> None:
    """`export NAME='value'` lines that a POSIX shell can evaluate."""
    for name, value in variables.items():
        quoted = str(value).replace("'", "'\\''")
        print(f"export {name}='{quoted}'")
