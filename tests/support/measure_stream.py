"""Measure how much memory reading a large tar takes.

By hand: python -m tests.support.measure_stream --gib 2 [--ray].

Writes a tar of random bytes, streams it through `read_shard` in a fresh process, from the local disk and
from SeaweedFS, and prints the peak above the memory held at the start, in MiB and in multiples of a unit.
With --ray it also runs the whole pipeline over the tar (no image decodes, so nothing is generated) and
measures the private memory of the reading workers.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from pipeline.sources.base import files_of
from pipeline.storage.uris import Storage

MIB = 1 << 20


def write_random_tar(path: Path, size: int, *, seed: int = 0) -> Path:
    """Write a WebDataset tar of about `size` bytes with random images of 200 to 500 KB.

    Each image begins like a JPEG and has one question.
    """
    import tarfile

    from tests.support.tars import add

    numbers = random.Random(seed)
    with tarfile.open(path, "w") as tar:
        index = 0
        while tar.offset < size:
            data = b"\xff\xd8\xff\xe0" + numbers.randbytes(numbers.randint(200_000, 500_000))
            add(tar, f"{index:06d}.jpg", data)
            add(tar, f"{index:06d}.json", b'{"question": "what is it?"}')
            index += 1
    return path


def measure(uri: str, storage: Storage, unit_bytes: int) -> dict[str, float]:
    """Run `_stream` in a fresh process and return its statistics."""
    names = {"AWS_ACCESS_KEY_ID": storage.key, "AWS_SECRET_ACCESS_KEY": storage.secret}
    names |= {"AWS_ENDPOINT_URL": storage.endpoint_url, "AWS_REGION": storage.region}
    command = [
        sys.executable,
        "-m",
        "tests.support.measure_stream",
        "--stream",
        uri,
        "--unit-bytes",
        str(unit_bytes),
    ]
    credentials = {name: value for name, value in names.items() if value}
    done = subprocess.run(command, env=os.environ | credentials, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _stream(uri: str, unit_bytes: int) -> dict[str, float]:
    """Read a tar from end to end in this process, releasing each unit after it was read."""
    from pipeline.output.units import UnitLimits
    from pipeline.sources.task import Task
    from pipeline.sources.webdataset import WebDataset
    from pipeline.stages.read import read_shard
    from pipeline.stages.rows import unpack_unit

    storage = Storage()
    source = WebDataset(path=uri)
    (shard,) = source.shards(
        files_of(source, storage), storage
    )  # imports the store's libraries before the measurement
    task, limits = (
        Task(source_questions=True),
        UnitLimits(unit_samples=10**6, unit_requests=10**6, unit_bytes=unit_bytes),
    )
    units = samples = 0
    baseline, started = memory("self"), time.monotonic()
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    with Watch(lambda: ["self"]) as watch:
        for row in read_shard(source, shard, storage=storage, task=task, limits=limits, finished={}):
            unit = unpack_unit(row).unit
            units, samples = units + 1, samples + unit.stop - unit.first
            del row
    return {
        "seconds": time.monotonic() - started,
        "bytes": shard.size,
        "units": units,
        "samples": samples,
        "peak_bytes": memory("self")["VmHWM"] - baseline["VmRSS"],
        "peak_private_bytes": watch.peak - baseline["RssAnon"],
    }


def memory(pid: str) -> dict[str, int]:
    """Read a process's memory in bytes, by /proc's names; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(kb) << 10 for name, kb in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


class Watch:
    """Record the largest private memory of some processes every 5 ms while the block runs."""

    def __init__(self, pids):
        self.peak, self.low = 0, 1 << 60
        self._pids, self._stop = pids, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _look(self):
        while not self._stop.wait(0.005):
            for private_bytes in (memory(pid).get("RssAnon") for pid in self._pids()):
                if private_bytes is not None:
                    self.peak, self.low = max(self.peak, private_bytes), min(self.low, private_bytes)


def _readers() -> list[str]:
    """Find Ray's workers that are reading now, by their process titles."""
    pids = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and b"(read)" in (folder / "cmdline").read_bytes()[:80]:
                pids.append(folder.name)
        except OSError:
            continue
    return pids


def _run_ray(path: Path, output: Path, unit_bytes: int) -> dict[str, float]:
    """Run the whole pipeline over a tar whose images do not decode."""
    trimline = Path(sys.executable).with_name("trimline")
    settings = ["task=vqa", "source=webdataset", "reducer=full", "max_failed_fraction=1"]
    settings += [f"source.path={path}", f"output={output}", f"unit_bytes={unit_bytes}", "unit_samples=400"]
    started = time.monotonic()
    with Watch(_readers) as watch:
        done = subprocess.run(
            [trimline, "annotate", *settings, "unit_requests=400"], timeout=600, check=False
        )
    assert done.returncode == 0, done.returncode
    return {"seconds": time.monotonic() - started, "peak_bytes": watch.peak, "low_bytes": watch.low}


def main() -> None:
    """Parse the command line and measure, as the module's docstring describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the tar")
    parser.add_argument("--unit-bytes", type=int, default=64 << 20)
    parser.add_argument("--ray", action="store_true", help="also run the whole pipeline")
    parser.add_argument("--folder", help="where the tar goes for as long as this runs")
    parser.add_argument("--stream", metavar="URI", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stream:
        print(json.dumps(_stream(args.stream, args.unit_bytes)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = write_random_tar(Path(folder) / "big.tar", int(args.gib * (1 << 30)))
        _show("local", measure(str(path), Storage(), args.unit_bytes), args.unit_bytes)
        if args.ray:
            _show_ray(_run_ray(path, Path(folder) / "output", args.unit_bytes), args.unit_bytes)
        from tests.support.s3 import BUCKET, Server

        with Server(Path(folder) / "s3") as server:
            storage = server.storage
            uri = f"s3://{BUCKET}/big.tar"
            fs, target = storage.open(uri)
            fs.put_file(str(path), target)
            _show("S3", measure(uri, storage, args.unit_bytes), args.unit_bytes)


def _show(name: str, stats: dict[str, float], unit_bytes: int) -> None:
    peak, private = stats["peak_bytes"], stats["peak_private_bytes"]
    print(
        f"{name:6} {stats['bytes'] / MIB:7.0f} MiB in {stats['seconds']:5.1f} s, {stats['units']:.0f} units, "
        f"{stats['samples']:.0f} samples; peak {peak / MIB:.0f} MiB = {peak / unit_bytes:.2f} units' worth, "
        f"private {private / MIB:.0f} MiB = {private / unit_bytes:.2f}",
        flush=True,
    )


def _show_ray(stats: dict[str, float], unit_bytes: int) -> None:
    above = stats["peak_bytes"] - stats["low_bytes"]
    print(
        f"in Ray {stats['seconds']:.1f} s; private memory of a reading worker from "
        f"{stats['low_bytes'] / MIB:.0f} to {stats['peak_bytes'] / MIB:.0f} MiB: {above / MIB:.0f} MiB = "
        f"{above / unit_bytes:.2f} units' worth, what it imports among them",
        flush=True,
    )


if __name__ == "__main__":
    main()
