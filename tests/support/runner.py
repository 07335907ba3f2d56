"""What the bench, interop and soak programs share: a gateway of the release binary on port 0, process memory, and the dated page
under docs/results. Owns no measurement of its own."""

import datetime
import os
import platform
import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target" / "release" / "polynya"


class Gateway:
    """`polynya serve` on port 0; ends with the `with` block."""

    def __init__(self, lake, *settings):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log", delete=False)
        command = [str(BINARY), "serve", "--listen", "127.0.0.1:0", "--set", f"catalogs.lake.path={lake}"]
        for setting in settings:
            command += ["--set", setting]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"grpc://\S+", line)
        if not found:
            raise SystemExit(f"the gateway did not come up: {line}{Path(self.log.name).read_text()}")
        self.uri = found.group(0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        Path(self.log.name).unlink(missing_ok=True)

    def processes(self):
        """The gateway's process id and those of its workers."""
        children = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            children += [int(pid) for pid in (task / "children").read_text().split()]
        return [self.process.pid, *children]

    def memory(self):
        """Memory of gateway and workers together in bytes; shared pages count once."""
        return sum(pss(pid) for pid in self.processes())

    def cpu(self):
        """CPU seconds of gateway and workers together."""
        return sum(cpu_seconds(pid) for pid in self.processes())


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
