"""A real S3 server: SeaweedFS in a process of its own, with its data in a folder of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from pipeline.storage.uris import Storage

BUCKET = "bucket"
KEY, SECRET = "test-key-id", "test-secret"
_STARTS_WITHIN_S = 120


class Server:
    """SeaweedFS on free ports with an empty bucket BUCKET; `storage` says how to reach it.

    Args:
        public: everyone may read the bucket without credentials.
    """

    def __init__(self, folder: Path, *, public: bool = False) -> None:
        weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
        s3, *other_ports = _free_ports(6)
        names = ("master.port", "volume.port", "filer.port", "admin.port", "s3.port.grpc")
        self._command = [
            *(weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={BUCKET}"),
            *(f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-{name}={port}" for name, port in zip(names, other_ports, strict=True)),
            *("-master.telemetry=false", "-webdav=false", "-admin.ui=false"),
        ]
        self._folder = folder
        if public:
            folder.mkdir(parents=True, exist_ok=True)
            config = folder.with_suffix(".json")
            owner = {"credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
            everyone = {"name": "anonymous", "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"]}
            config.write_text(json.dumps({"identities": [{"name": "owner", **owner}, everyone]}))
            self._command.append(f"-s3.config={config}")
        self.storage = Storage(
            endpoint_url=f"http://127.0.0.1:{s3}", region="us-east-1", key=KEY, secret=SECRET
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server, or restart it on the same ports and data, and wait for its bucket."""
        secrets = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "GOMEMLIMIT": "400MiB"}
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder.with_suffix(".log")
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command,
                env=os.environ | secrets,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
            )
        try:
            _wait(self._process, self.storage, log)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self._process.kill()
        self._process.wait()


def _wait(server: subprocess.Popen, storage: Storage, log: Path) -> None:
    """Wait until the bucket exists."""
    from botocore.exceptions import BotoCoreError, ClientError

    until = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(str(storage.endpoint_url), timeout=10).close()
        except urllib.error.HTTPError:
            pass  # the server answers, only not with success
        except OSError:
            time.sleep(0.1)
            continue
        try:
            fs, path = storage.open(f"s3://{BUCKET}")
            fs.ls(path)
            return
        except (OSError, BotoCoreError, ClientError):
            time.sleep(0.1)
    raise RuntimeError(f"SeaweedFS did not come up:\n{log.read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    """Find ports that are free and whose gRPC ports, 10000 above, are free too."""
    ports: list[int] = []
    port = 20_000 + os.getpid() * 101 % 5_000  # processes that start at the same time begin far apart
    while len(ports) < count:
        port += 1
        if _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
