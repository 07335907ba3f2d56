"""Runs Maven to copy artefacts out of its repositories. Names no repository: the user's own settings decide."""
import pathlib

import cache

MAVEN = "Install Maven and a JDK (17 or newer)."


def copy_artefact(artefact: str, target: pathlib.Path) -> None:
    """Copies one artefact (`group:name:version`) into the directory `target`."""
    _maven("copy", f"-Dartifact={artefact}", f"-DoutputDirectory={target}", "-Dmdep.useBaseVersion=true")


def copy_dependencies(pom: pathlib.Path, target: pathlib.Path) -> None:
    """Copies everything that `pom` depends on at run time into the directory `target`."""
    _maven("copy-dependencies", "-f", pom, f"-DoutputDirectory={target}", "-DincludeScope=runtime")


def _maven(goal: str, *options) -> None:
    plugin = f"org.apache.maven.plugins:maven-dependency-plugin:{cache.pins()['maven']['dependency-plugin']}"
    # One at a time, since two processes that fill one empty local repository can spoil each other's files; and in an
    # empty directory, since Maven looks for a pom.xml where it runs.
    with cache.locked("maven"), cache.workspace() as work:
        cache.run(["mvn", "--quiet", "--batch-mode", f"{plugin}:{goal}", *options], MAVEN, cwd=work)
