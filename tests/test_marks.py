"""Test the marks: they follow from what a test uses, and unmarked slow tests fail."""

import re
import warnings

import pytest

from tests.support import marks

BUSY = """
import pytest, time

def work(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass

def test_quick(): pass
def test_busy(): work(0.4)
def test_waiting(): time.sleep(0.4)
@pytest.mark.slow
def test_slow(): work(0.4)
@pytest.mark.slow
def test_patient(): time.sleep(0.4)
"""
USES = """
import subprocess
import pytest

def start():
    subprocess.run(["true"])
def through():
    start()
class Place:
    def begin(self): through()
@pytest.fixture
def place(): return Place()
@pytest.fixture
def ray(): pass
@pytest.fixture
def chromium(): pytest.skip("there is none")

def test_at_once(): start()
def test_through_helpers(): through()
def test_through_a_fixture(place): place.begin()
def test_nothing(): len("subprocess")
def test_with_ray(ray): pass
def test_page(chromium): pass
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run pytest over one file as if it lay in `tests/`."""
    monkeypatch.setattr(marks, "TESTS", pytester.path)

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        return pytester.runpytest_inprocess("-p", "tests.support.marks", "-p", "no:xdist", "-rA", *options)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "failing"), [("CPU_S", "test_busy"), ("WALL_S", "test_waiting")])
def test_a_slow_test_without_a_mark_fails(run, monkeypatch, limit, failing):
    monkeypatch.setattr(marks, limit, 0.3)
    left_out = {"test_busy": "test_waiting", "test_waiting": "test_busy"}[failing]
    result = run(BUSY.replace(f"def {left_out}(", f"def left_out_{left_out}("))
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*mark it with pytest.mark.slow*", f"FAILED *::{failing}*"])


@pytest.mark.parametrize(
    ("mark", "names"),
    [("process", ["at_once", "through_a_fixture", "through_helpers"]), ("ray", ["with_ray"])],
)
def test_marks_follow_from_code_and_fixtures(run, mark, names):
    result = run(USES, "-m", mark)
    result.assert_outcomes(passed=len(names), deselected=6 - len(names))
    for name in names:
        result.stdout.fnmatch_lines([f"PASSED *::test_{name}"])


def test_skipped_page_tests_are_reported_at_the_end(run):
    result = run(USES)
    result.stdout.fnmatch_lines(["1 tests of the report's pages were skipped*apt-get install chromium*"])


@pytest.mark.parametrize("kind", [DeprecationWarning, FutureWarning])
def test_warnings_in_our_own_code_are_errors(kind):
    for module in ("trim", "pipeline.run", "jobs.entry"):
        with pytest.raises(kind):
            warnings.warn_explicit("old", kind, f"{module}.py", 1, module=module)
    for module in ("transformers.models", "pipelines", "tests.jobs.test_run"):
        warnings.warn_explicit("old", kind, f"{module}.py", 1, module=module)


@pytest.mark.slow  # three processes load pytest and its plugins
def test_a_group_runs_in_one_worker(pytester):
    """pytest-xdist 3.8 splits groups under pytest 9.2: each worker would then make what they share."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xdist_group("shared")
        @pytest.mark.parametrize("number", range(8))
        def test_of_the_group(number):
            pass
        """
    )
    result = pytester.runpytest_subprocess("-n", "2", "--dist", "loadgroup", "-v")
    result.assert_outcomes(passed=8)
    assert len(set(re.findall(r"\[(gw\d)\]", result.stdout.str()))) == 1
