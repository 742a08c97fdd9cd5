"""Run commands in tests: in this process, or in a process of their own as users do."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TRIMLINE = str(Path(sys.executable).with_name("trimline"))


def trimline(*arguments: str, timeout: float = 500, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    return subprocess.run(
        [TRIMLINE, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@dataclass
class Annotate:
    """Run `trimline annotate` in this process, which saves seconds of start-up."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *overrides: str) -> tuple[int, str, str]:
        """Run the command; returns its exit status, stdout and stderr."""
        from jobs.common.entry import run_command

        keys = {override.lstrip("+~").partition("=")[0] for override in overrides}
        defaults = [
            f"{key}={value}"
            for key, value in (("source.path", "pictures"), ("output", "out"))
            if key not in keys and "-m" not in overrides
        ]
        self.capture.readouterr()
        status = run_command("annotate", [*overrides, *defaults])
        captured = self.capture.readouterr()
        return status, captured.out, captured.err

    def refused(self, *overrides: str) -> str:
        """Return the single error line of a run refused with status 2 before Ray starts."""
        status, out, err = self(*overrides)
        assert status == 2, err
        assert out == ""
        assert err.startswith("trimline annotate: ")
        assert err.count("\n") == 1 and err.endswith("\n"), f"not one line: {err}"
        return err.removeprefix("trimline annotate: ").rstrip()


def compose(*overrides: str):
    """Build the frozen configuration of these overrides, as `trimline annotate` does."""
    from pipeline.run.settle import settle

    return settle(compose_only(*overrides))


def compose_only(*overrides: str):
    """Build the configuration without a look at its output, which may be in a store that is not there."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from jobs.common.arguments import CONF
    from jobs.common.configs import make_config

    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = hydra_compose("annotate", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(tree)
    del tree._content["hydra"]
    return make_config(tree)


def begin(*overrides: str) -> None:
    """Do everything that a run does before it starts Ray; the output stays unfinished."""
    from pipeline.run.prepare import prepare

    prepare(compose(*overrides))
