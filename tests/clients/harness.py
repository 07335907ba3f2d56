"""Shared by the ADBC programs here: how they connect, compare and report. Knows no SQL of the project.

A program is a list of named cases. Each prints one JSON line, `{"case": …, "ok": …, "error": …}`; all run even when one
fails; the last line sums up, and the exit code is 1 when any case failed.

The gateway is told by the environment: `POLYNYA_URI` (grpc://127.0.0.1:PORT), and, unless it runs without
authentication, `POLYNYA_USER` and `POLYNYA_PASSWORD`, or `POLYNYA_TOKEN`. For TLS (grpc+tls://…) `POLYNYA_TLS_CA` is the file with the
authorities to trust, `POLYNYA_TLS_CERT` and `POLYNYA_TLS_KEY` those with the certificate to show and its key. `POLYNYA_OPTIONS` has other
options of the driver, `name=value` on a line each.
"""
import json
import math
import os
import sys
import time
import traceback
from pathlib import Path

import adbc_driver_flightsql.dbapi as flightsql
from adbc_driver_flightsql import DatabaseOptions

TLS_OPTIONS = {
    "POLYNYA_TLS_CA": DatabaseOptions.TLS_ROOT_CERTS,
    "POLYNYA_TLS_CERT": DatabaseOptions.MTLS_CERT_CHAIN,
    "POLYNYA_TLS_KEY": DatabaseOptions.MTLS_PRIVATE_KEY,
}


def connect(**options) -> flightsql.Connection:
    """Opens a connection to the gateway under test; the server has no transactions, hence autocommit."""
    database = {}
    if os.environ.get("POLYNYA_USER"):
        database = {"username": os.environ["POLYNYA_USER"], "password": os.environ.get("POLYNYA_PASSWORD", "")}
    elif os.environ.get("POLYNYA_TOKEN"):
        database = {DatabaseOptions.AUTHORIZATION_HEADER.value: "Bearer " + os.environ["POLYNYA_TOKEN"]}
    for variable, option in TLS_OPTIONS.items():
        if os.environ.get(variable):
            database[option.value] = Path(os.environ[variable]).read_text()
    for line in os.environ.get("POLYNYA_OPTIONS", "").splitlines():
        name, _, value = line.partition("=")
        database[name] = value
    uri = options.pop("uri", None) or os.environ.get("POLYNYA_URI")
    if not uri:
        sys.exit("POLYNYA_URI is not set: the gateway's address, such as grpc://127.0.0.1:31337")
    return flightsql.connect(uri, db_kwargs=database | options, autocommit=True)


class Mismatch(AssertionError):
    """Something came back other than expected; the text has both."""


def equal(got, expected, what: str) -> None:
    if got != expected:
        raise Mismatch(f"{what}: expected {expected!r}, got {got!r}")


def holds(condition, what: str) -> None:
    if not condition:
        raise Mismatch(what)


def fails(call, *fragments: str, what: str) -> str:
    """Runs `call`, which must raise a database error whose text has every fragment; returns that text."""
    try:
        result = call()
    except flightsql.Error as error:
        text = str(error)
        for fragment in fragments:
            holds(fragment.lower() in text.lower(), f"{what}: the error does not say {fragment!r}: {text}")
        return text
    raise Mismatch(f"{what}: expected an error, got {result!r}")


def rows(connection, sql: str, parameters=None) -> list[tuple]:
    """Runs one query with a cursor of its own and returns all its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def same_value(got, expected) -> bool:
    """Equal in type family and value; floats to a relative 1e-9, since summing in another order changes the last bits."""
    if isinstance(expected, float) and isinstance(got, float):
        return got == expected or (math.isnan(got) and math.isnan(expected)) or math.isclose(got, expected, rel_tol=1e-9)
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)):
        return len(got) == len(expected) and all(map(same_value, got, expected))
    if isinstance(expected, dict) and isinstance(got, dict):
        return got.keys() == expected.keys() and all(same_value(got[key], expected[key]) for key in expected)
    return got == expected and isinstance(got, bool) == isinstance(expected, bool)


def same_rows(got: list[tuple], expected: list[tuple], ordered: bool = True) -> None:
    """Compares results row for row; without an order, as multisets."""
    equal(len(got), len(expected), "number of rows")
    if not ordered:
        got, expected = sorted(got, key=_sort_key), sorted(expected, key=_sort_key)
    for number, (left, right) in enumerate(zip(got, expected)):
        equal(len(left), len(right), f"number of columns in row {number}")
        for column, (a, b) in enumerate(zip(left, right)):
            holds(same_value(a, b), f"row {number}, column {column}: expected {b!r}, got {a!r}")


def _sort_key(row: tuple) -> list:
    # Floats are rounded so that two that count as equal also sort alike.
    return [(value is None, type(value).__name__, f"{value:.6e}" if isinstance(value, float) else str(value))
            for value in row]


def run(cases: dict, only: list[str] | None = None, program: str | None = None) -> None:
    """Runs the cases (name to function without arguments), prints their outcome, and ends the program."""
    failed = []
    chosen = {name: case for name, case in cases.items() if not only or name in only}
    for name, case in chosen.items():
        started = time.monotonic()
        outcome = {"case": name, "ok": True}
        try:
            case()
        except Exception as error:  # every failure becomes a line of the report
            place = traceback.extract_tb(error.__traceback__)
            at = next((frame for frame in reversed(place) if not frame.filename.endswith("harness.py")), place[-1])
            outcome |= {"ok": False, "error": f"{type(error).__name__}: {error}",
                        "at": f"{os.path.basename(at.filename)}:{at.lineno}"}
            failed.append(name)
        outcome["ms"] = round((time.monotonic() - started) * 1000)
        print(json.dumps(outcome), flush=True)
    print(json.dumps({"program": program or os.path.basename(sys.argv[0]), "ok": not failed and bool(chosen),
                      "cases": len(chosen), "failed": failed}), flush=True)
    sys.exit(1 if failed or not chosen else 0)
