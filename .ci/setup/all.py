"""Fetches every external part at once: DuckDB, the stock clients, Iceberg's reference REST catalog. MinIO, which takes long to
build, has a script of its own."""
import concurrent.futures
import sys

import cache
import clients
import duckdb
import iceberg_rest


def build() -> dict[str, str]:
    """Runs the three set-ups side by side and returns all their variables; the first failure is reported."""
    variables = {}
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        for part in [threads.submit(module.build) for module in (duckdb, clients, iceberg_rest)]:
            variables |= part.result()
    return variables


if __name__ == "__main__":
    cache.main(build, sys.argv[1:], __doc__)
