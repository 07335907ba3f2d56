"""Logs in by the stock ADBC driver in each of the ways that its arguments say, and runs one statement each time.

An argument is a way: lines of `option=value` for the database, with the driver's own names. For each a line is printed: `in`, a tab and
the first value of the statement in `POLYNYA_SQL`, or `refused`, a tab and what the driver says. Address and TLS come from the environment,
as in harness.py.
"""
import os
import sys

import adbc_driver_flightsql.dbapi as flightsql

from harness import connect, rows

for way in sys.argv[1:]:
    options = dict(line.split("=", 1) for line in way.splitlines())
    try:
        with connect(**options) as connection:
            print("in", rows(connection, os.environ["POLYNYA_SQL"])[0][0], sep="\t", flush=True)
    except flightsql.Error as error:
        print("refused", " ".join(f"{type(error).__name__}: {error}".split()), sep="\t", flush=True)
