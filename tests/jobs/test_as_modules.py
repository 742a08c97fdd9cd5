"""`python -m jobs COMMAND` and `python -m jobs.COMMAND` equal `trimline COMMAND`."""

import atexit
import runpy
import signal
import subprocess
import sys

import pytest

from jobs.main import COMMANDS


@pytest.fixture
def same_process(monkeypatch):
    """Run modules in this process: without the exit hook that ends it, and restore its signal handlers."""
    monkeypatch.setattr(atexit, "register", lambda hook, *_: hook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("form", ["jobs", "jobs.COMMAND"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_nonsense_key(command, form, same_process, capfd, monkeypatch):
    arguments = [command, "nonsense_key=1"] if form == "jobs" else ["nonsense_key=1"]
    module = form.replace("COMMAND", command)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    printed = capfd.readouterr()
    assert (end.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert printed.err.startswith(f"trimline {command}: there is no key 'nonsense_key'")


@pytest.mark.parametrize("arguments", [["jobs", "benchmark"], ["jobs.benchmark"]], ids=" ".join)
def test_as_processes(arguments, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", *arguments, "reducers", "nonsense_key=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "there is no key 'nonsense_key'" in result.stderr
