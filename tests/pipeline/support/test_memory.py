"""Test how available memory is computed from Linux's files, and that freed memory is kept."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.support.memory import available

MIB = 1 << 20


@pytest.fixture
def linux(tmp_path):
    """Make a /proc with 8000 MiB available and no control groups."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 16384000 kB\nMemAvailable: 8192000 kB\n")
    (tmp_path / "groups").mkdir()
    return tmp_path


def free_mib(linux: Path) -> int | None:
    free_bytes = available(linux / "proc", linux / "groups")
    return None if free_bytes is None else free_bytes // MIB


def group(linux: Path, line: str, folder: str, files: dict[str, str]) -> None:
    (linux / "proc" / "self" / "cgroup").write_text(line)
    (linux / "groups" / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (linux / "groups" / folder / name).write_text(text)


def test_this_machine_has_available_memory():
    total = Path("/proc/meminfo").read_text().split()[1]
    assert 0 < available() <= int(total) * 1024


def test_without_control_groups_the_machine_counts(linux):
    assert free_mib(linux) == 8000
    (linux / "proc" / "meminfo").unlink()
    assert free_mib(linux) is None


def test_a_parent_group_limits_its_children_and_file_cache_counts_as_free(linux):
    limited = {"memory.max": f"{1000 * MIB}", "memory.current": f"{700 * MIB}"}
    group(linux, "0::/a/b\n", "a", {**limited, "memory.stat": f"anon 5\nfile {200 * MIB}\n"})
    group(linux, "0::/a/b\n", "a/b", {"memory.max": "max\n", "memory.current": "0"})
    assert free_mib(linux) == 500
    group(linux, "0::/a/b\n", "a/b", {"memory.max": f"{300 * MIB}\n"})
    assert free_mib(linux) == 300


def test_control_groups_of_version_1(linux):
    limited = {"memory.limit_in_bytes": f"{900 * MIB}", "memory.usage_in_bytes": f"{100 * MIB}"}
    group(linux, "12:cpu,memory:/job\n3:pids:/x\n", "memory/job", limited)
    assert free_mib(linux) == 800
    group(linux, "12:memory:/job\n", "memory/job", {"memory.usage_in_bytes": f"{950 * MIB}"})
    assert free_mib(linux) == 0, "never negative"


FAULTS = """
import platform, resource, sys
import numpy as np
from pipeline.support.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, again = faults(), faults()
print(first, again, platform.libc_ver()[0])
"""


@pytest.mark.parametrize("how", ["by itself", "kept"])
def test_large_blocks_that_were_freed_are_used_again(how):
    """By itself glibc maps each anew: the kernel clears all its pages, one fault each."""
    told = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    first, again, library = told.stdout.split(maxsplit=2)
    if library.strip() != "glibc":
        pytest.skip("another C library has other rules")
    assert int(again) < 100 if how == "kept" else int(again) > 0.9 * int(first)
