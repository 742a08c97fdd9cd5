"""Test the limit on allocations: in threads, at a process's first read, and after a fork."""

import resource
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.support.memory import at_most
from tests.support.tars import jpeg

MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("nothing_kept")


def fails(size):
    try:
        bytearray(size)
    except MemoryError:
        return True
    return False


def run_python(code, *arguments):
    """Run code in a process of its own; returns what it prints."""
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_nested_limits_are_the_stricter_one_and_end_with_their_blocks():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with at_most(1024 * MIB):
        with at_most(64 * MIB):
            assert fails(256 * MIB)
        assert not fails(256 * MIB)
        with at_most(4096 * MIB):
            assert fails(2048 * MIB), "an inner limit does not widen the outer one"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_threads_that_overlap_leave_no_limit_and_lift_none():
    """Each thread finds its own limit in force from its block's beginning to its end."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    barrier, faults = threading.Barrier(6), []

    def read():
        barrier.wait()
        for _ in range(200):
            with at_most(64 * MIB):
                inside = resource.getrlimit(resource.RLIMIT_DATA)
                if (
                    inside == before
                    or not fails(512 * MIB)
                    or resource.getrlimit(resource.RLIMIT_DATA) != inside
                ):
                    faults.append(inside)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def enter():
    with at_most(64 * MIB):
        pass


def test_a_limit_is_lifted_when_the_block_raises():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(KeyboardInterrupt), at_most(64 * MIB):
        raise KeyboardInterrupt
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    other = threading.Thread(target=enter, daemon=True)
    other.start()
    other.join(60)
    assert not other.is_alive(), "other threads are still kept out"


READ = """
import sys
from pipeline.sources.base import Want
from pipeline.sources.parquet import Parquet
from pipeline.storage.uris import Storage
source, storage = Parquet(path=sys.argv[1]), Storage()
for shard in source.shards(source.entries(storage), storage):
    for sample in source.samples(shard, storage, lambda _: Want.ALL):
        print(sample.questions[0].text, sample.fault)
"""


def test_the_first_parquet_batch_of_a_process_is_read(tmp_path):
    pq.write_table(pa.table({"image": [jpeg(1)], "question": ["what?"]}), tmp_path / "a.parquet")
    assert run_python(READ, tmp_path) == "what? None"


RESERVING = """
import sys, threading
import pyarrow as pa
from pipeline.support.memory import at_most
held = [pa.allocate_buffer(1 << 20) for _ in range(int(sys.argv[1]))]
with at_most(1 << 30):
    new = pa.allocate_buffer(600 << 20)
    thread = threading.Thread(target=print, args=("started",))
    thread.start()
    thread.join()
    try:
        pa.allocate_buffer(2 << 30)
    except MemoryError:
        print("refused")
"""


@pytest.mark.parametrize("held_mib", [0, 300, 500, 900])
def test_what_arrow_reserves_for_itself_leaves_room_for_a_thread(held_mib):
    assert run_python(RESERVING, held_mib) == "started\nrefused"


FORKING = """
import os, resource, threading
from pipeline.support.memory import at_most
inside, forked = threading.Event(), threading.Event()
def read():
    with at_most(1 << 28):
        inside.set()
        forked.wait(0.2)
threading.Thread(target=read).start()
inside.wait()
child = os.fork()
if not child:
    with at_most(1 << 28):
        pass
    os._exit(resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY)
forked.set()
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY, reason="the tests' own limit"
)
def test_a_process_forked_meanwhile_is_not_limited():
    assert run_python(FORKING) == "0"
