"""Runs a command under Hydra and turns every error into one line and an exit status.

Hydra writes nothing into the working directory. A job's error never reaches Hydra, which would print the
overrides and any credentials among them.
"""

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from jobs.common.arguments import CONF, is_sweep, require_valid, with_log_key
from jobs.common.credentials import restart_without_credentials, secret_fields_of
from jobs.common.error_lines import ErrorLines
from jobs.common.escapes import decoded
from pipeline.models.hub import without_hub
from pipeline.support.errors import ConfigError, RunError, TrimlineError
from pipeline.support.signals import INTERRUPTED

# They work on an output alone, which others may have made: it must not send them to the hub.
_WITHOUT_HUB = ("finish", "verify", "status", "report", "export", "evaluate")


def command_line(command: str, arguments: Sequence[str]) -> int:
    """Run a command as the whole of this process; returns its exit status."""
    restart_without_credentials()
    return run_command(command, arguments)


def run_command(command: str, arguments: Sequence[str]) -> int:
    """Compose the command's configuration and run its job (once, or once per sweep point).

    Returns:
        The exit status; of a sweep, the first that is not 0.
    """
    from hydra.errors import HydraException

    job = importlib.import_module(f"jobs.{command}").run
    arguments = with_log_key(arguments)
    errors = ErrorLines(command, arguments)
    try:
        require_valid(command, arguments)
        arguments = [decoded(argument) for argument in arguments]
        reading = without_hub() if command in _WITHOUT_HUB else contextlib.nullcontext()
        with reading, _one_ray(arguments), _hydra_arguments(command, arguments):
            return _run_hydra(command, job, errors)
    # Hydra raises ValueError for a group set to null. The job's own errors end in `_guard`.
    except (ConfigError, HydraException, OmegaConfBaseException, ValueError) as error:
        return errors.fail(error, 2)
    except KeyboardInterrupt:  # before or after the job
        return errors.fail(RunError(INTERRUPTED), 1)
    except SystemExit as stop:  # argparse, or an interrupted job
        return stop.code if isinstance(stop.code, int) else 2


def _one_ray(arguments: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """Keep the Ray that the first run of a sweep starts for the others."""
    if not is_sweep(arguments):
        return contextlib.nullcontext()
    from pipeline.run.cluster.start import keeping_ray

    return keeping_ray()


def _run_hydra(command: str, job: Callable[[DictConfig], int], errors: ErrorLines) -> int:
    import hydra

    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)
    def guarded(config: DictConfig) -> None:
        statuses.append(_guard(job, config, errors))

    guarded()
    return next((status for status in statuses if status), 0)


def _guard(job: Callable[[DictConfig], int], config: DictConfig, errors: ErrorLines) -> int:
    from pipeline.storage.secrets import hide_everywhere
    from pipeline.support.cache import use_private_compiler_cache

    try:
        errors.use(config)
        hide_everywhere(secret_fields_of(config))
        use_private_compiler_cache()
        _trust_config_folders()
        return job(config)
    except (ConfigError, OmegaConfBaseException) as error:
        return errors.fail(error, 2)
    except TrimlineError as error:
        return errors.fail(error, 1)
    except KeyboardInterrupt:  # Ctrl-C or SIGTERM; SystemExit ends a sweep, too
        sys.exit(errors.fail(RunError(INTERRUPTED), 1))
    except Exception as error:  # noqa: BLE001 - the outermost frame: every error is printed, without credentials
        return errors.crash(error)


def _trust_config_folders() -> None:
    """Let an output's classes be made that the configurations of this command name, --config-dir included."""
    from hydra.core.hydra_config import HydraConfig

    from pipeline.output.targets import trust_folder

    for source in HydraConfig.get().runtime.config_sources:
        if source.schema == "file" and source.path:
            trust_folder(Path(source.path))


@contextlib.contextmanager
def _hydra_arguments(command: str, arguments: Sequence[str]) -> Iterator[None]:
    """Set sys.argv and the environment for Hydra.

    The file that Hydra writes about a sweep goes to a temporary folder.
    """
    saved = sys.argv
    folder = tempfile.mkdtemp(prefix="trimline-") if is_sweep(arguments) else None
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    sys.argv = [f"trimline {command}", *arguments, *([f"hydra.sweep.dir={folder}"] if folder else [])]
    try:
        yield
    finally:
        sys.argv = saved
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
