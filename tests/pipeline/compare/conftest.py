"""Outputs for the tests of comparisons."""

from pathlib import Path

import pytest

from pipeline.run.in_process import run_in_process
from pipeline.sources.webdataset import WebDataset
from tests.pipeline.compare.made_arms import copied
from tests.support.runs import make_config
from tests.support.tars import write_tar


@pytest.fixture(scope="session")
def outputs(random_checkpoint, tmp_path_factory) -> dict[str, Path]:
    """Nine requests in three units, answered with all tokens and with TRIM's."""
    folder = tmp_path_factory.mktemp("arms")
    write_tar(folder / "tars" / "a.tar", 6, questions=2)
    for name in ("full", "trim"):
        source = WebDataset(path=str(folder / "tars"))
        run_in_process(
            make_config(
                random_checkpoint, source, folder / name, reducer=name, unit_samples=2, token_budget=3000
            )
        )
    return {name: folder / name for name in ("full", "trim")}


@pytest.fixture
def arms(outputs, tmp_path) -> dict[str, Path]:
    """Copies of the outputs, which a test may change."""
    return {name: copied(output, tmp_path / name) for name, output in outputs.items()}
