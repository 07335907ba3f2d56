"""What the bench, interop and soak programs share: a gateway of the release binary on port 0, Iceberg's reference REST server, DuckDB
itself on the same files, what processes use, and the dated page under docs/results. Owns no measurement of its own."""

import contextlib
import datetime
import json
import os
import platform
import re
import sqlite3
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target" / "release" / "polynya"


class Gateway:
    """`polynya serve` on port 0; ends with the `with` block."""

    def __init__(self, lake, *settings, binary=None):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log", delete=False)
        command = [str(binary or BINARY), "serve", "--listen", "127.0.0.1:0", "--set", f"catalogs.lake.path={lake}"]
        for setting in settings:
            command += ["--set", setting]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.uri = line_with(self.process, r"grpc://\S+", self.log.name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        Path(self.log.name).unlink(missing_ok=True)

    def log_text(self):
        """What gateway and workers have logged."""
        return Path(self.log.name).read_text()

    def processes(self):
        """The gateway's process id and those of its workers."""
        children = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            # A thread may end while it is looked at.
            with contextlib.suppress(FileNotFoundError):
                children += [int(pid) for pid in (task / "children").read_text().split()]
        return [self.process.pid, *children]

    def memory(self):
        """Memory of gateway and workers together in bytes; shared pages count once."""
        return sum(pss(pid) for pid in self.processes())

    def cpu(self):
        """CPU seconds of gateway and workers together."""
        return sum(cpu_seconds(pid) for pid in self.processes())


class ReferenceRest:
    """Iceberg's own reference REST catalog on SQLite and local files; ends with the `with` block."""

    def __init__(self):
        self.dir = tempfile.TemporaryDirectory()
        self.warehouse = f"file://{self.dir.name}/warehouse"
        self.log = open(f"{self.dir.name}/log", "w+")
        classpath = os.environ["POLYNYA_ICEBERG_REST_CLASSPATH"]
        command = ["java", "-Xmx512m", "-cp", classpath, "RestCatalogMain", f"{self.dir.name}/catalog.db", self.warehouse]
        # It ends when its standard input does.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.port = line_with(self.process, r"LISTENING \d+", self.log.name).split()[1]

    def settings(self):
        """`--set` pairs that add it as catalog `rest`, by its token endpoint."""
        return [
            "catalogs.rest.type=rest",
            f"catalogs.rest.uri=http://127.0.0.1:{self.port}",
            "catalogs.rest.warehouse=main",
            "catalogs.rest.credentials={type: oauth2, client_id: gateway, client_secret: secret, scope: catalog}",
            f"catalogs.rest.allowed_locations=['{self.warehouse}']",
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()
        self.dir.cleanup()


class StandIn:
    """The stand-in for Polaris with the warehouse `lakehouse`, whose principals have the secrets `<name>-secret`; ends with the `with` block.
    `setup` is a file that says otherwise, `program` a stand-in that is built already."""

    def __init__(self, principals, setup=None, program=None):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        # Cargo's word on what it builds goes to the log; the first line on standard output is the stand-in's own.
        command = [program] if program else ["cargo", "run", "--quiet", "--locked", "--example", "polaris-stand-in", "--"]
        command += [setup] if setup else []
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.told = json.loads(line_with(self.process, r"\{.*\}", self.log.name))
        for name in principals:
            if name not in ("root", "engineer", "analyst"):
                new = {"name": name, "client_id": f"{name}-client-id", "client_secret": f"{name}-secret", "roles": ["engineers"]}
                self.tell("create-principal", create_principal=new)

    def tell(self, command, **arguments):
        """One command of its control port; gives the answer."""
        request = urllib.request.Request(f"{self.told['control']}/{command}", json.dumps(arguments).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def settings(self, principal):
        """`--set` pairs that add it as catalog `rest`, by this principal's credentials or without any."""
        credentials = f"{{type: oauth2, client_id: {principal}-client-id, client_secret: {principal}-secret}}" if principal else "{type: none}"
        return [
            "catalogs.rest.type=rest",
            f"catalogs.rest.uri={self.told['uri']}",
            "catalogs.rest.warehouse=lakehouse",
            f"catalogs.rest.credentials={credentials}",
            f"catalogs.rest.allowed_locations=['{self.told['locations'][0]}']",
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def line_with(process, pattern, log):
    """Waits for a line of the process's output with this pattern; gives what matched."""
    for line in process.stdout:
        found = re.search(pattern, line)
        if found:
            return found.group(0)
    raise SystemExit(f"{process.args[0]} did not come up: {Path(log).read_text()}")


def duckdb_on(lake, schema="bronze"):
    """DuckDB in this process with a view over each table of a schema of an embedded catalog: the same files, without the gateway."""
    import duckdb

    own = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    for extension in ("avro", "httpfs", "iceberg", "tpch"):
        own.execute(f"LOAD '{os.environ['POLYNYA_EXTENSION_DIR']}/{extension}.duckdb_extension'")
    for database in Path(lake).glob("*.db"):
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as catalog:
            sql = "SELECT table_name, metadata_location FROM iceberg_tables WHERE table_namespace = ?"
            for table, metadata in catalog.execute(sql, [schema]).fetchall():
                own.execute(f"CREATE VIEW {table} AS FROM iceberg_scan('{metadata.removeprefix('file://')}')")
    return own


def pss(pid):
    """Proportional set size of a process in bytes; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1)) * 1024


def cpu_seconds(pid):
    """User and system time of a process in seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def handles(pid):
    """Open file handles of a process; 0 when it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def threads(pid):
    """Threads of a process; 0 when it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


class Peak:
    """The highest memory of a gateway and its workers while the `with` block runs."""

    def __init__(self, gateway, every=0.02):
        self.gateway, self.every, self.bytes = gateway, every, 0

    def __enter__(self):
        self.running = True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while self.running:
            self.bytes = max(self.bytes, self.gateway.memory())
            time.sleep(self.every)

    def __exit__(self, *_):
        self.running = False
        self.thread.join()


def demo_lake(scale):
    """A directory with the demo's catalog at this scale, made once and kept in the cache."""
    cache = Path(os.environ.get("POLYNYA_CACHE", Path.home() / ".cache" / "polynya"))
    lake = cache / f"demo-{scale}" / "lake"
    done = lake.parent / "done"
    if not done.exists():
        lake.parent.mkdir(parents=True, exist_ok=True)
        print(f"making TPC-H data at scale {scale} …", flush=True)
        subprocess.run([str(BINARY), "demo", "--scale", str(scale), "--listen", "127.0.0.1:0", "--dir", str(lake)], check=True, stdout=subprocess.DEVNULL)
        done.touch()
    return lake


def machine():
    """One line on the machine, for the head of a results page."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1)) / 2**20
    return f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()}), {memory:.0f} GiB, Linux {platform.release()}"


def revision():
    """The commit that was measured."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def page(kind, title, body):
    """Writes docs/results/<date>-<kind>.md and says where."""
    today = datetime.date.today().isoformat()
    path = ROOT / "docs" / "results" / f"{today}-{kind}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {title}\n\n{today}, commit {revision()}, {machine()}. Command: `make {kind}`.\n\n{body.strip()}\n")
    print(f"written: {path.relative_to(ROOT)}")
