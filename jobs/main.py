"""The command `trimline`."""

import sys

COMMANDS = {
    "annotate": "answer every question about every image of a source",
    "compare": "the same requests under several arms, and what each saves and costs",
    "benchmark": "measure speed and memory on this machine: trimline benchmark pipeline",
    "evaluate": "score a finished output by the rules of a dataset",
    "verify": "is an output all there? alone, or held against its source",
    "report": "write report.html of a run or a comparison, or draw what was kept for a request",
    "train_demo": "rebuild the demo checkpoint",
}

_USAGE = """\
usage: trimline COMMAND [key=value ...]

{commands}

`trimline COMMAND --help` shows the configuration; -m or --multirun sweeps over key=a,b.
Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 finished but too many rows failed.
"""


def main() -> None:
    """Run the command that the first argument names, with the rest as Hydra overrides."""
    arguments = sys.argv[1:]
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
    from jobs.entry import command_line

    command, *overrides = arguments
    if command == "benchmark" and overrides and overrides[0].isidentifier():
        overrides[0] = f"benchmark.name={overrides[0]}"
    sys.exit(command_line(command, overrides))


def _unknown(command: str) -> int:
    known = ", ".join(COMMANDS)
    print(f"trimline: unknown command {command!r}; there is: {known}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
