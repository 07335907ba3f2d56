"""Fetches DuckDB: the shared library (from npm) and its signed extensions (from PyPI), as pinned in `pins.toml`.

A user who has them sets `DUCKDB_LIB_DIR` (a directory with the library) or `POLYNYA_EXTENSION_DIR` (a directory with
`<name>.duckdb_extension` files); these are then used as they are, without a check of sums.
"""
import concurrent.futures
import os
import pathlib
import sys
import tarfile
import zipfile

import cache

LIBRARY = "libduckdb.so"
NPM = "Install Node.js with npm, or set DUCKDB_LIB_DIR to a directory that holds the library."
PIP = "Install pip for this Python, or set POLYNYA_EXTENSION_DIR to a directory that holds the extensions."


def build() -> dict[str, str]:
    """Makes library and extensions available and returns the variables that point at them."""
    pins = cache.pins()["duckdb"]
    home = cache.root() / f"duckdb-{pins['version']}"
    with cache.locked("duckdb"), concurrent.futures.ThreadPoolExecutor(2) as threads:
        library = threads.submit(_library, pins, home)
        extensions = threads.submit(_extensions, pins, home / "extensions")
        return {"DUCKDB_LIB_DIR": str(library.result()), "POLYNYA_EXTENSION_DIR": str(extensions.result())}


def _library(pins: dict, home: pathlib.Path) -> pathlib.Path:
    given = os.environ.get("DUCKDB_LIB_DIR")
    if given and pathlib.Path(given).absolute() != home:
        directory = pathlib.Path(given).absolute()
        if not any((directory / name).is_file() for name in (LIBRARY, "libduckdb.dylib")):
            raise cache.SetupError(f"DUCKDB_LIB_DIR is {given}, but there is no {LIBRARY} in it")
        cache.say(f"using the DuckDB library in {directory} (DUCKDB_LIB_DIR); it must be {pins['version']}")
        return directory
    sums = {LIBRARY: _platform(pins)["sha256"][LIBRARY]}
    if cache.missing(home, sums):
        package = f"{_platform(pins)['npm']}@{pins['npm-version']}"
        cache.say(f"fetching {LIBRARY} {pins['version']} (npm package {package})")
        with cache.workspace() as work:
            cache.run(["npm", "pack", "--silent", "--pack-destination", work, package], NPM, cwd=work)
            archive = next(work.glob("*.tgz"))
            with tarfile.open(archive) as tar, open(work / LIBRARY, "wb") as file:
                _copy(tar.extractfile(f"package/{LIBRARY}"), file)
            cache.install(work / LIBRARY, home / LIBRARY, sums[LIBRARY])
    cache.write_stamp(home, sums)
    return home


def _extensions(pins: dict, home: pathlib.Path) -> pathlib.Path:
    names = pins["extensions"]
    given = os.environ.get("POLYNYA_EXTENSION_DIR")
    if given and pathlib.Path(given).absolute() != home:
        directory = pathlib.Path(given).absolute()
        absent = [name for name in names if not (directory / f"{name}.duckdb_extension").is_file()]
        if absent:
            raise cache.SetupError(f"POLYNYA_EXTENSION_DIR is {given}, but it lacks "
                                   + ", ".join(f"{name}.duckdb_extension" for name in absent))
        cache.say(f"using the DuckDB extensions in {directory} (POLYNYA_EXTENSION_DIR)")
        return directory
    sums = {f"{name}.duckdb_extension": _platform(pins)["sha256"][f"{name}.duckdb_extension"] for name in names}
    absent = cache.missing(home, sums)
    if absent:
        _fetch_extensions(pins["version"], absent, home, sums)
    cache.write_stamp(home, sums)
    return home


def _fetch_extensions(version: str, files: list[str], home: pathlib.Path, sums: dict[str, str]) -> None:
    names = [file.removesuffix(".duckdb_extension") for file in files]
    cache.say(f"fetching the DuckDB extensions {', '.join(names)} (Python wheels, {version})")
    with cache.workspace() as work:
        wheels = [f"duckdb-extension-{name}=={version}" for name in names]
        cache.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--disable-pip-version-check", "-d", work, *wheels], PIP)
        for name, file in zip(names, files):
            wheel = next(work.glob(f"duckdb_extension_{name.replace('-', '_')}-*.whl"))
            with zipfile.ZipFile(wheel) as archive, open(work / file, "wb") as target:
                member = next(entry for entry in archive.namelist() if entry.endswith("/" + file))
                with archive.open(member) as source:
                    _copy(source, target)
            cache.install(work / file, home / file, sums[file])


def _platform(pins: dict) -> dict:
    found = pins["platform"].get(cache.platform_name())
    if found is None:
        raise cache.SetupError(
            f"this platform ({cache.platform_name()}) has no pinned DuckDB; pinned are {', '.join(pins['platform'])}. "
            f"Set DUCKDB_LIB_DIR to a directory with the DuckDB {pins['version']} library and POLYNYA_EXTENSION_DIR "
            f"to one with its extensions ({', '.join(pins['extensions'])}).")
    return found


def _copy(source, target) -> None:
    while block := source.read(1 << 20):
        target.write(block)


if __name__ == "__main__":
    cache.main(build, sys.argv[1:], __doc__)
