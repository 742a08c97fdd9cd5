"""Tells a fault of one unit, after which the run goes on, from one that ends the run."""

import sys
from asyncio import CancelledError
from collections.abc import Callable

import pyarrow as pa

from pipeline.support.errors import ConfigError, RunError, described

Run = Callable[[pa.Table], pa.Table]

_END_THE_RUN = (ConfigError, RunError, KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)


class UnitFault(Exception):  # noqa: N818 - an event, handled where it happens
    """Says that a unit, or a part of it, did not get through a stage."""

    def error(self, stage: str) -> str:
        """Return the error of a row that does not get through the stage even alone."""
        raise NotImplementedError


class ProcessDied(UnitFault):
    """Says that the process has died; the message names the signal or the exit status."""

    def error(self, stage: str) -> str:
        """Name the stage and what its process died of."""
        return f"the worker of stage {stage} died of {self} on this sample alone"


class StageRaised(UnitFault):
    """Says that the stage raised an exception; the message is its type and its text."""

    def error(self, stage: str) -> str:
        """Name the stage and its exception."""
        return f"stage {stage} raised {self}"


def ends_run(error: BaseException) -> bool:
    """Tell whether an exception concerns the run, and would meet any other unit as well."""
    ray = sys.modules.get("ray")
    return isinstance(error, _END_THE_RUN) or (ray is not None and isinstance(error, ray.exceptions.RayError))


def catching(stage: Run) -> Run:
    """Wrap a stage: what it raises becomes StageRaised, unless it ends the run.

    Rust's panics are caught, too: tokenizers raise them, and they are no `Exception`.
    """

    def run(batch: pa.Table) -> pa.Table:
        try:
            return stage(batch)
        except BaseException as error:
            if ends_run(error):
                raise
            text = described(error)
        # raised out here, it does not keep the tensors of the stage's frames alive
        raise StageRaised(text)

    return run
