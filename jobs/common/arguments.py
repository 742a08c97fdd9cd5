"""Checks a command line before Hydra parses it, so that each error is one line that names the argument."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pipeline.support.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"
_QUOTES = (
    "a value with braces, spaces, '=' or signs such as '#' needs quotes inside quotes: "
    "'source.path=\"a b.tar\"', 'decoding.stop=[\"###\"]'"
)
_FLAGS = re.compile(
    "-[hcprmi]|-sc|-cp|-cn|-cd|--help|--hydra-help|--version|--cfg|--resolve|--package|--run|--multirun"
    "|--shell-completion|--config-path|--config-name|--config-dir|--info"
)
_SWEEP = re.compile(r"-m|--multirun|\+{0,2}hydra\.mode=.*MULTIRUN.*", re.IGNORECASE)


def with_log_key(arguments: Sequence[str]) -> list[str]:
    """Replace `--log json` and `--log=json` by the key `log=json`."""
    replaced: list[str] = []
    for argument in arguments:
        if replaced and replaced[-1] == "--log":
            replaced[-1] = f"log={argument}"
        else:
            replaced.append(argument.removeprefix("--") if argument.startswith("--log=") else argument)
    return replaced


def is_sweep(arguments: Sequence[str]) -> bool:
    """Tell whether the command line asks Hydra for several runs."""
    return any(_SWEEP.fullmatch(argument) for argument in arguments)


def require_valid(command: str, arguments: Sequence[str]) -> None:
    """Refuse unknown flags, overrides that Hydra cannot parse, and sweeps that write to one place.

    Raises:
        ConfigError: in one line, with the argument.
    """
    _require_known_flags(command, arguments)
    _require_grammar(arguments)
    if is_sweep(arguments):
        _require_varying_output(arguments)


def _require_known_flags(command: str, arguments: Sequence[str]) -> None:
    """Refuse flags that argparse would report in ten lines, or accept as abbreviations."""
    for argument in arguments:
        if argument.startswith("-") and not _FLAGS.fullmatch(argument.partition("=")[0]):
            raise ConfigError(f"unknown option {argument}; `trimline {command} --help` tells the usage")
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; `trimline {command} --help` tells the usage")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(arguments)


def _require_grammar(arguments: Sequence[str]) -> None:
    """Refuse an override that Hydra cannot parse: Hydra's own message does not always name the key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for argument in arguments:
        if "=" in argument and not argument.startswith("-"):
            try:
                override = OverridesParser.create().parse_override(argument)
            except HydraException as error:
                raise ConfigError(f"{argument}: {error}; {_QUOTES}") from None
            key = override.key_or_group
            if isinstance(override.value(), list | dict) and (CONF / key).is_dir():
                raise ConfigError(f"{argument}: {key} takes the name of one option")


def _require_varying_output(arguments: Sequence[str]) -> None:
    """Refuse a sweep whose runs would all write to the same output."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for argument in arguments:
        if not argument.lstrip("+").startswith("output="):
            continue
        override = OverridesParser.create().parse_override(argument)
        if not override.is_sweep_override() and "${" not in argument:
            raise ConfigError(
                f"{argument.lstrip('+')} is the same for every run of the sweep: let it vary, as in "
                "'output=out/${reducer.aggregate}', or leave it out (output/<overrides>)"
            )
