"""Mark tests by what they use, group them for parallel workers, and fail unmarked slow tests.

A mark follows from a test's folder, its fixtures, and the code within `tests/` that it can reach, so nobody
has to add it by hand. Only `slow` and `demo` are written by hand.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
OF_FOLDERS = ("chaos", "fuzz")
OF_FIXTURES = {
    "ray": "ray",
    "reference": "process",
    "rich": "process",
    "installed": "process",
    "chromium": "browser",
}
OF_NAMES = {"subprocess": "process", "Node": "nodes"}  # a test whose code uses this name gets the mark
NOT_FOLLOWED = ("s3",)  # a fixture whose S3 server starts within a second
SHARED = ("ray", "reference", "rich", "installed")  # costly fixtures: the tests of each run in one worker
# `make quick` leaves these out.
NOT_QUICK = {"ray", "process", "nodes", "chaos", "fuzz", "browser", "demo", "slow"}
CPU_S, WALL_S = 10.0, 300.0  # with 300 s of waiting a busy machine is no fault of the test


@pytest.hookimpl(tryfirst=True)  # xdist writes the groups into the tests' names
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test; for parallel workers also group them, and put the longest groups first."""
    for item in items:
        for name in sorted(marks_of(item)):
            item.add_marker(name)
    if not (getattr(config.option, "loadgroup", False) or getattr(config.option, "dist", "") == "loadgroup"):
        return
    rank: dict[str, int] = {}
    for item in items:
        group = _group(item)
        item.add_marker(pytest.mark.xdist_group(group))
        rank[group] = min(rank.get(group, 9), _rank(item, group))
    items.sort(key=lambda item: rank[_group(item)])


def marks_of(item: pytest.Item) -> set[str]:
    """Compute a test's marks from its folder, its fixtures and the code that it reaches."""
    fixtures = [name for name in getattr(item, "fixturenames", ()) if name not in NOT_FOLLOWED]
    known = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    starts = [getattr(item, "function", None), *(known[name][-1].func for name in fixtures if name in known)]
    names: set[str] = set()
    _collect_names(starts, names, set())
    folders = item.path.parts[len(TESTS.parts) :]
    return {
        *(name for name in OF_FOLDERS if name in folders),
        *(mark for name, mark in OF_FIXTURES.items() if name in fixtures),
        *(mark for name, mark in OF_NAMES.items() if name in names),
    }


def _collect_names(functions: list[Any], names: set[str], visited: set[int]) -> None:
    """Add every name used by the functions and, recursively, by functions of `tests/` that they call."""
    for function in functions:
        function = getattr(function, "__wrapped__", function)
        if id(function) in visited:
            continue
        visited.add(id(function))
        if isinstance(function, type):
            if _is_ours(function.__module__):
                _collect_names(list(vars(function).values()), names, visited)
            continue
        function = getattr(function, "__func__", getattr(function, "fget", function))
        code = getattr(function, "__code__", None)
        if not isinstance(code, CodeType) or not Path(code.co_filename).is_relative_to(TESTS):
            continue
        used = _names_in(code)
        names |= used
        values = [function.__globals__.get(name) for name in used]
        modules = [value for value in values if isinstance(value, ModuleType) and _is_ours(value.__name__)]
        values += [getattr(module, name, None) for module in modules for name in used]
        _collect_names([value for value in values if callable(value)], names, visited)


def _names_in(code: CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


def _is_ours(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and Path(file).is_relative_to(TESTS)


def _group(item: pytest.Item) -> str:
    """Name the group that shares a costly fixture, or else the test's own file."""
    fixtures = getattr(item, "fixturenames", ())
    shared = next((name for name in SHARED if name in fixtures), None)
    return shared or item.path.relative_to(TESTS).as_posix()


def _rank(item: pytest.Item, group: str) -> int:
    if group in SHARED:
        return SHARED.index(group)
    marks = [mark.name for mark in item.iter_markers()]
    return len(SHARED) + next(
        (at for at, name in enumerate(("nodes", "slow", "process")) if name in marks), 3
    )


# --- time limits of unmarked tests ---


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(getattr(ray, "is_initialized", bool)())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test of `make quick` that is slow, and one that starts Ray without the mark for it.

    CPU time decides, because other processes on the machine delay a test. A test that takes a minute by the
    clock counts as slow in any case: it waits, or other processes work for it.
    """
    marks = {mark.name for mark in item.iter_markers()}
    most_cpu_s, most_wall_s = CPU_S, WALL_S  # read before the test, since test_marks.py changes them
    cpu_s, wall_s, ray_ran = _cpu_s(), time.monotonic(), _ray_runs()
    yield
    cpu_s, wall_s = _cpu_s() - cpu_s, time.monotonic() - wall_s
    if not marks & NOT_QUICK and (cpu_s > most_cpu_s or wall_s > most_wall_s):
        pytest.fail(
            f"took {cpu_s:.0f} s of CPU, {wall_s:.0f} s in all: make it quicker than {most_cpu_s:.0f} s, "
            "or mark it with pytest.mark.slow",
            pytrace=False,
        )
    if "ray" not in marks and _ray_runs() and not ray_ran:
        pytest.fail("started Ray in this process: take the fixture `ray`, which stops it", pytrace=False)


# --- skipped tests ---


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report how many tests of the report's pages were skipped, and how to enable them."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("browser" in report.keywords for report in skipped)
    if count:
        terminalreporter.section("browser")
        terminalreporter.line(
            f"{count} tests of the report's pages were skipped; to have them: "
            "apt-get install chromium chromium-driver"
        )
