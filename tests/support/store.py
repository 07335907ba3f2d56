"""A real MinIO on loopback, and a set-up of the stand-in for Polaris whose tables lie in it and come with keys for it: for the bench and the
soak runs. Owns no measurement."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from runner import StandIn

# The keys that the catalog vends.
KEY, SECRET = "polynya-root", "not-to-be-seen-anywhere"
BUCKET = "lake"


class Minio:
    """A store; ends with the `with` block."""

    def __init__(self):
        self.dir = tempfile.TemporaryDirectory()
        # To MinIO a directory beside its own is a bucket.
        (Path(self.dir.name) / BUCKET).mkdir()
        self.start()

    def start(self):
        address, console = (f"127.0.0.1:{port}" for port in free_ports(2))
        environment = {**os.environ, "MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "MINIO_CI_CD": "1"}
        command = [os.environ["POLYNYA_MINIO"], "server", "--quiet", "--address", address, "--console-address", console, self.dir.name]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.endpoint = f"http://{address}"

    def __enter__(self):
        until, tries = time.monotonic() + 180, 1
        while True:
            try:
                urllib.request.urlopen(f"{self.endpoint}/minio/health/cluster").read()
                return self
            except OSError:
                # It ends when somebody else has taken a port of its.
                ended = self.process.poll() is not None
                if time.monotonic() > until or (ended and tries == 5):
                    raise
                if ended:
                    tries += 1
                    self.start()
                time.sleep(0.05)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.dir.cleanup()


def free_ports(number):
    # All are held until all are known, so that they differ.
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def vending(store, namespaces, lifetime_s=900, program=None):
    """A stand-in with the principal `engineer` and the warehouse `lakehouse` in this store, whose keys are said to live so long."""
    s3 = {"base": f"s3://{BUCKET}/lakehouse/", "endpoint": store.endpoint, "region": "us-east-1", "lifetime_s": lifetime_s}
    s3 |= {"access_key_id": KEY, "secret_access_key": SECRET, "session_token": ""}
    everything = [{"privilege": "CATALOG_MANAGE_CONTENT"}]
    warehouse = {"name": "lakehouse", "s3": s3, "namespaces": namespaces, "roles": {"content_writer": everything}}
    engineer = {"name": "engineer", "client_id": "engineer-client-id", "client_secret": "engineer-secret", "roles": ["engineers"]}
    realm = {"name": "POLARIS", "warehouses": [warehouse], "principals": [engineer], "principal_roles": {"engineers": ["lakehouse.content_writer"]}}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"realms": [realm]}, file)
        file.flush()
        with StandIn([], setup=file.name, program=program) as polaris:
            yield polaris
