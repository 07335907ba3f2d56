"""Fetches the stock clients that the tests drive: a Python environment (ADBC, pandas, polars, and DuckDB as the
oracle) and the JDBC driver. Versions and sums are in `requirements.txt` and `pins.toml`; nothing here is edited by
hand afterwards, so an environment whose pins changed is simply another directory.

A user who has the driver sets `POLYNYA_JDBC_JAR`; one who has an environment sets `POLYNYA_CLIENTS_PYTHON`.
"""
import concurrent.futures
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

import cache
import maven

REQUIREMENTS = cache.HERE / "requirements.txt"
DONE = "complete"


def build() -> dict[str, str]:
    """Makes environment and driver available and returns the variables that point at them."""
    with cache.locked("clients"), concurrent.futures.ThreadPoolExecutor(2) as threads:
        python = threads.submit(_python)
        jar = threads.submit(_jdbc_driver)
        return {"POLYNYA_CLIENTS_PYTHON": str(python.result()), "POLYNYA_JDBC_JAR": str(jar.result())}


def _python() -> pathlib.Path:
    given = os.environ.get("POLYNYA_CLIENTS_PYTHON")
    home = _environment_directory()
    python = home / "venv" / "bin" / "python"
    if given and pathlib.Path(given).absolute() != python:
        if not shutil.which(given):
            raise cache.SetupError(f"POLYNYA_CLIENTS_PYTHON is {given}, which is not an executable")
        cache.say(f"using the Python environment of {given} (POLYNYA_CLIENTS_PYTHON)")
        return pathlib.Path(given)
    if (home / DONE).exists() and python.exists():
        return python
    # A virtual environment holds its own path, so it is built in place and counts only once DONE is written.
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    cache.say("making the Python environment of the test clients")
    made = subprocess.run([sys.executable, "-m", "venv", home / "venv"], capture_output=True, text=True)
    if made.returncode != 0:
        raise cache.SetupError("this Python cannot make virtual environments (on Debian: install python3-venv):\n  "
                               + (made.stdout + made.stderr).strip())
    cache.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
               "--no-deps", "--require-hashes", "-r", REQUIREMENTS],
              "The virtual environment was made without pip: install python3-venv.")
    (home / DONE).touch()
    return python


def _environment_directory() -> pathlib.Path:
    """One per set of pins and per Python, since the packages are compiled for one minor version."""
    pins = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode() + cache.platform_name().encode())
    return cache.root() / f"clients-{pins.hexdigest()[:12]}"


def _jdbc_driver() -> pathlib.Path:
    pins = cache.pins()["jdbc"]
    home = cache.root() / "jdbc"
    given = os.environ.get("POLYNYA_JDBC_JAR")
    if given and pathlib.Path(given).absolute() != home / pins["file"]:
        if not pathlib.Path(given).is_file():
            raise cache.SetupError(f"POLYNYA_JDBC_JAR is {given}, but there is no such file")
        cache.say(f"using the JDBC driver {given} (POLYNYA_JDBC_JAR)")
        return pathlib.Path(given).absolute()
    sums = {pins["file"]: pins["sha256"]}
    if cache.missing(home, sums):
        cache.say(f"fetching the JDBC driver ({pins['artifact']})")
        with cache.workspace() as work:
            maven.copy_artefact(pins["artifact"], work)
            cache.install(work / pins["file"], home / pins["file"], pins["sha256"])
    cache.write_stamp(home, sums)
    return home / pins["file"]


if __name__ == "__main__":
    cache.main(build, sys.argv[1:], __doc__)
