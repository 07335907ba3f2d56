"""Runs one statement through the stock ADBC driver and prints its rows, one a line, fields separated by tabs.

The statement may be followed by the current catalog and schema to set before it runs. Where the gateway is, as whom to log in, and TLS
come from the environment, as in harness.py. A failure goes to standard error.
"""
import sys

import adbc_driver_flightsql.dbapi as flightsql

from harness import connect, rows

try:
    with connect() as connection:
        if len(sys.argv) > 2:
            connection.adbc_current_catalog = sys.argv[2]
        if len(sys.argv) > 3:
            connection.adbc_current_db_schema = sys.argv[3]
        for row in rows(connection, sys.argv[1]):
            print(*row, sep="\t")
except flightsql.Error as error:
    sys.exit(f"{type(error).__name__}: {error}")
