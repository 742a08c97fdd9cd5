"""How much memory is left, told from files as Linux has them."""

from pathlib import Path

import pytest

from pipeline.support.memory import available

MIB = 1 << 20


@pytest.fixture
def linux(tmp_path):
    """An empty /proc with 8000 MiB available, and no control groups."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 16384000 kB\nMemAvailable: 8192000 kB\n")
    (tmp_path / "groups").mkdir()
    return tmp_path


def room(linux: Path) -> int | None:
    found = available(linux / "proc", linux / "groups")
    return None if found is None else found // MIB


def group(linux: Path, line: str, folder: str, files: dict[str, str]) -> None:
    (linux / "proc" / "self" / "cgroup").write_text(line)
    (linux / "groups" / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (linux / "groups" / folder / name).write_text(text)


def test_here_there_is_some():
    total = Path("/proc/meminfo").read_text().split()[1]
    assert 0 < available() <= int(total) * 1024


def test_without_groups_it_is_the_machine(linux):
    assert room(linux) == 8000
    (linux / "proc" / "meminfo").unlink()
    assert room(linux) is None


def test_a_group_above_limits_what_is_below_and_cache_is_not_taken(linux):
    limited = {"memory.max": f"{1000 * MIB}", "memory.current": f"{700 * MIB}"}
    group(linux, "0::/a/b\n", "a", {**limited, "memory.stat": f"anon 5\nfile {200 * MIB}\n"})
    group(linux, "0::/a/b\n", "a/b", {"memory.max": "max\n", "memory.current": "0"})
    assert room(linux) == 500
    group(linux, "0::/a/b\n", "a/b", {"memory.max": f"{300 * MIB}\n"})
    assert room(linux) == 300


def test_the_older_groups_are_known(linux):
    limited = {"memory.limit_in_bytes": f"{900 * MIB}", "memory.usage_in_bytes": f"{100 * MIB}"}
    group(linux, "12:cpu,memory:/job\n3:pids:/x\n", "memory/job", limited)
    assert room(linux) == 800
    group(linux, "12:memory:/job\n", "memory/job", {"memory.usage_in_bytes": f"{950 * MIB}"})
    assert room(linux) == 0, "never less than nothing"
