"""`--help` is complete, imports little, and writes no file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import TRIMLINE

CONF = Path(__file__).parents[2] / "conf"
# What the help is made of; everything else of ours and of others takes seconds to import.
LIGHT = {
    "antlr4",
    "attr",
    "attrs",
    "cython_runtime",
    "hydra",
    "jobs",
    "omegaconf",
    "packaging",
    "pipeline",
    "yaml",
}


def text_of(*arguments: str) -> str:
    """Run the command, which must succeed without a word on stderr; return what it prints."""
    result = subprocess.run([TRIMLINE, *arguments], capture_output=True, text=True, check=True, timeout=200)
    assert result.stderr == ""
    return result.stdout


def test_help_names_every_command():
    from jobs.main import COMMANDS

    text = text_of("--help")
    for command, purpose in COMMANDS.items():
        assert f"  {command} " in text and purpose in text
    assert "trimline COMMAND --help" in text
    assert "Exit status: 0 done, 1 failed, 2 wrong usage" in text


def test_help_of_annotate_names_every_group_option_and_key():
    text = text_of("annotate", "--help")
    for group in (path for path in CONF.iterdir() if path.is_dir() and list(path.glob("*.yaml"))):
        options = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
        assert f"\n{group.name}: {options}\n" in text
    for key in (
        "output: output",
        "unit_samples: 64",
        "max_new_tokens: ${oc.select:dataset.max_new_tokens,64}",
        "path: demo:pictures",
    ):
        assert key in text
    assert "needs quotes inside quotes" in text


@pytest.mark.parametrize("arguments", [["--help"], ["annotate", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_little_and_writes_no_file(arguments, tmp_path):
    code = (
        "import contextlib, json, sys\n"
        "before = set(sys.modules)\n"  # a Python's own sitecustomize is not ours
        f"sys.argv = ['trimline', *{arguments!r}]\n"
        "from jobs.main import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True, cwd=tmp_path
    )
    assert result.stdout
    modules = [
        name for name in json.loads(result.stderr) if not name.startswith(("__editable__", "__main__"))
    ]
    packages = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert {name for name in packages if not name.startswith("_")} <= LIGHT
    assert sum(name.startswith("pipeline") for name in modules) < 12
    assert not list(tmp_path.iterdir())


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
