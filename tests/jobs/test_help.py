"""`--help` is complete, fast, and imports nothing heavy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import TRIMLINE

CONF = Path(__file__).parents[2] / "conf"
HEAVY = ("torch", "transformers", "ray", "vllm", "pyarrow.parquet", "tokenizers", "botocore", "scipy")


def child_seconds(*command: str) -> tuple[float, str]:
    """Run a command; return its CPU time, which other processes barely change, and its output."""
    before = os.times()
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    after = os.times()
    assert result.stderr == ""
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["annotate", "--help"]], ids=" ".join)
def test_help_comes_within_a_second(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert min(child_seconds(TRIMLINE, *arguments)[0] for _ in range(3)) < 1
    assert not list(tmp_path.iterdir())


def test_help_names_every_command():
    from jobs.main import COMMANDS

    _, text = child_seconds(TRIMLINE, "--help")
    for command, purpose in COMMANDS.items():
        assert f"  {command} " in text and purpose in text
    assert "trimline COMMAND --help" in text
    assert "Exit status: 0 done, 1 failed, 2 wrong usage" in text


def test_help_of_annotate_names_every_group_option_and_key():
    _, text = child_seconds(TRIMLINE, "annotate", "--help")
    for group in (path for path in CONF.iterdir() if path.is_dir() and list(path.glob("*.yaml"))):
        options = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
        assert f"\n{group.name}: {options}\n" in text
    for key in ("output: output", "unit_samples: 64", "max_new_tokens: 64", "path: demo:pictures"):
        assert key in text
    assert "needs quotes inside quotes" in text


@pytest.mark.parametrize("arguments", [["--help"], ["annotate", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import contextlib, json, sys\n"
        f"sys.argv = ['trimline', *{arguments!r}]\n"
        "from jobs.main import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True
    )
    assert result.stdout
    assert not set(HEAVY) & set(json.loads(result.stderr))


def test_a_crash_while_the_interpreter_ends_does_not_change_the_exit_status(tmp_path):
    """Arrow's threads sometimes abort the process while the interpreter ends, after all work is done."""
    code = (
        "import atexit, os, sys\n"
        "class Aborts:\n"
        "    def __del__(self, abort=os.abort): abort()\n"
        "kept = Aborts()\n"
        f"sys.argv = ['trimline', 'verify', 'output={tmp_path}']\n"
        "from jobs.main import main\n"
        "import jobs.common.entry\n"
        "jobs.common.entry.command_line = lambda *_: (atexit.register(print, 'ended'), 3)[1]\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (result.returncode, result.stdout, result.stderr) == (3, "ended\n", "")
