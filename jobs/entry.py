"""The shared Hydra entry: one line and exit status 2 for what is wrong with a configuration.

Hydra writes nothing into the working directory, and a failing job never gets back into Hydra, which
would print the overrides (and with them any secret among them).
"""

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import ConfigError, RunError, TrimlineError

CONF = Path(__file__).resolve().parent.parent / "conf"
_QUOTES = "a value with braces, spaces or '=' needs quotes inside quotes: 'source.path=\"a b.tar\"'"
_SWEEP_MARKS = (",", "${", "choice(", "range(", "glob(", "interval(")


def run_command(command: str, arguments: Sequence[str]) -> int:
    """Compose the command's configuration and run its job (once, or once per sweep point).

    Returns:
        The exit status; of a sweep, the first that is not 0.
    """
    job = importlib.import_module(f"jobs.{command}").run
    sweep = any(argument in ("-m", "--multirun") for argument in arguments)
    try:
        if sweep:
            _require_varying_output(arguments)
        with _hydra_arguments(command, arguments, sweep):
            return _run_hydra(command, job)
    except (ConfigError, OmegaConfBaseException) as error:
        return _fail(command, error, 2)


def _run_hydra(command: str, job: Callable[[DictConfig], int]) -> int:
    import hydra
    from hydra.errors import HydraException

    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)
    def guarded(config: DictConfig) -> None:
        statuses.append(_guard(command, job, config))

    try:
        guarded()
    except HydraException as error:
        hint = f"; {_QUOTES}" if "pars" in type(error).__name__.lower() or "Lexer" in str(error) else ""
        return _fail(command, ConfigError(f"{error}{hint}"), 2)
    except SystemExit as stop:  # argparse: an unknown flag, or --help
        return stop.code if isinstance(stop.code, int) else 2
    return next((status for status in statuses if status), 0)


def _guard(command: str, job: Callable[[DictConfig], int], config: DictConfig) -> int:
    try:
        return job(config)
    except (ConfigError, OmegaConfBaseException) as error:
        return _fail(command, error, 2)
    except TrimlineError as error:
        return _fail(command, error, 1)
    except KeyboardInterrupt:
        return _fail(command, RunError("interrupted; run the same command again to go on"), 1)
    except Exception:  # noqa: BLE001 - the outermost frame: whatever it is, it is told without secrets
        print(_without_secrets(traceback.format_exc(), config), file=sys.stderr)
        return 1


def _without_secrets(text: str, config: DictConfig) -> str:
    from pipeline.storage import Storage

    secrets = {name: config.storage.get(name) for name in ("key", "secret", "token")}
    return Storage(**secrets).hide(text)


def _fail(command: str, error: Exception, status: int) -> int:
    if os.environ.get("TRIMLINE_FULL_ERROR"):
        traceback.print_exception(error)
    text = " ".join(str(error).replace("full_key:", "at").split())
    print(f"trimline {command}: {text}", file=sys.stderr)
    return status


def _require_varying_output(arguments: Sequence[str]) -> None:
    """Refuse a sweep whose runs would all write to one place."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "output" and not any(mark in value for mark in _SWEEP_MARKS):
            raise ConfigError(
                f"output={value} is the same for every run of the sweep: let it vary, as in "
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
