"""Drives the measuring program of `make bench` (benches/probe): finds it, gives it orders, and adds the CPU time of the server that
answered. Owns no statistics and no page."""

import json
import os
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from runner import cpu_seconds  # noqa: E402

SCHEMA = "bronze"


def built():
    """Builds what is measured, optimised, in one step so that all have the same dependencies; paths of the programs by name."""
    targets = ["--bin", "polynya", "--bench", "probe", "--example", "polaris-stand-in"]
    command = ["cargo", "build", "--release", "--locked", *targets, "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    made = [json.loads(line) for line in output.splitlines()]
    return {one["target"]["name"]: one["executable"] for one in made if one.get("executable")}


class Probe:
    """One running probe; it ends with the `with` block, as it does when its standard input closes."""

    def __init__(self, program, *arguments):
        self.process = subprocess.Popen([program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)

    def address(self):
        """Where a probe that serves can be reached."""
        return f"http://127.0.0.1:{self.process.stdout.readline().split()[1]}"

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def ask(self, order, server=None):
        """What came of an order, with the CPU seconds of the probe and, where there is one, of the server behind it."""
        own, served = self.cpu(), server() if server else 0
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the probe ended in the middle of {order}")
        return {**json.loads(answer), "client_cpu": self.cpu() - own, "server_cpu": (server() if server else 0) - served}


def extensions():
    """Statements that give an instance the extensions of a worker."""
    return ";".join(f"LOAD '{os.environ['POLYNYA_EXTENSION_DIR']}/{name}.duckdb_extension'" for name in ("avro", "httpfs", "iceberg"))


def metadata_of(lake):
    """The metadata file of each table of an embedded catalog's schema."""
    tables = {}
    for database in Path(lake).glob("*.db"):
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as catalog:
            tables.update(catalog.execute("SELECT table_name, metadata_location FROM iceberg_tables WHERE table_namespace = ?", [SCHEMA]))
    return tables


def same_files(lake):
    """Set-up of an instance that reads the same tables without any catalog."""
    views = [f"CREATE VIEW {table} AS FROM iceberg_scan('{metadata.removeprefix('file://')}')" for table, metadata in metadata_of(lake).items()]
    return ";".join([extensions(), *views])


def attached(port):
    """Set-up of an instance that attaches an Iceberg REST catalog itself."""
    options = f"TYPE iceberg, ENDPOINT 'http://127.0.0.1:{port}', AUTHORIZATION_TYPE 'none', ACCESS_DELEGATION_MODE 'none'"
    return f"{extensions()};ATTACH 'main' AS rest ({options})"


def register(port, lake):
    """Names the tables of an embedded catalog in a REST catalog too; the files are the same."""

    def post(path, body):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/{path}", json.dumps(body).encode(), {"content-type": "application/json"})
        urllib.request.urlopen(request).read()

    post("namespaces", {"namespace": [SCHEMA]})
    for table, metadata in metadata_of(lake).items():
        post(f"namespaces/{SCHEMA}/register", {"name": table, "metadata-location": metadata})
