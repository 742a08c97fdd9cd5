"""The shared Hydra entry: one line and exit status 2 for what is wrong with a configuration.

Hydra writes nothing into the working directory, and a failing job never gets back into Hydra, which
would print the overrides (and with them any secret among them).
"""

import contextlib
import importlib
import logging
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipeline.support import log
from pipeline.support.errors import ConfigError, RunError, TrimlineError
from pipeline.support.signals import interrupt_on_sigterm

CONF = Path(__file__).resolve().parents[2] / "conf"
_QUOTES = "a value with braces, spaces or '=' needs quotes inside quotes: 'source.path=\"a b.tar\"'"
_FLAGS = re.compile(
    "-[hcprmi]|-sc|-cp|-cn|-cd|--help|--hydra-help|--version|--cfg|--resolve|--package|--run|--multirun"
    "|--shell-completion|--config-path|--config-name|--config-dir|--info"
)
_CREDENTIAL = re.compile(r"(\+{0,2}storage\.(key|secret|token))=(.+)", re.DOTALL)
_SWEEP = re.compile(r"-m|--multirun|\+{0,2}hydra\.mode=.*MULTIRUN.*", re.IGNORECASE)
_NOISE = re.compile(r" Config search path: .*| To append to your config use \S+")


def command_line(command: str, arguments: Sequence[str]) -> int:
    """`run_command` for a process of its own, whose command line does not go on showing credentials.

    Ray records a driver's command line in the cluster, and `ps` shows it to everyone: the process
    starts over with the credentials in its environment.
    """
    started_with, environment = list(sys.orig_argv), dict(os.environ)
    for place, argument in enumerate(started_with):
        if (match := _CREDENTIAL.fullmatch(argument)) and match[3] != "null" and "${" not in match[3]:
            variable = f"TRIMLINE_STORAGE_{match[2].upper()}"
            environment[variable] = _unquoted(match[3])
            started_with[place] = f"{match[1]}=${{oc.env:{variable}}}"
    if started_with != sys.orig_argv:
        os.execve(sys.executable, started_with, environment)
    interrupt_on_sigterm()
    return run_command(command, arguments)


def run_command(command: str, arguments: Sequence[str]) -> int:
    """Compose the command's configuration and run its job (once, or once per sweep point).

    Returns:
        The exit status; of a sweep, the first that is not 0.
    """
    from hydra.errors import HydraException

    job = importlib.import_module(f"jobs.{command}").run
    arguments = _with_log_key(arguments)
    report = _Report(command, arguments)
    sweep = any(_SWEEP.fullmatch(argument) for argument in arguments)
    try:
        _require_known_flags(command, arguments)
        _require_grammar(arguments)
        if sweep:
            _require_varying_output(arguments)
        with _hydra_arguments(command, arguments, sweep):
            return _run_hydra(command, job, report)
    # Hydra raises ValueError for a group set to null. What a job raises does not come here.
    except (ConfigError, HydraException, OmegaConfBaseException, ValueError) as error:
        return report.fail(error, 2)
    except SystemExit as stop:  # argparse, or an interrupted job
        return stop.code if isinstance(stop.code, int) else 2


def _run_hydra(command: str, job: Callable[[DictConfig], int], report: "_Report") -> int:
    import hydra

    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)
    def guarded(config: DictConfig) -> None:
        statuses.append(_guard(job, config, report))

    guarded()
    return next((status for status in statuses if status), 0)


def _guard(job: Callable[[DictConfig], int], config: DictConfig, report: "_Report") -> int:
    try:
        report.learn(config)
        return job(config)
    except (ConfigError, OmegaConfBaseException) as error:
        return report.fail(error, 2)
    except TrimlineError as error:
        return report.fail(error, 1)
    except KeyboardInterrupt:  # ends a sweep, too
        sys.exit(report.fail(RunError("interrupted; run the same command again to go on"), 1))
    except Exception as error:  # noqa: BLE001 - the outermost frame: whatever it is, it is told without secrets
        return report.crash(error)


def _with_log_key(arguments: Sequence[str]) -> list[str]:
    """`--log json` and `--log=json` as the key that they stand for."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1] == "--log":
            found[-1] = f"log={argument}"
        else:
            found.append(argument.removeprefix("--") if argument.startswith("--log=") else argument)
    return found


class _Report:
    """Tells on stderr what went wrong, without secrets."""

    def __init__(self, command: str, arguments: Sequence[str]) -> None:
        self._command = command
        matches = filter(None, map(_CREDENTIAL.fullmatch, arguments))
        self._secrets = [_unquoted(match[3]) for match in matches]
        log.start("json" if "log=json" in arguments else "text", self._hide)

    def learn(self, config: DictConfig) -> None:
        """Take in the credentials of a composed configuration."""
        found = (config.storage.get(name) for name in ("key", "secret", "token"))
        self._secrets += [str(secret) for secret in found if secret is not None]
        if config.get("log") == "json" and not log.is_json():
            log.start("json", self._hide)

    def fail(self, error: Exception, status: int) -> int:
        """Tell an expected error in one line; returns `status`."""
        if os.environ.get("TRIMLINE_FULL_ERROR"):
            self.crash(error)
        text = _NOISE.sub("", " ".join(str(error).replace("full_key:", "at").split()))
        text = text.replace("Could not override", "there is no key")
        if log.is_json():
            log.event("error", text, level=logging.ERROR, exit_status=status)
        else:
            print(self._hide(f"trimline {self._command}: {text}"), file=sys.stderr)
        return status

    def crash(self, error: Exception) -> int:
        """Tell an unexpected error with its traceback; returns 1."""
        text = "".join(traceback.format_exception(error))
        if log.is_json():
            log.event("crash", text, level=logging.CRITICAL, exit_status=1)
        else:
            print(self._hide(text), file=sys.stderr)
        return 1

    def _hide(self, text: str) -> str:
        from pipeline.storage.uris import hide_secrets

        return hide_secrets(text, self._secrets)


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _require_known_flags(command: str, arguments: Sequence[str]) -> None:
    """Refuse what argparse would tell in ten lines, or would take for the beginning of another flag."""
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
    """Refuse an override that Hydra cannot parse: its own message does not always name the key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for argument in arguments:
        if "=" in argument and not argument.startswith("-"):
            try:
                OverridesParser.create().parse_override(argument)
            except HydraException as error:
                raise ConfigError(f"{argument}: {error}; {_QUOTES}") from None


def _require_varying_output(arguments: Sequence[str]) -> None:
    """Refuse a sweep whose runs would all write to one place."""
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


@contextlib.contextmanager
def _hydra_arguments(command: str, arguments: Sequence[str], sweep: bool) -> Iterator[None]:
    """sys.argv and the environment as Hydra shall see them.

    The file that Hydra writes about a sweep goes to a folder that is deleted.
    """
    saved = sys.argv
    folder = tempfile.mkdtemp(prefix="trimline-") if sweep else None
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back to us instead of being printed
    sys.argv = [f"trimline {command}", *arguments, *([f"hydra.sweep.dir={folder}"] if folder else [])]
    try:
        yield
    finally:
        sys.argv = saved
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
