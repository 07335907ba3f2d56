"""Fetches Iceberg's reference REST catalog and compiles the small server that runs it.

The jars are named in `iceberg-rest/pom.xml` and their sums in `pins.toml`; the server is
`tests/support/iceberg-rest/RestCatalogMain.java`.
"""
import hashlib
import pathlib
import sys

import cache
import maven

POM = cache.HERE / "iceberg-rest" / "pom.xml"
MAIN = cache.HERE.parent.parent / "tests" / "support" / "iceberg-rest" / "RestCatalogMain.java"
JDK = "Install a JDK (17 or newer)."


def build() -> dict[str, str]:
    """Makes the server available and returns its class path, with the server's own classes first."""
    with cache.locked("iceberg-rest"):
        jars = _jars()
        classes = _classes(jars)
    return {"POLYNYA_ICEBERG_REST_CLASSPATH": ":".join(map(str, [classes, *jars]))}


def _jars() -> list[pathlib.Path]:
    sums = cache.pins()["iceberg-rest"]["sha256"]
    home = cache.root() / f"iceberg-rest-{_short_hash(repr(sorted(sums.items())).encode())}"
    if cache.missing(home, sums):
        cache.say(f"fetching Iceberg's reference REST catalog ({len(sums)} jars)")
        with cache.workspace() as work:
            maven.copy_dependencies(POM, work / "jars")
            unknown = {path.name for path in (work / "jars").iterdir()} ^ set(sums)
            if unknown:
                raise cache.SetupError(f"{POM.name} and pins.toml disagree about: {', '.join(sorted(unknown))}")
            for name, expected in sums.items():
                cache.install(work / "jars" / name, home / name, expected)
    cache.write_stamp(home, sums)
    return [home / name for name in sums]


def _classes(jars: list[pathlib.Path]) -> pathlib.Path:
    home = jars[0].parent / f"classes-{_short_hash(MAIN.read_bytes())}"
    if not home.exists():
        cache.say(f"compiling {MAIN.name}")
        with cache.workspace() as work:
            class_path = ":".join(map(str, jars))
            cache.run(["javac", "--release", "17", "-nowarn", "-d", work / "classes", "-cp", class_path, MAIN], JDK)
            (work / "classes").rename(home)
    return home


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


if __name__ == "__main__":
    cache.main(build, sys.argv[1:], __doc__)
