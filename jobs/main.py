"""Runs the command `trimline`."""

import atexit
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.support.signals import INTERRUPTED, conclude, interrupt_on_signals

COMMANDS = {
    "annotate": "answer every question about every image of a source",
    "compare": "answer the same requests under several arms; compare what each saves and costs",
    "benchmark": "measure speed and memory on this machine: trimline benchmark pipeline",
    "plan": "forecast a job's GPUs, hours, bytes and money: trimline benchmark plan requests=1e9",
    "evaluate": "score a finished output by the rules of a dataset",
    "finish": "write the summary of an output whose slices have all ended, and _SUCCESS",
    "verify": "check that an output is complete, by itself or against its source",
    "status": "show how far a run is: done, left, rate, failures; while it runs, too",
    "report": "write report.html of a run or a comparison, or draw the patches kept for a request",
    "export": "write finished answers as LLaVA's JSONL, WebDataset tars or partitioned Parquet",
    "train_demo": "rebuild the demo checkpoint",
    "convert": "convert a LLaVA checkpoint from its original layout to that of Hugging Face",
}

_USAGE = """\
usage: trimline COMMAND [key=value ...]

{commands}

`trimline COMMAND --help` shows the configuration; -m or --multirun sweeps over key=a,b.
Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 finished but too many rows failed.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names and end the process; the rest are Hydra overrides."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            _USAGE.format(commands="\n".join(f"  {name:12}{text}" for name, text in COMMANDS.items())), end=""
        )
        sys.exit(0 if arguments else 2)
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(version("trimline"))
        return
    if arguments[0] not in COMMANDS:
        sys.exit(_unknown(arguments[0]))
    interrupt_on_signals()
    statuses: list[int] = []
    atexit.register(_exit_now, statuses)  # registered first, so it runs last
    command, overrides = spelled_out(arguments)
    try:
        from jobs.common.entry import command_line

        statuses.append(command_line(command, overrides))
    except KeyboardInterrupt:  # while it imported
        print(f"trimline {command}: {INTERRUPTED}", file=sys.stderr)
        statuses.append(1)
    conclude(statuses[0])
    sys.exit(statuses[0])


def run_as_script(file: str) -> None:
    """Run the command whose module is started with `python -m jobs.COMMAND`."""
    main([Path(file).stem, *sys.argv[1:]])


def spelled_out(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Split a command line into command and overrides; writes out `benchmark NAME` and `benchmark plan`."""
    command, *overrides = arguments
    if [command, *overrides[:1]] == ["benchmark", "plan"]:  # a command of its own, with its own keys
        command, *overrides = overrides
    elif command == "benchmark" and overrides and overrides[0].isidentifier():
        overrides[0] = f"benchmark.name={overrides[0]}"
    return command, overrides


def _exit_now(statuses: list[int]) -> None:
    """End the process with the command's status, without Python's own teardown.

    The teardown takes modules apart while native threads may still use them: Arrow's sometimes abort it
    (apache/arrow#34314), and a finished run would look like a failed one.
    """
    if not statuses:
        return  # an uncaught error: Python prints it
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the reader has closed the pipe
        pass
    os._exit(statuses[0])


def _unknown(command: str) -> int:
    known = ", ".join(COMMANDS)
    print(f"trimline: unknown command {command!r}; there is: {known}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
