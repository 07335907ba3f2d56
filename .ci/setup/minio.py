"""Builds MinIO, the S3 store of the tests, from the sources that `minio/go.mod` and `minio/go.sum` pin.

There is no program to fetch: Go's module registry has sources only. Building takes some nine minutes on two cores, at low
priority, so that it can run beside other work. Go checks every module against its sum; what comes out of it depends on
the version of Go too, and is kept by both. A user who has MinIO sets `POLYNYA_MINIO` to the program.
"""
import hashlib
import os
import pathlib
import shutil
import sys

import cache

MODULE = cache.HERE / "minio"
PACKAGE = "github.com/minio/minio"
GO = "Install Go (1.24 or newer), or set POLYNYA_MINIO to a MinIO that you have."


def build() -> dict[str, str]:
    """Makes the program available and returns the variable that points at it."""
    given = os.environ.get("POLYNYA_MINIO")
    if given and not pathlib.Path(given).is_relative_to(cache.root()):
        if not shutil.which(given):
            raise cache.SetupError(f"POLYNYA_MINIO is {given}, which is not an executable")
        cache.say(f"using {given} (POLYNYA_MINIO)")
        return {"POLYNYA_MINIO": given}
    with cache.locked("minio"):
        program = cache.root() / f"minio-{_pins()}" / "minio"
        if not program.exists():
            _build(program)
    return {"POLYNYA_MINIO": str(program)}


def _build(program: pathlib.Path) -> None:
    cache.say("building MinIO (nine minutes on two cores, at low priority)")
    with cache.workspace() as work:
        # The sums are the pins: nothing may change them, and another Go than the installed one is not fetched.
        environment = ["env", "GOFLAGS=-mod=readonly", "GOTOOLCHAIN=local", "nice", "-n", "10"]
        cache.run([*environment, "go", "build", "-C", MODULE, "-trimpath", "-ldflags=-s -w", "-o", work / "minio", PACKAGE], GO)
        program.parent.mkdir(parents=True, exist_ok=True)
        (work / "minio").replace(program)


def _pins() -> str:
    version = cache.run(["go", "env", "GOVERSION"], GO).strip()
    content = b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum")) + version.encode()
    return hashlib.sha256(content).hexdigest()[:12]


if __name__ == "__main__":
    cache.main(build, sys.argv[1:], __doc__)
